"""Files that comments and documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["batchsampler_ext", "benchmarks", "cmake", "csrc", "docs", "examples", "tests"]
ENDINGS = ["cmake", "cpp", "cu", "cuh", "h", "ini", "md", "py", "pyi", "sh", "tsv"]
NAME = re.compile(rf"(?<![\w./*-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:{'|'.join(ENDINGS)})\b")


def written_files() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.suffix == ".md" or path.name in ("CMakeLists.txt", "Makefile")]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix[1:] in ENDINGS]
    return found


def test_named_files_exist():
    absent = {
        f"{path.relative_to(ROOT)} names {name}"
        for path in written_files()
        for name in NAME.findall(path.read_text(encoding="utf-8"))
        if "NAME" not in name and not ((ROOT / name).exists() or (path.parent / name).exists())
    }
    assert not absent, "\n".join(sorted(absent))
