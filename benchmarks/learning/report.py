"""Statistics and tables of the pilot, from its CSV."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import scipy.stats

Row = dict[str, str]

BEGIN, END = "<!-- tables: python -m benchmarks.learning.pilot report -->", "<!-- end of tables -->"
EFFECT = 0.005  # the difference to uniform that "seeds needed" are stated for: half a point
ALPHA, POWER = 0.05, 0.8


def update_tables(path: Path, rows: list[Row], systems: dict[str, ModuleType]) -> None:
    """Replaces what stands between the two markers."""
    text = path.read_text("utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    tables = "\n\n".join(
        f"### {name}: {metric}\n\n{confirmation_table(rows, name, metric)}"
        for name, module in systems.items()
        for metric in module.METRICS
    )
    searches = "\n\n".join(
        f"### {name}: search\n\n{search_table(rows, name, m.METRICS[0])}" for name, m in systems.items()
    )
    path.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{searches}\n\n{END}{after}", "utf-8")


def confirmation_table(rows: list[Row], system: str, metric: str) -> str:
    of_system = [row for row in rows if row["system"] == system]
    confirmed = [row for row in of_system if row["phase"] == "confirm"]
    lines = [
        "| batches | mean ± sd [%] | against uniform, each with its own parameters (95% interval) "
        "| against uniform with the same parameters | paired sd "
        f"| seeds needed for {100 * EFFECT:g} points | similarity | false negatives | sampler's share of time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    uniform = [row for row in confirmed if row["arm"] == "uniform"]
    for arm in dict.fromkeys(row["arm"] for row in confirmed):
        of_arm = [row for row in confirmed if row["arm"] == arm]
        scores = np.array([100 * float(row[metric]) for row in of_arm])
        cells = [arm, f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}"]
        if arm in ("uniform", "untrained"):
            cells += [""] * 4
        else:
            own = paired_differences(of_arm, uniform, metric)
            same = paired_differences(of_arm, uniform_with(common(of_arm[0]), of_system), metric)
            cells += [interval(own), interval(same), f"{same.std(ddof=1):.2f}"]
            cells.append(str(seeds_needed(100 * EFFECT, float(same.std(ddof=1)))))
        if arm == "untrained":
            cells += [""] * 3
        else:
            share = mean(of_arm, "sampler_seconds") / mean(of_arm, "train_seconds")
            cells += [
                f"{mean(of_arm, 'in_batch_similarity'):.3f}",
                f"{100 * mean(of_arm, 'false_negative_share'):.3f}%",
                f"{100 * share:.1f}%",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def common(row: Row) -> tuple[float, float]:
    """The parameters that all arms have."""
    parameters = json.loads(row["parameters"])
    return parameters["lr"], parameters["temperature"]


def uniform_with(parameters: tuple[float, float], rows: list[Row]) -> list[Row]:
    """Uniform batches trained with these parameters: those of the confirmation, or of the check."""
    is_uniform = [row["phase"] == "check" or (row["phase"], row["arm"]) == ("confirm", "uniform") for row in rows]
    return [row for row, wanted in zip(rows, is_uniform, strict=True) if wanted and common(row) == parameters]


def paired_differences(rows: list[Row], others: list[Row], metric: str) -> np.ndarray:
    """In points, of the seeds that both have."""
    values, other_values = ({row["seed"]: 100 * float(row[metric]) for row in part} for part in (rows, others))
    return np.array([values[seed] - other_values[seed] for seed in sorted(values.keys() & other_values.keys())])


def interval(differences: np.ndarray) -> str:
    """Mean and its 95% interval (Student's t)."""
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, len(differences) - 1)) * differences.std(ddof=1)
    half /= math.sqrt(len(differences))
    center = float(differences.mean())
    return f"{center:+.2f} ({center - half:+.2f} to {center + half:+.2f})"


def seeds_needed(effect: float, deviation: float) -> int:
    """Pairs for a two-sided paired t test at ALPHA to find `effect` with probability POWER."""
    for count in range(2, 10_000):
        noncentrality = effect / deviation * math.sqrt(count)
        critical = scipy.stats.t.ppf(1 - ALPHA / 2, count - 1)
        if scipy.stats.nct.sf(critical, count - 1, noncentrality) >= POWER:
            return count
    return 10_000


def search_table(rows: list[Row], system: str, metric: str) -> str:
    """The best trial of each arm, and how far the trials spread."""
    trials = [row for row in rows if row["system"] == system and row["phase"] == "tune"]
    lines = ["| batches | trials | best [%] | median [%] | chosen |", "|---|---|---|---|---|"]
    for arm in dict.fromkeys(row["arm"] for row in trials):
        of_arm = [row for row in trials if row["arm"] == arm]
        scores = [100 * float(row[metric]) for row in of_arm]
        chosen = json.loads(of_arm[int(np.argmax(scores))]["parameters"])
        described = ", ".join(f"{name} {value}" for name, value in chosen.items())
        lines.append(f"| {arm} | {len(scores)} | {max(scores):.2f} | {np.median(scores):.2f} | {described} |")
    return "\n".join(lines)


def mean(rows: list[Row], column: str) -> float:
    return float(np.mean([float(row[column]) for row in rows]))
