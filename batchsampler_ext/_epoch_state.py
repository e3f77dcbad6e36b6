"""Where a sampler is in an epoch, and how that is saved and checked when it comes back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from . import _validate

_VERSION = 3
_FIELDS = {"version", "settings", "epoch", "num_drawn", "is_finished", "refresh_wanted", "windows", "ahead"}


class Window(NamedTuple):
    """The batches between two refreshes. Never changed once made: states refer to it."""

    first: int  # number of batches of the epoch before it
    drawn: torch.Tensor  # bool [num_instances], drawn in this epoch before it
    indices: torch.Tensor  # int32 [num_full, B], instance ids
    tail: torch.Tensor  # int32 [T]

    @property
    def num_batches(self) -> int:
        return len(self.indices) + (len(self.tail) > 0)

    @property
    def end(self) -> int:
        """Number of batches of the epoch up to its last."""
        return self.first + self.num_batches

    def batch(self, i: int) -> torch.Tensor:
        return self.indices[i] if i < len(self.indices) else self.tail


class Position(NamedTuple):
    """After ``num_drawn`` batches of an epoch."""

    epoch: int
    windows: tuple[Window, ...]  # in order: one before the current one, the current one, those already made after it
    num_drawn: int
    is_finished: bool
    ahead: Window | None = None  # made already, to follow the last of them; nothing of it is drawn

    def rewound(self, num_trained: int) -> Position:
        """As it was after num_trained batches; what was drawn since then is drawn again, from the same windows."""
        oldest = self.windows[0].first
        num_trained = _validate.integer(
            num_trained, "num_trained", oldest, self.num_drawn, because=" (drawn, and their windows are still kept)"
        )
        first = max(i for i, window in enumerate(self.windows) if window.first <= num_trained)
        is_finished = self.is_finished and num_trained == self.num_drawn
        return self._replace(windows=self.windows[first:], num_drawn=num_trained, is_finished=is_finished)


def save_position(position: Position, settings: dict[str, Any], refresh_wanted: bool) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "settings": settings,
        "epoch": position.epoch,
        "num_drawn": position.num_drawn,
        "is_finished": position.is_finished,
        "refresh_wanted": refresh_wanted,
        "windows": [window._asdict() for window in position.windows],
        "ahead": None if position.ahead is None else position.ahead._asdict(),
    }


def load_position(state: Any, settings: dict[str, Any], num_instances: int, num_samples: int) -> Position:
    """Raises ``ValueError`` unless the state is whole and was saved by a sampler with these settings."""
    if not isinstance(state, dict) or state.get("version") != _VERSION or state.keys() != _FIELDS:
        raise ValueError(f"state: expected a state of version {_VERSION}, got {state!r:.100}")
    _check_settings(state["settings"], settings)
    windows, ahead = state["windows"], state["ahead"]
    if not isinstance(windows, (list, tuple)):
        raise ValueError(f"state: expected a list of windows, got {windows!r:.100}")
    for window in [*windows, *_listed(ahead)]:
        if not isinstance(window, dict) or window.keys() != set(Window._fields):
            raise ValueError(f"state: expected windows with {', '.join(Window._fields)}, got {window!r:.100}")
    position = Position(
        _validate.epoch(state["epoch"]),
        tuple(Window(**window) for window in windows),
        _validate.integer(state["num_drawn"], "state: num_drawn", 0),
        _validate.flag(state["is_finished"], "state: is_finished"),
        None if ahead is None else Window(**ahead),
    )
    _validate.flag(state["refresh_wanted"], "state: refresh_wanted")
    _check_windows(position, settings["batch_size"], num_instances, num_samples)
    return position


def _check_settings(found: Any, expected: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"state: expected the settings of a sampler, got {found!r:.100}")
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(f"state: expected {name} {value!r} as this sampler has, got {found.get(name)!r}")


def _check_windows(position: Position, batch_size: int, num_instances: int, num_samples: int) -> None:
    low, high = 0, None  # the first window is anywhere, the next one where the one before it ends or was ended
    for window in [*position.windows, *_listed(position.ahead)]:
        first = _validate.integer(window.first, "state: first", low, high)
        _check_tensor(window.drawn, "drawn", torch.bool, [num_instances])
        _check_tensor(window.indices, "indices", torch.int32, [None, batch_size])
        _check_tensor(window.tail, "tail", torch.int32, [None])
        for ids in (window.indices, window.tail):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_samples:
                raise ValueError(f"state: expected instances in [0, {num_samples}), got others")
        low, high = first + 1, first + window.num_batches
    first, end = (position.windows[0].first, position.windows[-1].end) if position.windows else (0, 0)
    if not first <= position.num_drawn <= end:
        raise ValueError(f"state: expected num_drawn from {first} to {end}, got {position.num_drawn}")
    if position.ahead is not None and position.ahead.first != end:
        raise ValueError(f"state: expected the window ahead to begin at {end}, got {position.ahead.first}")


def _listed(ahead: Any) -> list[Any]:
    return [] if ahead is None else [ahead]


def _check_tensor(value: Any, name: str, dtype: torch.dtype, shape: list[int | None]) -> None:
    if not isinstance(value, torch.Tensor) or value.dtype != dtype or value.ndim != len(shape):
        raise ValueError(f"state: expected {name} {dtype} with {len(shape)} dimensions, got {value!r:.100}")
    if any(size is not None and size != found for size, found in zip(shape, value.shape, strict=True)):
        raise ValueError(f"state: expected {name} of shape {shape}, got {list(value.shape)}")
