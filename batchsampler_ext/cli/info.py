"""``info``: prints versions, threads, instruction set and CUDA engine of this installation, as issues need them."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import numpy as np
import torch

from .. import __version__
from .._engine.backend import core, cuda_load_error, cuda_module


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("info", help="print versions, threads, instruction set and CUDA engine")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    lines = {
        "batchsampler_ext": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "instruction set": core.isa(),
        "supported": ", ".join(core.supported_isas()),
        "CUDA engine": cuda_engine(),
        "CUDA device": cuda_device(),
    }
    for name, value in lines.items():
        print(f"{name:<18}{value}")


def cuda_engine() -> str:
    """Returns the architectures that the CUDA engine was built for, or why there is no engine.

    "90-real" is machine code. "90-virtual" is PTX, which newer GPUs compile when the module is loaded. "90" is both.
    """
    if cuda_module is None:
        return f"none: {cuda_load_error}"
    return str(cuda_module.architectures)


def cuda_device() -> str:
    """Returns name and compute capability of the current GPU."""
    if not torch.cuda.is_available():
        return "torch finds none"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
