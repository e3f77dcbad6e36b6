"""Writes the tables of docs/study/STUDY.md from the CSV: percent, and paired differences with 95% intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .plan import SAMPLERS, System, common
from .results import METRIC, SECONDS, Row, histories, is_confirmed
from .statistics import interval, paired_differences, seeds_needed

BEGIN, END = "<!-- tables: python -m benchmarks.learning.study report -->", "<!-- end of tables -->"
EFFECT = 0.5  # points; the difference that the column "seeds needed" assumes
TITLES = {
    "sensitivity": "M, K and alpha",
    "remedies": "Against false negatives",
    "walks": "Ways of walking, epoch_mode independent",
    "ablations": "Our own choices",
}


def update(path: Path, rows: list[Row], systems: dict[str, System]) -> None:
    replace_between(path, BEGIN, END, all_tables(rows, systems))


def replace_between(path: Path, begin: str, end: str, content: str) -> None:
    """Replaces the text between two markers of a file."""
    text = path.read_text("utf-8")
    before, after = text.split(begin)[0], text.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}", "utf-8")


def all_tables(rows: list[Row], systems: dict[str, System]) -> str:
    parts = []
    for system in systems.values():
        of_system = [row for row in rows if row.system == system.name]
        for setting in system.confirm:
            of_data = [row for row in of_system if row.data == setting.data]
            if is_confirmed(of_data):
                parts.append(f"### {system.name}, {setting.data}: {system.metric}\n\n{confirmation(of_data, system)}")
            if any(row.phase == "losses" for row in of_data):
                parts.append(f"#### Other losses\n\n{losses(of_data, system)}")
            for phase, title in TITLES.items():
                if any(row.phase == phase for row in of_data):
                    parts.append(f"#### {title}\n\n{variants(of_data, phase)}")
        if any(row.phase == "tune" for row in of_system):
            parts.append(f"#### The search for {system.name}, on {system.tune.data}\n\n{search(of_system)}")
    return "\n\n".join(parts)


def confirmation(rows: list[Row], system: System) -> str:
    """Returns the table of the samplers of a system on a data set, each with the parameters found for it."""
    confirmed = groups(row for row in rows if row.phase == "confirm")
    checked = groups(row for row in rows if row.phase == "check")
    uniform = confirmed["uniform"]
    lines = table_head(
        "batches", "seeds", "mean ± sd", "against uniform, each tuned", "both tuned as uniform",
        "both tuned as it", f"seeds needed for {EFFECT:g} points", "time to uniform's final value",
        "sampler's share of time", "similarity", "false negatives",
    )  # fmt: skip
    for arm, of_arm in confirmed.items():
        cells = [arm, str(len(of_arm)), mean_and_deviation(of_arm)]
        if arm in SAMPLERS[1:]:
            differences = differences_of(of_arm, uniform)
            are_same = common_of(system, of_arm[0]) == common_of(system, uniform[0])
            as_uniform = differences_of(of_arm if are_same else checked.get(f"{arm} as uniform", []), uniform)
            as_arm = differences_of(of_arm, uniform if are_same else checked.get(f"uniform as {arm}", []))
            deviation = float(differences.std(ddof=1)) if len(differences) > 1 else math.nan
            needed = str(seeds_needed(EFFECT, deviation)) if deviation > 0 else ""
            cells += [*map(interval, (differences, as_uniform, as_arm)), needed]
        else:
            cells += [""] * 4
        if arm == "untrained":
            cells += [""] * 4
        else:
            cells += [time_to_reach(of_arm, uniform), sampler_share(of_arm), *batch_cells(of_arm)]
        lines.append(line(cells))
    return "\n".join(lines)


def losses(rows: list[Row], system: System) -> str:
    """Returns the table of losses: differences to uniform batches with this loss, and to these batches with InfoNCE."""
    confirmed = groups(row for row in rows if row.phase == "confirm")
    lines = table_head(
        "loss", "batches", "seeds", "mean ± sd", "against uniform", "against InfoNCE", "similarity", "false negatives"
    )
    for loss, of_loss in groups((r for r in rows if r.phase == "losses"), lambda row: row.loss).items():
        by_arm = groups(of_loss)
        for arm, of_arm in by_arm.items():
            difference = "" if arm == "uniform" else interval(differences_of(of_arm, by_arm["uniform"]))
            equal = [r for r in confirmed.get(arm, []) if common_of(system, r) == common_of(system, of_arm[0])]
            cells = [loss, arm, str(len(of_arm)), mean_and_deviation(of_arm), difference]
            lines.append(line([*cells, interval(differences_of(of_arm, equal)), *batch_cells(of_arm)]))
    return "\n".join(lines)


def variants(rows: list[Row], phase: str) -> str:
    """Returns the table of variants of confirmed proximity batches, with differences to these and to uniform batches.

    Variants of independent walks are compared with independent walks.
    """
    confirmed = groups(row for row in rows if row.phase == "confirm")
    independent = [row for row in rows if (row.phase, row.arm) == ("ablations", "independent walks")]
    lines = table_head(
        "proximity with", "seeds", "mean ± sd", "against proximity, or independent walks", "against uniform",
        "steps", "sampler's share of time", "similarity", "false negatives",
    )  # fmt: skip
    for arm, of_arm in groups(row for row in rows if row.phase == phase).items():
        parameters = json.loads(of_arm[0].parameters)  # under the names of options when they were recorded
        is_independent = parameters.get("planner") == "walks" or parameters.get("epoch_mode") == "independent"
        base = independent if is_independent and arm != "independent walks" else confirmed.get("proximity", [])
        against = [interval(differences_of(of_arm, others)) for others in (base, confirmed.get("uniform", []))]
        cells = [arm, str(len(of_arm)), mean_and_deviation(of_arm), *against, f"{of_arm[0].num_steps:.0f}"]
        lines.append(line([*cells, sampler_share(of_arm), *batch_cells(of_arm)]))
    return "\n".join(lines)


def search(rows: list[Row]) -> str:
    """Returns the table of the best trial of each sampler, with the median over trials."""
    lines = table_head("batches", "trials", "best", "median", "chosen")
    for arm, trials in groups(row for row in rows if row.phase == "tune").items():
        scores = [100 * row.value for row in trials]
        chosen = json.loads(trials[int(np.argmax(scores))].parameters)
        described = ", ".join(f"{name} {value}" for name, value in chosen.items())
        lines.append(line([arm, str(len(scores)), f"{max(scores):.2f}", f"{np.median(scores):.2f}", described]))
    return "\n".join(lines)


def groups(rows: Iterable[Any], key: Callable[[Any], str] = lambda row: row.arm) -> dict[str, list[Any]]:
    """Groups rows by key, in order of appearance."""
    result: dict[str, list[Any]] = {}
    for row in rows:
        result.setdefault(key(row), []).append(row)
    return result


def by_seed(rows: list[Row]) -> dict[str, float]:
    return {row.seed: 100 * row.value for row in rows}


def differences_of(rows: list[Row], others: list[Row]) -> np.ndarray:
    return paired_differences(by_seed(rows), by_seed(others))


def common_of(system: System, row: Row) -> dict[str, float]:
    return common(system, json.loads(row.parameters))


def mean_and_deviation(rows: list[Row]) -> str:
    values = np.array([100 * row.value for row in rows])
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values.mean():.2f}"


def time_to_reach(rows: list[Row], uniform: list[Row]) -> str:
    """Returns the training time until the metric reaches the final value of uniform batches, over their whole time.

    Values are means over seeds. Empty without evaluations during training.
    """
    seconds, values = histories(rows).mean(0)[:, [SECONDS, METRIC]].T
    if np.isfinite(values).sum() < 2:
        return ""
    reached = values >= histories(uniform).mean(0)[-1, METRIC]  # rounded as these are
    if not reached.any():
        return "not reached"
    return f"{seconds[reached.argmax()] / np.mean([row.train_seconds for row in uniform]):.2f}x"


def sampler_share(rows: list[Row]) -> str:
    return f"{100 * np.mean([row.sampler_seconds / row.train_seconds for row in rows]):.1f}%"


def batch_cells(rows: list[Row]) -> list[str]:
    similarity = float(np.mean([row.in_batch_similarity for row in rows]))
    share = float(np.mean([row.false_negative_share for row in rows]))
    return [f"{similarity:.3f}", "" if math.isnan(share) else f"{100 * share:.3f}%"]


def table_head(*names: str) -> list[str]:
    return [line(list(names)), "|" + "---|" * len(names)]


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
