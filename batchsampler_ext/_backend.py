"""Finds the compiled engine once, and words the reason when it cannot be used."""

from __future__ import annotations

import torch

try:
    from . import _core
except ImportError as error:
    raise ImportError(
        "batchsampler_ext._core, the compiled CPU engine, could not be loaded "
        f"({error}). Reinstall the package with a C++17 compiler at hand: pip install --force-reinstall ."
    ) from error

__all__ = ["core", "require_cpu"]

core = _core


def require_cpu(device: torch.device, name: str) -> None:
    """Raises ``ValueError`` for a device that this build has no engine for."""
    if device.type != "cpu":
        raise ValueError(
            f"{name}: expected a CPU tensor (this build has a CPU engine only), got device {str(device)!r}"
        )
