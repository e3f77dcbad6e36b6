"""Graphs behind the prefilter by fixed-point copies, against the scalar instruction set, which has no prefilter."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from batchsampler_ext import knn, knn_graph, proximity_graph
from batchsampler_ext._engine.backend import core

NUM_ROWS, NUM_CANDIDATES = 830, 810  # enough scores and products per row to make the copies
KINDS = (
    "normal",
    "near ties",
    "one cluster",
    "heavy tails",
    "dominated",
    "equal rows",
    "zero rows",
    "tiny",
    "orthants",
)


def features_of(kind: str, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((NUM_ROWS, dim))
    if kind == "near ties":  # cosines differ by less than fixed point resolves
        normal = normal[:1] + 1e-4 * normal
    elif kind == "one cluster":
        normal = normal[:1] + 0.05 * normal
    elif kind == "heavy tails":
        normal *= np.exp(2 * rng.standard_normal((NUM_ROWS, 1)))
    elif kind == "dominated":  # one element is nearly the whole row, the largest that int16 has to hold
        normal[np.arange(NUM_ROWS), rng.integers(0, 2, NUM_ROWS)] = 1e4 * rng.choice([-1, 1], NUM_ROWS)
    elif kind == "equal rows":
        normal = normal[:7][rng.integers(0, 7, NUM_ROWS)]
    elif kind == "zero rows":
        normal[rng.random(NUM_ROWS) < 0.3] = 0
    elif kind == "tiny":  # no error bound holds
        normal *= 1e-12
    elif kind == "orthants":  # the largest sums of products of equal elements
        normal = np.where(rng.random((NUM_ROWS, dim)) < 0.03, -1.0, 1.0)
    return normal.astype(np.float32)


def options_of(kind: str, dim: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        {},
        {"range_min": 7},
        {"labels": rng.integers(-1, 3, NUM_ROWS)},
        {"documents": features_of(kind, dim, 2)},
    ]


def graphs_of(kind: str, dim: int, dtype: torch.dtype, num_threads: int, max_memory: int | None = None) -> list:
    """Returns the neighbors, and the scores of exact neighbors, of all builders that take the prefilter."""
    features = torch.from_numpy(features_of(kind, dim, 1)).to(dtype)
    how: dict[str, Any] = {"num_threads": num_threads}
    if max_memory is not None:
        how["max_memory"] = max_memory
    results = []
    for options in options_of(kind, dim):
        if "documents" in options:
            options = {"documents": torch.from_numpy(options["documents"]).to(dtype)}
        graph = proximity_graph(features, 9, num_candidates=NUM_CANDIDATES, candidate_group_size=200, **options, **how)
        own = proximity_graph(features, 9, num_candidates=NUM_CANDIDATES, candidate_group_size=1, **options, **how)
        exact = knn_graph(features, 9, **options, **how)
        results += [graph.neighbors, own.neighbors, exact.neighbors, exact.scores]
    rows = torch.from_numpy(np.random.default_rng(3).permutation(NUM_ROWS)[:500])
    some = knn_graph(features, 9, rows=rows, **how)
    found = knn(features[:820], features[5:], 9, **how)
    return [*results, some.neighbors, some.scores, found.ids, found.scores]


@functools.lru_cache
def answers_of(kind: str, dim: int, dtype: torch.dtype) -> list:
    in_use = core.isa()
    core.use_isa("scalar")
    try:
        return graphs_of(kind, dim, dtype, 2)
    finally:
        core.use_isa(in_use)


@pytest.mark.parametrize("dim", [32, 45])
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_equal_those_of_the_scalar_instruction_set(isa, kind, dim):
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if dim == 32 and kind != "tiny" else (torch.float32,)
    for dtype in dtypes:
        for num_threads in (1, 3):
            results = graphs_of(kind, dim, dtype, num_threads)
            for result, answer in zip(results, answers_of(kind, dim, dtype), strict=True):
                assert torch.equal(result, answer), (dtype, num_threads)


@pytest.mark.parametrize("kind", ["normal", "one cluster", "dominated"])
def test_sums_that_are_continued_are_within_the_bound(isa, kind):
    """Sums of long rows are rounded where runs of dimensions meet: every 128, or more often in little memory."""
    if isa == "scalar":
        pytest.skip("the answers are those of this instruction set")
    for max_memory in (None, 2_500_000):
        results = graphs_of(kind, 1100, torch.float32, 2, max_memory)
        for result, answer in zip(results, answers_of(kind, 1100, torch.float32), strict=True):
            assert torch.equal(result, answer), max_memory


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_more_memory_is_never_refused(isa, metric):
    """Copies may take half of max_memory, but never what the rest needs."""
    features = torch.randn(2000, 32, generator=torch.Generator().manual_seed(1))
    how: dict[str, Any] = {"metric": metric, "num_threads": 1}
    for build in (
        functools.partial(knn_graph, features, 500, **how),
        functools.partial(proximity_graph, features, 470, num_candidates=1900, candidate_group_size=256, **how),
        functools.partial(proximity_graph, features, 470, num_candidates=1900, candidate_group_size=1, **how),
    ):
        wanted, is_enough = build(), False
        for max_memory in range(100_000, 640_000, 36_000):
            try:
                graph = build(max_memory=max_memory)
            except ValueError:
                assert not is_enough, max_memory
                continue
            is_enough = True
            assert torch.equal(graph.neighbors, wanted.neighbors)
        assert is_enough
