"""Fails on an include or an import against the order of layers in docs/architecture.md.

python tests/tools/check_layers.py

A folder of csrc uses only folders to its left: common, types, runtime, then the rest. Folders of one rank do not use
each other. The two engines do not use each other, and only csrc/python uses both. The modules and folders of the Python
package have an order, too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# By layer; layers of one rank are side by side.
RANKS = [
    ["common"],
    ["types"],
    ["runtime"],
    ["primitives", "simd", "bank"],
    ["candidates", "graph"],
    ["topk", "matrix_topk", "fused_topk", "streaming_topk"],
    ["search"],
    ["walk"],
    ["partition"],
]
RANK = {layer: rank for rank, layers in enumerate(RANKS) for layer in layers}
# Of batchsampler_ext: a module or folder uses those above it, and files of its own folder.
PYTHON_RANKS = [
    ["_engine", "reference", "dataset"],
    ["graph", "_bank", "_shards"],
    ["_graph_view", "graph_builders", "metrics", "bank"],
    ["walk"],
    ["planners"],
    ["_negatives"],
    ["batches", "_sampler", "_plan"],
    ["sampler", "plan"],
    ["compose", "planned_sampler"],
    ["cli", "integrations"],
]
PYTHON_RANK = {name: rank for rank, names in enumerate(PYTHON_RANKS) for name in names}
COMPILED = {"_core", "_cuda"}  # used by _engine alone
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


def imported_modules(tree: ast.Module, folder: str) -> Iterator[str]:
    """Names directly under batchsampler_ext that relative imports of a file use. folder: its folder there, or empty."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        is_inside = node.level == 1 and folder != ""
        if is_inside:
            yield folder
        elif node.module:
            yield node.module.split(".")[0]
        else:
            yield from (alias.name for alias in node.names if alias.name != "__version__")


def imports_against_the_order() -> list[str]:
    package = ROOT / "batchsampler_ext"
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        user = parts[0].removesuffix(".py")
        if user in ("__init__", "__main__"):
            continue
        folder = parts[0] if len(parts) > 1 else ""
        for used in imported_modules(ast.parse(path.read_text()), folder):
            if used in COMPILED:
                is_right = user == "_engine"
            elif user not in PYTHON_RANK or used not in PYTHON_RANK:
                found.append(f"batchsampler_ext/{'/'.join(parts)}: {user} or {used} has no place in PYTHON_RANKS")
                continue
            else:
                is_right = used == user or PYTHON_RANK[used] < PYTHON_RANK[user]
            if not is_right:
                found.append(f"batchsampler_ext/{'/'.join(parts)} uses {used}")
    return found


def crowded_folders() -> list[str]:
    folders = [folder for folder in (ROOT / "csrc").rglob("*") if folder.is_dir()]
    counts = {folder: sum(path.is_file() for path in folder.iterdir()) for folder in folders}
    return [f"{folder.relative_to(ROOT)}: {count} files" for folder, count in counts.items() if count > MAX_FILES]


def main() -> int:
    found = [*includes_against_the_order(), *imports_against_the_order(), *crowded_folders()]
    print("\n".join([*found, f"layers: {len(found)} against the order"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
