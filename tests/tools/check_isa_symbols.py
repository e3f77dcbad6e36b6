"""Fails if an object file of one instruction set defines a weak symbol, which the linker may then use anywhere.

python tests/tools/check_isa_symbols.py BUILD_DIR
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BASELINE = ("scalar", "dispatch")  # compiled for every CPU


def weak_symbols(object_file: Path) -> list[str]:
    lines = subprocess.run(
        ["nm", "--defined-only", "--demangle", str(object_file)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if len(line) > 17 and line[17] in "WVuw"]


def main(build_dir: str) -> int:
    objects = [path for path in Path(build_dir).rglob("simd/*.o") if not path.name.startswith(BASELINE)]
    if not objects:
        sys.exit(f"no instruction-set objects under {build_dir}")
    found = {path.name: symbols for path in objects if (symbols := weak_symbols(path))}
    for name, symbols in found.items():
        print(f"{name}: weak symbols\n  " + "\n  ".join(symbols))
    print(f"checked {len(objects)} object(s) for weak symbols: {'FAILED' if found else 'none'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
