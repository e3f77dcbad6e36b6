"""Batches that were composed before training, and the file that keeps them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import torch

from ._engine import validate
from ._plan.file import PlanFile, checksum, write_plan
from ._plan.stored_epochs import StoredEpochs, named_epochs
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
        self, epochs: torch.Tensor | Sequence[torch.Tensor], num_instances: int, batch_size: int, info: dict[str, Any]
    ) -> None:
        self._epochs = epochs  # of each epoch int32 [L], the batches one after the other, the ragged one last
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
        return Batches(*self._cut(epoch))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as a safetensors file. It appears complete or not at all."""
        header = {
            "num_instances": self.num_instances,
            "num_epochs": self.num_epochs,
            "batch_size": self.batch_size,
            "info": self.info,
        }
        write_plan(path, named_epochs(self._epochs), header)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Opens a plan. The batches of an epoch are mapped into memory, and checked when they are first used.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is damaged, of another version, or no plan. :meth:`batches` raises it for damaged data.
        """
        file = PlanFile(path)
        header = file.header
        try:
            num_instances = validate.integer(header["num_instances"], "num_instances", 1, validate.MAX_NODES)
            num_epochs = validate.integer(header["num_epochs"], "num_epochs", 1)
            batch_size = validate.integer(header["batch_size"], "batch_size", 1)
            info = dict(header["info"])
        except (KeyError, TypeError, ValueError) as error:
            raise file.error(f"one with a wrong header ({error})") from error
        return cls(StoredEpochs(file, num_epochs, num_instances), num_instances, batch_size, info)

    def _cut(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the full batches of an epoch, int32 [num_full, B], and the ragged one, int32 [T]."""
        ids = self._epochs[epoch]
        num_full = len(ids) // self.batch_size
        full = ids[: num_full * self.batch_size]
        return full.view(num_full, self.batch_size), ids[num_full * self.batch_size :]

    def _num_drawn(self, epoch: int) -> int:
        """Returns the number of instances in an epoch. A file has it without reading the epoch."""
        if isinstance(self._epochs, StoredEpochs):
            return self._epochs.length(epoch)
        return len(self._epochs[epoch])

    def _digest(self) -> str:
        """Returns 8 hex digits that tell the batches of one plan from those of another. A file has it without reading.

        Computed from the CRC-32 of each epoch.
        """
        is_stored = isinstance(self._epochs, StoredEpochs)
        parts = self._epochs.checksums() if is_stored else [checksum(ids) for ids in self._epochs]  # type: ignore
        return f"{zlib.crc32(repr(parts).encode()):08x}"
