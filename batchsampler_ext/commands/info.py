"""``info``: what this installation can do."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .. import __version__
from .._backend import core


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
        "CUDA engine": "not in this build",
    }
    for name, value in lines.items():
        print(f"{name:<18}{value}")
