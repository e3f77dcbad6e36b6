"""Arbitrary arguments against the oracle. Hypothesis looks for combinations that other tests lack."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchsampler_ext import (
    PartitionPlanner,
    knn_graph,
    proximity_graph,
    reference,
    sample_batches,
)
from batchsampler_ext.graph_builders import METRICS
from batchsampler_ext.reference import partition as reference_partition

# Derandomized: a test that fails only sometimes is of no use in CI. The fixture `isa` is constant within a test.
COMMON = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def graph_arguments(draw):
    num_rows, dim = draw(st.integers(2, 40)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1, 3, 1000]))
    features = rng.integers(-scale, scale + 1, (num_rows, dim)).astype(np.float32)
    rows = rng.permutation(num_rows)[: draw(st.integers(2, num_rows))] if draw(st.booleans()) else None
    num_pool = num_rows if rows is None else len(rows)
    num_candidates = draw(st.integers(1, num_pool - 1))
    arguments = {
        "metric": draw(st.sampled_from(METRICS)),
        "rows": rows,
        "labels": rng.integers(-1, 3, num_rows) if draw(st.booleans()) else None,
        "documents": rng.integers(-2, 3, (num_rows, dim)).astype(np.float32) if draw(st.booleans()) else None,
        "max_score": draw(st.sampled_from([None, -1.0, 0.0, 0.5, 4.0])),
        "range_min": draw(st.integers(0, 5)),
    }
    draws = {
        "num_candidates": num_candidates,
        "candidate_group_size": draw(st.integers(1, 50)),
        "sort": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**64 - 1)),
    }
    return features, draw(st.integers(1, num_candidates)), arguments, draws


def equal(graph, expected) -> bool:
    neighbors, scores = expected
    return np.array_equal(graph.neighbors.numpy(), neighbors) and np.array_equal(
        graph.scores.numpy().view(np.int32), scores.view(np.int32)
    )


@COMMON
@given(graph_arguments())
def test_graphs_equal_the_oracle(isa, case):
    features, num_neighbors, arguments, draws = case
    graph = proximity_graph(features, num_neighbors, return_scores=True, **arguments, **draws)
    num_candidates = draws.pop("num_candidates")
    assert equal(graph, reference.proximity_graph(features, num_neighbors, num_candidates, **arguments, **draws))
    exact = knn_graph(features, num_neighbors, num_threads=3, **arguments)
    assert equal(exact, reference.knn_graph(features, num_neighbors, **arguments))


@COMMON
@given(
    st.integers(1, 60),
    st.integers(0, 6),
    st.integers(1, 70),
    st.floats(0, 0.95),
    st.sampled_from(["soft", "default", "hard"]),
    st.booleans(),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**24 - 1),
)
def test_epochs_equal_the_oracle(num_rows, num_neighbors, batch_size, restart_prob, hardness, drop_last, seed, epoch):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, num_rows, (num_rows, num_neighbors)).astype(np.int32)
    table[rng.random((num_rows, num_neighbors)).argsort(1).argsort(1) >= rng.integers(0, num_neighbors + 1)] = -1
    table = -np.sort(-table, axis=1)  # -1 last
    chosen = {"restart_prob": restart_prob, "seed": seed, "epoch": epoch}
    of_partition = {**chosen, "drop_last": drop_last}
    batches = sample_batches(torch.from_numpy(table), batch_size, planner=PartitionPlanner(hardness), **of_partition)
    expected = reference_partition.partition(table, batch_size, hardness=hardness, **of_partition)
    assert (batches.indices.tolist(), batches.tail.tolist()) == expected
    paper = sample_batches(torch.from_numpy(table), batch_size, planner="cover_by_walks", **chosen)
    assert (paper.indices.tolist(), paper.tail.tolist()) == reference.covering_batches(table, batch_size, **chosen)
