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
    level, frame = 2, _caller(sys._getframe(0))
    while frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in _PACKAGES:
        level, frame = level + 1, _caller(frame)
    warnings.warn(message, stacklevel=level)


def _caller(frame: FrameType) -> FrameType | None:
    return frame.f_back
