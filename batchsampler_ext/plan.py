"""Batches that were composed before training, and the file that keeps them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import torch

from ._engine import validate
from ._engine.arrays import as_matrix
from ._plan.epochs import uniform_epoch
from ._plan.file import PlanFile, checksum, write_plan
from ._plan.measures import edges_inside, hardness
from ._plan.stored_epochs import StoredEpochs, named_epochs
from .graph import ProximityGraph
from .graph_builders import Progress
from .planners import Batches

__all__ = ["Plan"]


class Plan:
    """The batches of some epochs, and what they were made from. :func:`compose` makes it.

    Attributes:
        num_instances: N, number of instances of the dataset.
        num_epochs: E.
        batch_size: B.
        info: what made the plan: the arguments of :func:`compose`, versions, and a digest of the embeddings.
        graph: the graph that joins hard negatives. None: it needed none, or the plan was loaded.
        seconds: time for the "graph" and the "epochs". Empty if the plan was loaded.

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
        self.graph: ProximityGraph | None = None
        self.seconds: dict[str, float] = {}

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

    def report(
        self, queries: Any, documents: Any = None, *, epoch: int = 0, progress: Progress | None = None
    ) -> dict[str, dict[str, float]]:
        """Measures the batches of an epoch, beside those of a uniform epoch.

        Args:
            queries, documents: the embeddings that the plan was composed from, see :func:`compose`.
            epoch: 0 to E - 1.
            progress: called as ``progress(num_done, total)`` for the batches of either kind.

        Returns:
            "planned" and "uniform" -> means over at most 200 batches, spread evenly over the epoch.
            "in_batch_similarity" is the mean score, by the plan's metric, of a query and another instance's document
            (its query if there are no documents). With documents, "in_batch_accuracy" is the share of queries whose own
            document scores highest in the batch. With ``plan.graph``, "edges_inside" is the share of the graph's edges
            that join two instances of one batch, over the whole epoch.

        Raises:
            ValueError: embeddings of another number of instances.
        """
        for name, tower in (("queries", queries), ("documents", queries if documents is None else documents)):
            found = as_matrix(tower, name).num_rows
            if found != self.num_instances:
                raise ValueError(
                    f"{name}: expected the {self.num_instances} instances that the plan was composed for, got {found}"
                )
        planned = self.batches(epoch)
        ids = uniform_epoch(self.num_instances, self.info.get("seed", 0), epoch)[: self._num_drawn(epoch)]
        kinds = {"planned": planned, "uniform": Batches(*self._cut_ids(ids))}
        metric = self.info.get("metric", "cosine")
        result = {kind: hardness(batches, queries, documents, metric, progress) for kind, batches in kinds.items()}
        if self.graph is not None:
            for kind, batches in kinds.items():
                result[kind]["edges_inside"] = edges_inside(batches, self.graph)
        return result

    def _cut(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the full batches of an epoch, int32 [num_full, B], and the ragged one, int32 [T]."""
        return self._cut_ids(self._epochs[epoch])

    def _cut_ids(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
