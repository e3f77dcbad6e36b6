"""The CSV of the study: one line per run, which is appended when the run ends."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import runner
from .plan import PHASES, SAMPLERS, Parameters, System, Task, tasks, tune_tasks

HERE = Path(__file__).parent
REPORTS = runner.ROOT / "docs" / "study"
RESULTS = {profile: HERE / name for profile, name in {"cpu": "study.csv", "gpu": "study_gpu.csv"}.items()}


@dataclasses.dataclass(frozen=True)
class Row:
    system: str
    data: str
    phase: str
    arm: str
    sampler: str
    loss: str
    seed: str
    parameters: str  # JSON
    metric: str
    value: float
    metrics: str  # all metrics, as JSON
    in_batch_similarity: float  # mean over epochs after the first, or of the only one; NaN if untrained
    false_negative_share: float  # likewise; NaN if labels are not known
    num_steps: int
    train_seconds: float
    sampler_seconds: float
    wall_seconds: float  # of the whole program
    history: str  # JSON, per epoch [train_seconds, similarity, false negatives, metric or null]; confirmation only
    commit: str
    date: str

    def key(self) -> tuple[str, ...]:
        return (self.system, self.data, self.phase, self.arm, self.loss, self.seed, current_names(self.parameters))


# Names of options when results were recorded, and their names now.
RENAMED = {"epoch_mode": "planner", "strategy": "order", "rows_per_draw": "candidate_group_size"}
RENAMED_PLANNERS = {"independent": "walks", "paper": "cover_by_walks"}


def current_names(parameters: str) -> str:
    """Returns recorded parameters, JSON, under the present names of options."""
    renamed = {RENAMED.get(name, name): value for name, value in json.loads(parameters).items()}
    if "planner" in renamed:
        renamed["planner"] = RENAMED_PLANNERS.get(renamed["planner"], renamed["planner"])
    return json.dumps(renamed, sort_keys=True)


# Columns of the history of a run.
SECONDS, SIMILARITY, FALSE_NEGATIVES, METRIC = range(4)


def read(path: Path) -> list[Row]:
    return runner.read_rows(path, Row)


def make_row(task: Task, metric: str, result: dict[str, Any], wall_seconds: float, code: str) -> Row:
    """Returns the row of a run. result: JSON of the program; code: the commit that it ran from."""
    history = result["history"]
    return Row(
        system=task.system,
        data=task.data,
        phase=task.phase,
        arm=task.arm,
        sampler=task.sampler,
        loss=task.loss,
        seed=str(task.seed),
        parameters=task.parameters,
        metric=metric,
        value=float(result["metrics"][metric]),
        metrics=json.dumps({name: round(value, 5) for name, value in result["metrics"].items()}),
        in_batch_similarity=mean_after_first(history, "in_batch_similarity"),
        false_negative_share=mean_after_first(history, "false_negative_share"),
        num_steps=result["num_steps"],
        train_seconds=result["train_seconds"],
        sampler_seconds=result["sampler_seconds"],
        wall_seconds=wall_seconds,
        history=json.dumps([epoch_entry(entry, metric) for entry in history]) if task.phase == "confirm" else "",
        commit=code,
        date=time.strftime("%Y-%m-%d"),
    )


def histories(rows: list[Row]) -> np.ndarray:
    """Returns [runs, epochs, 4]: SECONDS, SIMILARITY, FALSE_NEGATIVES, METRIC; NaN for missing values."""
    return np.array([json.loads(row.history) for row in rows], dtype=float)


def is_confirmed(rows: list[Row]) -> bool:
    """Returns whether uniform batches of the confirmation, the baseline of comparisons, are recorded."""
    return any((row.phase, row.arm) == ("confirm", "uniform") for row in rows)


def mean_after_first(history: list[dict[str, Any]], name: str) -> float:
    """Returns the mean over the epochs after the first, or the value of the only epoch."""
    values = [entry[name] for entry in history if name in entry]
    later = values[1:] or values
    return sum(later) / len(later) if later else math.nan


def epoch_entry(entry: dict[str, Any], metric: str) -> list[float | None]:
    names = ("train_seconds", "in_batch_similarity", "false_negative_share", metric)
    return [None if entry.get(name) is None else float(f"{entry[name]:.5g}") for name in names]


def planned(rows: list[Row], systems: dict[str, System]) -> list[Row]:
    """Returns the rows of the present plan, without, for example, runs with parameters of a shorter search."""
    wanted = set()
    for system in systems.values():
        searched = {task.key() for task in tune_tasks(system)}
        wanted |= searched
        if searched <= {row.key() for row in rows}:
            best = best_parameters(system, rows)
            wanted |= {task.key() for phase in PHASES[1:] for task in tasks(system, phase, best)}
    return [row for row in rows if row.key() in wanted]


def best_parameters(system: System, rows: list[Row]) -> dict[str, Parameters]:
    """Returns the parameters of the best trial of the search, by sampler."""
    wanted = {task.key() for task in tune_tasks(system)}
    trials = [row for row in rows if row.key() in wanted]
    best = {sampler: max((r for r in trials if r.sampler == sampler), key=lambda r: r.value) for sampler in SAMPLERS}
    return {sampler: json.loads(row.parameters) for sampler, row in best.items()}


def commit() -> str:
    reports = [REPORTS / name for name in ("STUDY.md", "STUDY_gpu.md", "figures", "figures_gpu")]
    return runner.commit([*RESULTS.values(), *reports])
