"""Graphs of PyTorch Geometric with their instance ids."""

from __future__ import annotations

import doctest
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from batchsampler_ext import FeatureBank, IndexedDataset, PlannedBatchSampler, ProximityBatchSampler, compose

pytest.importorskip("torch_geometric")

from torch_geometric.data import Data, HeteroData, InMemoryDataset, OnDiskDataset
from torch_geometric.loader import DataLoader

from batchsampler_ext.integrations.pyg import IndexedGraphs

N, B = 40, 8


def graph(number: int) -> Data:
    """Node features are the number."""
    nodes = 1 + number % 3
    return Data(x=torch.full((nodes, 1), float(number)), edge_index=torch.zeros(2, nodes, dtype=torch.int64))


def hetero(number: int) -> HeteroData:
    data = HeteroData()
    data["a"].x, data["b"].x = torch.full((2, 1), float(number)), torch.full((1 + number % 2, 1), float(number))
    data["a", "to", "b"].edge_index = torch.zeros(2, 1, dtype=torch.int64)
    return data


class InMemory(InMemoryDataset):
    def __init__(self, transform: Any = None) -> None:
        super().__init__(None, transform)
        self.data, self.slices = self.collate([graph(i) for i in range(N)])


def loaded(dataset: Any, **options: Any) -> list[Any]:
    sampler = ProximityBatchSampler(dataset, B, bank=FeatureBank(len(dataset), 4))
    return list(DataLoader(IndexedGraphs(dataset), batch_sampler=sampler, **options))


def numbers_of(batch: Any) -> torch.Tensor:
    """Returns the number of each graph, read from its first node."""
    return batch.x[batch.ptr[:-1]].ravel().long()


def test_ids_are_positions():
    ids = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:30].tolist()
    graphs, in_memory = [graph(i) for i in range(N)], InMemory()
    whole = list(range(N))
    cases: list[tuple[Any, list[int]]] = [
        (graphs, whole), (in_memory, whole), (in_memory[ids], ids), (in_memory[10:], whole[10:]),
        (in_memory.index_select(ids), ids), (Subset(graphs, ids), ids),
        (Subset(in_memory[ids], range(5, 15)), ids[5:15]),
    ]  # fmt: skip
    for dataset, numbers in cases:
        batches = loaded(dataset)
        assert sorted(torch.cat([batch.sample_idx for batch in batches]).tolist()) == list(range(len(numbers)))
        for batch in batches:
            assert batch.sample_idx.dtype == torch.int64
            assert torch.tensor(numbers)[batch.sample_idx].equal(numbers_of(batch))


def test_worker_processes():
    for batch in loaded(InMemory(), num_workers=1):
        assert batch.sample_idx.equal(numbers_of(batch))


def test_graphs_on_disk_are_read_in_batches(tmp_path, monkeypatch):
    dataset = OnDiskDataset(tmp_path)
    dataset.extend([graph(i) for i in range(N)])
    monkeypatch.setattr(OnDiskDataset, "get", None)
    for batch in loaded(dataset):
        assert batch.sample_idx.equal(numbers_of(batch))
    dataset.close()


def test_heterogeneous_graphs():
    for batch in loaded([hetero(i) for i in range(N)]):
        assert batch.sample_idx.equal(batch["a"].x[batch["a"].ptr[:-1]].ravel().long())


Views = namedtuple("Views", "first second")


@pytest.mark.parametrize("make", [lambda *views: views, Views, lambda *views: list(views)])
def test_several_views_of_a_graph(make):
    dataset = InMemory(transform=lambda data: make(data, data.clone()))
    for first, second in loaded(dataset):
        assert first.sample_idx.equal(second.sample_idx)
        assert second.sample_idx.equal(numbers_of(second))


def test_dataset_stays_as_it_was():
    for dataset in ([graph(i) for i in range(N)], InMemory(), InMemory()[[3, 1]]):
        item = IndexedGraphs(dataset)[1]
        assert item.sample_idx == 1
        assert item.x.data_ptr() == dataset[1].x.data_ptr()
        assert all("sample_idx" not in part for part in dataset)


def test_wrong_data_say_what_to_write():
    graphs = [graph(i) for i in range(N)]
    with pytest.raises(TypeError, match=r"expected a dataset of graphs, got an IndexedDataset. Write IndexedGraphs\("):
        IndexedGraphs(IndexedDataset(graphs))
    with pytest.raises(TypeError, match="got an IndexedGraphs"):
        IndexedGraphs(IndexedGraphs(graphs))
    with pytest.raises(TypeError, match="dataset: expected a dataset with __len__"):
        IndexedGraphs(iter(graphs))
    with pytest.raises(TypeError, match=r"got Tensor at 3. For other samples, write IndexedDataset\(dataset\)"):
        IndexedGraphs(torch.zeros(4, 2))[3]
    graphs[2].sample_idx = torch.tensor([0])
    with pytest.raises(ValueError, match="graphs without the attribute sample_idx, got one at 2. If it is the pos"):
        IndexedGraphs(graphs)[2]


def test_wrong_order_of_wrapping_is_refused():
    graphs = IndexedGraphs(InMemory())
    for part in ([1, 2], slice(3), torch.tensor([1, 2])):
        with pytest.raises(TypeError, match=r"write IndexedGraphs\(dataset\[ids\]\)"):
            graphs[part]
    with pytest.raises(ValueError, match="expected IndexedGraphs around the Subset, got Subset around IndexedGraphs"):
        ProximityBatchSampler(Subset(graphs, range(N)), B, bank=FeatureBank(N, 4))
    with pytest.raises(IndexError, match="index: expected 0 to 39, got -1"):
        graphs[-1]
    assert len(list(graphs)) == N


def test_docstring_examples_run():
    from batchsampler_ext.integrations import pyg

    assert doctest.testmod(pyg) == (0, 4)


def test_guide_runs():
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / "pyg.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    trained: list[Any] = []
    names: dict[str, Any] = {
        "dataset": InMemory(),
        "model": lambda x, edge_index, batch: torch.zeros(int(batch.max()) + 1, 16).index_add(
            0, batch, x.expand(-1, 16)
        ),
        "train_step": lambda embeddings, batch: trained.append(batch),
    }
    exec(code, names)
    assert names["bank"].step == len(trained) == 10
    assert names["bank"].missing_embedding_share == 0

    sampler = PlannedBatchSampler(compose(torch.randn(N, 4), batch_size=B, preset="uniform"))
    assert [len(batch) for batch in DataLoader(names["dataset"], batch_sampler=sampler)] == [8] * 5
