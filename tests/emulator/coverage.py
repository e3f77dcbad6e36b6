"""Line coverage of csrc/cuda in the emulator: coverage.py FOLDER, where FOLDER has a build's .gcda files.

A kernel is compiled into several programs, and a template several times. A line counts as executed if one of them has
executed it. Prints one line per file, with the lines that were never executed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def executed_lines(folder: Path) -> dict[str, dict[int, bool]]:
    """Returns whether each line with code was executed, by file of csrc/cuda and line number."""
    files: dict[str, dict[int, bool]] = defaultdict(dict)
    for data in sorted(folder.rglob("*.gcda")):
        output = subprocess.run(
            ["gcov", "--json-format", "--stdout", data], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for report in map(json.loads, output.splitlines()):
            for file in report["files"]:
                path = (ROOT / file["file"]).resolve()
                if path.is_relative_to(ROOT / "csrc/cuda"):
                    lines = files[path.name]
                    for line in file["lines"]:
                        number = line["line_number"]
                        lines[number] = lines.get(number, False) or line["count"] > 0
    return files


def ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number <= parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def main() -> int:
    files = executed_lines(Path(sys.argv[1]))
    if not files:
        print(f"{sys.argv[1]}: nothing executed")
        return 1
    for name, lines in sorted(files.items()):
        missed = sorted(number for number, is_executed in lines.items() if not is_executed)
        share = 100 * (1 - len(missed) / len(lines))
        print(f"{name:32} {share:5.1f} % of {len(lines):4} lines{'; not ' + ranges(missed) if missed else ''}")
    total = [is_executed for lines in files.values() for is_executed in lines.values()]
    print(f"{'csrc/cuda':32} {100 * sum(total) / len(total):5.1f} % of {len(total):4} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
