"""``info``: what this installation can do."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .. import __version__
from .._backend import core, cuda_load_error, cuda_module
from .._cuda_binary import architectures


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("info", help="what this installation can do")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    lines = {
        "batchsampler_ext": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instruction set": core.isa(),
        "supported": ", ".join(core.supported_isas()),
        "CUDA engine": cuda_engine(),
        "CUDA device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch finds",
    }
    for name, value in lines.items():
        print(f"{name:<18}{value}")


def cuda_engine() -> str:
    """The architectures that the built module holds code for, or why there is none."""
    if cuda_module is None:
        return f"none: {cuda_load_error}"
    return ", ".join(architectures(cuda_module.__file__))
