"""Compares the CUDA engine with the CPU engine, and times it against other libraries on the same GPU.

python -m benchmarks.gpu [--seconds 180] [--rounds 7] [--quick] [--out FILE.json]
python -m benchmarks.gpu --summarize FOLDER

Steps come in the order of their value, and those that do not fit --seconds are left out. Results are written after each
step, so a run may be cut at any time. --summarize prints what a folder of results of tests/tools/run_gpu_check.sh
contains, also of a run that was cut. It needs neither a GPU nor torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import summary


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180, help="no step begins that would exceed this time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that everything works")
    parser.add_argument("--emulated", action="store_true", help="tiny sizes on the emulated CUDA engine, without a GPU")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<gpu>-<commit>.json")
    parser.add_argument("--summarize", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.summarize is not None:
        print(summary.of_folder(options.summarize))
        return
    from . import run  # imports torch

    try:
        run.run(options)
    except run.NoDeviceError as error:
        sys.exit(f"benchmarks.gpu: {error}")


if __name__ == "__main__":
    main()
