"""Batches that were composed before training, and the file that keeps them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ._engine import validate
from ._engine.arrays import as_matrix
from ._engine.fixed import FixedSettings
from ._engine.not_a_function import NotAFunction
from ._engine.random import permutation
from ._engine.validate import Progress, ProgressBar
from ._negatives.negatives import Negatives
from ._negatives.tables import sizes_of
from ._plan.approximate import described as described_search
from ._plan.digest import digest_of_matrix
from ._plan.file import PlanFile, checksum, write_plan
from ._plan.hard_negatives import NAME as _HARD_NEGATIVES
from ._plan.hard_negatives import read_hard_negatives
from ._plan.hints import Measured, hints
from ._plan.info import checked_info
from ._plan.measures import edges_inside, hardness, median_rank_of_own
from ._plan.report import PlanReport, histogram
from ._plan.stages import stage_of
from ._plan.stored_epochs import StoredEpochs, named_epochs
from ._plan.stored_negatives import StoredNegatives
from .graph import ProximityGraph
from .graph_builders import as_towers
from .planners import Batches
from .walk import check_batch_size

__all__ = ["Plan"]

_SOURCES = "sources"  # tensor of a file


class Plan(NotAFunction, FixedSettings):
    """The batches of some epochs, and what they were made from. :func:`compose` makes it.

    Attributes:
        num_instances: N, number of instances of the dataset.
        num_epochs: E.
        batch_size: B.
        info (dict): what made the plan, as JSON has it: the scalar options of :func:`compose` as they were used, such
            as the sizes of communities and whether edges are mutual; sources with their sizes; the version; digests of
            the embeddings; the library that searched neighbors, with its recall; and counts of what repairs did. Arrays
            that were given, such as ids, are not in it.
        graph: the graph that joins hard negatives, on the CPU. None: it needed none, or the plan was loaded.
        seconds: time for "checks" of the embeddings, the "graph" and the "epochs". Empty if the plan was loaded.

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

    _FIXED = ("num_instances", "batch_size")

    def __init__(
        self,
        epochs: torch.Tensor | Sequence[torch.Tensor],
        num_instances: int,
        batch_size: int,
        info: dict[str, Any],
        tail_sizes: Sequence[int] | None = None,
        sources: torch.Tensor | PlanFile | None = None,
        negatives: Negatives | StoredNegatives | None = None,
        hard_negatives: torch.Tensor | PlanFile | None = None,
    ) -> None:
        self._epochs = epochs  # of each epoch int32 [L], one batch after the other, shorter ones last
        self._tail_sizes = None if tail_sizes is None else tuple(tail_sizes)  # None: one short batch at most
        self._sources = sources  # int64 [E, number of batches], the file that has them, or None
        self._negatives = negatives  # None: all pairs of two instances count as negatives
        self._hard_negatives = hard_negatives  # int32 [N, h], the file that has them, or None
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
        return Batches(*self._cut(epoch), tail_sizes=self._tail_sizes_of(epoch))

    def sources(self, epoch: int) -> torch.Tensor | None:
        """Returns the source of each batch of an epoch, int64 [num_batches] on the CPU, or None without sources.

        It is -1 for a batch with instances of several sources.

        Raises:
            ValueError: the plan has no such epoch, or its file is damaged.
        """
        epoch = validate.integer(epoch, "epoch", 0, self.num_epochs - 1, because=" (num_epochs - 1)")
        sources = self._sources_of_all()
        return None if sources is None else sources[epoch]

    def _sources_of_all(self) -> torch.Tensor | None:
        if not isinstance(self._sources, PlanFile):
            return self._sources
        found, shape = self._sources.read(_SOURCES), [self.num_epochs, self._num_batches(0)]
        if found.dtype != torch.int64 or list(found.shape) != shape:
            raise self._sources.error(f"one whose {_SOURCES} are {found.dtype} {list(found.shape)}, not int64 {shape}")
        return found

    def _known_negatives(self) -> Negatives:
        if isinstance(self._negatives, StoredNegatives):
            return self._negatives.read()
        return Negatives.none(self.num_instances) if self._negatives is None else self._negatives

    def negative_mask(self, indices: Any) -> torch.Tensor:
        """Returns which pairs of a batch count as negatives, for the loss.

        Query i and document j are no negatives if they are the same instance, have an equal id in a column of
        ``unique`` or an equal label, are a pair of ``positives``, or are within the margin. Margins are known for pairs
        that meet in a batch of this plan, in any of its epochs. For other pairs, they do not count.

        Args:
            indices: int [B], instances of a batch: a tensor on any device, an array or a list.

        Returns:
            bool [B, B] on the device of ``indices``. Rows are queries, columns are documents, in the order of
            ``indices``.

        Raises:
            TypeError, ValueError: ``indices`` are no integers in one dimension, or out of range. The file of the
                plan is damaged.

        Complexity: O(B**2), and O(P log B) for the P known pairs of these queries.

        Example:
            >>> import torch
            >>> from batchsampler_ext import compose
            >>> plan = compose(torch.eye(4), batch_size=2, preset="uniform", unique=[7, 7, -1, -1])
            >>> plan.negative_mask([0, 1, 2]).int().tolist()
            [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
        """
        return self._known_negatives().mask(indices)

    def hard_negatives(self, num_hard_negatives: int | None = None) -> torch.Tensor:
        """Returns hard negatives of each instance, the best first, for trainers that read tuples.

        They are the neighbors in the graph, before ``mutual`` thins it out: documents of ranks in the window, or of
        candidates, by descending score, ties by lower id. Pairs that ``unique``, ``positives``, ``labels``,
        ``max_score`` and margins exclude are not among them. A graph without scores that was given to :func:`compose`
        ranks them by their place in the row.

        Args:
            num_hard_negatives: 1 to the number that :func:`compose` was told to keep, which is the default.

        Returns:
            int64 [N, num_hard_negatives] on the CPU. Rows with fewer hard negatives end in -1.

        Raises:
            ValueError: the plan was composed without ``num_hard_negatives``, or with a smaller one. Its file is
                damaged.

        Example:
            >>> import torch
            >>> from batchsampler_ext import compose
            >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
            >>> plan = compose(points, batch_size=2, rank_window=(1, 3), community_size=2, metric="l2",
            ...                num_hard_negatives=1)
            >>> plan.hard_negatives().ravel().tolist()
            [2, 2, 0, 1]
        """
        found = self._known_hard_negatives()
        if found is None:
            raise ValueError(
                "num_hard_negatives: expected a plan that was composed with num_hard_negatives, got one without; "
                "compose it again with num_hard_negatives, since the graph is not in the plan"
            )
        most = found.shape[1]
        if num_hard_negatives is not None:
            num_hard_negatives = validate.integer(
                num_hard_negatives, "num_hard_negatives", 1, most, because=" (as the plan was composed)"
            )
        return found[:, :num_hard_negatives].long()

    def _known_hard_negatives(self) -> torch.Tensor | None:
        """Returns int32 [N, h], mapped into memory if it is in a file."""
        if isinstance(self._hard_negatives, PlanFile):
            return read_hard_negatives(self._hard_negatives, self.num_instances)
        return self._hard_negatives

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as a safetensors file. It appears complete or not at all."""
        header = {
            "num_instances": self.num_instances,
            "num_epochs": self.num_epochs,
            "batch_size": self.batch_size,
            "tail_sizes": None if self._tail_sizes is None else list(self._tail_sizes),
            "info": self.info,
        }
        tensors = named_epochs(self._epochs)  # type: ignore[arg-type]
        sources = self._sources_of_all()
        if sources is not None:
            tensors[_SOURCES] = sources
        if self._negatives is not None:
            tensors |= self._known_negatives()._asdict()
        hard_negatives = self._known_hard_negatives()
        if hard_negatives is not None:
            tensors[_HARD_NEGATIVES] = hard_negatives
        write_plan(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Opens a plan. Its data are mapped into memory, and checked when they are first used.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is damaged, of another version, or no plan. Methods that read damaged data raise it.
        """
        file = PlanFile(path)
        header = file.header
        try:
            num_instances = validate.integer(header["num_instances"], "num_instances", 1, validate.MAX_NODES)
            num_epochs = validate.integer(header["num_epochs"], "num_epochs", 1)
            batch_size = check_batch_size(header["batch_size"])
            tail_sizes = _checked_tail_sizes(header["tail_sizes"], batch_size)
            info = checked_info(header["info"])
        except (KeyError, TypeError, ValueError) as error:
            raise file.error(f"one with a wrong header ({error})") from error
        epochs = StoredEpochs(file, num_epochs, num_instances)
        for epoch in range(num_epochs) if tail_sizes else ():
            num_others = epochs.length(epoch) - sum(tail_sizes or ())
            if num_others < 0 or num_others % batch_size:
                found = epochs.length(epoch)
                raise file.error(
                    f"one whose epoch_{epoch} of {found} instances does not end in batches of {tail_sizes}"
                )
        sources, negatives = file if _SOURCES in file else None, StoredNegatives.of(file, num_instances)
        hard_negatives = file if _HARD_NEGATIVES in file else None
        plan = cls(epochs, num_instances, batch_size, info, tail_sizes, sources, negatives, hard_negatives)
        num_batches = {plan._num_batches(epoch) for epoch in range(num_epochs)}
        if len(num_batches) > 1:
            raise file.error(f"one whose epochs have different numbers of batches, {sorted(num_batches)[:2]}")
        return plan

    def report(
        self, queries: Any, documents: Any = None, *, epoch: int = 0, progress: Progress | ProgressBar | None = None
    ) -> PlanReport:
        """Measures the batches of an epoch, beside those of a uniform epoch. ``print`` shows a table and a figure.

        Args:
            queries, documents: the embeddings that the plan was composed from, see :func:`compose`. They are compared
                with the digests in ``info``, in one pass.
            epoch: 0 to E - 1.
            progress: called as ``progress(num_done, total)`` for the batches of either kind, or a bar such as
                ``tqdm()``.

        Returns:
            A dict: "planned" and "uniform" -> means over at most 200 batches, spread evenly over the epoch.
            "in_batch_similarity" is the mean score, by the plan's metric, of a query and another instance's document
            (its query if there are no documents). With documents, "in_batch_accuracy" is the share of queries whose own
            document scores highest in the batch. With ``plan.graph``, "edges_inside" is the share of the graph's edges
            that join two instances of one batch, over the whole epoch.

            Its ``hints`` are sentences about what looks wrong, often none. There is one if even the best of random
            candidates is expected beyond rank 130; if there are fewer epochs than sizes of communities; if the teacher
            ranks the own document of half of the queries below all of their hard negatives, or tells it from them
            hardly better than by chance; if margins leave many documents out of the loss; if it solves 99% of the
            queries; or if batches are hardly harder than uniform ones. ``own_rank`` is the median rank of a query's own
            document among all, for 256 queries. ``figure`` compares scores of the hardest other document in the batch.
            ``recall`` is the share of exact neighbors that an approximate search found.

        Raises:
            ValueError: embeddings that the plan was not composed from, by a digest of all values.
        """
        validate.integer(epoch, "epoch", 0, self.num_epochs - 1, because=" (num_epochs - 1)")
        progress = validate.progress(progress)
        self._require_same_embeddings(queries, documents, progress)
        return self._measured(queries, documents, epoch, progress)

    def _require_same_embeddings(self, queries: Any, documents: Any, progress: Progress | None) -> None:
        """Raises ``ValueError`` unless the plan was composed from these embeddings, by shapes and digests."""
        for name, tower in (("queries", queries), ("documents", queries if documents is None else documents)):
            found = as_matrix(tower, name).num_rows
            if found != self.num_instances:
                raise ValueError(
                    f"{name}: expected the {self.num_instances} instances that the plan was composed for, got {found}"
                )
        towers = zip(("queries", "documents"), as_towers(queries, documents, "queries"), strict=True)
        if self.info.get("queries") is None:  # the plan was not made by compose
            return
        for name, matrix in towers:
            expected = self.info.get(name)
            if (matrix is None) != (expected is None):
                wanted = "None, because the plan was composed without" if expected is None else "those of the plan"
                raise ValueError(f"{name}: expected {wanted}, got {'None' if matrix is None else 'embeddings'}")
            if matrix is None:
                continue
            digest = digest_of_matrix(matrix, name, stage_of(progress, f"check of {name}"))
            if digest != expected:
                raise ValueError(
                    f"{name}: expected the embeddings that the plan was composed from, in the same order and dtype "
                    f"(digest {expected}), got others (digest {digest})"
                )

    def _measured(self, queries: Any, documents: Any, epoch: int, progress: Progress | None) -> PlanReport:
        """Returns the report of embeddings that have been checked."""
        planned = self.batches(epoch)
        ids = permutation(self.num_instances, self.info.get("seed", 0), epoch)[: self._num_drawn(epoch)]
        uniform = Batches(*self._cut_ids(ids, planned.tail_sizes), tail_sizes=planned.tail_sizes)
        kinds = {"planned": planned, "uniform": uniform}
        metric = self.info.get("metric", "cosine")
        margins = {  # a file may have an integer, of any size
            name: float(self.info[name]) for name in ("margin", "relative_margin") if self.info.get(name) is not None
        }
        scores = {}
        for kind, batches in kinds.items():
            shown = stage_of(progress, f"{kind} batches measured", is_public=True)
            scores[kind] = hardness(batches, queries, documents, metric, shown, **margins)
            if self.graph is not None:
                scores[kind].means["edges_inside"] = edges_inside(batches, self.graph)
        own_rank = None
        if documents is not None:
            shown = stage_of(progress, "ranks of own documents")
            own_rank = median_rank_of_own(queries, documents, metric, shown)
        figure = histogram(
            f"{metric} score of the hardest other instance in the batch, share of queries",
            {**{kind: part.hardest for kind, part in scores.items()}, "own document": scores["planned"].own},
        )
        measured = Measured(scores["planned"], scores["uniform"], own_rank)
        found_hints = hints(self.info, self.num_instances, self.batch_size, self.num_epochs, epoch, measured)
        means = {kind: part.means for kind, part in scores.items()}
        search = self.info.get("neighbor_search")
        recall, sentence = None, None
        if search is not None:
            recall, sentence = search["recall"], described_search(self.info["neighbors"], search)
        return PlanReport(means, own_rank, figure, found_hints, metric, recall, sentence)

    def _cut(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the full batches of an epoch, int32 [num_full, B], and the instances of shorter ones, int32 [T]."""
        return self._cut_ids(self._epochs[epoch], self._tail_sizes_of(epoch))

    def _cut_ids(self, ids: torch.Tensor, tail_sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        end = len(ids) - sum(tail_sizes)
        return ids[:end].view(-1, self.batch_size), ids[end:]

    def _batches_of(self, epoch: int) -> list[torch.Tensor]:
        """Returns views of the batches of an epoch, int32 [B] and shorter ones."""
        return list(self._epochs[epoch].split(self._sizes_of(epoch).tolist()))

    def _sizes_of(self, epoch: int) -> np.ndarray:
        """Returns int64 [num_batches]."""
        return sizes_of(self._num_drawn(epoch), self.batch_size, self._tail_sizes)

    def _tail_sizes_of(self, epoch: int) -> tuple[int, ...]:
        """Returns the sizes of the batches of an epoch that are shorter than B. They come last."""
        if self._tail_sizes is not None:
            return self._tail_sizes
        ragged = self._num_drawn(epoch) % self.batch_size
        return (ragged,) if ragged else ()

    def _num_batches(self, epoch: int) -> int:
        """Returns the number of batches in an epoch. A file has it without reading the epoch."""
        tail_sizes = self._tail_sizes_of(epoch)
        return (self._num_drawn(epoch) - sum(tail_sizes)) // self.batch_size + len(tail_sizes)

    def _num_drawn(self, epoch: int) -> int:
        """Returns the number of instances in an epoch. A file has it without reading the epoch."""
        if isinstance(self._epochs, StoredEpochs):
            return self._epochs.length(epoch)
        return len(self._epochs[epoch])

    def _digest(self) -> str:
        """Returns 8 hex digits that tell the batches of one plan from those of another. A file has it without reading.

        Computed from the CRC-32 of each epoch, and the sizes of shorter batches.
        """
        is_stored = isinstance(self._epochs, StoredEpochs)
        parts = self._epochs.checksums() if is_stored else [checksum(ids) for ids in self._epochs]  # type: ignore
        return f"{zlib.crc32(repr((parts, self._tail_sizes)).encode()):08x}"


def _checked_tail_sizes(value: Any, batch_size: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    return tuple(validate.integer(size, "tail_sizes", 1, batch_size - 1) for size in value) or None
