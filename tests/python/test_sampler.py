"""The batch sampler: exact epochs through refreshes, the loader's workers, interruption and resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from batchsampler_ext import (
    Batches,
    BatchPlanner,
    FeatureBank,
    GraphConfig,
    IndexedDataset,
    ProximityBatchSampler,
    WalkPlanner,
    batch_stats,
    knn,
)


def features() -> torch.Tensor:
    data = torch.from_numpy(load_digits().data).float()
    return data - data.mean(0)


def filled_bank(rows: torch.Tensor | None = None) -> FeatureBank:
    rows = features() if rows is None else rows
    bank = FeatureBank(len(rows), rows.shape[1])
    bank.update(range(len(rows)), rows)
    return bank


def drift(bank: FeatureBank, batch: list[int]) -> None:
    """Moves the embeddings of a batch a little, as training does. The move is a function of the step."""
    generator = torch.Generator().manual_seed(bank.step)
    bank.update(batch, bank.data[batch].float() + 0.05 * torch.randn(len(batch), bank.dim, generator=generator))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("is_subset", [False, True])
@pytest.mark.parametrize("num_instances", [1797, 1792, 63])
def test_every_instance_is_drawn_once_per_epoch_despite_refreshes(num_instances, is_subset, drop_last):
    """N mod B is 5, 0 and N. The sampler draws from all instances of the bank, or from a subset."""
    bank = filled_bank(features() if is_subset else features()[:num_instances])
    instances = torch.randperm(1797, generator=torch.Generator().manual_seed(1))[:num_instances].tolist()
    source = SubsetRandomSampler(instances) if is_subset else num_instances
    sampler = ProximityBatchSampler(source, 64, drop_last, bank=bank, graph=GraphConfig(num_candidates=200))
    for _ in range(5):
        epoch = []
        for batch in sampler:
            drift(bank, batch)
            epoch.append(batch)
            if len(epoch) % 7 == 0:
                sampler.refresh()
        drawn = [i for batch in epoch for i in batch]
        assert len(epoch) == len(sampler)
        assert len(set(drawn)) == len(drawn) == (num_instances // 64 * 64 if drop_last else num_instances)
        assert set(drawn) <= set(instances if is_subset else range(num_instances))
        assert all(len(batch) == 64 for batch in epoch[:-1])
    assert sampler.epoch == (4 if len(sampler) else 0)
    assert sampler.refreshes == 5 * -(-len(sampler) // 7)


def test_first_epoch_is_uniform_and_later_epochs_are_hard():
    rows = features()
    bank = FeatureBank(len(rows), 64)
    config = GraphConfig(num_candidates=300, num_neighbors=30)
    sampler = ProximityBatchSampler(len(rows), 64, bank=bank, graph=config)
    similarities = []
    for _ in range(2):
        epoch = []
        for batch in sampler:
            bank.update(batch, rows[batch])
            epoch.append(batch)
            if len(epoch) % 10 == 0:
                sampler.refresh()
        similarities.append(batch_stats(epoch, rows)["in_batch_similarity_per_batch"])
        assert sorted(i for batch in epoch for i in batch) == list(range(len(rows)))
    assert abs(similarities[0].mean()) < 0.02
    assert np.quantile(similarities[1], 0.1) > 0.1
    parts = [similarities[1][first : first + 10].mean() for first in (0, 10, 20)]
    assert parts[-1] > 0.8 * parts[0]


def test_partition_builds_one_graph_per_epoch():
    rows = torch.randn(2_450, 4, generator=torch.Generator().manual_seed(0))
    options = {"graph": GraphConfig(num_candidates=20, num_neighbors=4)}
    for drop_last, num_batches in ((False, 123), (True, 122)):
        sampler = ProximityBatchSampler(2_450, 20, drop_last, bank=filled_bank(rows), **options)
        assert len(list(sampler)) == num_batches
        assert sampler.refreshes == 1
    walks = ProximityBatchSampler(2_450, 20, bank=filled_bank(rows), planner="walks", **options)
    assert (walks.refresh_every, len(list(walks)), walks.refreshes) == (100, 123, 2)


@pytest.mark.parametrize("drop_last", [False, True])
def test_refreshed_partition_is_independent_of_training_within_the_epoch(drop_last):
    """Training moves drawn instances only, and a later graph covers the others. So one plan per epoch is enough."""
    runs = []
    for trains in (False, True):
        sampler = ProximityBatchSampler(233, 10, drop_last, bank=filled_bank(features()[:233]))
        epoch = []
        for batch in sampler:
            epoch.append(batch)
            if trains:
                drift(sampler.bank, batch)
            if len(epoch) % 4 == 0:
                sampler.refresh()
        runs.append(epoch)
    assert runs[0] == runs[1]


def test_instances_without_an_embedding_are_drawn_too():
    rows = features()
    bank = FeatureBank(len(rows), 64)
    covered = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:1200]
    bank.update(covered, rows[covered])
    sampler = ProximityBatchSampler(len(rows), 64, bank=bank)
    assert sorted(i for batch in sampler for i in batch) == list(range(len(rows)))
    assert sampler.stats().missing_embedding_share == pytest.approx(597 / 1797)


@pytest.mark.parametrize("kind", ["subset", "random", "dataset", "list", "distributed"])
def test_batches_hold_the_instances_of_the_given_sampler(kind):
    bank = filled_bank(features()[:300])
    subset = list(range(5, 300, 3))
    everything = list(range(300))
    dataset = TensorDataset(torch.zeros(300))
    source, expected = {
        "subset": (SubsetRandomSampler(subset), subset),
        "random": (RandomSampler(dataset), everything),
        "dataset": (dataset, everything),
        "list": (torch.utils.data.SequentialSampler(everything), everything),
        "distributed": (DistributedSampler(dataset, num_replicas=1, rank=0), everything),
    }[kind]
    for drop_last in (False, True):
        sampler = ProximityBatchSampler(source, 16, drop_last, bank=bank)
        drawn = sorted(i for batch in sampler for i in batch)
        assert set(drawn) <= set(expected)
        assert len(drawn) == (len(expected) // 16 * 16 if drop_last else len(expected))


def test_knn_batches_are_exact_once_the_bank_is_filled():
    rows = features()[:300]
    bank = FeatureBank(300, 64, dtype=torch.float32)
    arguments = {"bank": bank, "planner": WalkPlanner("knn"), "refresh_every": 2}
    with pytest.raises(ValueError, match="num_neighbors: expected batch_size - 1, 31, or more for order 'knn', got 5"):
        ProximityBatchSampler(300, 32, graph=GraphConfig(num_neighbors=5), **arguments)
    sampler = ProximityBatchSampler(300, 32, graph=GraphConfig(num_candidates=299, num_neighbors=31), **arguments)
    batches = iter(sampler)
    for _ in range(2):
        batch = next(batches)
        assert len(set(batch)) == 32
        bank.update(batch, rows[batch])
    bank.update(range(300), rows)
    for batch in batches:
        expected = knn(rows[batch[:1]], rows, 33).ids[0].tolist()
        assert batch == [batch[0], *(i for i in expected if i != batch[0])][:32]


def test_set_epoch_selects_the_epoch():
    bank = filled_bank(features()[:200])
    sampler = ProximityBatchSampler(200, 16, bank=bank)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) == second
    assert sampler.sampler is sampler
    iterator = iter(sampler)
    next(iterator)
    state = sampler.state_dict()
    sampler.set_epoch(state["epoch"])  # as trainers do when they resume
    sampler.load_state_dict(state)
    sampler.set_epoch(state["epoch"])
    assert len(list(sampler)) == len(sampler) - 1
    sampler.load_state_dict(state)
    sampler.set_epoch(state["epoch"] + 1)
    assert len(list(sampler)) == len(sampler)


def test_concurrent_iterations_are_independent():
    bank = filled_bank(features()[:200])
    sampler = ProximityBatchSampler(200, 16, bank=bank)
    one, two = iter(sampler), iter(sampler)
    drawn_one, drawn_two = [], []
    for _ in range(len(sampler)):
        drawn_one += next(one)
        drawn_two += next(two)
    assert sorted(drawn_one) == sorted(drawn_two) == list(range(200))


@pytest.mark.parametrize(
    "workers",
    [
        {},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
        {"num_workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loaders_with_worker_processes_deliver_every_instance_once(workers):
    rows = features()[:400]
    bank = filled_bank(rows)
    sampler = ProximityBatchSampler(400, 32, bank=bank)
    loader = DataLoader(IndexedDataset(TensorDataset(rows)), batch_sampler=sampler, **workers)
    for _ in range(2):
        drawn = []
        for indices, (batch,) in loader:
            assert torch.equal(batch, rows[indices])
            bank.update(indices, batch)
            drawn += indices.tolist()
        assert sorted(drawn) == list(range(400))


def test_refresh_starts_a_new_plan():
    bank = filled_bank(features()[:400])
    sampler = ProximityBatchSampler(400, 32, bank=bank)
    drawn = []
    for i, batch in enumerate(sampler):
        drawn += batch
        if i == 3:
            sampler.refresh()
    assert sampler.refreshes == 2
    assert sorted(drawn) == list(range(400))


@pytest.mark.parametrize("place", range(1, 13))
def test_requested_refresh_uses_the_current_bank(place):
    """Refreshes after each possible batch, with and without a resume."""
    moved = torch.randn(400, 64, generator=torch.Generator().manual_seed(9))
    runs = []
    for refreshes, resumes in ((False, False), (True, False), (True, True)):
        sampler = ProximityBatchSampler(400, 32, bank=filled_bank(features()[:400]))
        batches = []
        for batch in sampler:
            batches.append(batch)
            if len(batches) == place:
                sampler.bank.update(range(400), moved)
                if refreshes:
                    sampler.refresh()
                if resumes:
                    break
        if resumes:
            state, bank = sampler.state_dict(), sampler.bank
            sampler = ProximityBatchSampler(400, 32, bank=bank)
            sampler.load_state_dict(state)
            batches += list(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(400))
        runs.append(batches)
    without, asked, resumed = runs
    assert resumed == asked
    assert asked[:place] == without[:place]
    assert asked[place:] != without[place:] or place == 12  # the last batch holds what is left either way


def test_nonfinite_rows_of_the_bank_are_named():
    bank = FeatureBank(40, 4, dtype=torch.float32)
    bank.update(range(40), torch.randn(40, 4))
    sampler = ProximityBatchSampler(40, 5, bank=bank, planner="walks", refresh_every=2)
    iterator = iter(sampler)
    next(iterator)
    next(iterator)
    bank.data[7, 1] = float("nan")
    with pytest.raises(ValueError, match=r"features\[7, 1\]: expected finite values"):
        next(iterator)
    bank.data[7, 1] = 0
    assert len(list(sampler)) == 6  # continues where it stopped


@pytest.mark.filterwarnings("ignore:bank.update. called where gradients are disabled")
def test_result_independent_of_inference_mode():
    runs = []
    for first in (None, False, True):
        sampler = ProximityBatchSampler(230, 10, bank=filled_bank(features()[:230]), planner="walks", refresh_every=4)
        iterator, batches = iter(sampler), []
        for i in range(23):
            with torch.inference_mode(first is not None and (i // 4 % 2 == 0) == first):
                batches.append(next(iterator))
                drift(sampler.bank, batches[-1])
        runs.append(batches)
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("planner", ["walks", "cover_by_walks"])
def test_walks_reach_most_instances_with_few_candidates(planner):
    """If 256 rows shared their candidates, most instances would have no incoming edge."""
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    bank = filled_bank(rows)
    config = GraphConfig(num_candidates=64, num_neighbors=16)
    sampler = ProximityBatchSampler(4000, 64, bank=bank, graph=config, planner=planner)
    batches = list(sampler)
    if planner == "walks":
        assert len({i for batch in batches for i in batch}) > 0.5 * 4000
    else:
        assert len(batches) < 600  # 63 would be enough if no instance were repeated
    assert sampler.graph.stats().unreached_rows < 20


@pytest.mark.parametrize("drop_last", [False, True])
def test_no_more_graphs_are_built_than_needed(drop_last):
    bank = filled_bank(features()[:500])
    sampler = ProximityBatchSampler(500, 32, drop_last, bank=bank, planner="cover_by_walks", refresh_every=10)
    num_batches = len(list(sampler))
    assert sampler.refreshes == -(-num_batches // 10)


def test_indexed_dataset_fetches_batches_at_once():
    class Batched(TensorDataset):
        def __getitems__(self, indices):
            return [("batched", i) for i in indices]

    assert IndexedDataset(Batched(torch.arange(9))).__getitems__([4, 2]) == [(4, ("batched", 4)), (2, ("batched", 2))]
    assert IndexedDataset("abc").__getitems__([2, 0]) == [(2, "c"), (0, "a")]


def test_restart_schedule_and_graph_options_are_used():
    bank = filled_bank(features()[:300])
    labels = torch.from_numpy(load_digits().target[:300])
    seen = []
    sampler = ProximityBatchSampler(
        300, 32, bank=bank, restart_prob=lambda epoch: seen.append(epoch) or 0.1, graph=GraphConfig(labels=labels)
    )
    list(sampler)
    list(sampler)
    assert set(seen) == {0, 1}
    neighbors = sampler.graph.neighbors
    assert not (labels[neighbors.clamp(min=0).long()] == labels[:, None])[neighbors >= 0].any()
    stats = sampler.stats()
    assert stats.graph_ms > 0
    assert stats.total_seconds >= stats.graph_ms / 1e3
    assert stats.graph_age == len(sampler)
    assert -1 <= stats.in_batch_similarity <= 1


def test_bad_sampler_arguments_are_refused():
    bank = FeatureBank(100, 4)
    for arguments, error, message in [
        ((101, 8), ValueError, r"sampler: expected all 100 instances of the bank \(bank.num_instances\), got 101"),
        ((SubsetRandomSampler([1, 1]), 8), ValueError, "sampler: expected distinct instances"),
        ((SubsetRandomSampler([1, 100]), 8), ValueError, r"sampler: expected instances in \[0, 100\)"),
        ((SubsetRandomSampler([]), 8), ValueError, "sampler: expected at least one instance"),
        ((SubsetRandomSampler([-1, 2]), 8), ValueError, r"sampler: expected instances in \[0, 100\) .* got -1"),
        ((RandomSampler(range(50), num_samples=20), 8), ValueError, "sampler: expected a RandomSampler over all 50"),
        ((RandomSampler(range(50), replacement=True), 8), ValueError, "sampler: expected a RandomSampler over all 50"),
        ((BatchSampler(RandomSampler(range(50)), 4, False), 8), TypeError, "sampler: .* got a sampler of batches"),
        ((1.5, 8), TypeError, "sampler: expected a number, ids, a dataset .* or a torch sampler, got float"),
        ((100, 0), ValueError, "batch_size: .* got 0"),
    ]:
        with pytest.raises(error, match=message):
            ProximityBatchSampler(*arguments, bank=bank)
    for options, error, message in [
        ({"refresh_every": 0, "planner": "walks"}, ValueError, "refresh_every: .* got 0"),
        ({"refresh_every": 5}, ValueError, "refresh_every: expected None with planner 'partition'.* got 5"),
        ({"restart_prob": 1.0}, ValueError, "restart_prob: "),
        ({"restart_prob": lambda epoch: 2.0}, ValueError, "restart_prob: "),
        ({"planner": "all"}, ValueError, "planner: expected one of 'partition', .* got 'all'"),
        ({"graph": {"metric": "ip"}}, TypeError, "graph: expected a GraphConfig, got dict"),
        ({"graph": GraphConfig(metric="dot")}, ValueError, "metric: expected one of"),
        (
            {"graph": GraphConfig(labels=[1, 2, 3])},
            ValueError,
            "labels: expected one for each of 100 instances .*, got 3",
        ),
        ({"graph": GraphConfig(candidate_group_size=0)}, ValueError, "candidate_group_size: "),
        ({"graph": GraphConfig(range_min=1000)}, ValueError, "range_min: expected less than num_candidates, 1000"),
        ({"bank": None}, TypeError, "bank: expected a FeatureBank, got NoneType"),
    ]:
        with pytest.raises(error, match=message):
            ProximityBatchSampler(100, 8, **{"bank": bank, **options})
    with pytest.raises(TypeError, match="bank"):
        ProximityBatchSampler(100, 8)
    assert list(ProximityBatchSampler(range(7), 8, True, bank=bank)) == []


class Planner(BatchPlanner):
    """A planner as a user may write one, wrong on demand."""

    name = "in order"
    covers_once = True

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    def plan(self, graph, request):
        size = 4 if self.wrong == "size" else request.batch_size
        num_full = 0 if self.wrong == "none" else len(graph) // size
        ids = torch.arange(len(graph)) if graph.ids is None else graph.ids  # None: row i is instance i
        ids = ids[torch.zeros(len(graph), dtype=torch.int64)] if self.wrong == "repeats" else ids
        return Batches(ids[: num_full * size].view(num_full, size), ids[num_full * size :] if num_full else ids[:0])


def test_batches_of_a_custom_planner_are_used_and_checked():
    bank = filled_bank(features()[:20])
    sampler = ProximityBatchSampler(20, 8, bank=bank, planner=Planner())
    assert list(sampler) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    for wrong, message in [
        ("size", "expected batches of 8 instances from 'in order', got 4"),
        ("none", "expected batches from 'in order', got none"),
        ("repeats", "expected each of 20 instances once from 'in order'"),
    ]:
        with pytest.raises(ValueError, match=f"planner: {message}"):
            list(ProximityBatchSampler(20, 8, bank=bank, planner=Planner(wrong)))
    planner = Planner()
    planner.plan = lambda graph, request: [[0, 1]]
    with pytest.raises(TypeError, match="planner: expected Batches from 'in order', got list"):
        list(ProximityBatchSampler(20, 8, bank=bank, planner=planner))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"indices": np.zeros((2, 4), np.int64)},
            r"indices: expected an integer tensor \[num_full, B\], got ndarray",
        ),
        ({"indices": torch.zeros(2, 4)}, r"indices: .* got a tensor of torch.float32"),
        ({"indices": torch.arange(8)}, r"indices: expected shape \[num_full, B\], got \[8\]"),
        ({"tail": torch.zeros(1, 3).long()}, r"tail: expected shape \[T\], got \[1, 3\]"),
        ({"tail_sizes": [2, 2]}, r"tail_sizes: expected sizes that add up to 3, the tail, got \[2, 2\]"),
        ({"tail_sizes": [3, 0]}, "tail_sizes: expected an integer at least 1, got 0"),
    ],
)
def test_batches_are_made_of_integers(change, message):
    good = {"indices": torch.arange(8).view(2, 4), "tail": torch.arange(3)}
    assert len(Batches(**good)) == 3
    for empty in (torch.empty(0), torch.tensor([], dtype=torch.int16)):
        assert [batch.dtype for batch in Batches(good["indices"].to(torch.int16), empty)] == [torch.int64] * 2
    with pytest.raises((TypeError, ValueError), match=message):
        Batches(**{**good, **change})


@pytest.mark.parametrize("planner", ["partition", "walks", "cover_by_walks", "uniform"])
def test_result_independent_of_default_device(planner):
    """Tensors on the host stay there."""
    runs = []
    for default in (None, "meta"):
        bank = FeatureBank(66, 8, device="cpu")
        rows = torch.randn(66, 8, generator=torch.Generator().manual_seed(1))
        ids = torch.arange(66)
        torch.set_default_device(default)
        try:
            bank.update(ids, rows)
            sampler = ProximityBatchSampler(
                66, 4, True, bank=bank, graph=GraphConfig(num_candidates=20, num_neighbors=5), planner=planner
            )
            runs.append([list(sampler), sampler.stats().in_batch_similarity, batch_stats([ids[:4]], rows)])
        finally:
            torch.set_default_device(None)
    assert runs[0] == runs[1]


def test_a_bank_without_updates_for_the_drawn_instances_is_warned_of():
    """A subset of which updates go to other ids stays uniform for ever."""
    bank = FeatureBank(100, 4)
    sampler = ProximityBatchSampler(range(50), 8, bank=bank)
    list(sampler)  # the first epoch is uniform by design
    bank.update(torch.arange(60, 100), torch.randn(40, 4))
    with pytest.warns(UserWarning, match="none of the 50 instances that it draws has an embedding yet, so epoch 1 is"):
        list(sampler)
    uniform = ProximityBatchSampler(range(50), 8, bank=bank, planner="uniform")
    assert len(list(uniform)) == len(list(uniform)) == 7
    bank.update([3], torch.randn(1, 4))
    assert len(list(sampler)) == 7
