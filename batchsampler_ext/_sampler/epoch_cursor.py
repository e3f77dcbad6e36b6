"""The position of a sampler in an epoch. It is saved in states, and checked when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from .._engine import validate
from .._engine.arrays import dense
from .._engine.validate import shown

_VERSION = 6
_PLAN_FIELDS = {"first", "indices", "tail"}
_FIELDS = {"version", "settings", "epoch", "num_drawn", "is_finished", "refresh_wanted", "is_informed", "plans"}


class Plan(NamedTuple):
    """Batches from one graph. A plan is never changed, because states refer to it."""

    first: int  # number of batches of the epoch before the plan
    indices: torch.Tensor  # int32 [num_full, B], instance ids
    tail: torch.Tensor  # int32 [T]
    pairs: torch.Tensor | None = None  # int32 [P, 2], (query, document) within the margin. None: there is no margin

    @property
    def num_batches(self) -> int:
        return len(self.indices) + (len(self.tail) > 0)

    @property
    def end(self) -> int:
        """Number of batches of the epoch up to the last one of the plan."""
        return self.first + self.num_batches

    def batch(self, i: int) -> torch.Tensor:
        return self.indices[i] if i < len(self.indices) else self.tail

    def front(self, num_batches: int) -> torch.Tensor:
        """Returns the instances of the first batches, int32."""
        num_batches = max(0, num_batches)
        full = self.indices[:num_batches].reshape(-1)
        return torch.cat([full, self.tail]) if num_batches > len(self.indices) else full


class EpochCursor(NamedTuple):
    """The position after ``num_drawn`` batches of an epoch.

    plans: all plans of the epoch, in order. Each is used until the next one begins. All are kept, because training may
    be any number of batches behind. They take 4 bytes per instance drawn.
    """

    epoch: int
    plans: tuple[Plan, ...]
    num_drawn: int = 0
    is_finished: bool = False

    def plan(self) -> Plan | None:
        """Returns the plan that has the next batch, or None if it has to be made."""
        plan = next(plan for plan in reversed(self.plans) if plan.first <= self.num_drawn)
        return plan if self.num_drawn < plan.end else None

    def batch(self, i: int) -> torch.Tensor:
        """Returns a batch of the epoch, int32 [B]."""
        plan = next(plan for plan in reversed(self.plans) if plan.first <= i)
        return plan.batch(i - plan.first)

    def drawn(self) -> torch.Tensor:
        """Returns the instances of all batches drawn so far, int32."""
        ends = [*(plan.first for plan in self.plans[1:]), self.num_drawn]
        parts = [plan.front(min(end, self.num_drawn) - plan.first) for plan, end in zip(self.plans, ends, strict=True)]
        return torch.cat(parts)

    def with_plan(self, plan: Plan) -> EpochCursor:
        return self._replace(plans=(*self.plans, plan))

    def rewound(self, num_trained: int) -> EpochCursor:
        """Returns the cursor after num_trained batches. Later batches are drawn again, from the same plans."""
        num_trained = validate.integer(num_trained, "num_trained", 0, self.num_drawn, because=" (drawn)")
        is_finished = self.is_finished and num_trained == self.num_drawn
        return self._replace(num_drawn=num_trained, is_finished=is_finished)


def save_cursor(
    cursor: EpochCursor, settings: dict[str, Any], *, refresh_wanted: bool, is_informed: bool
) -> dict[str, Any]:
    flags = {"refresh_wanted": refresh_wanted, "is_informed": is_informed}
    state = {"version": _VERSION, "settings": settings, **flags, **cursor._asdict()}
    # A tuple, because torch.distributed.checkpoint loads lists of tensors only into lists of as many.
    return {**state, "plans": tuple(_saved_plan(plan) for plan in cursor.plans)}


def _saved_plan(plan: Plan) -> dict[str, Any]:
    fields = plan._asdict()
    if plan.pairs is None:
        del fields["pairs"]
    return fields


def load_cursor(
    state: Any,
    settings: dict[str, Any],
    num_instances: int,
    plans_of: Callable[[int], tuple[Plan, ...]] | None = None,
) -> EpochCursor:
    """Returns the saved cursor. Raises ``ValueError`` if the state is incomplete or the sampler had other settings.

    plans_of: returns the plans of an epoch, if states do not keep them.
    """
    if not isinstance(state, dict) or _differ(state.get("version"), _VERSION) or state.keys() != _FIELDS:
        raise ValueError(f"state: expected a state of version {_VERSION}, got {shown(state)}")
    if not isinstance(state["settings"], dict):
        raise ValueError(f"state: expected the settings of a sampler, got {shown(state['settings'])}")
    for name, value in settings.items():
        found = state["settings"].get(name)
        if _differ(found, value):
            raise ValueError(f"state: expected {name} {value!r} as this sampler has, got {shown(found)}")
    plans = state["plans"]
    if not isinstance(plans, (list, tuple)):
        raise ValueError(f"state: expected a list of plans, got {shown(plans)}")
    for plan in plans:
        if not isinstance(plan, dict) or plan.keys() - {"pairs"} != _PLAN_FIELDS:
            raise ValueError(f"state: expected plans with first, indices, tail, got {shown(plan)}")
    cursor = EpochCursor(
        validate.epoch(state["epoch"]),
        tuple(Plan(**plan) for plan in plans),
        validate.integer(state["num_drawn"], "state: num_drawn", 0),
        validate.flag(state["is_finished"], "state: is_finished"),
    )
    for name in ("refresh_wanted", "is_informed"):
        validate.flag(state[name], f"state: {name}")
    if plans_of is not None and cursor.num_drawn > 0:
        cursor = cursor._replace(plans=plans_of(cursor.epoch))
    cursor = cursor._replace(plans=tuple(map(_on_host, cursor.plans)))
    _check_plans(cursor, num_instances)
    return cursor


def _differ(found: Any, expected: Any) -> bool:
    """Whether values differ. An array differs from any number."""
    return isinstance(found, (torch.Tensor, np.ndarray)) or bool(found != expected)


def _check_plans(cursor: EpochCursor, num_instances: int) -> None:
    low, high = 0, 0  # the first plan begins with the epoch, each next one at the end of the one before or earlier
    for plan in cursor.plans:
        first = validate.integer(plan.first, "state: first", low, high)
        pairs = plan.tail if plan.pairs is None else plan.pairs
        if plan.pairs is not None and pairs.shape[1] != 2:
            raise ValueError(f"state: expected pairs of shape [P, 2], got {list(pairs.shape)}")
        for ids in (plan.indices, plan.tail, pairs):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_instances:
                raise ValueError(f"state: expected instances in [0, {num_instances}), got others")
        if plan.indices.numel() + plan.tail.numel() == 0 or (len(plan.indices) and plan.indices.shape[1] == 0):
            raise ValueError("state: expected plans with instances, got one without")
        low, high = first + 1, plan.end
    if cursor.is_finished and not cursor.num_drawn:
        raise ValueError("state: expected drawn batches of a finished epoch, got num_drawn 0")
    if cursor.num_drawn > high:
        raise ValueError(f"state: expected num_drawn from 0 to {high}, got {cursor.num_drawn}")


def _on_host(plan: Plan) -> Plan:
    """Returns the plan with tensors on the CPU. ``torch.load(..., map_location="cuda")`` moves those of a state."""
    return plan._replace(
        indices=_checked_tensor(plan.indices, "indices", 2),
        tail=_checked_tensor(plan.tail, "tail", 1),
        pairs=None if plan.pairs is None else _checked_tensor(plan.pairs, "pairs", 2),
    )


def _checked_tensor(value: Any, name: str, num_dimensions: int) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"state: expected {name} int32 with {num_dimensions} dimensions, got {shown(value)}")
    value = dense(value, f"state: {name}")
    if value.dtype != torch.int32 or value.ndim != num_dimensions:
        found = f"{value.dtype} {list(value.shape)}"
        raise ValueError(f"state: expected {name} int32 with {num_dimensions} dimensions, got {found}")
    if value.nbytes > value.untyped_storage().nbytes():
        raise ValueError(f"state: expected {name} with memory for each element, got {list(value.shape)} with less")
    return value.cpu().as_subclass(torch.Tensor)  # others may not be copied
