"""Batches that were composed before training, and the file that keeps them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from ._engine import validate
from ._plan.file import PlanFile, write_plan
from .planners import Batches

__all__ = ["Plan"]


class Plan:
    """The batches of some epochs, and what they were made from. :func:`compose` makes it.

    Attributes:
        num_instances: N, number of instances of the dataset.
        num_epochs: E.
        batch_size: B.
        tail_sizes: sizes of the batches at the end of each epoch that are smaller than B.
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
        self,
        epochs: torch.Tensor,
        num_instances: int,
        batch_size: int,
        info: dict[str, Any],
        tail_sizes: Sequence[int] | None = None,
        sources: torch.Tensor | None = None,
    ) -> None:
        self._epochs = epochs  # int32 [E, L], the batches of an epoch one after the other, shorter ones last
        self._sources = sources  # int64 [E, number of batches], or None
        ragged = epochs.shape[1] % batch_size
        self.tail_sizes = tuple([ragged] if ragged else []) if tail_sizes is None else tuple(tail_sizes)
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
        end = len(ids) - sum(self.tail_sizes)
        return Batches(ids[:end].view(-1, self.batch_size), ids[end:], tail_sizes=self.tail_sizes)

    def sources(self, epoch: int) -> torch.Tensor | None:
        """Returns the source of each batch of an epoch, int64 [num_batches] on the CPU, or None without sources.

        It is -1 for a batch with instances of several sources.
        """
        epoch = validate.integer(epoch, "epoch", 0, self.num_epochs - 1, because=" (num_epochs - 1)")
        return None if self._sources is None else self._sources[epoch]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as a safetensors file. It appears complete or not at all."""
        header = {
            "num_instances": self.num_instances,
            "batch_size": self.batch_size,
            "tail_sizes": list(self.tail_sizes),
            "info": self.info,
        }
        tensors = {"epochs": self._epochs}
        if self._sources is not None:
            tensors["sources"] = self._sources
        write_plan(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads a plan. The batches are mapped into memory, not read.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is damaged, of another version, or no plan.
        """
        file = PlanFile(path)
        return cls(file.read("epochs"), **file.header, sources=file.read("sources") if "sources" in file else None)
