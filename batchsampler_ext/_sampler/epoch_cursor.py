"""The position of a sampler in an epoch. It is saved in states, and checked when they are loaded."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .._engine import validate

_VERSION = 5
_FIELDS = {"version", "settings", "epoch", "num_drawn", "is_finished", "refresh_wanted", "plans"}


class Plan(NamedTuple):
    """Batches from one graph. A plan is never changed, because states refer to it."""

    first: int  # number of batches of the epoch before the plan
    drawn: torch.Tensor  # bool [num_listed], the instances drawn in this epoch before the plan
    indices: torch.Tensor  # int32 [num_full, B], instance ids
    tail: torch.Tensor  # int32 [T]

    @property
    def num_batches(self) -> int:
        return len(self.indices) + (len(self.tail) > 0)

    @property
    def end(self) -> int:
        """Number of batches of the epoch up to the last one of the plan."""
        return self.first + self.num_batches

    def batch(self, i: int) -> torch.Tensor:
        return self.indices[i] if i < len(self.indices) else self.tail


class EpochCursor(NamedTuple):
    """The position after ``num_drawn`` batches of an epoch.

    plans: in order, the plan before the current one, the current one, and the one after it if the cursor was rewound
    to before that. Each plan is used until the next one begins.
    """

    epoch: int
    plans: tuple[Plan, ...]
    num_drawn: int = 0
    is_finished: bool = False

    def plan(self) -> Plan | None:
        """Returns the plan that has the next batch, or None if it has to be made."""
        plan = next(plan for plan in reversed(self.plans) if plan.first <= self.num_drawn)
        return plan if self.num_drawn < plan.end else None

    def with_plan(self, plan: Plan) -> EpochCursor:
        """Returns the cursor with a new plan. The latest plan is kept, so that the cursor can be rewound to it."""
        return self._replace(plans=(self.plans[-1], plan))

    def rewound(self, num_trained: int) -> EpochCursor:
        """Returns the cursor after num_trained batches. Later batches are drawn again, from the same plans."""
        num_trained = validate.integer(
            num_trained, "num_trained", self.plans[0].first, self.num_drawn, because=" (drawn, and still kept)"
        )
        first = max(i for i, plan in enumerate(self.plans) if plan.first <= num_trained)
        is_finished = self.is_finished and num_trained == self.num_drawn
        return self._replace(plans=self.plans[first:], num_drawn=num_trained, is_finished=is_finished)


def save_cursor(cursor: EpochCursor, settings: dict[str, Any], refresh_wanted: bool) -> dict[str, Any]:
    state = {"version": _VERSION, "settings": settings, "refresh_wanted": refresh_wanted, **cursor._asdict()}
    return {**state, "plans": [plan._asdict() for plan in cursor.plans]}


def load_cursor(state: Any, settings: dict[str, Any], num_listed: int, num_instances: int) -> EpochCursor:
    """Returns the saved cursor. Raises ``ValueError`` if the state is incomplete or the sampler had other settings."""
    if not isinstance(state, dict) or state.get("version") != _VERSION or state.keys() != _FIELDS:
        raise ValueError(f"state: expected a state of version {_VERSION}, got {state!r:.100}")
    if not isinstance(state["settings"], dict):
        raise ValueError(f"state: expected the settings of a sampler, got {state['settings']!r:.100}")
    for name, value in settings.items():
        found = state["settings"].get(name)
        if found != value:
            raise ValueError(f"state: expected {name} {value!r} as this sampler has, got {found!r}")
    plans = state["plans"]
    if not isinstance(plans, (list, tuple)):
        raise ValueError(f"state: expected a list of plans, got {plans!r:.100}")
    for plan in plans:
        if not isinstance(plan, dict) or plan.keys() != set(Plan._fields):
            raise ValueError(f"state: expected plans with {', '.join(Plan._fields)}, got {plan!r:.100}")
    cursor = EpochCursor(
        validate.epoch(state["epoch"]),
        tuple(Plan(**plan) for plan in plans),
        validate.integer(state["num_drawn"], "state: num_drawn", 0),
        validate.flag(state["is_finished"], "state: is_finished"),
    )
    validate.flag(state["refresh_wanted"], "state: refresh_wanted")
    _check_plans(cursor, num_listed, num_instances)
    return cursor


def _check_plans(cursor: EpochCursor, num_listed: int, num_instances: int) -> None:
    low, high = 0, None  # the first plan begins anywhere, each next one at the end of the one before or earlier
    for plan in cursor.plans:
        first = validate.integer(plan.first, "state: first", low, high)
        _check_tensor(plan.drawn, "drawn", torch.bool, [num_listed])
        _check_tensor(plan.indices, "indices", torch.int32, [None, None])
        _check_tensor(plan.tail, "tail", torch.int32, [None])
        for ids in (plan.indices, plan.tail):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_instances:
                raise ValueError(f"state: expected instances in [0, {num_instances}), got others")
        low, high = first + 1, plan.end
    first, end = (cursor.plans[0].first, cursor.plans[-1].end) if cursor.plans else (0, 0)
    if not first <= cursor.num_drawn <= end:
        raise ValueError(f"state: expected num_drawn from {first} to {end}, got {cursor.num_drawn}")


def _check_tensor(value: Any, name: str, dtype: torch.dtype, shape: list[int | None]) -> None:
    if not isinstance(value, torch.Tensor) or value.dtype != dtype or value.ndim != len(shape):
        raise ValueError(f"state: expected {name} {dtype} with {len(shape)} dimensions, got {value!r:.100}")
    if any(size is not None and size != found for size, found in zip(shape, value.shape, strict=True)):
        raise ValueError(f"state: expected {name} of shape {shape}, got {list(value.shape)}")
