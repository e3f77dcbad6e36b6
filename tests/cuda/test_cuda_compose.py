"""Composing from embeddings on a device gives the plans of the CPU, mixes no devices, and the host seldom waits."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from batchsampler_ext import FeatureBank, GraphConfig, Plan, ProximityBatchSampler, compose, knn_graph, proximity_graph

N, B, D = 256, 16, 8
GPU = torch.device("cuda", 0)


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
    "graph of sources": lambda n: {
        "graph": knn_graph(rows(0, n), 9).neighbors.long(),
        "community_size": 8,
        "num_hard_negatives": 3,
        "sources": torch.arange(n) % 3,
    },
}


def composed(case: str, num_rows: int, embeddings: Any = "cpu", others: Any = "cpu") -> Plan:
    """Composes from embeddings on one device and the other arguments on another."""
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
        pretended_gpu.waits.pop("_engine.cuda.read", None)  # a partition on a GPU waits a few dozen times
        counts.append(pretended_gpu.waits.total())
    print(counts, pretended_gpu.waits)
    assert counts[0] == counts[1]


def test_margins_wait_once_per_block_and_twice_per_batch(pretended_gpu):
    for num_rows in (N, 4 * N):
        pretended_gpu.waits.clear()
        composed("margins", num_rows, GPU, GPU)
        print(pretended_gpu.waits)


def test_x(pretended_gpu):
    for planner in ("partition", "walks", "cover_by_walks", "uniform"):
        for n in (N, 4 * N):
            bank = FeatureBank(n, D, device="cuda")
            bank.update(range(n - 5), rows(0, n)[: n - 5])
            pretended_gpu.waits.clear()
            s = ProximityBatchSampler(
                n,
                B,
                bank=bank,
                planner=planner,
                graph=GraphConfig(num_candidates=60, num_neighbors=10, labels=torch.arange(n)),
            )
            for b in s:
                pass
            print(planner, n, pretended_gpu.waits)
    g = proximity_graph(rows(0).to(GPU), num_candidates=60)
    pretended_gpu.waits.clear()
    g.stats()
    print(pretended_gpu.waits)
