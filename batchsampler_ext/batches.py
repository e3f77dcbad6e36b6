"""An epoch of mini-batches from a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch

from . import _validate
from ._arrays import address
from ._backend import engine
from ._graph_view import GraphView
from .walk import Walks, check_batch_size, run_walks

__all__ = ["Batches", "sample_batches"]

EPOCH_MODES = ("partition", "independent", "paper")
HARDNESSES = ("soft", "default", "hard")
STRATEGIES = ("rwr", "rw", "bfs", "dfs", "knn", "uniform")


class Batches(Sequence[torch.Tensor]):
    """A sequence of mini-batches, each a one-dimensional int32 tensor of distinct instance ids.

    Attributes:
        indices: int32 [num_full, B], the full batches.
        tail: int32 [T], the ragged last batch, T < B; empty if there is none.
        stats: totals of the epoch; see :func:`sample_batches`.
    """

    def __init__(self, indices: torch.Tensor, tail: torch.Tensor, stats: dict[str, float]) -> None:
        self.indices, self.tail, self.stats = indices, tail, stats

    def __len__(self) -> int:
        return len(self.indices) + (len(self.tail) > 0)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self.indices[position] if position < len(self.indices) else self.tail

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Batches(num_full={len(self.indices)}, batch_size={self.indices.shape[1]}, tail={len(self.tail)})"


def sample_batches(
    graph: Any,
    batch_size: int,
    *,
    epoch_mode: str = "partition",
    strategy: str = "rwr",
    restart_prob: float = 0.2,
    hardness: str = "default",
    drop_last: bool = False,
    seed: int = 0,
    epoch: int = 0,
    num_batches: int | None = None,
    num_threads: int | None = None,
) -> Batches:
    """The mini-batches of one epoch.

    Args:
        graph: :class:`ProximityGraph`, or int32 [N, K] neighbours.
        batch_size: B, at least 1.
        epoch_mode: "partition": each instance is in exactly one batch, the full batches in random order and the ragged
            one last. "independent": walks from random roots; batches may overlap. "paper": the authors' epoch, whose
            roots are instances not yet drawn, until what is left is less than a batch and becomes the ragged one; its
            length varies and instances repeat.
        strategy: how a batch is collected: "rwr", or the paper's comparisons "rw" (no restart), "bfs", "dfs", "knn" (a
            root and its first B - 1 neighbours; needs K >= B - 1 and neighbours sorted by score) and "uniform".
            Partitions know "rwr" and "uniform".
        restart_prob: alpha in [0, 1). A partition is about as hard as walks with this alpha.
        hardness: of a partition of strategy "rwr". "default": its batches are about as linked as those of independent
            walks, if the graph allows it; "soft": half as linked; "hard": as linked as a partition makes them.
            In-batch cosine beyond random, as a share of the walks' (B = 256; soft, default, hard): .5, .8, .9 for
            sentences and .7, .8, .9 for centred images on a graph with M = 1000, K = 100; .6, 1.0, 1.8 and .7, .8, .8
            on their exact graphs with K = 100, where some partitions cannot become harder.
        drop_last: no ragged batch. A partition leaves out N mod B instances drawn at random.
        seed, epoch: the epoch is a function of graph, arguments, seed and epoch.
        num_batches: stop after this many batches, at most as many as the epoch has; "independent" mode draws as many
            as are asked for. Default: the whole epoch (independent: as many batches as a partition would have).
        num_threads: default ``torch.get_num_threads()``. The result does not depend on it.

    Returns:
        :class:`Batches` on the graph's device. Its stats are "num_instances" (distinct instances drawn) and, for walks,
        totals of "steps", "restarts", "teleports" and "fills"; for a partition "fills", the instances assigned at
        random.

    Raises:
        TypeError, ValueError: a bad argument, named, with what was expected and got.

    Source: Yang et al., KDD 2023, sections 4.2 and 5.4 (strategies). The partition is described in
    csrc/cpu/partition.cpp.

    Example:
        >>> import torch
        >>> ring = torch.tensor([[1], [2], [3], [4], [0]], dtype=torch.int32)
        >>> batches = sample_batches(ring, 2)
        >>> len(batches), sorted(int(i) for batch in batches for i in batch)
        (3, [0, 1, 2, 3, 4])
    """
    mode = _validate.choice(epoch_mode, "epoch_mode", EPOCH_MODES)
    epoch_sampler = EpochSampler(
        GraphView(graph),
        check_batch_size(batch_size),
        _validate.choice(strategy, "strategy", STRATEGIES),
        _validate.restart_threshold(restart_prob),
        check_hardness(hardness, mode, strategy),
        _validate.flag(drop_last, "drop_last"),
        _validate.seed(seed),
        _validate.epoch(epoch),
        None if num_batches is None else _validate.integer(num_batches, "num_batches", 1),
        _validate.num_threads(num_threads),
    )
    return getattr(epoch_sampler, mode)()


def check_hardness(hardness: Any, epoch_mode: str, strategy: str) -> str:
    known = _validate.choice(hardness, "hardness", HARDNESSES)
    if known != "default" and (epoch_mode != "partition" or strategy != "rwr"):
        raise ValueError(
            f"hardness: expected 'default' in epoch_mode {epoch_mode!r} with strategy {strategy!r}, got {hardness!r}; "
            "only partitions of strategy 'rwr' know others"
        )
    return known


class EpochSampler:
    """Checked arguments of one call; one method for each epoch mode."""

    def __init__(
        self,
        view: GraphView,
        batch_size: int,
        strategy: str,
        threshold: int,
        hardness: str,
        drop_last: bool,
        seed: int,
        epoch: int,
        num_batches: int | None,
        num_threads: int,
    ) -> None:
        self.view, self.batch_size, self.strategy, self.threshold = view, batch_size, strategy, threshold
        self.hardness, self.drop_last, self.seed, self.epoch = hardness, drop_last, seed, epoch
        self.num_batches, self.num_threads = num_batches, num_threads
        self.num_rows, self.device = view.num_rows, view.graph.device
        self.num_full = self.num_rows // batch_size
        self.tail_size = 0 if drop_last else self.num_rows % batch_size
        needed = min(batch_size, self.num_rows) - 1
        if strategy == "knn" and view.graph.num_neighbors < needed:
            raise ValueError(
                f"strategy: 'knn' batches of {batch_size} expected a graph with at least {needed} neighbors a row, "
                f"got {view.graph.num_neighbors}"
            )

    def partition(self) -> Batches:
        if self.strategy not in ("rwr", "uniform"):
            raise ValueError(
                f"strategy: expected 'rwr' or 'uniform' in epoch_mode 'partition', got {self.strategy!r}; "
                "the other strategies need epoch_mode 'independent' or 'paper'"
            )
        num_batches = self.num_full + (self.tail_size > 0)
        if self.num_batches is not None:
            num_batches = _validate.integer(
                self.num_batches, "num_batches", 1, num_batches, because=" (the batches of this epoch)"
            )
        self.view.graph.check()
        num_filled = 0
        if self.strategy == "uniform":
            rows = self._root_order()[: self.num_full * self.batch_size + self.tail_size].to(torch.int32)
        else:
            num_rows = self.num_full * self.batch_size + self.tail_size
            rows = torch.empty(num_rows, dtype=torch.int32, device=self.device)
            num_filled = engine(self.device).partition_epoch(
                graph=self.view.description,
                batch_size=self.batch_size,
                restart_threshold=self.threshold,
                drop_last=self.drop_last,
                hardness=HARDNESSES.index(self.hardness),
                seed=self.seed,
                epoch=self.epoch,
                num_threads=self.num_threads,
                nodes=address(rows),
            )
        nodes = self.view.ids(rows)
        num_full = min(self.num_full, num_batches)
        tail = nodes[self.num_full * self.batch_size :] if num_batches > self.num_full else nodes[:0]
        indices = nodes[: num_full * self.batch_size].view(num_full, self.batch_size)
        return Batches(indices, tail, {"num_instances": indices.numel() + len(tail), "fills": num_filled})

    def independent(self) -> Batches:
        num_batches = self.num_full + (self.tail_size > 0) if self.num_batches is None else self.num_batches
        if self.num_rows < self.batch_size:
            limit = 0 if self.drop_last else 1  # the only batch is all rows: ragged
            if self.num_batches is not None:
                _validate.integer(
                    num_batches, "num_batches", 1, limit, because=f" (batch_size exceeds the {self.num_rows} rows)"
                )
        roots = torch.empty(num_batches, dtype=torch.int64, device=self.device)
        engine(self.device).independent_roots(
            n=self.num_rows, num_walks=num_batches, seed=self.seed, epoch=self.epoch, out=address(roots)
        )
        walks = self._walk(roots, torch.arange(num_batches, device=self.device))
        nodes, tail = walks.nodes, walks.nodes[:0, 0]
        if self.num_rows < self.batch_size:
            tail = nodes.reshape(-1)[: self.num_rows if num_batches else 0]
            nodes = nodes[:0]
        elif self.num_batches is None and self.tail_size:
            nodes, tail = nodes[:-1], nodes[-1, : self.tail_size]
        return Batches(nodes, tail, self._stats([walks], torch.cat([nodes.reshape(-1), tail])))

    def paper(self, drawn: torch.Tensor | None = None) -> Batches:
        """``drawn``: bool [num_rows], rows drawn by earlier batches of the epoch; not changed."""
        order = self._root_order()
        unseen = torch.zeros(self.num_rows, dtype=torch.bool, device=self.device)
        drawn = unseen if drawn is None else drawn.clone()
        goal = self.num_full * self.batch_size
        parts: list[Walks] = []
        num_drawn, num_kept, position = int(drawn.sum()), 0, 0
        limit = self.num_batches if self.num_batches is not None else self.num_rows + 1
        while num_drawn < goal and num_kept < limit:
            # Walks from the next undrawn roots run side by side; those whose root an earlier one draws are discarded.
            ahead = torch.nonzero(~drawn[order[position:]])[:64, 0] + position
            walks = self._walk(order[ahead], ahead)
            rows = self.view.rows(walks.nodes.reshape(-1), "roots").view(len(ahead), -1)
            kept = []
            for i, place in enumerate(ahead.tolist()):
                position = place + 1
                if not bool(drawn[order[place]]):
                    drawn[rows[i]] = True
                    kept.append(i)
                    num_drawn, num_kept = int(drawn.sum()), num_kept + 1
                    if num_drawn >= goal or num_kept == limit:
                        break
            parts.append(Walks(*(field[kept] for field in walks)))
        nothing = torch.empty((0, self.batch_size), dtype=torch.int32, device=self.device)
        nodes = torch.cat([part.nodes for part in parts]) if parts else nothing
        left = order[~drawn[order]]
        wants_tail = not self.drop_last and num_drawn >= goal and num_kept < limit
        tail = self.view.ids(left.to(torch.int32)) if wants_tail else nodes.reshape(-1)[:0]
        return Batches(nodes, tail, self._stats(parts, torch.cat([nodes.reshape(-1), tail])))

    def _walk(self, root_rows: torch.Tensor, walk_ids: torch.Tensor) -> Walks:
        return run_walks(
            self.view, root_rows.contiguous(), walk_ids.contiguous(), self.batch_size, threshold=self.threshold,
            strategy=self.strategy, seed=self.seed, epoch=self.epoch, num_threads=self.num_threads,
        )  # fmt: skip

    def _root_order(self) -> torch.Tensor:
        order = torch.empty(self.num_rows, dtype=torch.int64, device=self.device)
        engine(self.device).root_order(n=self.num_rows, seed=self.seed, epoch=self.epoch, out=address(order))
        return order

    def _stats(self, parts: list[Walks], instances: torch.Tensor) -> dict[str, float]:
        self.view.graph.check()
        totals = {
            name: sum(int(getattr(part, name).sum()) for part in parts)
            for name in ("steps", "restarts", "teleports", "fills")
        }
        return {"num_instances": len(torch.unique(instances)), **totals}
