"""Runs the study with a pretrained encoder: data, runs, report.

python -m benchmarks.learning.pretrained.study run --data DIR [--jobs 2] [--minutes 60] [--tiers ...] [--profile gpu]
python -m benchmarks.learning.pretrained.study report [--profile gpu]

`run` first makes what is missing in DIR: pairs of texts, tokens, the teacher's embeddings, plans. It can be stopped at
any point and continues there: runs in the CSV are not repeated. `report` writes tables and figures from the CSV to
docs/study/PRETRAINED.md, those of other profiles than "cpu" to PRETRAINED_<profile>.md. `--results NEW.csv` for both
repeats all runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ..runner import append, execute
from . import features, pairs, protocol, results
from .train import train

# The C library keeps freed memory, so the gradients of a table of embeddings do not take new pages in each step: half
# of the time of a run of tier "static" went into those.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run everything that is not in the CSV yet")
    run.add_argument("--data", type=Path, required=True, help="directory for data, with text/")
    run.add_argument("--jobs", type=int, help="number of parallel runs, one thread each; default: CPUs, 1 on a GPU")
    run.add_argument("--minutes", type=float, default=float("inf"), help="minutes after which no other run starts")
    run.add_argument("--tiers", nargs="+", metavar="TIER", help="run only these tiers")
    run.add_argument("--phases", nargs="+", choices=protocol.PHASES, default=protocol.PHASES)
    run.add_argument("--device", help="where students are trained; default: cuda for the profile gpu, otherwise cpu")
    run.set_defaults(work=run_pending)
    report = commands.add_parser("report", help="write tables and figures from the CSV")
    report.add_argument("--folder", type=Path, default=results.REPORTS, help="folder of PRETRAINED.md and its figures")
    report.set_defaults(work=write_report)
    for command in (run, report):
        command.add_argument("--profile", choices=protocol.PROFILES, default="cpu", help="gpu: the larger setting")
        command.add_argument("--results", type=Path, help="CSV of results; default: that of the profile")
    options = parser.parse_args(argv)
    options.results = options.results or results.RESULTS[options.profile]
    options.work(options)


def run_pending(options: argparse.Namespace) -> None:
    profile = protocol.PROFILES[options.profile]
    tiers = {tier.name: tier for tier in profile.tiers}
    if unknown := set(options.tiers or ()) - tiers.keys():
        raise SystemExit(f"--tiers: expected some of {', '.join(tiers)}, got {', '.join(sorted(unknown))}")
    for name in options.tiers or tiers:
        pairs.require_text(options.data, (tiers[name].tuned_on, *tiers[name].confirmed_on))
    end = time.monotonic() + 60 * options.minutes
    device = options.device or ("cuda" if options.profile == "gpu" else "cpu")
    jobs = options.jobs or (os.cpu_count() if device == "cpu" else 1)
    run_one = functools.partial(measure, data=options.data, device=device)
    os.environ.update(KEEP_MEMORY)  # workers read it when they start
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for phase in protocol.PHASES:
            for tier in tiers.values():
                if phase in options.phases and tier.name in (options.tiers or tiers):
                    pending = take_known(profile, tier, phase, options.results)
                    for name in dict.fromkeys(task.run.data for task in pending):
                        pairs.make(options.data, name)
                        features.prepare(options.data, name)
                    execute(pending, run_one, pool, options.results, end, f"{tier.name}, {phase}")


def take_known(profile: protocol.Profile, tier: protocol.Tier, phase: str, path: Path) -> list[protocol.Task]:
    """Appends runs of a phase that another phase has, as equal runs have equal results. Returns its other tasks."""
    rows = results.read(path)
    known = {row.task().run: row for row in rows}
    others = []
    for task in protocol.pending(profile, tier, phase, rows):
        if task.run in known:
            append(path, dataclasses.replace(known[task.run], phase=phase))
        else:
            others.append(task)
    return others


def measure(task: protocol.Task, data: Path, device: str) -> results.Row:
    return results.make_row(task, train(task.run, data, device))


def write_report(options: argparse.Namespace) -> None:
    from .report import write

    suffix = "" if options.profile == "cpu" else f"_{options.profile}"
    write(options.folder, suffix, results.read(options.results), protocol.PROFILES[options.profile])


if __name__ == "__main__":
    main()
