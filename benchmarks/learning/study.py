"""Runs the learning study: the programs of examples/ with uniform, kNN and proximity batches.

python -m benchmarks.learning.study run --data DIR [--jobs 2] [--minutes 60] [--systems ...] [--profile gpu]
python -m benchmarks.learning.study report

`run` can be stopped at any point and continues there: runs in the CSV are not repeated. `report` rewrites the tables of
docs/study/STUDY.md and its figures from the CSV. `--results NEW.csv` for both repeats all runs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .plan import PHASES, RETIRED, System, Task, tasks, tune_tasks
from .results import REPORTS, RESULTS, Row, best_parameters, commit, make_row, planned, read
from .runner import ROOT, execute
from .systems import profile_systems


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run everything that is not in the CSV yet")
    run.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    run.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of parallel runs, one thread each")
    run.add_argument("--minutes", type=float, default=float("inf"), help="minutes after which no other run starts")
    run.add_argument("--systems", nargs="+", metavar="NAME", help="run only these systems")
    run.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    run.set_defaults(work=run_pending)
    report = commands.add_parser("report", help="write tables and figures from the CSV")
    report.add_argument("--folder", type=Path, default=REPORTS, help="folder of STUDY.md and its figures")
    report.set_defaults(work=write_report)
    for command in (run, report):
        command.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="gpu: larger, one job")
        command.add_argument("--results", type=Path, help="CSV of results; default: that of the profile")
    options = parser.parse_args(argv)
    options.results = options.results or RESULTS[options.profile]
    options.work(options)


def run_pending(options: argparse.Namespace) -> None:
    known = profile_systems(options.profile)
    if unknown := set(options.systems or ()) - known.keys():
        raise SystemExit(f"--systems: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    systems = [known[name] for name in options.systems or known]
    end = time.monotonic() + 60 * options.minutes
    jobs = 1 if options.profile == "gpu" else options.jobs
    for phase in PHASES:
        if phase in options.phases:
            rows = read(options.results)
            pending = [task for system in systems for task in pending_tasks(system, phase, rows)]
            run_one = functools.partial(execute_one, systems=known, options=options)
            with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
                execute(pending, run_one, pool, options.results, end)


def pending_tasks(system: System, phase: str, rows: list[Row]) -> Iterator[Task]:
    """Yields the tasks of a phase that are not in the CSV; none before the search of the system is complete."""
    done = {row.key() for row in rows}
    searched = list(tune_tasks(system))
    if phase == "tune":
        yield from (task for task in searched if task.key() not in done)
    elif all(task.key() in done for task in searched):
        best = best_parameters(system, rows)
        for task in tasks(system, phase, best):
            if task.key() not in done and task.arm not in RETIRED:
                yield task


def execute_one(task: Task, systems: dict[str, System], options: argparse.Namespace) -> Row:
    """Runs the program in its own process, as a user would."""
    system = systems[task.system]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        program = [str(ROOT / "examples" / f"{task.system}.py"), *program_arguments(task, system)]
        command = [sys.executable, *program]
        command = [part.replace("{data}", str(options.data)) for part in command]
        command += ["--quiet", "--out", str(out)]
        if options.profile == "cpu":
            command += ["--device", "cpu", "--threads", "1"]
        environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if options.profile == "cpu" else {})}
        start, code = time.perf_counter(), commit()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{ended.stderr[-3000:]}")
        result = json.loads(out.read_text("utf-8"))
        return make_row(task, system.metric, result, time.perf_counter() - start, code)


def program_arguments(task: Task, system: System) -> list[str]:
    setting = next(setting for setting in (system.tune, *system.confirm) if setting.data == task.data)
    words = [*system.arguments, *setting.arguments, "--sampler", task.sampler, "--seed", str(task.seed)]
    if len(system.losses) > 1:
        words += ["--loss", task.loss]
    for name, value in json.loads(task.parameters).items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    if task.phase != "confirm":
        words += ["--eval-every", "0"]  # curves of the metric are reported for the confirmation only
    if task.num_epochs is not None:
        words += ["--epochs", str(task.num_epochs)]
    return words


def write_report(options: argparse.Namespace) -> None:
    from .figures import draw
    from .tables import BEGIN, END, update

    systems, profile = profile_systems(options.profile), options.profile
    rows = planned(read(options.results), systems)
    suffix = "" if profile == "cpu" else f"_{profile}"
    report = options.folder / f"STUDY{suffix}.md"
    if not report.exists():
        report.write_text(
            f"# The learning study on a {profile.upper()}\n\nProtocol: docs/study/STUDY.md\n\n{BEGIN}\n{END}\n", "utf-8"
        )
    update(report, rows, systems)
    draw(options.folder / f"figures{suffix}", rows, systems)


if __name__ == "__main__":
    main()
