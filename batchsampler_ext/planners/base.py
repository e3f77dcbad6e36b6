"""The interface of planners: their requests and the batches that they return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, overload, runtime_checkable

import torch

from .._engine import validate
from .._engine.arrays import dense
from .._graph_view import GraphView
from ..graph import ProximityGraph
from ..graph_builders import GraphConfig


class Batches(Sequence[torch.Tensor]):
    """A sequence of mini-batches, each a one-dimensional int64 tensor of distinct instance ids.

    Attributes:
        indices: int64 [num_full, B] on the graph's device, instance ids of the full batches.
        tail: int64 [T] on the same device, the instances of shorter batches, which come last. T = 0 if there are none.
        tail_sizes: sizes of these batches. Most epochs have one such batch at most.
        stats: totals of the plan, see :func:`sample_batches`.

    Raises:
        TypeError, ValueError: a value that is no integer tensor of this shape; sizes that do not add up to the tail.
    """

    def __init__(
        self,
        indices: torch.Tensor,
        tail: torch.Tensor,
        stats: dict[str, float] | None = None,
        tail_sizes: Sequence[int] | None = None,
    ) -> None:
        self.indices = _checked(indices, "indices", "[num_full, B]", 2)
        self.tail = _checked(tail, "tail", "[T]", 1)
        if stats is not None and not isinstance(stats, dict):
            raise TypeError(f"stats: expected a dict or None, got {validate.shown(stats)}")
        self.stats = stats or {}
        if tail_sizes is None:
            tail_sizes = [len(tail)] if len(tail) > 0 else []
        self.tail_sizes = _sizes(tail_sizes, len(tail))

    def __len__(self) -> int:
        return len(self.indices) + len(self.tail_sizes)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index: expected one of {len(self)} batches, got {index}")
        if position < len(self.indices):
            return self.indices[position]
        return self.tail.split(self.tail_sizes)[position - len(self.indices)]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Batches(num_full={len(self.indices)}, batch_size={self.indices.shape[1]}, tail={len(self.tail)})"


def _checked(ids: Any, name: str, shape: str, num_dims: int) -> torch.Tensor:
    """Returns int64 ids. A tensor without elements may have any dtype."""
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"{name}: expected an integer tensor {shape}, got {type(ids).__name__}")
    ids = dense(ids, name)
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise TypeError(f"{name}: expected an integer tensor {shape}, got a tensor of {ids.dtype}")
    if ids.ndim != num_dims:
        raise ValueError(f"{name}: expected shape {shape}, got {list(ids.shape)}")
    return ids.long()


def _sizes(values: Any, total: int) -> tuple[int, ...]:
    """Returns positive sizes that add up to the total."""
    sizes, left = [], total
    for value in validate.iterable(values, "tail_sizes", "a list of integers"):
        sizes.append(validate.integer(value, "tail_sizes", 1))
        left -= sizes[-1]
        if left < 0:  # the rest may be endless
            break
    if left != 0:
        raise ValueError(f"tail_sizes: expected sizes that add up to {total}, the tail, got {validate.shown(values)}")
    return tuple(sizes)


@dataclass(frozen=True)
class PlanRequest:
    """Describes the batches to plan. All values have been checked.

    A plan is a function of the graph, the planner's options and this request.

    Attributes:
        batch_size: B.
        drop_last: leave out the ragged batch.
        num_batches: the largest number of batches to plan. None: a whole epoch.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**24 - 1.
        restart_prob: alpha of walks.
        num_threads: CPU threads. The plan does not depend on it.
        drawn: bool [num_rows] on the CPU, the rows of the graph drawn earlier in the epoch. None: no row. Planners with
            ``covers_once`` do not need it, as their graph never contains such rows.
    """

    batch_size: int
    drop_last: bool = False
    num_batches: int | None = None
    seed: int = 0
    epoch: int = 0
    restart_prob: float = 0.2
    num_threads: int = 1
    drawn: torch.Tensor | None = None

    def sizes(self, num_rows: int) -> tuple[int, int]:
        """Returns (number of full batches, size of the ragged batch or 0) for an epoch over num_rows."""
        return num_rows // self.batch_size, 0 if self.drop_last else num_rows % self.batch_size

    def restart_threshold(self, own: float | None) -> int:
        """Returns floor(alpha * 2**32), as engines take it. alpha is the planner's own option or else the request's."""
        return validate.restart_threshold(self.restart_prob if own is None else own)


@runtime_checkable
class BatchPlanner(Protocol):
    """Composes mini-batches from a proximity graph. To write a planner, see docs/adding_a_planner.md.

    Attributes:
        name: the name by which users select the planner.
        covers_once: a plan is a whole epoch, and each row of the graph is in exactly one batch.
        length_varies: True if an epoch ends when every instance has been drawn, which may need several plans. Only
            together with ``covers_once = False``. False if an epoch has as many batches as a partition.
    """

    name: ClassVar[str]
    covers_once: ClassVar[bool]
    length_varies: ClassVar[bool] = False

    def graph_config(self, config: GraphConfig, batch_size: int, num_instances: int) -> GraphConfig | None:
        """Returns the options of the graph to plan from, or None to plan from a graph without edges.

        Args:
            config: the options that the user asks for.
            batch_size: B.
            num_instances: number of instances with an embedding.
        """
        return config

    def plan(self, graph: ProximityGraph, request: PlanRequest) -> Batches:
        """Returns the batches. Equal arguments give equal batches."""
        ...


def batches_in_order(view: GraphView, rows: torch.Tensor, request: PlanRequest, num_random: int) -> Batches:
    """Returns the batches of an epoch from the list of its rows.

    Args:
        rows: int32 rows of the graph, one batch after the other, the ragged one last.
        num_random: number of rows whose batch was drawn at random.
    """
    num_full, tail_size = request.sizes(view.num_rows)
    num_batches = num_full + (tail_size > 0)
    if request.num_batches is not None:
        num_batches = validate.integer(
            request.num_batches, "num_batches", 1, num_batches, because=" (the batches of this epoch)"
        )
    ids = view.ids(rows)
    tail = ids[num_full * request.batch_size :] if num_batches > num_full else ids[:0]
    num_full = min(num_full, num_batches)
    indices = ids[: num_full * request.batch_size].view(num_full, request.batch_size)
    return Batches(indices, tail, {"num_instances": indices.numel() + len(tail), "random_fills": num_random})
