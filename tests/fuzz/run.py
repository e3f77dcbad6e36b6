"""Fuzzes the targets with atheris (libFuzzer): ``python -m tests.fuzz.run [--seconds 60] [TARGET ...]``.

Each target runs in a process of its own for that long. What a run finds is kept in build/fuzz, so the next one goes on
from there. An input that fails is written to build/fuzz/TARGET, and belongs to tests/fuzz/corpus/TARGET once the bug is
mended. The corpus is replayed by tests/python/test_fuzz_corpus.py, without atheris.
"""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
import tempfile
import time
import types
import zlib
from pathlib import Path

SEEDS = Path(__file__).parent / "corpus"
FOUND = Path(__file__).resolve().parents[2] / "build" / "fuzz"
SECONDS_PER_INPUT = 30
MAX_RSS_MB = 2500


def fuzz(name: str, options: list[str]) -> None:
    """Fuzzes one target in this process, which libFuzzer ends."""
    import atheris
    import torch

    from .targets import run_input

    torch.set_num_threads(1)
    for found in gc.get_objects():  # after imports, because atheris does not see modules that are installed as editable
        if isinstance(found, types.FunctionType) and (found.__module__ or "").startswith("batchsampler_ext"):
            atheris.instrument_func(found)
    with tempfile.TemporaryDirectory() as folder:

        def run(data: bytes) -> None:
            try:
                run_input(name, data, Path(folder, "input"))
            except BaseException:  # libFuzzer does not always write it
                (FOUND / name / f"failed-{zlib.crc32(data):08x}").write_bytes(data)
                raise

        atheris.Setup([sys.argv[0], *options], run)
        atheris.Fuzz()


def fuzz_in_process(name: str, seconds: int) -> tuple[int, bool]:
    """Returns the number of inputs, and whether all were handled."""
    found = FOUND / name
    (found / "corpus").mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MAX_RSS_MB}",
        "-max_len=8192",
        "-print_final_stats=1",
        f"-artifact_prefix={found}/",
        str(found / "corpus"),
        str(SEEDS / name),
    ]
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.run", "--in-process", name, "--", *options]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    counts = re.findall(r"number_of_executed_units: (\d+)", result.stderr)
    if result.returncode:
        print(f"exit status {result.returncode}\n{(result.stdout + result.stderr)[-4000:]}")
    return int(counts[-1]) if counts else 0, result.returncode == 0


def main() -> int:
    if sys.argv[1:2] == ["--in-process"]:
        fuzz(sys.argv[2], sys.argv[4:])
        return 0
    from .targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    given = parser.parse_args()
    num_failed = 0
    for name in given.targets or TARGETS:
        start = time.monotonic()
        num_inputs, is_handled = fuzz_in_process(name, given.seconds)
        num_failed += not is_handled
        print(
            f"{name}: {num_inputs} inputs in {time.monotonic() - start:.0f} s"
            + ("" if is_handled else f", FAILED: see {FOUND / name}"),
            flush=True,
        )
    return num_failed > 0


if __name__ == "__main__":
    sys.exit(main())
