"""Whatever is done to a graph after it was made, walks stay in its memory, and nothing is silently other than asked."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
import time
from collections.abc import Callable

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
    knn_graph,
    random_walk_with_restart,
    sample_batches,
)

N, K = 400, 12


@pytest.fixture
def features(rng) -> np.ndarray:
    return rng.standard_normal((N, 8)).astype(np.float32)


@pytest.fixture
def graph(features) -> ProximityGraph:
    """A graph that has been walked, so that its lengths of rows are known."""
    graph = knn_graph(features, K)
    walked(graph)
    return graph


def walked(graph: ProximityGraph) -> list[torch.Tensor]:
    return list(random_walk_with_restart(graph, range(N), 20))


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, first, second))


@pytest.mark.parametrize("name", ["neighbors", "scores", "ids", "num_instances"])
def test_attributes_of_graphs_cannot_be_assigned(graph, name):
    expected = walked(graph)
    for value in (graph.neighbors[:, :5].contiguous(), None, 10**9):
        with pytest.raises(AttributeError, match=name):
            setattr(graph, name, value)
    assert equal(walked(graph), expected)


@pytest.mark.parametrize("name", ["num_instances", "batch_size", "num_epochs"])
def test_sizes_of_plans_cannot_be_assigned(features, name, tmp_path):
    plan = compose(features, batch_size=8, preset="uniform")
    plan.save(tmp_path / "plan")
    for each in (plan, Plan.load(tmp_path / "plan")):
        with pytest.raises(AttributeError, match=name):
            setattr(each, name, 7)
        assert len(each.batches(0)) == N // 8


def test_settings_of_samplers_cannot_be_assigned(features):
    bank = FeatureBank(N, 8)
    bank.update(range(N), torch.from_numpy(features))
    samplers = [
        ProximityBatchSampler(N, 8, bank=bank),
        PlannedBatchSampler(compose(features, batch_size=8, preset="uniform"), dataset=N),
    ]
    names = ["bank", "batch_size", "drop_last", "graph_config", "planner", "refresh_every", "scope"]
    for sampler, settings in zip(samplers, [names, ["batch_size", "drop_last", "plan"]], strict=True):
        for name in settings:
            with pytest.raises(AttributeError, match=name):
                setattr(sampler, name, 16)
        assert [len(batch) for batch in sampler] == [8] * (N // 8)


def set_other(view: torch.Tensor) -> None:
    view.set_(torch.zeros(3, view.shape[-1], dtype=view.dtype))


def assign_data(view: torch.Tensor) -> None:
    view.data = view[:10].clone()


RESHAPES = [set_other, assign_data, lambda view: view.resize_(3), lambda view: view.t_() if view.ndim == 2 else None]


@pytest.mark.parametrize("reshape", RESHAPES)
@pytest.mark.parametrize("given", ["table", "array", "result"])
def test_shapes_of_views_are_not_those_of_the_graph(graph, reshape, given):
    table = graph.neighbors.clone()
    ids = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    made = {
        "table": lambda: ProximityGraph(table, graph.scores, ids),
        "array": lambda: ProximityGraph(table.numpy(), graph.scores.numpy(), ids.numpy()),
        "result": lambda: graph,
    }[given]()
    expected = walked(made)
    for view in (made.neighbors, made.scores, *([table, ids] if given == "table" else [made.neighbors])):
        reshape(view)
    if made.ids is not None:
        reshape(made.ids)
    assert equal(walked(made), expected)
    assert made.stats().num_edges == N * K
    assert len(made.mutual()) == N


def test_counted_changes_are_checked_and_followed(graph):
    graph.neighbors[:, 1:] = -1
    assert graph.stats().mean_degree == 1
    _, steps, _, _, _ = walked(graph)
    table = graph.neighbors.clone()
    assert torch.equal(random_walk_with_restart(table, range(N), 20).steps, steps)
    for wrong in (N, -2, 2**31 - 1, -(2**31)):
        graph.neighbors[7, 0] = wrong
        with pytest.raises(ValueError, match=rf"graph: expected neighbors in \[-1, {N}\), got another value in row 7"):
            walked(graph)
        graph.neighbors[7, 0] = 0
    graph.neighbors[7, 0], graph.neighbors[7, 1] = -1, 3
    with pytest.raises(ValueError, match="graph: expected a valid prefix and then -1, got -1 before a neighbor in row"):
        walked(graph)


def test_changed_instance_ids_are_checked_and_followed(graph):
    ids = torch.arange(N) + 100
    named = ProximityGraph(graph.neighbors + 100, ids=ids)
    first = random_walk_with_restart(named, ids, 20).nodes
    named.mutual()  # knows the rows of instances from now on
    named.ids.copy_(ids.flip(0).clone())
    named.neighbors.copy_(N - 1 - graph.neighbors + 100)
    assert torch.equal(N - 1 - (random_walk_with_restart(named, named.ids, 20).nodes - 100) + 100, first)
    for wrong, message in ((N + 100, "ids: expected values in"), (-1, "ids: expected values in"), (105, "distinct")):
        kept = int(named.ids[0])
        named.ids[0] = wrong
        for call in (lambda: random_walk_with_restart(named, [150], 20), named.mutual, named.stats):
            with pytest.raises(ValueError, match=message):
                call()
        named.ids[0] = kept
    assert len(named.mutual()) == N


@pytest.mark.parametrize("wrong", [N + 100, -1, 105])
def test_changed_instance_ids_are_checked_by_degrees_and_in_copies(graph, wrong):
    named = ProximityGraph(graph.neighbors + 100, ids=np.arange(N) + 100)
    good = named.ids.clone()
    ids = torch.empty(0, dtype=torch.int64).set_(good)  # version 1, as ids of copies have
    copied = ProximityGraph(graph.neighbors + 100, ids=ids)
    copied.ids[0] = wrong
    copies = [copy.copy(copied), copy.deepcopy(copied), pickle.loads(pickle.dumps(copied))]
    named.ids.numpy()[0] = wrong  # torch does not count it
    for call in (named.degrees, named.stats, *(each.mutual for each in copies)):
        with pytest.raises(ValueError, match="ids: expected"):
            call()
    named.ids.numpy()[0] = 100
    assert named.degrees().tolist() == [K] * N


UNCOUNTED: dict[str, Callable[[ProximityGraph], np.ndarray | torch.Tensor]] = {
    "numpy": lambda graph: graph.neighbors.numpy(),
    "data": lambda graph: graph.neighbors.data,
}


@pytest.mark.parametrize("how", UNCOUNTED)
@pytest.mark.parametrize("wrong", [N, -2, 2**31 - 1, -(2**31), -1])
def test_walks_never_leave_the_table_after_changes_that_torch_does_not_count(graph, features, how, wrong):
    table = UNCOUNTED[how](graph)
    table[:, : K - 1] = wrong  # -1: before an id
    met = "graph: expected neighbors that are rows of the graph, got"
    for planner in ("walks", "cover_by_walks", "partition"):
        for num_threads in (1, 3):
            with pytest.raises(ValueError, match=met):
                sample_batches(graph, 20, planner=planner, num_threads=num_threads)
    with pytest.raises(ValueError, match=met):
        walked(graph)
    if wrong != -1:
        with pytest.raises(ValueError, match=met):
            graph.mutual()
    for call in (
        lambda: compose(features, batch_size=20, community_size=10, graph=graph, unique=np.arange(N) // 2),
        lambda: batch_stats([[0, 1]], features, graph=graph),
        graph.stats,
        graph.degrees,
    ):
        with pytest.raises(ValueError, match="graph: expected"):
            call()
    table[:] = 3
    assert graph.degrees().tolist() == [K] * N  # checks anew
    walked(graph)


def test_walks_never_leave_the_table_while_another_thread_changes_it(graph):
    table, stop = graph.neighbors.numpy(), threading.Event()
    good, rng = table.copy(), np.random.default_rng(0)

    def change() -> None:
        while not stop.is_set():
            table[:] = rng.integers(-(2**31), 2**31 - 1, table.shape, dtype=np.int32)
            table[:] = good

    thread = threading.Thread(target=change)
    thread.start()
    end = time.perf_counter() + 1
    try:
        while time.perf_counter() < end:
            for planner in ("walks", "partition"):
                with contextlib.suppress(ValueError):  # only if a walk meets a wrong id
                    sample_batches(graph, 20, planner=planner, num_threads=2)
    finally:
        stop.set()
        thread.join()
    table[:] = good
    graph.degrees()
    walked(graph)


def test_copies_of_graphs_have_memory_of_their_own(graph):
    expected = walked(graph)
    copies = [copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))]
    graph.neighbors[:] = 0
    for each in copies:
        assert equal(walked(each), expected)


def test_stats_take_little_memory_per_edge(graph, monkeypatch):
    """All tensors that stats() makes have the size of the rows, or of an eighth of the edges."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() == result.nbytes:
                is_of_graph = result.data_ptr() in (graph.neighbors.data_ptr(), graph.scores.data_ptr())
                sizes.extend([] if is_of_graph else [result.nbytes])
            return result

    monkeypatch.setattr("batchsampler_ext.graph._MIN_EDGES_AT_ONCE", 1)
    expected = graph.stats()
    with Sizes():
        assert graph.stats() == expected
    assert 0 < max(sizes) <= max(8 * (N + 1), 4 * N * K // 8)
    in_degrees = torch.bincount(graph.neighbors.reshape(-1), minlength=N)
    assert (expected.max_in_degree, expected.unreached_rows) == (int(in_degrees.max()), int((in_degrees == 0).sum()))
    assert expected.mean_score == pytest.approx(float(graph.scores.double().mean()), rel=1e-12)
