"""SIGKILL at any time leaves files that open: with the old content, the new one, or all rows but one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_processes.py")


def killed(task: str, folder: Path, count: int) -> dict[str, int]:
    command = [sys.executable, str(SCRIPT), task, str(folder), str(count), "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("task", "count"),
    [
        ("update", 10),
        *(pytest.param(task, 40, marks=pytest.mark.nightly) for task in ("save", "refresh", "compose", "export")),
        pytest.param("update", 150, marks=pytest.mark.nightly),
    ],
)
def test_files_open_after_kills(task, count, tmp_path):
    found = killed(task, tmp_path, count)
    assert found["old or new"] + found.get("repaired", 0) == count
    assert found["left"] == 0
