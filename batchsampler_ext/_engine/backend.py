"""Finds the compiled engines once, and words the reason when one cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from .cuda import CudaEngine
from .validate import shown

try:
    from .. import _core
    from .protocol import CpuEngine, Engine
except ImportError as error:
    is_source = Path(__file__).parents[2].joinpath("pyproject.toml").exists()
    remedy = (
        "Python has found the source code, which is not compiled. Change to a folder outside of it"
        if is_source
        else "Reinstall the package with a C++17 compiler at hand: pip install --force-reinstall ."
    )
    raise ImportError(
        f"batchsampler_ext._core, the compiled CPU engine, could not be loaded ({error}). {remedy}"
    ) from error

__all__ = ["as_device", "core", "cuda_load_error", "cuda_module", "engine", "queued_engine", "require_engine"]

core = _core
_cpu_engine = CpuEngine()
_engines: dict[str, Callable[[torch.device], Engine]] = {"cpu": lambda device: _cpu_engine}  # by the type of a device
cuda_module: Any = None
cuda_load_error: str | None = None

try:
    from .. import _cuda
except ImportError as error:
    is_absent = "cannot import name" in str(error)
    cuda_load_error = "this build has a CPU engine only" if is_absent else f"the CUDA engine does not load: {error}"
else:
    cuda_module = _cuda
    _engines["cuda"] = lambda device: CudaEngine(_cuda, device)


def engine(device: torch.device) -> Engine:
    """Returns the engine that computes on ``device``. Its arrays must be there."""
    return _engines[device.type](device)


def queued_engine(device: torch.device) -> CudaEngine:
    """Returns the engine of a device whose engine is queued. Such engines also update banks."""
    return cast(CudaEngine, engine(device))


def as_device(value: Any) -> torch.device:
    """Returns the argument ``device`` as torch has it."""
    try:
        return torch.device(value)
    except Exception as error:  # of many types
        kind = ValueError if isinstance(value, (str, int)) else TypeError
        raise kind(f"device: expected a device of torch, got {shown(value, 200)} ({error!s:.100})") from None


def require_engine(device: torch.device, name: str) -> None:
    """Raises ``ValueError`` for a device that this build has no engine for."""
    if device.type in _engines:
        return
    known = " or ".join(repr(kind) for kind in _engines)
    reason = f" ({cuda_load_error})" if device.type == "cuda" else ""
    raise ValueError(f"{name}: expected a device of type {known}{reason}, got {str(device)!r}")
