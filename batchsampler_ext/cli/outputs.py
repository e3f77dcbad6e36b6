"""Checks the paths of outputs before the work, and writes numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .._engine.files import atomic_write, check_output
from .inputs import require_no_input

__all__ = ["check_outputs", "write_json"]


def check_outputs(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Raises ``ValueError`` for a path that cannot be written, or that is an input or another output.

    outputs, inputs: option -> path, or None if it was not given.
    """
    others = dict(inputs)
    for name, path in outputs.items():
        if path is not None:
            check_output(path, name)
            require_no_input(path, name, others)
            others[name] = path


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes numbers and texts. nan and infinity, which JSON does not have, become null."""
    with atomic_write(path) as file:
        file.write((json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
