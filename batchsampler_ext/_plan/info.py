"""What ``Plan.info`` holds where the package reads it. A file may hold anything, and its checksum is no signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._engine import validate
from .._negatives.negatives import MarginRule
from ..graph_builders import METRICS


def checked_info(info: Any) -> dict[str, Any]:
    """Returns the info of a file. Raises ``TypeError`` or ``ValueError`` for a value that is not of :func:`compose`."""
    if not isinstance(info, dict):
        raise TypeError(f"info: expected a dict, got {type(info).__name__}")
    for name, check in _CHECKS.items():
        if info.get(name) is not None or (name in info and name in _NEVER_NONE):
            check(info[name], name)
    if info.get("neighbor_search") is not None:
        _text(info.get("neighbors"), "neighbors")
    return info


def _integer_from(low: int) -> Callable[[Any, str], object]:
    return lambda value, name: validate.integer(value, name, low, 2**63 - 1)


def _integers(value: Any, name: str) -> None:
    for number in _list(value, name):
        validate.integer(number, name, 0, 2**63 - 1)


def _window(value: Any, name: str) -> None:
    _integers(value, name)
    if len(value) != 2:
        raise ValueError(f"{name}: expected two integers, got {len(value)}")


def _sources(value: Any, name: str) -> None:
    for pair in _list(value, name):
        _window(pair, name)
    if not value:
        raise ValueError(f"{name}: expected at least one, got none")


def _text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {type(value).__name__}")


def _search(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"{name}: expected a dict, got {type(value).__name__}")
    validate.integer(value.get("num_rows"), name, 0)
    validate.number(value.get("recall"), name, "a share")
    for found in _list(value.get("sources"), name):
        validate.integer(found.get("num_sampled") if isinstance(found, dict) else None, name, 0)
    _text(value.get("version"), name)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name}: expected a list, got {type(value).__name__}")
    return value


_NEVER_NONE = {"seed", "metric", "max_per_batch", "sources_per_batch", "neighbors"}
_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "seed": lambda value, _: validate.seed(value),
    "metric": lambda value, name: validate.choice(value, name, METRICS),
    "max_per_batch": _integer_from(1),
    "sources_per_batch": _integer_from(1),
    "num_candidates": _integer_from(1),
    "num_neighbors": _integer_from(1),
    "community_size": _integers,
    "rank_window": _window,
    "margin": lambda value, _: MarginRule.check(value, None, has_documents=True),
    "relative_margin": lambda value, _: MarginRule.check(None, value, has_documents=True),
    "sources": _sources,
    "neighbors": _text,
    "neighbor_search": _search,
    "queries": _text,
    "documents": _text,
}
