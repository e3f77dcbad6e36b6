"""Composing from embeddings on a device gives the plans of the CPU, mixes no devices, and the host seldom waits."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from batchsampler_ext import (
    FeatureBank,
    GraphConfig,
    Plan,
    ProximityBatchSampler,
    ProximityGraph,
    compose,
    knn,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)
from batchsampler_ext._engine.arrays import as_matrix
from batchsampler_ext._engine.cuda import to_device_async
from batchsampler_ext._negatives.negatives import MarginRule

N, B, D = 256, 16, 8
GPU = torch.device("cuda", 0)
MOST_READS = 60  # by which a partition finds out what is left to do


def rows(seed: int, num_rows: int = N) -> torch.Tensor:
    return torch.randn(num_rows, D, generator=torch.Generator().manual_seed(seed))


WINDOW = {"rank_window": (2, 12), "community_size": 8}
WALKS = {"preset": "walks", "num_candidates": 60, "num_neighbors": 10}
CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "b3": lambda n: {},
    "curriculum": lambda n: {"preset": "curriculum", "num_epochs": 3},
    "walks": lambda n: WALKS,
    "walks with small communities": lambda n: {**WALKS, "community_size": 4},
    "clusters": lambda n: {"preset": "clusters"},
    "uniform": lambda n: {"preset": "uniform"},
    "unique": lambda n: {**WINDOW, "unique": torch.arange(n) // 3},
    "columns": lambda n: {**WINDOW, "unique": torch.stack([torch.arange(n) // 3, torch.arange(n) % 90], 1)},
    "drop_last": lambda n: {**WINDOW, "drop_last": True, "unique": torch.arange(n) // 3},
    "positives": lambda n: {**WINDOW, "positives": torch.tensor([[0, 1], [5, 80], [9, 9]])},
    "labels": lambda n: {**WINDOW, "labels": torch.arange(n) % 60},
    "margins": lambda n: {**WINDOW, "documents": rows(1, n), "margin": 0.1, "relative_margin": 0.2},
    "max_score": lambda n: {**WINDOW, "max_score": 0.9},
    "sources": lambda n: {**WINDOW, "sources": torch.arange(n) % 3, "num_epochs": 2, "unique": torch.arange(n) // 3},
    "sources in a batch": lambda n: {**WINDOW, "sources": torch.arange(n) % 3, "sources_per_batch": 2},
    "sources and walks": lambda n: {**WALKS, "sources": torch.arange(n) % 3, "labels": torch.arange(n) % 60},
    "hard negatives": lambda n: {**WINDOW, "num_hard_negatives": 4},
    "hard negatives of sources": lambda n: {**WINDOW, "num_hard_negatives": 4, "sources": torch.arange(n) % 3},
    "graph": lambda n: {"graph": knn_graph(rows(0, n), 9), "community_size": 8, "mutual": True},
    "graph with rows in another order": lambda n: {
        "graph": ProximityGraph(knn_graph(rows(0, n), 9).neighbors.flip(0), ids=torch.arange(n).flip(0)),
        "community_size": 8,
    },
    "graph of sources": lambda n: {
        "graph": knn_graph(rows(0, n), 9).neighbors.long(),
        "community_size": 8,
        "num_hard_negatives": 3,
        "sources": torch.arange(n) % 3,
    },
}


def composed(case: str, num_rows: int, embeddings: Any = "cpu", others: Any = "cpu") -> Plan:
    """Composes from embeddings on one device and the other arguments on another."""
    if case == "clusters":
        pytest.importorskip("sklearn")
    options = {
        name: value.to(embeddings if name == "documents" else others) if hasattr(value, "to") else value
        for name, value in CASES[case](num_rows).items()
    }
    return compose(rows(0, num_rows).to(embeddings), batch_size=B, **options)


def parts_of(plan: Plan) -> dict[str, torch.Tensor | None]:
    graph = plan.graph
    return {
        **{f"epoch {epoch}": plan._epochs[epoch] for epoch in range(plan.num_epochs)},
        "mask": plan.negative_mask(plan.batches(0)[0]),
        "sources": plan._sources_of_all(),
        "hard negatives": plan._known_hard_negatives(),
        "neighbors": None if graph is None else graph.neighbors,
        "scores": None if graph is None else graph.scores,
    }


@pytest.mark.parametrize("where", ["all", "embeddings", "others"])
@pytest.mark.parametrize("case", CASES)
def test_plans_are_those_of_the_cpu(device_engine, case, where):
    expected = composed(case, N)
    with device_engine() as device:
        found = composed(case, N, "cpu" if where == "others" else device, "cpu" if where == "embeddings" else device)
        assert found.info == expected.info
        for name, part in parts_of(found).items():
            other = parts_of(expected)[name]
            assert (part is None) == (other is None), name
            if part is not None and other is not None:
                assert part.device.type == "cpu", name
                assert torch.equal(part, other), name


def test_towers_are_on_one_device(device_engine):
    with device_engine() as device:
        with pytest.raises(ValueError, match=r"documents: expected a tensor on 'cuda:0', got device 'cpu'"):
            compose(rows(0).to(device), rows(1), batch_size=B)
        with pytest.raises(ValueError, match=r"documents: expected a CPU tensor, got device 'cuda:0'"):
            compose(rows(0), rows(1).to(device), batch_size=B)


def test_graphs_of_sources_are_copied_once(pretended_gpu):
    counts = []
    for num_epochs in (1, 4):
        pretended_gpu.waits.clear()
        compose(
            rows(0).to(GPU), batch_size=B, **WINDOW, sources=torch.arange(N) % 3, num_epochs=num_epochs,
            unique=torch.arange(N) // 3,
        )  # fmt: skip
        counts.append(pretended_gpu.waits.total())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("margins", "clusters")])
def test_waits_do_not_grow_with_the_rows(pretended_gpu, case):
    counts = []
    for num_rows in (N, 4 * N):
        pretended_gpu.waits.clear()
        composed(case, num_rows, GPU, GPU)
        num_reads = pretended_gpu.waits.pop("_engine.cuda.read", 0)  # of partitions by walks
        assert num_reads <= 3 * MOST_READS
        counts.append(pretended_gpu.waits.total())
    assert counts[0] == counts[1] <= 24


def test_margins_wait_once_per_block_of_rows_and_twice_per_batch(pretended_gpu):
    for num_rows in (N, 4 * N):
        pretended_gpu.waits.clear()
        composed("margins", num_rows, GPU, GPU)
        assert pretended_gpu.waits.total() <= num_rows // 64 + 2 * num_rows // B + 8


def test_clusters_are_found_on_the_cpu(pretended_gpu):
    composed("clusters", N, GPU, GPU)
    assert set(pretended_gpu.waits) == {"_plan.digest.digest_of_matrix", "_plan.float_rows.float_rows"}


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_margins_know_each_score_of_a_row_with_itself(device_engine, metric):
    """200 rows are several blocks. A row of zeros has the cosine 0."""
    first, second = rows(0, 200), rows(1, 200)
    first[70] = 0
    rule = MarginRule(0.1, None)

    def limits(device: Any) -> torch.Tensor:
        towers = as_matrix(first.to(device), "queries"), as_matrix(second.to(device), "documents")
        return rule.limits(*towers, metric, 1).limits

    expected = limits("cpu")
    assert expected.dtype == torch.float64
    with device_engine() as device:
        assert torch.equal(limits(device), expected)
    own = torch.tensor([knn(first[i : i + 1], second[i : i + 1], 1, metric=metric).scores.item() for i in range(200)])
    assert torch.equal(expected, own.double() - 0.1)


def test_masks_are_on_the_device_of_the_indices(device_engine):
    plan = compose(rows(0), batch_size=B, unique=torch.arange(N) // 3)
    sampler = ProximityBatchSampler(N, B, bank=FeatureBank(N, D), positives=[[0, 1], [1, 4]])
    with device_engine() as device:
        for mask in (plan.negative_mask, sampler.negative_mask):
            for ids in ([0, 1, 2, 4, 9], [3, 0, 3]):
                found = mask(torch.tensor(ids).to(device))
                assert found.device == device
                assert torch.equal(found.cpu(), mask(ids))
                assert mask(torch.tensor(ids)).device.type == "cpu"
            with pytest.raises(ValueError, match=r"indices: expected values in \[0, 256\), got 256"):
                mask(torch.tensor([256]).to(device))


# --- banks and samplers ----------------------------------------------------------------------------------------------
def filled_bank(device: Any, num_rows: int = N) -> FeatureBank:
    """Returns a bank in which a few instances have no embedding."""
    bank = FeatureBank(num_rows, D, two_towers=True, device=device)
    bank.update(range(3, num_rows), rows(0, num_rows)[3:], rows(1, num_rows)[3:])
    return bank


SMALL = GraphConfig(num_candidates=60, num_neighbors=10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"planner": "walks", "refresh_every": 5},
        {"planner": "cover_by_walks"},
        {"planner": "uniform"},
        {"labels": torch.arange(N) % 60, "drop_last": True},
        {"unique": torch.arange(N) // 3},
        {"positives": torch.tensor([[0, 1], [5, 80]]), "relative_margin": 0.1},
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["all", "bank", "others"])
def test_samplers_draw_what_they_draw_on_the_cpu(device_engine, options, where):
    def drawn(bank: FeatureBank, device: Any) -> list[Any]:
        given = {name: value.to(device) if hasattr(value, "to") else value for name, value in options.items()}
        graph = replace(SMALL, labels=given.pop("labels", None))
        sampler = ProximityBatchSampler(torch.arange(1, N).to(device), B, bank=bank, graph=graph, **given)
        batches = [(batch, sampler.negative_mask(batch).tolist()) for _ in range(2) for batch in sampler]
        return [batches, sampler.stats().missing_embedding_share]

    expected = drawn(filled_bank("cpu"), "cpu")
    with device_engine() as device:
        bank = filled_bank("cpu" if where == "others" else device)
        assert drawn(bank, "cpu" if where == "bank" else device) == expected


@pytest.mark.parametrize("planner", ["partition", "walks", "uniform"])
def test_an_epoch_waits_a_few_times(pretended_gpu, planner):
    counts = []
    for num_rows in (N, 4 * N):
        sampler = ProximityBatchSampler(
            num_rows, B, bank=filled_bank(GPU, num_rows), planner=planner, graph=replace(SMALL, labels=range(num_rows))
        )
        pretended_gpu.waits.clear()
        num_batches = 0
        for batch in sampler:
            sampler.bank.update(batch, *(rows(seed, len(batch)).to(GPU) for seed in (0, 1)))
            num_batches += 1
        assert num_batches == num_rows // B
        assert pretended_gpu.waits.pop("_engine.cuda.read", 0) <= MOST_READS
        counts.append(pretended_gpu.waits.total())
    assert counts[0] == counts[1] <= 10


def test_epochs_from_a_graph_wait_as_the_documents_say(pretended_gpu):
    graph = proximity_graph(rows(0, 4 * N).to(GPU), config=SMALL)
    graph.check()
    for planner, most in {"partition": MOST_READS, "walks": 2, "cover_by_walks": 4, "uniform": 1}.items():
        pretended_gpu.waits.clear()
        sample_batches(graph, B, planner=planner)
        assert pretended_gpu.waits.total() <= most, planner
    pretended_gpu.waits.clear()
    graph = proximity_graph(rows(0).to(GPU), config=replace(SMALL, labels=range(N)), rows=range(9, N))
    random_walk_with_restart(graph.mutual(), [30, 50], B)
    knn_graph(rows(0).to(GPU), 5, labels=torch.arange(N).to(GPU))
    bank = FeatureBank(N, D, device=GPU)
    bank.update([3, 1], rows(0)[:2])
    bank.update(torch.tensor([3, 1]).to(GPU), rows(0)[:2].to(GPU))
    assert not pretended_gpu.waits


def test_reads_wait_as_the_document_says(pretended_gpu):
    graph = proximity_graph(rows(0).to(GPU), config=SMALL, return_scores=True).mutual()
    bank = filled_bank(GPU)
    sampler = ProximityBatchSampler(N, B, bank=bank, graph=SMALL)
    batches = [torch.tensor(batch).to(GPU) for batch in sampler]
    bank.update(batches[0], *(rows(seed, B).to(GPU) for seed in (0, 1)))
    calls = [
        (graph.check, 1), (bank.check, 1), (ProximityGraph(graph.neighbors).degrees, 1), (graph.stats, 3),
        (lambda: knn(bank.data, bank.data, 3), 1), (lambda: sampler.negative_mask(batches[0]), 1),
        (bank.stats, 1), (bank.state_dict, 0), (sampler.state_dict, 1), (sampler.stats, 3 * 8 + 1),
    ]  # fmt: skip
    for call, most in calls:
        pretended_gpu.waits.clear()
        call()
        assert pretended_gpu.waits.total() <= most, pretended_gpu.waits


def test_stats_are_those_of_the_cpu(device_engine):
    features = rows(0)
    options = {"labels": torch.arange(N) % 2, "max_score": -0.4, "return_scores": True, "rows": torch.arange(N - 9)}
    expected = proximity_graph(features, config=SMALL, **options).stats()
    assert expected.min_degree < 10
    with device_engine() as device:
        options = {name: value.to(device) if hasattr(value, "to") else value for name, value in options.items()}
        found = proximity_graph(features.to(device), config=SMALL, **options).stats()
    assert found[:-1] == expected[:-1]
    assert found.mean_score == pytest.approx(expected.mean_score, rel=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_banks_and_graphs_can_be_copied(device_engine, copied):
    with device_engine() as device:
        bank, expected = filled_bank(device), filled_bank("cpu")
        bank.update([N], rows(0)[:1], rows(1)[:1])  # an error that is still to be raised
        twin = copied(bank)
        for one in (bank, twin):
            assert one.device == one.data.device == device
            with pytest.raises(ValueError, match="indices: .* got 256"):
                one.check()
        twin.update([0], rows(0)[:1], rows(1)[:1])
        assert torch.equal(bank.data.cpu(), expected.data)  # it shares nothing with its copy
        expected.update([0], rows(0)[:1], rows(1)[:1])
        assert torch.equal(twin.data.cpu(), expected.data)
        graph = proximity_graph(bank.data, config=SMALL)
        sample_batches(graph, B)
        twin_graph = copied(graph)
        assert torch.equal(sample_batches(twin_graph, B).indices, sample_batches(graph, B).indices)


def test_examples_of_the_document_run(pretended_gpu):
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(code, names)
    assert names["mask"].device == names["bank"].data.device == GPU
    assert names["mask"].shape == (50, 50)


# --- the pretended GPU -----------------------------------------------------------------------------------------------
def test_the_pretended_gpu_refuses_mixed_devices(pretended_gpu):
    here, there = torch.arange(4), torch.arange(4, device="cuda")
    assert (here.device.type, there.device, (there + 1)[1:].device) == ("cpu", GPU, GPU)
    for mixed in (
        lambda: here + there,
        lambda: there[here],
        lambda: here[there],
        lambda: torch.cat([here, there]),
        lambda: here + there[0],
        lambda: there.numpy(),
    ):
        with pytest.raises((RuntimeError, TypeError), match="GPU|one device"):
            mixed()
    assert (there * torch.tensor(2)).tolist() == [0, 2, 4, 6]
    assert there.sort().values.device == GPU
    assert [part.device for part in there] == [GPU] * 4


def test_the_pretended_gpu_counts_waits(pretended_gpu, monkeypatch):
    monkeypatch.setitem(globals(), "__name__", "batchsampler_ext.here")  # waits of tests do not count
    there = torch.arange(4, device="cuda")
    pinned = torch.empty(4, dtype=torch.int64, pin_memory=True)
    waiting = [
        lambda: there[0].item(),
        lambda: there.tolist(),
        lambda: bool(there[0]),
        lambda: int(there.sum()),
        lambda: there[there > 1],
        lambda: there.nonzero(),
        lambda: torch.where(there > 1),
        lambda: there.cpu(),
        lambda: torch.tensor([1], device="cuda"),
        lambda: torch.ones(2).to(GPU),
        lambda: torch.ones(2).to(GPU, non_blocking=True),
        lambda: there.__setitem__(there > 1, there[:2].clone()),
    ]
    free = [
        lambda: there.sum(),
        lambda: there[there.sort().indices],
        lambda: there.__setitem__(there > 1, 5),
        lambda: pinned.to(GPU, non_blocking=True),
        lambda: pinned.copy_(there, non_blocking=True),
        lambda: torch.where(there > 1, there, 0),
        lambda: to_device_async(torch.ones(2), GPU),
    ]
    for number, operation in enumerate(waiting, start=1):
        operation()
        assert pretended_gpu.waits.total() == number
    for operation in free:
        operation()
        assert pretended_gpu.waits.total() == len(waiting)
