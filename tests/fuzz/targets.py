"""What is fuzzed: the package obeys an input, or refuses it by a documented error that names the argument."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from .checks import MAX_INPUT, limited_memory
from .files import bank_files, checked_file, graph_file, input_file, plan_file
from .objects import arguments, arrays, sampler_state

TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    target.__name__: target
    for target in (graph_file, plan_file, bank_files, checked_file, input_file, sampler_state, arrays, arguments)
}


def run_input(name: str, data: bytes, folder: Path) -> None:
    """Runs one input in an empty folder. Raises ``AssertionError``, or the error that the package should not raise."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with limited_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TARGETS[name](data[:MAX_INPUT], folder)
