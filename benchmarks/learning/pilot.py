"""Pilot of the learning claim: do hard batches help, and by how much more than noise?

python -m benchmarks.learning.pilot run --data DIR [--jobs 2]     resumes where it was stopped
python -m benchmarks.learning.pilot report                        rewrites the tables of PILOT.md from the CSV

DIR holds text/captions.tsv (see retrieval.py) and tu/NCI1/raw (see graphcl.py).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import json
import multiprocessing
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from . import graphcl, retrieval
from .arms import ARMS, Parameters, common, draw_parameters

SYSTEMS = {"retrieval": retrieval, "graphcl": graphcl}
NUM_TRIALS, NUM_SEEDS = 12, 20
TUNE_SEED = 1000
HERE = Path(__file__).parent
RESULTS = HERE / "pilot.csv"
# The search; paired seeds with what it found, on other data; and there uniform batches with what it found for the arm:
# is a gain due to the sampler or to the parameters?
PHASES = ("tune", "confirm", "check")
COLUMNS = (
    "system", "phase", "arm", "trial", "seed", "parameters", "recall_at_1", "mrr", "accuracy", "in_batch_similarity",
    "false_negative_share", "num_steps", "train_seconds", "sampler_seconds", "commit", "date",
)  # fmt: skip


class Run(NamedTuple):
    system: str
    phase: str  # of PHASES
    arm: str
    trial: int  # of the search; -1 in the confirmation
    seed: int
    parameters: Parameters

    def key(self) -> tuple[str, ...]:
        return (self.system, self.phase, self.arm, str(self.trial), str(self.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--jobs", type=int, default=2, help="processes of one thread each; default: %(default)s")
    run.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    run.set_defaults(work=run_pending)
    report = commands.add_parser("report")
    report.set_defaults(work=write_report)
    options = parser.parse_args()
    options.work(options)


def run_pending(options: argparse.Namespace) -> None:
    for phase in PHASES:
        done = {tuple(row[name] for name in COLUMNS[:5]) for row in read_results()}
        runs = [run for system in options.systems for run in planned(system, phase) if run.key() not in done]
        execute(runs, options.data, options.jobs)


def planned(system: str, phase: str) -> list[Run]:
    module = SYSTEMS[system]
    arms = [arm for arm in ARMS if arm not in module.LEFT_OUT]
    if phase == "tune":
        return [
            Run(system, phase, arm, trial, TUNE_SEED, draw_parameters(arm, module, trial))
            for trial in range(NUM_TRIALS)
            for arm in arms
        ]
    best = {arm: best_parameters(system, arm) for arm in arms}
    if phase == "check":
        first_arm = {common(best[arm]): arm for arm in reversed(arms) if common(best[arm]) != common(best["uniform"])}
        return [Run(system, phase, arm, -1, seed, best[arm]) for seed in range(NUM_SEEDS) for arm in first_arm.values()]
    return [
        Run(system, phase, arm, -1, seed, best.get(arm, {}))
        for seed in range(NUM_SEEDS)
        for arm in ["untrained", *arms]
    ]


def best_parameters(system: str, arm: str) -> Parameters:
    metric = SYSTEMS[system].METRICS[0]
    trials = [row for row in read_results() if (row["system"], row["phase"], row["arm"]) == (system, "tune", arm)]
    return json.loads(max(trials, key=lambda row: float(row[metric]))["parameters"])


def execute(runs: list[Run], data: Path, jobs: int) -> None:
    """Appends each result as it ends."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(execute_one, run, data): run for run in runs}
        for future in tqdm(concurrent.futures.as_completed(futures), total=len(runs)):
            append_result(futures[future], future.result())


def execute_one(run: Run, data: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    module = SYSTEMS[run.system]
    num_epochs = 0 if run.arm == "untrained" else module.NUM_EPOCHS
    split = "tune" if run.phase == "tune" else "confirm"
    arm = "uniform" if run.phase == "check" else run.arm
    return module.run(data, split, arm, run.parameters, run.seed, num_epochs)


def append_result(run: Run, result: dict[str, Any]) -> None:
    is_new = not RESULTS.exists()
    row = {
        **run._asdict(),
        **{name: f"{value:.6g}" for name, value in result.items()},
        "parameters": json.dumps(run.parameters),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def commit() -> str:
    return subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=HERE, text=True).strip()


def read_results() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def write_report(_: argparse.Namespace) -> None:
    from .report import update_tables

    update_tables(HERE / "PILOT.md", read_results(), SYSTEMS)


if __name__ == "__main__":
    main()
