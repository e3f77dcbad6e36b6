"""Graphs, plans and samplers may be used by several threads at once, and by forked processes after that."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchsampler_ext import (
    FeatureBank,
    Plan,
    PlannedBatchSampler,
    ProximityBatchSampler,
    ProximityGraph,
    batch_stats,
    compose,
    knn,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)

NUM_THREADS = 8
N, B = 600, 24


@pytest.fixture
def features(rng) -> np.ndarray:
    return rng.standard_normal((N, 12)).astype(np.float32)


def plain(result: Any) -> Any:
    """Returns the result with lists instead of tensors, for ==."""
    if isinstance(result, (torch.Tensor, np.ndarray)):
        return result.tolist()
    if isinstance(result, ProximityGraph):
        return plain([result.neighbors, result.scores])
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    return [plain(part) for part in result] if isinstance(result, (list, tuple)) else result


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Returns the results of the calls, which begin at the same time, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return plain(call())

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(begin, call) for call in calls]]


def uses_of_graph(graph: ProximityGraph, features: np.ndarray) -> list[Callable[[], Any]]:
    """Returns NUM_THREADS calls that read a graph."""
    return [
        lambda: random_walk_with_restart(graph, range(N), B, num_threads=2),
        lambda: sample_batches(graph, B, planner="partition", num_threads=2).indices,
        lambda: sample_batches(graph, B, planner="walks", num_threads=2).indices,
        lambda: sample_batches(graph, B, planner="cover_by_walks").indices,
        lambda: graph.mutual(num_threads=2),
        lambda: list(graph.stats()),
        lambda: graph.degrees(),
        lambda: batch_stats([range(B)], features, graph=graph),
    ]


def uses_of_features(features: np.ndarray) -> list[Callable[[], Any]]:
    """Returns NUM_THREADS calls that read features."""
    labels = np.arange(N) % 7
    return [
        lambda: knn(features, features, 9, num_threads=2),
        lambda: knn_graph(features, 9, num_threads=3),
        lambda: knn_graph(features, 9, metric="l2", labels=labels),
        lambda: proximity_graph(features, 9, num_candidates=100, return_scores=True, num_threads=2),
        lambda: proximity_graph(features, 9, num_candidates=100, candidate_group_size=1),
        lambda: compose(features, batch_size=B, rank_window=(1, 20), unique=np.arange(N) // 2).batches(0).indices,
        lambda: compose(features, batch_size=B, preset="walks", num_threads=2).batches(0).indices,
        lambda: batch_stats([range(B), range(N)], features, labels=labels),
    ]


def test_one_graph_is_walked_by_many_threads(features):
    made = knn_graph(features, 9)
    expected = [plain(call()) for call in uses_of_graph(made, features)]
    for _ in range(5):
        graph = ProximityGraph(made.neighbors, made.scores)  # no thread has checked its ids yet
        assert at_once(uses_of_graph(graph, features)) == expected


def test_many_graphs_are_built_by_many_threads(features):
    expected = [plain(call()) for call in uses_of_features(features)]
    for _ in range(3):
        assert at_once(uses_of_features(features)) == expected
    parts = [features + np.float32(i) for i in range(NUM_THREADS)]
    expected = [plain(knn_graph(part, 9)) for part in parts]
    assert at_once([lambda part=part: knn_graph(part, 9, num_threads=2) for part in parts]) == expected


def planned(features: np.ndarray, path: Path) -> Path:
    options = {"rank_window": (1, 20), "unique": np.arange(N) // 2, "num_hard_negatives": 3, "num_epochs": NUM_THREADS}
    compose(features, batch_size=B, **options).save(path)
    return path


def uses_of_plan(plan: Plan) -> list[Callable[[], Any]]:
    def use(epoch: int) -> list[Any]:
        return [plan.batches(epoch).indices, plan.negative_mask(range(epoch, N, 9)), plan.hard_negatives()]

    return [lambda epoch=epoch: use(epoch) for epoch in range(NUM_THREADS)]


def test_one_plan_is_read_by_many_threads(features, tmp_path):
    path = planned(features, tmp_path / "plan")
    expected = [plain(call()) for call in uses_of_plan(Plan.load(path))]
    for _ in range(5):
        plan = Plan.load(path)  # none of its data have been read yet
        assert at_once(uses_of_plan(plan)) == expected


def bank_of(features: np.ndarray) -> FeatureBank:
    bank = FeatureBank(N, features.shape[1])
    bank.update(np.arange(N), torch.from_numpy(features))
    return bank


@pytest.mark.parametrize("planner", ["partition", "walks"])
def test_samplers_of_one_bank_draw_in_many_threads(features, planner):
    bank = bank_of(features)

    def draw(seed: int) -> list[list[int]]:
        return list(ProximityBatchSampler(N, B, bank=bank, planner=planner, seed=seed))

    expected = [draw(seed) for seed in range(NUM_THREADS)]
    assert at_once([lambda seed=seed: draw(seed) for seed in range(NUM_THREADS)]) == expected


def test_samplers_of_one_plan_draw_in_many_threads(features, tmp_path):
    plan = Plan.load(planned(features, tmp_path / "plan"))

    def draw(epoch: int) -> list[list[int]]:
        sampler = PlannedBatchSampler(plan, dataset=N)
        sampler.set_epoch(epoch)
        return list(sampler)

    expected = [[ids.tolist() for ids in plan.batches(epoch)] for epoch in range(NUM_THREADS)]
    assert at_once([lambda epoch=epoch: draw(epoch) for epoch in range(NUM_THREADS)]) == expected


@pytest.mark.parametrize("kind", ["bank", "plan"])
def test_each_thread_draws_a_whole_epoch_of_one_sampler(features, kind):
    sampler: Any = ProximityBatchSampler(N, B, bank=bank_of(features))
    if kind == "plan":
        sampler = PlannedBatchSampler(compose(features, batch_size=B, preset="walks", num_epochs=8), dataset=N)
    for drawn in at_once([lambda: list(sampler)] * NUM_THREADS):
        assert sorted(i for batch in drawn for i in batch) == list(range(N))


def test_threads_that_share_an_iterator_draw_each_batch_once(features):
    """An iterator is a generator of Python: a thread that asks while another one waits for a batch gets an error."""
    batches = iter(ProximityBatchSampler(N, B, bank=bank_of(features)))

    def draw() -> list[list[int]]:
        drawn: list[list[int]] = []
        while True:
            try:
                drawn.extend([next(batches)])
            except StopIteration:
                return drawn
            except ValueError as error:
                if str(error) != "generator already executing":
                    raise

    results = at_once([draw] * NUM_THREADS)
    assert sorted(i for drawn in results for batch in drawn for i in batch) == list(range(N))


def test_updates_of_distinct_rows_in_many_threads_are_all_stored(features):
    bank = FeatureBank(N, features.shape[1])
    parts = np.array_split(np.random.default_rng(0).permutation(N), NUM_THREADS)
    rows = torch.from_numpy(features)
    at_once([lambda ids=ids: bank.update(ids, rows[ids]) for ids in parts])
    expected = bank_of(features)
    assert plain(knn_graph(bank.rows_for_graph().features, 5)) == plain(
        knn_graph(expected.rows_for_graph().features, 5)
    )
    assert bank.step == NUM_THREADS


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_use_what_threads_of_the_parent_have_used(features, tmp_path):
    graph, plan = knn_graph(features, 9), Plan.load(planned(features, tmp_path / "plan"))
    sampler = ProximityBatchSampler(N, B, bank=bank_of(features))

    def uses() -> list[Callable[[], Any]]:
        def draw() -> list[list[int]]:
            sampler.set_epoch(3)
            return list(sampler)

        return [*uses_of_graph(graph, features), *uses_of_plan(plan), draw]

    expected = at_once(uses())
    with multiprocessing.get_context("fork").Pool(2, initializer=_keep, initargs=(uses,)) as pool:
        results = pool.map_async(_use, range(4)).get(timeout=120)
    assert results == [expected] * 4
    assert at_once(uses()) == expected  # the parent goes on


_kept: list[Callable[[], list[Callable[[], Any]]]] = []


def _keep(uses: Callable[[], list[Callable[[], Any]]]) -> None:
    _kept.append(uses)


def _use(_: int) -> list[Any]:
    return at_once(_kept[-1]())
