"""Prints machine instructions of the kernels that use tensor cores, and compares them with a table. Needs no GPU.

    python tests/tools/cuda_instructions.py [--architecture 90] [--update]

Needs nvcc, and nvdisasm of the CUDA toolkit or of the package nvidia-cuda-nvdisasm. Columns of cuda_instructions.tsv:

  mma_step      instructions per 16 mma in the innermost loop with mma
  mma_panel     in the fused kernels, those of the loop around it: they run once per panel of candidates
  per_16_mma    in the fused kernels, both together at D = 128, per 16 mma
  per_count     median instructions from one warp-wide sum (REDUX) to the next within straight code: in the fused
                kernels, one count in the search for a threshold
  alu_count     those of them that the ALU executes

Static counts: a conditional part of a loop counts as if it were always executed. The check fails if a number is larger
than in the table. If the compiler is not that of the table, results are not compared.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

from cuda_resources import compiler, demangled

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("cuda_instructions.tsv")
SOURCES = ("fused_topk/fused_topk.cu", "matrix_topk/matrix_topk.cu", "streaming_topk/streaming_topk.cu")
ALU = re.compile(
    r"(IADD3|VIADD|LOP3|SHF|LEA|ISETP|SEL|PRMT|VIMNMX|IMNMX|VIADDMNMX|IABS|FMNMX|FSETP|FSEL|PLOP3|SGXT|BMSK|MOV)\b"
)
DIM = 128


class Counts(NamedTuple):
    mma_step: int
    mma_panel: int
    per_16_mma: int
    per_count: int
    alu_count: int


class Code(NamedTuple):
    """Instructions of a kernel in order, and where labels stand among them."""

    instructions: list[str]
    labels: dict[str, int]

    def loops(self) -> list[tuple[int, int]]:
        """Returns the first and last instruction of each loop: from the target of a backward jump to the jump."""
        result: dict[int, int] = {}
        for i, instruction in enumerate(self.instructions):
            found = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", instruction)
            if found and self.labels[found[1]] <= i:
                result[self.labels[found[1]]] = i
        return sorted(result.items())

    def count(self, pattern: str, begin: int, end: int) -> int:
        return sum(re.search(pattern, line) is not None for line in self.instructions[begin : end + 1])


def nvdisasm() -> str:
    packaged = Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm")
    found = shutil.which("nvdisasm") or next((str(path) for path in packaged), None)
    if found is None:
        raise SystemExit("no nvdisasm here: pip install nvidia-cuda-nvdisasm")
    if not os.access(found, os.X_OK):  # as the package may install it
        Path(found).chmod(0o755)
    return found


def disassemble(source: Path, architecture: str) -> dict[str, Code]:
    with tempfile.TemporaryDirectory() as directory:
        cubin = Path(directory) / "kernels.cubin"
        subprocess.run(
            [
                "nvcc", "-std=c++17", "-O3", "-DNDEBUG", "--fmad=false", "-x", "cu", f"-I{ROOT / 'csrc'}",
                f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-cubin", source, "-o", cubin,
            ],
            check=True,
        )  # fmt: skip
        text = subprocess.run([nvdisasm(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    result: dict[str, Code] = {}
    code = Code([], {})
    for line in text.splitlines():
        if found := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            code = result[found[1]] = Code([], {})
        elif found := re.match(r"(\.L_x_\d+):", line):
            code.labels[found[1]] = len(code.instructions)
        elif (found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line)) and not re.search(r"\bNOP\b", found[1]):
            code.instructions.append(found[1])
    return result


def counts(kernel: str, code: Code) -> Counts | None:
    """Returns None for a kernel without tensor cores."""
    with_mma = [loop for loop in code.loops() if code.count(r"\bHMMA", *loop)]
    if not with_mma:
        return None
    inner = min(with_mma, key=lambda loop: loop[1] - loop[0])
    num_mma, size = code.count(r"\bHMMA", *inner), inner[1] - inner[0] + 1
    step = round(16 * size / num_mma)
    panel = per_16_mma = 0
    around = [loop for loop in with_mma if loop[0] <= inner[0] and loop[1] >= inner[1] and loop != inner]
    if around and (rows := re.search(r"FusedShape<(\d+)", kernel)):
        outer = min(around, key=lambda loop: loop[1] - loop[0])
        panel = outer[1] - outer[0] + 1 - size
        mma_per_16_elements = min(int(rows[1]), 32) // 16 * (32 // 8)  # FusedShape::kWarpRows, kWarpColumns
        per_16_mma = round(step + 16 * panel / (mma_per_16_elements * DIM / 16))
    gaps, alu = sum_distances(code)
    return Counts(step, panel, per_16_mma, gaps, alu)


def sum_distances(code: Code) -> tuple[int, int]:
    sums = [i for i, line in enumerate(code.instructions) if "REDUX.SUM" in line]
    straight = []
    for first, second in itertools.pairwise(sums):
        between = code.instructions[first + 1 : second + 1]
        if not any(re.search(r"\bBRA\b(?!\.DIV)|\bCALL\b|\bEXIT\b", line) for line in between):
            straight.append(between)
    if len(straight) < 8:
        return 0, 0
    return (
        round(statistics.median(map(len, straight))),
        round(statistics.median(sum(ALU.search(line) is not None for line in part) for part in straight)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="90", help="of the table: 90")
    parser.add_argument("--update", action="store_true", help="make the table anew")
    options = parser.parse_args()
    found: dict[str, Counts] = {}
    for source in SOURCES:
        codes = disassemble(ROOT / "csrc/cuda" / source, options.architecture)
        names = demangled(set(codes))
        found |= {names[symbol]: c for symbol, code in codes.items() if (c := counts(names[symbol], code)) is not None}
    lines = ["\t".join((name, *map(str, row))) for name, row in sorted(found.items())]
    header = "\t".join(("kernel", *Counts._fields))
    print("\n".join([header, *lines]))
    if options.architecture != "90":
        return 0
    if options.update:
        TABLE.write_text("\n".join([f"# nvcc {compiler()}, sm_90", header, *lines]) + "\n")
    first, _, *rows = TABLE.read_text().splitlines()
    if f"nvcc {compiler()}," not in first:
        print(f"not compared: nvcc {compiler()}, and the table is of {first}")
        return 0
    known = {row.split("\t")[0]: Counts(*map(int, row.split("\t")[1:])) for row in rows}
    if set(found) != set(known):
        print(f"kernels differ from those of {TABLE.name}: {sorted(set(found) ^ set(known))}")
        return 1
    worse = [
        f"{name}: {known[name]} -> {row}"
        for name, row in found.items()
        if any(new > old for new, old in zip(row, known[name], strict=True))
    ]
    print(
        "\n".join([*worse, f"{len(found)} kernels, {len(worse)} of them with more instructions than in {TABLE.name}"])
    )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
