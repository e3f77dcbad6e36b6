"""Batches that were composed before training, and the file that keeps them."""

from __future__ import annotations

import os
from typing import Any

import torch

from ._engine import validate
from ._plan.file import PlanFile, write_plan
from ._plan.negatives import Negatives
from .planners import Batches

__all__ = ["Plan"]


class Plan:
    """The batches of some epochs, and what they were made from. :func:`compose` makes it.

    Attributes:
        num_instances: N, number of instances of the dataset.
        num_epochs: E.
        batch_size: B.
        info: what made the plan: the arguments of :func:`compose`, versions, and a digest of the embeddings.

    Example:
        >>> import torch
        >>> from batchsampler_ext import compose
        >>> embeddings = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> plan = compose(embeddings, batch_size=10, preset="walks")
        >>> plan
        Plan(num_instances=100, num_epochs=1, batch_size=10)
        >>> sorted(int(i) for batch in plan.batches(0) for i in batch) == list(range(100))
        True
    """

    def __init__(
        self, epochs: torch.Tensor, num_instances: int, batch_size: int, info: dict[str, Any], negatives: Negatives
    ) -> None:
        self._epochs = epochs  # int32 [E, L], the batches of an epoch one after the other, the ragged one last
        self._negatives = negatives
        self.num_instances, self.batch_size, self.info = num_instances, batch_size, info

    @property
    def num_epochs(self) -> int:
        return len(self._epochs)

    def __repr__(self) -> str:
        return f"Plan(num_instances={self.num_instances}, num_epochs={self.num_epochs}, batch_size={self.batch_size})"

    def batches(self, epoch: int) -> Batches:
        """Returns the batches of an epoch, on the CPU.

        Raises:
            ValueError: the plan has no such epoch, or its file is damaged.
        """
        epoch = validate.integer(epoch, "epoch", 0, self.num_epochs - 1, because=" (num_epochs - 1)")
        ids = self._epochs[epoch]
        num_full = len(ids) // self.batch_size
        full = ids[: num_full * self.batch_size]
        return Batches(full.view(num_full, self.batch_size), ids[num_full * self.batch_size :])

    def negative_mask(self, indices: Any) -> torch.Tensor:
        """Returns which pairs of a batch count as negatives, for the loss.

        Query i and document j are no negatives if they are the same instance, have an equal id in a column of
        ``unique`` or an equal label, are a pair of ``positives``, or are within the margin. Margins are known for pairs
        that meet in a batch of this plan, in any of its epochs. For other pairs, they do not count.

        Args:
            indices: int [B], instances of a batch: a tensor on the CPU, an array or a list.

        Returns:
            bool [B, B] on the CPU. Rows are queries, columns are documents, both in the order of ``indices``.

        Raises:
            TypeError, ValueError: ``indices`` are no integers in one dimension, or out of range.

        Complexity: O(B**2), and O(P log B) for the P known pairs of these queries.

        Example:
            >>> import torch
            >>> from batchsampler_ext import compose
            >>> plan = compose(torch.eye(4), batch_size=2, preset="uniform", unique=[7, 7, -1, -1])
            >>> plan.negative_mask([0, 1, 2]).int().tolist()
            [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
        """
        return self._negatives.mask(indices)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as a safetensors file. It appears complete or not at all."""
        header = {"num_instances": self.num_instances, "batch_size": self.batch_size, "info": self.info}
        write_plan(path, {"epochs": self._epochs, **self._negatives._asdict()}, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads a plan. The batches are mapped into memory, not read.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is damaged, of another version, or no plan.
        """
        file = PlanFile(path)
        return cls(file.read("epochs"), negatives=Negatives.read(file), **file.header)
