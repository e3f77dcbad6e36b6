"""Where the CUDA engine cannot be built, an installation leaves it out and says why. Asking for it is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVCC, CMAKE = shutil.which("nvcc"), shutil.which("cmake")


@pytest.mark.nightly
@pytest.mark.skipif(NVCC is None or CMAKE is None, reason="needs nvcc and cmake")
@pytest.mark.parametrize(
    ("capabilities", "nvcc", "options", "message"),
    [
        ("7.5", None, [], "left out, as the engine needs GPUs of architecture 80 (compute capability 8.0) or later"),
        ("7.5\n9.0", None, [], "nvcc for 90-real"),
        ("99.0", None, [], "or later that nvcc knows, not 990"),
        ("9.0", "12.2", [], "left out, as the engine needs nvcc 12.3 or later"),
        ("9.0", "12.2", ["-DBSE_CUDA=ON"], "BSE_CUDA=ON, but the engine needs nvcc 12.3 or later"),
        (
            "7.5",
            None,
            ["-DBSE_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"],
            "BSE_CUDA=ON, but the engine needs GPUs of architecture 80",
        ),
    ],
)
def test_engine_is_left_out_where_it_cannot_be_built(tmp_path, capabilities, nvcc, options, message):
    """The programs that tell the version of nvcc and the GPUs are replaced."""
    pybind11 = pytest.importorskip("pybind11")
    programs = {"nvidia-smi": f"echo '{capabilities}'"}
    if nvcc is not None:
        programs["nvcc"] = f'[ "$1" != --version ] || exec echo release {nvcc}, V{nvcc}.1\nexec {NVCC} "$@"'
    for name, lines in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(
        [
            *(CMAKE, "-S", ROOT, "-B", tmp_path / "build", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
            *(f"-DPython_EXECUTABLE={sys.executable}", *options),
        ],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    said = " ".join((result.stdout + result.stderr).split())  # CMake breaks the lines of errors
    assert message in said
    assert (result.returncode == 0) == ("-DBSE_CUDA=ON" not in options), said
