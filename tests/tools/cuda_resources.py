"""Prints registers, spills and shared memory of every kernel, from the report of ptxas in the log of a build.

    python tests/tools/cuda_resources.py BUILD.log [--update]

Fails if a kernel spills more than in cuda_resources.tsv, or has a larger stack frame, on one of the architectures. If
the compiler is not that of the table, results are not compared.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("cuda_resources.tsv")


class Resources(NamedTuple):
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int


Report = dict[tuple[str, str], Resources]  # by kernel and architecture


def read_log(path: Path) -> Report:
    report: Report = {}
    kernel = architecture = ""
    stack_bytes = spill_bytes = 0
    for line in path.read_text(errors="replace").splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            kernel, architecture = found.groups()
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, stores, loads = map(int, found.groups())
            stack_bytes, spill_bytes = stack, stores + loads
        elif kernel and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            report[kernel, architecture] = Resources(
                int(found[1]), int(shared[1]) if shared else 0, stack_bytes, spill_bytes
            )
            kernel = ""
    names = demangled({kernel for kernel, _ in report})
    return {(names[kernel], architecture): resources for (kernel, architecture), resources in report.items()}


def demangled(symbols: set[str]) -> dict[str, str]:
    """Returns names without namespaces and parameters, by symbol."""
    ordered = sorted(symbols)
    names = subprocess.run(["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True).stdout
    short = [re.sub(r"^void |bse::cuda::|\((?!\w*\)\d).*$", "", name) for name in names.splitlines()]
    return dict(zip(ordered, short, strict=True))


def compiler() -> str:
    output = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", output)
    assert found is not None, output
    return found[1]


def read_table() -> tuple[str, Report]:
    first, _, *lines = TABLE.read_text().splitlines()
    rows = (line.split("\t") for line in lines)
    return first.split()[-1], {(row[0], row[1]): Resources(*map(int, row[2:])) for row in rows}


def write_table(report: Report) -> None:
    lines = [f"# nvcc {compiler()}", "\t".join(("kernel", "architecture", *Resources._fields))]
    lines += ["\t".join((*key, *map(str, resources))) for key, resources in sorted(report.items())]
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--update", action="store_true", help="make the table anew")
    options = parser.parse_args()
    report = read_log(options.log)
    if not report:
        print(f"{options.log}: no report of ptxas in it")
        return 1
    if options.update:
        write_table(report)
    known_compiler, known = read_table()
    for kernel in sorted({kernel for kernel, _ in report}):
        each = [resources for (name, _), resources in report.items() if name == kernel]
        most = Resources(*map(max, zip(*each, strict=True)))
        print(f"{kernel:<48} at most {', '.join(f'{n} {f}' for f, n in most._asdict().items())}")
    worse = [
        f"{kernel} on {architecture}: {old.spill_bytes} -> {new.spill_bytes} bytes spilled, "
        f"stack {old.stack_bytes} -> {new.stack_bytes}"
        for (kernel, architecture), new in sorted(report.items())
        for old in [known.get((kernel, architecture), Resources(0, 0, 0, 0))]
        if new.spill_bytes > old.spill_bytes or new.stack_bytes > old.stack_bytes
    ]
    if compiler() != known_compiler:
        print(f"not compared: nvcc {compiler()}, and the table is of {known_compiler}")
        return 0
    print("\n".join([*worse, f"{len(report)} kernels, {len(worse)} of them worse than in {TABLE.name}"]))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
