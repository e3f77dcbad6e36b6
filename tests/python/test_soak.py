"""A minute of training does not make memory, open files or threads grow. tests/tools/soak.py runs longer by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.nightly
def test_memory_does_not_grow():
    command = [sys.executable, "-m", "tests.tools.soak", "--minutes", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no growth" in result.stdout
