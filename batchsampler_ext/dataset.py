"""A dataset that returns each sample with its index."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset, IterableDataset

__all__ = ["IndexedDataset"]


class IndexedDataset(Dataset[tuple[int, Any]]):
    """Wraps a map-style dataset: item ``i`` is ``(i, dataset[i])``.

    A DataLoader draws batches ahead of training, so the index has to travel with the sample. Wrap the dataset last: i
    must be the position that the loader asks for, not one in a part of the dataset.

    Args:
        dataset: has ``__len__`` and ``__getitem__``.

    Raises:
        TypeError: the dataset has no positions.

    Example:
        >>> IndexedDataset(["a", "b"])[1]
        (1, 'b')
    """

    def __init__(self, dataset: Any) -> None:
        has_positions = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not has_positions or getattr(dataset, "ndim", 1) == 0 or isinstance(dataset, (type, IterableDataset)):
            raise TypeError(f"dataset: expected a dataset with __len__ and __getitem__, got {type(dataset).__name__}")
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
