"""An epoch of mini-batches from a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch

from . import _validate
from ._arrays import address
from ._backend import engine
from ._cuda_engine import moved, on_host
from ._graph_view import GraphView
from .walk import Walks, check_batch_size, run_row_walks, run_walks

__all__ = ["Batches", "sample_batches"]

EPOCH_MODES = ("partition", "independent", "paper")
_COUNTS = Walks._fields[1:]
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
        :class:`Batches` on the graph's device, which is waited for: once by independent walks, a few dozen times by a
        partition, once for about 1000 batches by the authors' epoch. Its stats are "num_instances" (distinct instances
        drawn) and, for walks, totals of "steps", "restarts", "teleports" and "fills"; for a partition "fills", the
        instances assigned at random.

    Raises:
        TypeError, ValueError: a bad argument, named, with what was expected and got.

    Source: Yang et al., KDD 2023, sections 4.2 and 5.4 (strategies). The partition is described in
    csrc/common/partition_schedule.h.

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
        self.walks_at_once = 64 if self.device.type == "cpu" else 1024  # of the authors' epoch
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
        ids = torch.arange(num_batches, device=self.device)
        walks = run_walks(self.view, roots, ids, self.batch_size, **self._how())
        nodes, tail = walks.nodes, walks.nodes[:0, 0]
        if self.num_rows < self.batch_size:
            tail = nodes.reshape(-1)[: self.num_rows if num_batches else 0]
            nodes = nodes[:0]
        elif self.num_batches is None and self.tail_size:
            nodes, tail = nodes[:-1], nodes[-1, : self.tail_size]
        return Batches(nodes, tail, self._stats(walks, torch.cat([nodes.reshape(-1), tail])))

    def paper(self, drawn: torch.Tensor | None = None) -> Batches:
        """``drawn``: bool [num_rows] on the CPU, rows drawn by earlier batches of the epoch; not changed.

        Which walks count depends on those before them, so that is decided on the host, a round of walks at a time; a
        device is waited for once a round.
        """
        order = on_host(self._root_order())
        drawn = torch.zeros(self.num_rows, dtype=torch.bool, device="cpu") if drawn is None else drawn.clone()
        goal = self.num_full * self.batch_size
        num_drawn, position = int(drawn.sum()), 0
        parts: list[torch.Tensor] = []  # rows of batches
        totals = torch.zeros(len(_COUNTS), dtype=torch.int64, device="cpu")
        limit = self.num_batches if self.num_batches is not None else self.num_rows + 1
        while num_drawn < goal and limit > 0:
            # Walks from the next undrawn roots run side by side; those whose root an earlier one draws are discarded.
            places = _undrawn_places(drawn, order, position, min(limit, self.walks_at_once))
            rows, counts = self._walk_to_host(order[places], places)
            kept = []
            for i, place in enumerate(places.tolist()):
                position = place + 1
                if bool(drawn[order[place]]):
                    continue
                num_drawn += int((~drawn[rows[i]]).sum())
                drawn[rows[i]] = True
                kept.append(i)
                limit -= 1
                if num_drawn >= goal or limit == 0:
                    break
            parts.append(rows[kept])
            totals += counts[:, kept].sum(1)
        nodes = torch.cat(parts) if parts else order[:0].view(0, self.batch_size)
        wants_tail = not self.drop_last and num_drawn >= goal and limit > 0
        tail = order[~drawn[order]] if wants_tail else order[:0]
        everybody = torch.cat([nodes.reshape(-1), tail])
        is_member = torch.zeros(self.num_rows, dtype=torch.bool, device="cpu")
        is_member[everybody] = True
        self.view.graph.check()
        ids = self.view.ids(moved(everybody.to(torch.int32), self.device))
        indices, tail = ids[: nodes.numel()].view(nodes.shape), ids[nodes.numel() :]
        stats = {"num_instances": int(is_member.sum()), **dict(zip(_COUNTS, totals.tolist(), strict=True))}
        return Batches(indices, tail, stats)

    def _walk_to_host(self, root_rows: torch.Tensor, walk_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows int64 [R, B] and counts int64 [4, R]; all on the host."""
        walks = run_row_walks(
            self.view, moved(root_rows, self.device), moved(walk_ids, self.device), self.batch_size, **self._how()
        )
        everything = torch.cat([walks.nodes.long().reshape(-1), *walks[1:]])
        on_cpu, num_nodes = on_host(everything), walks.nodes.numel()
        return on_cpu[:num_nodes].view(walks.nodes.shape), on_cpu[num_nodes:].view(len(_COUNTS), -1)

    def _how(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "strategy": self.strategy,
            "seed": self.seed,
            "epoch": self.epoch,
            "num_threads": self.num_threads,
        }

    def _root_order(self) -> torch.Tensor:
        order = torch.empty(self.num_rows, dtype=torch.int64, device=self.device)
        engine(self.device).root_order(n=self.num_rows, seed=self.seed, epoch=self.epoch, out=address(order))
        return order

    def _stats(self, walks: Walks, instances: torch.Tensor) -> dict[str, float]:
        """Waits for a device: numbers are for the host."""
        self.view.graph.check()
        is_member = torch.zeros(self.view.graph.num_nodes, dtype=torch.bool, device=self.device)
        is_member[instances.long()] = True
        totals = on_host(torch.stack([is_member.sum(), *(counts.sum() for counts in walks[1:])])).tolist()
        return dict(zip(("num_instances", *_COUNTS), totals, strict=True))


def _undrawn_places(drawn: torch.Tensor, order: torch.Tensor, position: int, count: int) -> torch.Tensor:
    """The next places in the order whose rows are not drawn, from `position` on: `count` of them, or all there are."""
    length = 4 * count
    while True:
        places = torch.nonzero(~drawn[order[position : position + length]])[:count, 0] + position
        if len(places) == count or position + length >= len(order):
            return places
        length *= 2
