"""Several ranks: disjoint batches, equal lengths, one global sequence, states that move between numbers of ranks."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.utils.data import ConcatDataset, DistributedSampler, Subset, TensorDataset

from batchsampler_ext import (
    FeatureBank,
    GraphConfig,
    IndexedDataset,
    Plan,
    PlannedBatchSampler,
    ProximityBatchSampler,
    WalkPlanner,
    compose,
)
from batchsampler_ext._sampler.ranks import Ranks

FEW = GraphConfig(num_candidates=20, num_neighbors=8)


def filled_bank(num_instances: int) -> FeatureBank:
    bank = FeatureBank(num_instances, 8)
    rows = torch.randn(num_instances, 8, generator=torch.Generator().manual_seed(5))
    bank.update(torch.arange(num_instances), rows)
    return bank


def samplers_of(num_instances: int, batch_size: int, num_replicas: int, **options) -> list[ProximityBatchSampler]:
    return [
        ProximityBatchSampler(
            num_instances, batch_size, bank=filled_bank(num_instances), graph=FEW, rank=rank,
            num_replicas=num_replicas, **options,
        )
        for rank in range(num_replicas)
    ]  # fmt: skip


@functools.cache
def plan_of(num_instances: int, batch_size: int, drop_last: bool) -> Plan:
    rows = torch.randn(num_instances, 8, generator=torch.Generator().manual_seed(5))
    options = {"preset": "walks", "community_size": batch_size, "num_epochs": 4, "drop_last": drop_last}
    return compose(rows, batch_size=batch_size, **options)


def planned_of(
    num_instances: int, batch_size: int, num_replicas: int, drop_last: bool = False
) -> list[PlannedBatchSampler]:
    plan = plan_of(num_instances, batch_size * num_replicas, drop_last)
    return [
        PlannedBatchSampler(plan, dataset=num_instances, rank=rank, num_replicas=num_replicas)
        for rank in range(num_replicas)
    ]


both_samplers = pytest.mark.parametrize("make", [samplers_of, planned_of])


def epoch_of(samplers: list[ProximityBatchSampler] | list[PlannedBatchSampler]) -> list[list[list[int]]]:
    """[step][rank] -> ids; all ranks have as many steps as they say."""
    drawn = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in drawn} == {len(sampler) for sampler in samplers}
    return [list(step) for step in zip(*drawn, strict=True)]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *((samplers_of, {"planner": p, "scope": s}) for p in ("partition", "uniform") for s in ("global", "local")),
        (planned_of, {}),
    ],
)
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("num_replicas", [1, 2, 4])
@pytest.mark.parametrize("remainder", [0, 1, 7])
def test_ranks_share_each_epoch_without_overlap(num_replicas, drop_last, remainder, make, options):
    batch_size, num_steps = 8, 5
    global_size = batch_size * num_replicas
    num_instances = num_steps * global_size + remainder
    samplers = make(num_instances, batch_size, num_replicas, drop_last=drop_last, **options)
    steps = epoch_of(samplers)
    assert len(steps) == num_steps + (remainder > 0 and not drop_last)
    for step in steps[:num_steps]:
        assert [len(ids) for ids in step] == [batch_size] * num_replicas
    drawn = [i for step in steps for ids in step for i in ids]
    num_padded = len(drawn) - len(set(drawn))
    if drop_last:
        assert (num_padded, len(drawn)) == (0, num_steps * global_size)
    else:
        assert set(drawn) == set(range(num_instances))
        assert num_padded == -num_instances % num_replicas if remainder else num_padded == 0
        assert len({len(ids) for ids in steps[-1]}) == 1
        for step in steps:
            assert len({i for ids in step for i in ids}) == sum(map(len, step))  # no instance twice in a step


@both_samplers
@pytest.mark.parametrize("drop_last", [False, True])
def test_global_sequence_does_not_depend_on_the_number_of_ranks(drop_last, make):
    num_instances, global_size = 85, 16
    sequences = []
    for num_replicas in (1, 2, 4, 8):
        samplers = make(num_instances, global_size // num_replicas, num_replicas, drop_last=drop_last)
        for _ in range(2):
            steps = epoch_of(samplers)
        full = [[i for ids in step for i in ids] for step in steps[: num_instances // global_size]]
        tail = {i for step in steps[num_instances // global_size :] for ids in step for i in ids}
        sequences.append((full, tail))
    first, *others = sequences
    for full, tail in others:
        assert full == first[0]
        assert tail >= first[1]  # padded, if at all


def test_local_batches_are_those_of_one_process():
    one = [ids for ids in samplers_of(64, 8, 1)[0]]
    two = [ids for step in epoch_of(samplers_of(64, 8, 2, scope="local")) for ids in step]
    assert two == one


@pytest.mark.parametrize("planner", ["walks", "cover_by_walks"])
def test_walks_on_ranks_have_equal_lengths_and_one_sequence(planner):
    one = [sorted(ids) for ids in samplers_of(60, 12, 1, planner=planner, refresh_every=2)[0]]
    two = epoch_of_varying(samplers_of(60, 6, 2, planner=planner, refresh_every=2))
    assert [sorted(i for ids in step for i in ids) for step in two] == one


def epoch_of_varying(samplers):
    return [list(step) for step in zip(*(list(sampler) for sampler in samplers), strict=True)]


@both_samplers
@pytest.mark.parametrize("place", range(20))
def test_resume_with_another_number_of_ranks(place, make):
    """2 -> 4 -> 1 ranks within one global sequence of 25 steps."""
    expected = list(make(200, 8, 1)[0])
    found, state = [], None
    for num_replicas, num_steps in ((2, place), (4, 3), (1, None)):
        samplers = make(200, 8 // num_replicas, num_replicas)
        if state is not None:
            for sampler in samplers:
                sampler.load_state_dict(state)
        iterators = [iter(sampler) for sampler in samplers]
        steps = itertools.islice(zip(*iterators, strict=True), num_steps)
        found += [[i for ids in step for i in ids] for step in steps]
        state = samplers[0].state_dict()
    assert found == expected


def test_state_of_another_global_batch_size_is_refused():
    sampler = samplers_of(64, 8, 2)[0]
    next(iter(sampler))
    state = sampler.state_dict()
    with pytest.raises(ValueError, match=r"state: expected a global batch size .* of 32 as this sampler has, got 16"):
        samplers_of(64, 8, 4)[0].load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank, num_replicas: expected both or neither, got 0 and None"),
        ({"num_replicas": 2}, "rank, num_replicas: expected both or neither, got None and 2"),
        ({"rank": 2, "num_replicas": 2}, "rank: expected an integer from 0 to 1, got 2"),
        ({"scope": "all"}, "scope: expected one of 'global', 'local', got 'all'"),
        ({"scope": "local", "planner": "cover_by_walks"}, "scope: expected 'global' with planner 'cover_by_walks'"),
    ],
)
def test_bad_ranks_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProximityBatchSampler(20, 4, bank=FeatureBank(20, 2), **arguments)


def draw_in_group(rank: int, num_replicas: int, folder: str, queue) -> None:
    torch.set_num_threads(1)
    bank = FeatureBank(40, 8)
    sampler = ProximityBatchSampler(40, 4, bank=bank, graph=FEW)  # before the group, as loaders often are
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_replicas)
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    drawn = []
    for _ in range(2):
        for ids in sampler:
            drawn.append(ids)
            bank.update(ids, rows[ids] + len(drawn) / 100)
    queue.put((rank, len(sampler), drawn, sampler.stats().missing_embedding_share))
    dist.destroy_process_group()


def test_ranks_come_from_the_process_group(tmp_path):
    queue = torch.multiprocessing.get_context("spawn").Queue()
    processes = torch.multiprocessing.start_processes(
        draw_in_group, (2, str(tmp_path), queue), nprocs=2, join=False, start_method="spawn"
    )
    results = sorted(queue.get(timeout=60) for _ in range(2))
    while not processes.join(60):
        pass
    (_, length, first, missing), (_, other_length, second, other_missing) = results
    assert (length, other_length, missing, other_missing) == (5, 5, 0.0, 0.0)
    for epoch in (slice(0, 5), slice(5, 10)):
        drawn = [i for ids in (*first[epoch], *second[epoch]) for i in ids]
        assert sorted(drawn) == list(range(40))


def test_processes_without_a_group_are_warned(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    sampler = ProximityBatchSampler(8, 4, bank=FeatureBank(8, 2))
    with pytest.warns(UserWarning, match="WORLD_SIZE is 2, but there is no process group"):
        next(iter(sampler))
    alone = ProximityBatchSampler(8, 4, bank=FeatureBank(8, 2), num_replicas=1)
    assert len(list(alone)) == 2


@pytest.mark.parametrize(
    "ids", [range(10, 20), list(range(10, 20)), torch.arange(10, 20), torch.arange(10, 20).numpy()]
)
def test_ids_are_drawn_themselves(ids):
    sampler = ProximityBatchSampler(ids, 4, bank=FeatureBank(20, 2))
    assert sorted(i for batch in sampler for i in batch) == list(range(10, 20))


def test_a_mask_is_refused():
    with pytest.raises(TypeError, match="sampler: expected ids, got a mask of booleans"):
        ProximityBatchSampler(torch.ones(20, dtype=torch.bool), 4, bank=FeatureBank(20, 2))


def test_a_distributed_sampler_stands_for_its_dataset():
    dataset = TensorDataset(torch.zeros(12, 1))
    sampler = ProximityBatchSampler(
        DistributedSampler(dataset, num_replicas=2, rank=1), 3, bank=FeatureBank(12, 2), rank=1, num_replicas=2
    )
    assert len(sampler) == 2


@pytest.mark.parametrize("wrap", [lambda it: Subset(it, range(5)), lambda it: ConcatDataset([it, it])])
def test_an_index_below_a_subset_is_refused(wrap):
    inner = TensorDataset(torch.zeros(10, 1))
    with pytest.raises(ValueError, match="sampler: expected IndexedDataset around the"):
        ProximityBatchSampler(wrap(IndexedDataset(inner)), 2, bank=FeatureBank(20, 2))
    with pytest.raises(ValueError, match="sampler: expected IndexedDataset around the"):
        ProximityBatchSampler(Subset(wrap(IndexedDataset(inner)), range(3)), 2, bank=FeatureBank(20, 2))
    right = IndexedDataset(wrap(inner))
    assert len(ProximityBatchSampler(right, 5, bank=FeatureBank(len(right), 2))) > 0


@both_samplers
def test_a_loaded_epoch_survives_callers_that_count_from_zero(make):
    """Fabric and accelerate count epochs from 0 after a resume."""
    whole = make(40, 8, 1)[0]
    expected = [[list(ids) for ids in whole] for _ in range(3)]
    interrupted = make(40, 8, 1)[0]
    list(interrupted)
    batches = iter(interrupted)
    begun = [next(batches), next(batches)]
    resumed = make(40, 8, 1)[0]
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(0)
    with pytest.warns(UserWarning, match=r"set_epoch\(0\) with a loaded state that continues with epoch 1"):
        assert begun + list(resumed) == expected[1]
    resumed.set_epoch(1)
    assert resumed.epoch == 2
    assert list(resumed) == expected[2]


@both_samplers
def test_a_finished_epoch_is_not_drawn_again_by_callers_that_count_from_zero(make):
    whole = make(40, 8, 1)[0]
    expected = [[list(ids) for ids in whole] for _ in range(3)]
    first = make(40, 8, 1)[0]
    list(first)
    resumed = make(40, 8, 1)[0]
    resumed.load_state_dict(first.state_dict())
    resumed.set_epoch(0)  # no warning, as it draws nothing
    resumed.set_epoch(1)  # a caller that knows the epoch after all
    assert list(resumed) == expected[1]
    resumed.set_epoch(2)
    assert list(resumed) == expected[2]


def test_state_loaded_before_the_group_is_checked_when_ranks_are_known(monkeypatch):
    sampler = samplers_of(64, 16, 1)[0]
    batches = iter(sampler)
    drawn, state = next(batches), sampler.state_dict()
    monkeypatch.setenv("WORLD_SIZE", "2")
    right = ProximityBatchSampler(64, 8, bank=filled_bank(64), graph=FEW)
    right.load_state_dict(state)  # one process so far, so 8 is not wrong yet
    wrong = ProximityBatchSampler(64, 16, bank=filled_bank(64), graph=FEW)
    wrong.load_state_dict(state)
    ranks = "batchsampler_ext._sampler.base.current_ranks"
    monkeypatch.setattr(ranks, lambda group: Ranks(1, 2))
    assert next(iter(right)) == next(batches)[8:]
    assert len(drawn) == 16
    with pytest.raises(ValueError, match=r"state: expected a global batch size .* of 32 as this sampler has, got 16"):
        next(iter(wrong))


def test_padding_does_not_repeat_an_instance_of_the_step():
    samplers = samplers_of(17, 4, 4)
    iterators = [iter(sampler) for sampler in samplers]
    assert [len(next(batches)) for batches in iterators] == [4] * 4
    for sampler in samplers:
        sampler.refresh()
    assert len({next(batches)[0] for batches in iterators}) == 4


@pytest.mark.parametrize("planner", ["partition", "walks", "uniform"])
def test_fewer_instances_than_a_batch(planner):
    for scope in ("global", "local"):
        steps = epoch_of(samplers_of(5, 8, 2, scope=scope, planner=planner))
        assert {i for step in steps for ids in step for i in ids} == set(range(5))


def test_local_similarity_is_measured_within_the_batches_of_a_rank():
    one = samplers_of(256, 16, 1)[0]
    local = samplers_of(256, 16, 4, scope="local")[0]
    for sampler in (one, local):
        next(iter(sampler))
    assert local.stats().in_batch_similarity == pytest.approx(one.stats().in_batch_similarity, abs=1e-6)


def test_graph_options_are_checked_for_the_global_batch():
    planner = WalkPlanner("knn")
    options = {"bank": FeatureBank(64, 4), "graph": GraphConfig(num_candidates=20, num_neighbors=20)}
    with pytest.raises(
        ValueError, match="num_candidates: expected batch_size - 1, 31, or more for order .knn., got 20"
    ):
        ProximityBatchSampler(64, 16, planner=planner, rank=0, num_replicas=2, **options)


def test_a_subclass_of_distributed_sampler_is_refused():
    class Wrapper(DistributedSampler):
        pass

    with pytest.raises(TypeError, match="sampler: expected the instances of all ranks, got Wrapper"):
        ProximityBatchSampler(Wrapper(range(8), num_replicas=2, rank=0), 2, bank=FeatureBank(8, 2))
    given = DistributedSampler(range(8), num_replicas=2, rank=1)
    sampler = ProximityBatchSampler(given, 2, bank=FeatureBank(8, 2))
    assert (sampler.num_replicas, len(sampler)) == (2, 2)
    with pytest.raises(ValueError, match=r"rank, num_replicas: expected \(1, 2\) as the sampler has, got 0, 2"):
        ProximityBatchSampler(given, 2, bank=FeatureBank(8, 2), rank=0, num_replicas=2)


def test_a_changed_dataset_is_named_by_its_size():
    state = samplers_of(40, 8, 1)[0].state_dict()
    with pytest.raises(ValueError, match="state: expected num_instances 48 as this sampler has, got 40"):
        samplers_of(48, 8, 1)[0].load_state_dict(state)
