"""Warns at the user's line, not at one of this package or of a framework that has called it."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

_PACKAGES = {
    "accelerate", "batchsampler_ext", "lightning", "lightning_fabric", "pytorch_lightning", "pytorch_metric_learning",
    "sentence_transformers", "torch", "torch_geometric", "torchdata", "transformers",
}  # fmt: skip


def warn(message: str) -> None:
    """Issues a ``UserWarning``. Its place is the innermost call in progress outside of these packages."""
    level = 2
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and package_of(frame) in _PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def package_of(frame: FrameType) -> str:
    """Returns the name of the package whose code a call runs."""
    return str(frame.f_globals.get("__name__", "")).split(".")[0]
