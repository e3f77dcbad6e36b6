"""Graphs that start from a previous one: equal to the oracle, and closer to the exact kNN graph each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchsampler_ext import ProximityGraph, knn_graph, proximity_graph, reference


def by_id(graph: ProximityGraph) -> dict[int, list[int]]:
    ids = range(len(graph)) if graph.ids is None else graph.ids.tolist()
    return {i: [n for n in row if n >= 0] for i, row in zip(ids, graph.neighbors.tolist(), strict=True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_warm_graphs_equal_the_oracle(rng, isa, dtype):
    features = torch.from_numpy(rng.standard_normal((90, 7))).to(dtype)
    keys = torch.from_numpy(rng.standard_normal((90, 7))).to(dtype)
    labels = rng.integers(-1, 4, 90)
    earlier, later = rng.permutation(90)[:70], rng.permutation(90)[:60]
    cases = [
        ({}, {}),
        ({"rows": earlier}, {}),
        ({}, {"rows": later}),
        ({"rows": earlier, "labels": labels}, {"rows": later, "labels": labels, "range_min": 2, "sort": True}),
        ({"keys": keys}, {"keys": keys, "metric": "l2"}),
    ]
    for num_candidates in (1, 2, 9, 40, 59):
        for before, now in cases:
            previous = proximity_graph(features, num_candidates=12, seed=4, **before)
            num_neighbors = min(6, num_candidates)
            arrays = {name: value.float().numpy() if name == "keys" else value for name, value in now.items()}
            expected = reference.proximity_graph(
                features.float().numpy(), num_neighbors, num_candidates, warm_start=by_id(previous), seed=5, **arrays
            )
            for num_threads in (1, 3):
                graph = proximity_graph(
                    features, num_neighbors, num_candidates=num_candidates, warm_start=previous, seed=5,
                    return_scores=True, num_threads=num_threads, **now,
                )  # fmt: skip
                assert np.array_equal(graph.neighbors.numpy(), expected[0])
                assert np.array_equal(graph.scores.numpy(), expected[1])


def test_recall_of_the_exact_graph_grows_with_every_start(rng):
    features = rng.standard_normal((2000, 8)).astype(np.float32)
    exact = knn_graph(features, 20).neighbors.numpy()

    def recall(graph: ProximityGraph) -> float:
        found = graph.neighbors.numpy()
        return float(np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(found, exact, strict=True)]))

    graph = proximity_graph(features, 20, num_candidates=100)
    recalls = [recall(graph)]
    for seed in range(1, 7):
        graph = proximity_graph(features, 20, num_candidates=100, warm_start=graph, seed=seed)
        recalls.append(recall(graph))
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.1
    assert recalls[-1] > 0.6


def test_bad_warm_starts_are_named(rng):
    features = rng.standard_normal((30, 4)).astype(np.float32)
    other = proximity_graph(rng.standard_normal((29, 4)).astype(np.float32))
    with pytest.raises(ValueError, match="warm_start: expected a graph over 30 instances, got 29"):
        proximity_graph(features, warm_start=other)
    with pytest.raises(TypeError, match="warm_start: expected a ProximityGraph, got Tensor"):
        proximity_graph(features, warm_start=other.neighbors)
    broken = proximity_graph(features)
    broken.neighbors[3, 0] = 30
    with pytest.raises(ValueError, match=r"expected neighbors in \[-1, 30\), got another value in row 3"):
        proximity_graph(features, warm_start=broken)
