"""A dataset that returns each sample with its index."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

__all__ = ["IndexedDataset"]


class IndexedDataset(Dataset[tuple[int, Any]]):
    """Wraps a map-style dataset: item ``i`` is ``(i, dataset[i])``.

    A DataLoader draws batches ahead of training, so the index has to travel with the sample.

    Args:
        dataset: has ``__len__`` and ``__getitem__``.

    Example:
        >>> IndexedDataset(["a", "b"])[1]
        (1, 'b')
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Any]]:
        """Returns the samples of a batch, with one call of the dataset if it has ``__getitems__``."""
        if hasattr(self.dataset, "__getitems__"):
            return list(zip(indices, self.dataset.__getitems__(indices), strict=True))
        return [self[i] for i in indices]
