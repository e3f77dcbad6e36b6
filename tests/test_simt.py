"""The emulator that executes CUDA kernels on the CPU: its selftest and the bugs it must find, without sanitizers.

`make simt` runs it under ASan and UBSan too, `make nightly` under ThreadSanitizer.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_selftest_and_planted_bugs():
    result = subprocess.run([ROOT / "tests/simt/run.sh", "plain"], capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "selftest passed" in result.stdout
    assert "planted bugs, plain: 0 lines are not as they must be" in result.stdout
