"""Graphs of PyTorch Geometric that know their instance id.

    loader = DataLoader(IndexedGraphs(dataset), batch_sampler=sampler)  # of torch_geometric.loader
    bank.update(batch.sample_idx, embeddings)

Install it with ``pip install torch_geometric``.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

from torch_geometric.data.data import BaseData

from ..dataset import IndexedDataset

__all__ = ["IndexedGraphs"]


class IndexedGraphs(IndexedDataset):
    """Wraps a dataset of graphs: graph ``i`` has the attribute ``sample_idx``, which is i.

    The loader of PyTorch Geometric makes one vector of them, ``batch.sample_idx``, int64 [B]. Wrap the dataset last: i
    must be the position that the loader asks for, not one in a part of the dataset. The graphs of the dataset itself
    stay as they are: items are shallow copies.

    Args:
        dataset: a list of graphs, a dataset of PyTorch Geometric or a view of one, or any dataset with ``__len__`` and
            ``__getitem__``. An item is a ``Data``, a ``HeteroData``, or a tuple of them, such as several views of a
            graph, each of which gets the attribute.

    Raises:
        TypeError: the dataset has no positions or is wrapped already. When an item is read: it is no graph, or the
            index is none.
        ValueError: when an item is read: the graph has a ``sample_idx`` already.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Batch, Data
        >>> graphs = IndexedGraphs([Data(x=torch.zeros(2, 1)), Data(x=torch.ones(3, 1))])
        >>> Batch.from_data_list([graphs[1], graphs[0]]).sample_idx
        tensor([1, 0])
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IndexedDataset):
            raise TypeError(
                f"dataset: expected a dataset of graphs, got an {type(dataset).__name__}. Write "
                "IndexedGraphs(dataset) with the dataset that it wraps"
            )
        super().__init__(dataset)

    def __getitem__(self, index: Any) -> Any:
        try:
            i = operator.index(index)
        except TypeError:
            raise TypeError(
                f"index: expected an integer, got {type(index).__name__}. To take a part, write IndexedGraphs("
                "dataset[ids]), so that ids are positions in the part"
            ) from None
        if not 0 <= i < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {i}")
        return _indexed(self.dataset[i], i)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Returns the graphs of a batch, with one call of the dataset if it has ``__getitems__``."""
        if not hasattr(self.dataset, "__getitems__"):
            return [self[i] for i in indices]
        return [_indexed(item, i) for item, i in zip(self.dataset.__getitems__(indices), indices, strict=True)]


def _indexed(item: Any, index: int) -> Any:
    """Returns a shallow copy of a graph, or of each graph of a tuple, with the index."""
    if isinstance(item, (tuple, list)) and item:
        parts = [_indexed(part, index) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    if not isinstance(item, BaseData):
        raise TypeError(
            f"dataset: expected graphs (Data, HeteroData or tuples of them), got {type(item).__name__} at {index}. For "
            "other samples, write IndexedDataset(dataset)"
        )
    if "sample_idx" in item:
        raise ValueError(
            f"dataset: expected graphs without the attribute sample_idx, got one at {index}. If it is the position in "
            "this dataset, leave IndexedGraphs out. Otherwise, delete or rename it"
        )
    copied = copy.copy(item)
    copied.sample_idx = index
    return copied
