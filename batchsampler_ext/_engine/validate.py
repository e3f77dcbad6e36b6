"""Checks of scalar arguments: every error names the argument, what was expected and what was given."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

MAX_NODES = 2**31 - 1  # ids are int32
NO_MEMORY_LIMIT = 2**62

Progress = Callable[[int, int], object]  # called as progress(num_done, total)


def integer(value: Any, name: str, low: int, high: int | None = None, *, because: str = "") -> int:
    """Returns ``value`` as an int in [low, high]. because: text for the error message, the reason of a bound."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):  # arrays and tensors have the method, and raise these for other than one integer
        number = None
    if number is None:
        raise TypeError(f"{name}: expected an integer, got {shown(value, 200)} of type {type(value).__name__}")
    if number < low or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected an integer {bounds}{because}, got {number}")
    return number


def shown(value: Any, most: int = 100) -> str:
    """Returns the beginning of ``repr(value)``, or the type of a value that has none.

    Tensors of many elements are described: their repr may take more memory than they do, where elements are repeated.
    """
    try:
        if isinstance(value, torch.Tensor) and value.numel() > most:
            return f"a tensor of {value.dtype} {list(value.shape)}"
        return f"{value!r:.{most}}"
    except Exception:
        return type(value).__name__


def choice(value: Any, name: str, options: Sequence[Any]) -> Any:
    if not any(isinstance(value, type(option)) and value == option for option in options):  # an array is none of them
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {shown(value)}")
    return value


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {shown(value)} of type {type(value).__name__}")
    return value


def seed(value: Any) -> int:
    return integer(value, "seed", 0, 2**64 - 1)


def epoch(value: Any) -> int:
    return integer(value, "epoch", 0, 2**24 - 1)


def number(value: Any, name: str, expected: str) -> float:
    """Returns a real number as a float. expected: text for the error message."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {expected}, got {shown(value, 200)}")
    try:
        return float(value)
    except OverflowError:  # of integers
        raise ValueError(f"{name}: expected {expected}, got {value!r:.50}") from None


def share(value: Any, name: str) -> float:
    """Returns ``value`` as a float in [0, 1)."""
    found = number(value, name, "a float in [0, 1)")
    if not 0 <= found < 1:  # also NaN
        raise ValueError(f"{name}: expected a float in [0, 1), got {value!r}")
    return found


def restart_threshold(restart_prob: Any) -> int:
    """Returns floor(alpha * 2**32). A step restarts if its 32-bit word is below this."""
    return int(share(restart_prob, "restart_prob") * 2**32)


def num_threads(value: Any) -> int:
    """Returns the number of threads; torch's setting for None."""
    return torch.get_num_threads() if value is None else integer(value, "num_threads", 1, 4096)


def max_memory(value: Any) -> int:
    return NO_MEMORY_LIMIT if value is None else min(integer(value, "max_memory", 1), NO_MEMORY_LIMIT)


def max_score(value: Any) -> float | None:
    if value is None:
        return None
    limit = number(value, "max_score", "a float or None")
    if math.isnan(limit):
        raise ValueError("max_score: expected a number, got nan")
    return limit


def has_no_length(value: Any) -> bool:
    """Whether a value is a nested tensor of the older layout. The jagged one has a length."""
    return isinstance(value, torch.Tensor) and value.is_nested and value.layout == torch.strided


def iterable(value: Any, name: str, expected: str) -> Any:
    """Returns ``value``, which is not iterated here: its own errors must not be taken for a wrong type.

    A class is refused, and a memoryview, which can only be iterated with one dimension. expected: text for the error
    message.
    """
    is_iterable = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    has_parts = getattr(value, "ndim", 1) != 0 and not has_no_length(value)
    if not is_iterable or not has_parts or isinstance(value, (memoryview, type)):
        raise TypeError(f"{name}: expected {expected}, got {shown(value)} of type {type(value).__name__}")
    if isinstance(value, range) and value[2**63 - 1 :]:  # it has no len()
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return value


class ProgressBar(Protocol):
    """A bar with the interface of ``tqdm``."""

    n: Any
    total: Any

    def reset(self, total: Any = ...) -> Any: ...
    def update(self, n: Any = ...) -> Any: ...


def progress(value: Any) -> Progress | None:
    """Returns a function (done, total), which moves the bar if one is given."""
    if value is None or callable(value):
        return value
    if not all(hasattr(value, name) for name in ("n", "total", "reset", "update")):
        raise TypeError(
            f"progress: expected a callable (done, total), a bar such as tqdm() or None, got {shown(value)}"
        )

    def show(done: int, total: int) -> None:
        known = total if total >= 0 else None
        if value.total != known or done < value.n:  # another task begins
            value.reset(total=known)
            value.total = known  # reset leaves it for None
        value.update(done - value.n)

    return show
