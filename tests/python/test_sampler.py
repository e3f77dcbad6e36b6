"""The batch sampler: exact epochs through refreshes, the loader's workers, interruption and resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from batchsampler_ext import FeatureBank, IndexedDataset, ProximityBatchSampler, batch_stats, knn


def features() -> torch.Tensor:
    data = torch.from_numpy(load_digits().data).float()
    return data - data.mean(0)


def filled_bank(rows: torch.Tensor | None = None) -> FeatureBank:
    rows = features() if rows is None else rows
    bank = FeatureBank(len(rows), rows.shape[1])
    bank.update(range(len(rows)), rows)
    return bank


def drift(bank: FeatureBank, batch: list[int]) -> None:
    """What training does: the embeddings of a batch move a little, as a function of the step."""
    generator = torch.Generator().manual_seed(bank.step)
    bank.update(batch, bank.data[batch].float() + 0.05 * torch.randn(len(batch), bank.dim, generator=generator))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("is_subset", [False, True])
@pytest.mark.parametrize("num_samples", [1797, 1792, 63])
def test_every_instance_once_per_epoch_through_refreshes(num_samples, is_subset, drop_last):
    """With N mod B of 5, 0 and N; also where the loader draws from a part of the bank's instances."""
    bank = filled_bank(features() if is_subset else features()[:num_samples])
    instances = torch.randperm(1797, generator=torch.Generator().manual_seed(1))[:num_samples].tolist()
    source = SubsetRandomSampler(instances) if is_subset else num_samples
    sampler = ProximityBatchSampler(source, 64, drop_last, bank=bank, refresh_every=7, num_candidates=200)
    for _ in range(5):
        epoch = []
        for batch in sampler:
            drift(bank, batch)
            epoch.append(batch)
        drawn = [i for batch in epoch for i in batch]
        assert len(epoch) == len(sampler)
        assert len(set(drawn)) == len(drawn) == (num_samples // 64 * 64 if drop_last else num_samples)
        assert set(drawn) <= set(instances if is_subset else range(num_samples))
        assert all(len(batch) == 64 for batch in epoch[:-1])
    assert sampler.epoch == (4 if len(sampler) else 0)
    assert sampler.refreshes == 5 * -(-len(sampler) // 7)


def test_first_epoch_is_uniform_and_later_ones_are_hard():
    rows = features()
    bank = FeatureBank(len(rows), 64)
    sampler = ProximityBatchSampler(len(rows), 64, bank=bank, refresh_every=10, num_candidates=300, num_neighbors=30)
    similarities = []
    for _ in range(2):
        epoch = []
        for batch in sampler:
            bank.update(batch, rows[batch])
            epoch.append(batch)
        similarities.append(batch_stats(epoch, rows)["in_batch_similarity_per_batch"])
        assert sorted(i for batch in epoch for i in batch) == list(range(len(rows)))
    assert abs(similarities[0].mean()) < 0.02
    assert np.quantile(similarities[1], 0.1) > 0.1
    windows = [similarities[1][first : first + 10].mean() for first in (0, 10, 20)]
    assert windows[-1] > 0.8 * windows[0]


def test_a_partition_has_one_graph_by_default():
    rows = torch.randn(2_450, 4, generator=torch.Generator().manual_seed(0))
    options = {"num_candidates": 20, "num_neighbors": 4}
    for drop_last, num_batches in ((False, 123), (True, 122)):
        sampler = ProximityBatchSampler(2_450, 20, drop_last, bank=filled_bank(rows), **options)
        assert sampler.refresh_every == len(list(sampler)) == num_batches
        assert sampler.refreshes == 1
    walks = ProximityBatchSampler(2_450, 20, bank=filled_bank(rows), epoch_mode="independent", **options)
    assert (walks.refresh_every, len(list(walks)), walks.refreshes) == (100, 123, 2)
    assert ProximityBatchSampler(7, 20, True, bank=FeatureBank(7, 4)).refresh_every == 1  # no batch at all


def test_instances_without_an_embedding_are_dealt_out():
    rows = features()
    bank = FeatureBank(len(rows), 64)
    covered = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:1200]
    bank.update(covered, rows[covered])
    sampler = ProximityBatchSampler(len(rows), 64, bank=bank)
    assert sorted(i for batch in sampler for i in batch) == list(range(len(rows)))
    assert sampler.stats()["uncovered_share"] == pytest.approx(597 / 1797)


@pytest.mark.parametrize("kind", ["subset", "random", "dataset", "list", "distributed"])
def test_index_sets_of_samplers(kind):
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
        sampler = ProximityBatchSampler(source, 16, drop_last, bank=bank, refresh_every=2)
        drawn = sorted(i for batch in sampler for i in batch)
        assert set(drawn) <= set(expected)
        assert len(drawn) == (len(expected) // 16 * 16 if drop_last else len(expected))


def test_knn_batches_wait_for_embeddings_and_are_exact():
    rows = features()[:300]
    bank = FeatureBank(300, 64, dtype=torch.float32)
    arguments = {"bank": bank, "epoch_mode": "independent", "strategy": "knn", "refresh_every": 2}
    with pytest.raises(
        ValueError, match="num_neighbors: expected batch_size - 1, 31, or more for strategy 'knn', got 5"
    ):
        ProximityBatchSampler(300, 32, num_neighbors=5, **arguments)
    sampler = ProximityBatchSampler(300, 32, num_candidates=299, num_neighbors=31, **arguments)
    batches = iter(sampler)
    for _ in range(2):
        batch = next(batches)
        assert len(set(batch)) == 32
        bank.update(batch, rows[batch])
    bank.update(range(300), rows)
    for batch in batches:
        expected = knn(rows[batch[:1]], rows, 33).ids[0].tolist()
        assert batch == [batch[0], *(i for i in expected if i != batch[0])][:32]


def test_epoch_handling():
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


def test_two_iterations_at_once_do_not_disturb_each_other():
    bank = filled_bank(features()[:200])
    sampler = ProximityBatchSampler(200, 16, bank=bank, refresh_every=3)
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
def test_loaders_with_worker_processes(workers):
    rows = features()[:400]
    bank = filled_bank(rows)
    sampler = ProximityBatchSampler(400, 32, bank=bank, refresh_every=4)
    loader = DataLoader(IndexedDataset(TensorDataset(rows)), batch_sampler=sampler, **workers)
    for _ in range(2):
        drawn = []
        for indices, (batch,) in loader:
            assert torch.equal(batch, rows[indices])
            bank.update(indices, batch)
            drawn += indices.tolist()
        assert sorted(drawn) == list(range(400))


def test_refresh_starts_a_new_window():
    bank = filled_bank(features()[:400])
    sampler = ProximityBatchSampler(400, 32, bank=bank)
    drawn = []
    for i, batch in enumerate(sampler):
        drawn += batch
        if i == 3:
            sampler.refresh()
    assert sampler.refreshes == 2
    assert sorted(drawn) == list(range(400))


@pytest.mark.parametrize("mode", ["independent", "paper"])
def test_walks_reach_everybody_with_few_candidates(mode):
    """Rows that share a draw share candidates: with 256 of them, most instances would be in nobody's list."""
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    bank = filled_bank(rows)
    arguments = {"bank": bank, "num_candidates": 64, "num_neighbors": 16, "epoch_mode": mode}
    sampler = ProximityBatchSampler(4000, 64, **arguments)
    batches = list(sampler)
    if mode == "independent":
        assert len({i for batch in batches for i in batch}) > 0.5 * 4000
    else:
        assert len(batches) < 600  # 63 would do if none repeated an instance
    assert sampler.graph.stats().unreached_rows < 20


@pytest.mark.parametrize("drop_last", [False, True])
def test_no_graph_is_built_for_nothing(drop_last):
    bank = filled_bank(features()[:500])
    sampler = ProximityBatchSampler(500, 32, drop_last, bank=bank, epoch_mode="paper", refresh_every=10)
    num_batches = len(list(sampler))
    assert sampler.refreshes == -(-num_batches // 10)


def test_indexed_dataset_fetches_batches_at_once():
    class Batched(TensorDataset):
        def __getitems__(self, indices):
            return [("batched", i) for i in indices]

    assert IndexedDataset(Batched(torch.arange(9))).__getitems__([4, 2]) == [(4, ("batched", 4)), (2, ("batched", 2))]
    assert IndexedDataset("abc").__getitems__([2, 0]) == [(2, "c"), (0, "a")]


def test_restart_schedule_and_options_reach_the_graph():
    bank = filled_bank(features()[:300])
    labels = torch.from_numpy(load_digits().target[:300])
    seen = []
    sampler = ProximityBatchSampler(
        300, 32, bank=bank, restart_prob=lambda epoch: seen.append(epoch) or 0.1, graph_options={"labels": labels}
    )
    list(sampler)
    list(sampler)
    assert set(seen) == {0, 1}
    neighbors = sampler.graph.neighbors
    assert not (labels[neighbors.clamp(min=0).long()] == labels[:, None])[neighbors >= 0].any()
    stats = sampler.stats()
    assert stats["refresh_ms"] > 0
    assert stats["total_seconds"] >= stats["refresh_ms"] / 1e3
    assert stats["graph_age"] == len(sampler)
    assert -1 <= stats["in_batch_similarity"] <= 1


def test_bad_samplers():
    bank = FeatureBank(100, 4)
    for arguments, error, message in [
        ((101, 8), ValueError, r"sampler: expected an integer from 1 to 100 \(bank.num_samples\), got 101"),
        ((SubsetRandomSampler([1, 1]), 8), ValueError, "sampler: expected distinct instances"),
        ((SubsetRandomSampler([1, 100]), 8), ValueError, r"sampler: expected instances in \[0, 100\)"),
        ((SubsetRandomSampler([]), 8), ValueError, "sampler: expected at least one instance"),
        ((SubsetRandomSampler([-1, 2]), 8), ValueError, r"sampler: expected instances in \[0, 100\) .* got -1"),
        ((RandomSampler(range(50), num_samples=20), 8), ValueError, "sampler: expected a RandomSampler over all 50"),
        ((RandomSampler(range(50), replacement=True), 8), ValueError, "sampler: expected a RandomSampler over all 50"),
        ((DistributedSampler(range(50), 2, 0), 8), ValueError, "sampler: .* got a DistributedSampler of 2 replicas"),
        ((BatchSampler(RandomSampler(range(50)), 4, False), 8), TypeError, "sampler: .* got a sampler of batches"),
        ((1.5, 8), TypeError, "sampler: expected a number, a sized dataset or a torch sampler, got float"),
        ((100, 0), ValueError, "batch_size: .* got 0"),
    ]:
        with pytest.raises(error, match=message):
            ProximityBatchSampler(*arguments, bank=bank)
    for options, error, message in [
        ({"refresh_every": 0}, ValueError, "refresh_every: .* got 0"),
        ({"restart_prob": 1.0}, ValueError, "restart_prob: "),
        ({"restart_prob": lambda epoch: 2.0}, ValueError, "restart_prob: "),
        ({"strategy": "bfs"}, ValueError, "strategy: expected 'rwr' or 'uniform'"),
        ({"hardness": "harder"}, ValueError, "hardness: expected one of 'soft', 'default', 'hard', got 'harder'"),
        ({"epoch_mode": "all"}, ValueError, "epoch_mode: expected one of"),
        ({"graph_options": {"rows": [1]}}, ValueError, "graph_options: .* got \\['rows'\\]"),
        ({"graph_options": {"metrc": "ip"}}, TypeError, "metrc"),
        ({"graph_options": {"metric": "dot"}}, ValueError, "metric: expected one of"),
        ({"graph_options": {"labels": [1, 2, 3]}}, ValueError, "labels: expected one for each of 100 instances, got 3"),
        ({"graph_options": {"rows_per_draw": 0}}, ValueError, "rows_per_draw: "),
        ({"graph_options": {"range_min": 1000}}, ValueError, "graph_options: expected range_min below num_candidates"),
        ({"bank": None}, TypeError, "bank: expected a FeatureBank, got NoneType"),
    ]:
        with pytest.raises(error, match=message):
            ProximityBatchSampler(100, 8, **{"bank": bank, **options})
    with pytest.raises(TypeError, match="bank"):
        ProximityBatchSampler(100, 8)
    assert list(ProximityBatchSampler(7, 8, True, bank=bank)) == []


@pytest.mark.parametrize("mode", ["partition", "independent", "paper"])
def test_the_default_device_does_not_matter(mode):
    """What is on the host stays there."""
    runs = []
    for default in (None, "meta"):
        bank = FeatureBank(66, 8, device="cpu")
        rows = torch.randn(66, 8, generator=torch.Generator().manual_seed(1))
        ids = torch.arange(66)
        torch.set_default_device(default)
        try:
            bank.update(ids, rows)
            sampler = ProximityBatchSampler(
                66, 4, True, bank=bank, refresh_every=3, num_candidates=20, num_neighbors=5, epoch_mode=mode
            )
            runs.append([list(sampler), sampler.stats()["in_batch_similarity"], batch_stats([ids[:4]], rows)])
        finally:
            torch.set_default_device(None)
    assert runs[0] == runs[1]
