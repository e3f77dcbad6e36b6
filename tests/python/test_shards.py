"""Graphs that ranks build together equal the graph of one process, and a rank that fails makes all ranks fail."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pytest
import torch
import torch.distributed as dist

from batchsampler_ext import FeatureBank, ProximityBatchSampler, ProximityGraph, proximity_graph, reference
from batchsampler_ext import _shards as shards
from batchsampler_ext._engine.backend import core, engine
from batchsampler_ext.graph_builders import GraphConfig, _GraphCall
from tests.python.rank_processes import TIMEOUT, on_ranks


def features_of(num_rows: int, dim: int = 12) -> torch.Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(num_rows))


def differences(graph: ProximityGraph, expected: ProximityGraph) -> list[str]:
    """Returns what is not equal to the bit."""
    pairs = {"neighbors": (graph.neighbors, expected.neighbors), "scores": (graph.scores, expected.scores)}
    return [name for name, (a, b) in pairs.items() if (a is None) != (b is None) or (a is not None and not equal(a, b))]


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def many_graphs(rank: int, num_ranks: int) -> list:
    """Returns what differs from the graph of one process."""
    shards.BUFFER_BYTES = 4000  # several chunks
    wrong = []
    features, labels = features_of(700), torch.arange(700) % 5 - 1
    subset = torch.randperm(700, generator=torch.Generator().manual_seed(3))[:333]
    variants = [
        {"return_scores": True},
        {"labels": labels, "range_min": 2, "return_scores": True, "sort": True, "seed": 2**64 - 1},
        {"documents": features.flip(0), "max_score": 0.4},
        {"rows": subset, "labels": labels, "metric": "l2"},
        {"rows": subset.tolist(), "documents": features.numpy()[::-1], "compute_dtype": torch.bfloat16},
    ]
    cases = [
        (features.to(dtype), {"num_candidates": 90, "candidate_group_size": group_size, **options})
        for dtype, group_size in [*itertools.product([torch.float32], [1, 2, 37, 256, 2**40]), (torch.bfloat16, 256)]
        for options in variants
    ]
    cases += [
        (features_of(num_rows), {"candidate_group_size": group_size, "return_scores": True})
        for num_rows in (1, 2, 3, 7)
        for group_size in (1, 2, 256)
    ]
    for rows, options in cases:
        expected = proximity_graph(rows, **options)
        graph = proximity_graph(rows, **options, process_group=dist.group.WORLD)
        found = differences(graph, expected)
        if found:
            wrong.append((len(rows), found, {name: str(value)[:40] for name, value in options.items()}))
    return wrong


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_ranks_build_the_graph_of_one_process(tmp_path, num_ranks):
    assert on_ranks(many_graphs, tmp_path, num_ranks) == [[]] * num_ranks


def graphs_of_a_pair(rank: int, num_ranks: int) -> list:
    """Ranks 1 and 2 of three build a graph in a group of their own, on an emulated CUDA device if there is one."""
    from tests.conftest import emulated_device

    pair = dist.new_group([1, 2])
    features = features_of(300, 16).bfloat16()
    options = {"num_candidates": 80, "candidate_group_size": 50}
    if rank == 0:
        with pytest.raises(ValueError, match="process_group: expected a group that this process belongs to"):
            proximity_graph(features, 9, **options, process_group=pair)
        return []
    expected = proximity_graph(features, 9, **options)
    found = differences(proximity_graph(features, 9, **options, process_group=pair), expected)
    try:
        from batchsampler_ext import _cuda_emulated  # noqa: F401
    except ImportError:
        return found
    with emulated_device():
        return found + differences(proximity_graph(features, 9, **options, process_group=pair), expected)


def test_a_part_of_the_ranks_builds_a_graph(tmp_path):
    assert on_ranks(graphs_of_a_pair, tmp_path, num_ranks=3) == [[]] * 3


def changed_on_rank_1(rank: int, num_ranks: int) -> list[str]:
    features = features_of(300)
    other = features.clone()
    other[299, 11] += 1e-6  # all of few rows are compared
    rows, labels = torch.arange(250), torch.arange(300) % 7
    changes = [
        {"num_neighbors": 9 + rank},
        {"seed": 2**64 - 1 - rank},
        {"num_candidates": 50 + rank, "metric": ["cosine", "ip"][rank]},
        {"labels": labels + rank},
        {"labels": labels if rank else None},
        {"rows": rows + rank},
        {"documents": [features, other][rank]},
        {"max_score": 0.5 + 0.1 * rank},
        {"max_score": [None, 0.5][rank]},
        {"return_scores": rank == 1, "range_min": rank, "sort": rank == 1, "candidate_group_size": 100 + rank},
        {"compute_dtype": [torch.float32, torch.bfloat16][rank]},
        {"features": [features, other][rank]},
        {"features": [features, features.double().half()][rank]},
        {"features": features_of(300 + rank)},
        {"features": features[: 300 - rank], "rows": rows},
    ]
    messages = []
    for change in changes:
        with pytest.raises(RuntimeError) as caught:
            proximity_graph(**{"features": features, "num_neighbors": 9, **change}, process_group=dist.group.WORLD)
        messages.append(str(caught.value))
    graph = proximity_graph(features, 9, num_threads=1 + rank, process_group=dist.group.WORLD)  # ranks still agree
    assert differences(graph, proximity_graph(features, 9)) == []
    return messages


def test_different_arguments_are_named_on_all_ranks(tmp_path):
    first, second = on_ranks(changed_on_rank_1, tmp_path)
    assert first == second
    start = "process_group: expected equal arguments on all ranks, but rank 0 and rank 1 of the group differ in "
    assert [message.removeprefix(start).partition(";")[0] for message in first] == [
        "num_neighbors (9 and 10)",
        f"seed ({2**64 - 1} and {2**64 - 2})",
        "num_candidates (50 and 51), metric",
        "labels",
        "labels",
        "rows",
        "documents",
        "max_score",
        "max_score",
        "candidate_group_size (100 and 101), range_min (0 and 1), sort (0 and 1), return_scores (0 and 1)",
        "compute_dtype",
        "features",
        "features",
        "num_instances (300 and 301), num_rows (300 and 301), num_candidates (299 and 300)",
        "num_instances (300 and 299)",
    ]


def failure_of_rank_1(rank: int, num_ranks: int) -> list[str]:
    features = features_of(5000, 64)
    bad = features.clone()
    bad[77, 3] = torch.nan
    stopped = threading.Event()

    def fail(done, total):
        raise KeyError("no terminal")

    def interrupt(done, total):
        stopped.set()
        raise KeyboardInterrupt

    calls = [
        {"num_neighbors": 9 if rank != 1 else 0},  # before ranks compare arguments
        {"metric": "cosine" if rank != 1 else "dot"},
        {"config": None if rank != 1 else "hard"},
        {"progress": None if rank != 1 else fail},  # while it builds
        {"progress": None if rank != 1 else interrupt},
        {"max_memory": None if rank != 1 else 10},
        {"features": bad},  # on all ranks
    ]
    messages = []
    for call in calls:
        try:
            proximity_graph(**{"features": features, **call}, process_group=dist.group.WORLD)
        except BaseException as error:
            messages.append(f"{type(error).__name__}: {error}")
    assert stopped.is_set() == (rank == 1)
    small = features[:200]
    assert differences(proximity_graph(small, 9, process_group=dist.group.WORLD), proximity_graph(small, 9)) == []
    return messages


def test_the_failure_of_one_rank_reaches_all_ranks(tmp_path):
    first, second, third = on_ranks(failure_of_rank_1, tmp_path, num_ranks=3)
    assert first == third
    assert first[:-1] == ["RuntimeError: process_group: rank 1 of the group failed, so no rank has a graph"] * 6
    assert second[0].startswith("ValueError: num_neighbors: expected an integer from 1 to")
    assert second[1].startswith("ValueError: metric: expected one of")
    assert second[2] == "TypeError: config: expected a GraphConfig or None, got str"
    assert second[3] == "KeyError: 'no terminal'"
    assert second[4] == "KeyboardInterrupt: "
    assert second[5].startswith("ValueError: max_memory: expected at least")
    for last in (first[-1], second[-1]):
        assert last.startswith("ValueError: features[77, 3]: expected finite values, got nan")


def interrupted_at_once(rank: int, num_ranks: int) -> float:
    def progress(done, total):
        if rank == 0:
            raise KeyboardInterrupt
        time.sleep(2)  # still builds

    start = time.monotonic()
    try:
        proximity_graph(features_of(60_000, 64), 9, progress=progress, process_group=dist.group.WORLD)
    except (KeyboardInterrupt, RuntimeError):
        return time.monotonic() - start
    return -1.0


def test_an_interrupted_rank_does_not_wait_for_the_others(tmp_path):
    first, second = on_ranks(interrupted_at_once, tmp_path)
    assert 0 < first < second
    assert second > 2


def killed_rank(rank: int, num_ranks: int) -> float:
    features = features_of(3000)
    proximity_graph(features, 9, process_group=dist.group.WORLD)
    start = time.monotonic()

    def progress(done, total):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError):
        proximity_graph(features, 9, progress=progress, process_group=dist.group.WORLD)
    return time.monotonic() - start


def test_a_killed_rank_ends_the_others_within_the_timeout(tmp_path):
    seconds = on_ranks(killed_rank, tmp_path, num_ranks=3, num_results=2)
    assert max(seconds) < TIMEOUT + 5


def test_process_groups_are_checked():
    features = features_of(20)
    expected = "process_group: expected torch.distributed to be initialized"
    with pytest.raises(ValueError, match=expected):
        proximity_graph(features, 3, process_group=dist.GroupMember.NON_GROUP_MEMBER)


def test_graphs_do_not_need_torch_distributed(monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    assert proximity_graph(features_of(20), 3).neighbors.shape == (20, 3)
    with pytest.raises(ValueError, match="process_group: expected torch.distributed to be initialized"):
        proximity_graph(features_of(20), 3, process_group=object())


def ranges(num_groups: int) -> list[range]:
    return [range(1), range(num_groups), range(num_groups // 3, num_groups // 2 + 1), range(num_groups - 1, num_groups)]


@pytest.mark.parametrize("candidate_group_size", [1, 2, 7, 256])
@pytest.mark.parametrize("num_rows", [2, 100, 601])
def test_a_range_of_groups_writes_its_rows_and_no_others(isa, num_rows, candidate_group_size):
    features = features_of(num_rows)
    config = GraphConfig(candidate_group_size=candidate_group_size, return_scores=True)
    done = []
    call = _GraphCall.check(features, None, None, config, None, None, 5, lambda *counts: done.append(counts))
    call.build(range(call.request.num_groups))
    whole = [call.result.neighbors.clone(), call.result.scores.clone()]
    order = call.order()
    rows_of = torch.arange(num_rows) if order is None else order.long()
    assert torch.equal(rows_of.sort().values, torch.arange(num_rows))
    for groups in ranges(call.request.num_groups):
        call.result.neighbors.fill_(-7)
        call.result.scores.fill_(7.0)
        call.build(groups)
        positions = call.positions(groups)
        assert done[-1] == (len(positions), len(positions))
        built = torch.zeros(num_rows, dtype=torch.bool)
        built[rows_of[positions.start : positions.stop]] = True
        assert equal(call.result.neighbors[built], whole[0][built])
        assert equal(call.result.scores[built], whole[1][built])
        assert bool((call.result.neighbors[~built] == -7).all())
        assert bool((call.result.scores[~built] == 7).all())


def test_ranges_beyond_the_groups_are_refused():
    call = _GraphCall.check(features_of(600), None, None, GraphConfig(), None, None, 5, None)
    for first, count in ((-1, 1), (0, 0), (0, 4), (3, 1), (2**63 - 1, 1)):
        request = call.request._replace(first_group=first, num_groups=count)
        with pytest.raises(ValueError, match="engine: expected groups of the graph"):
            core.proximity_graph(request, call.result.edges(), call.resources)


def test_the_order_of_rows_equals_the_oracle():
    for n in (1, 2, 5, 300, 4097):
        order = torch.empty(n, dtype=torch.int32)
        engine(order.device).group_order(n=n, seed=n + 2**63, out=order.data_ptr())
        assert order.tolist() == reference.keyed_permutation(n, n + 2**63, reference.GROUPS)


def test_shares_cover_all_groups():
    for num_groups, num_ranks in itertools.product([1, 2, 3, 10, 1001], [1, 2, 3, 7]):
        parts = shards.shares(num_groups, num_ranks)
        assert [group for part in parts for group in part] == list(range(num_groups))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_changed_bit_of_a_compared_row_is_found():
    features = features_of(5000).bfloat16()
    call = _GraphCall.check(features, None, None, GraphConfig(), None, None, 5, None)
    before = call.compared()
    features.view(torch.int16)[5000 * 1023 // 1024, 11] ^= 1
    after = call.compared()
    assert before != after
    assert before == after._replace(features=before.features)


def epochs_planned_together(rank: int, num_ranks: int) -> list:
    bank = FeatureBank(700, 8)
    bank.update(range(600), torch.randn(600, 8, generator=torch.Generator().manual_seed(0)))
    config = GraphConfig(num_candidates=100, num_neighbors=8)
    sampler = ProximityBatchSampler(range(640), 32 // num_ranks, bank=bank, graph=config)
    epochs = []
    for epoch in range(3):
        if num_ranks > 1 and epoch != 1:
            sampler.plan_epoch()
            sampler.plan_epoch()  # nothing is left to do
        if epoch == 2:
            sampler.set_epoch(2)
        epochs.append(list(sampler))
    if num_ranks > 1:
        sampler.plan_epoch()
    sampler.set_epoch(7)  # another epoch than the one that was planned
    return [*epochs, list(sampler)]


def test_epochs_planned_together_are_those_planned_alone(tmp_path):
    first, second = on_ranks(epochs_planned_together, tmp_path)
    assert isinstance(first, list), first
    joined = [[a + b for a, b in zip(*halves, strict=True)] for halves in zip(first, second, strict=True)]
    assert joined == epochs_planned_together(0, 1)
    sampler = ProximityBatchSampler(10, 2, bank=FeatureBank(10, 8))
    sampler.plan_epoch()  # a single process may call it, too
    assert sorted(i for batch in sampler for i in batch) == list(range(10))
