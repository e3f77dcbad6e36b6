"""CUDA kernels on the CPU: the emulator's selftest, the bugs it must find, and kernels against the CPU engine.

This test has no sanitizers. `make emulator` adds ASan and UBSan, and `make nightly` ThreadSanitizer.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_emulator_passes_and_kernels_equal_the_cpu():
    result = subprocess.run([ROOT / "tests/emulator/run.sh", "plain"], capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "selftest passed" in result.stdout
    assert "steps: equal to the CPU engine" in result.stdout
    assert "mutual edges: " in result.stdout
    assert "planted bugs, plain: 0 lines are not as they must be" in result.stdout
