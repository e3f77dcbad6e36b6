"""Fails on an include or an import against the order of layers in docs/architecture.md.

python tests/tools/check_layers.py

A folder of csrc uses only folders to its left: common, types, runtime, then the rest. Folders of one rank do not use
each other. The two engines do not use each other, and only csrc/python uses both.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# By layer; layers of one rank are side by side.
RANKS = [
    ["common"],
    ["types"],
    ["runtime"],
    ["primitives", "simd", "bank"],
    ["candidates"],
    ["topk", "matrix_topk", "fused_topk", "streaming_topk"],
    ["search"],
    ["walk"],
    ["partition"],
]
RANK = {layer: rank for rank, layers in enumerate(RANKS) for layer in layers}
MAX_FILES = 25  # of a folder of csrc


def layer_of(path: str) -> tuple[str, str]:
    """(engine, layer) of a path under csrc."""
    parts = path.split("/")
    return ("", "common") if parts[0] == "common" else (parts[0], parts[1])


def is_allowed(user: str, used: str) -> bool:
    engine, layer = layer_of(user)
    used_engine, used_layer = layer_of(used)
    if engine == "python":
        return True
    if used_engine not in ("", engine):
        return False
    return (engine, layer) == (used_engine, used_layer) or RANK[used_layer] < RANK[layer]


def includes_against_the_order() -> list[str]:
    csrc = ROOT / "csrc"
    found = []
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in (".h", ".cuh", ".cpp", ".cu"):
            continue
        user = path.relative_to(csrc).as_posix()
        for used in re.findall(r'#include "([^"]+)"', path.read_text()):
            if used.startswith("emulator/"):
                continue  # of tests, by device.h and ptx.h alone
            if not (csrc / used).exists():
                found.append(f"{user}: {used} is not a path from csrc")
            elif not is_allowed(user, used):
                found.append(f"{user} uses {used}")
    return found


def crowded_folders() -> list[str]:
    folders = [folder for folder in (ROOT / "csrc").rglob("*") if folder.is_dir()]
    counts = {folder: sum(path.is_file() for path in folder.iterdir()) for folder in folders}
    return [f"{folder.relative_to(ROOT)}: {count} files" for folder, count in counts.items() if count > MAX_FILES]


def main() -> int:
    found = [*includes_against_the_order(), *crowded_folders()]
    print("\n".join([*found, f"layers: {len(found)} against the order"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
