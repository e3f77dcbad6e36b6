"""Draws the figures of docs/study/ from the CSV: one file per system and data set, one panel per question."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .plan import SAMPLERS, System
from .results import FALSE_NEGATIVES, METRIC, SECONDS, SIMILARITY, Row, histories, is_confirmed
from .statistics import half_width
from .tables import differences_of, groups

COLORS = {"untrained": "0.6", "uniform": "tab:blue", "knn": "tab:orange", "proximity": "tab:green"}
# The options that the panels of one parameter vary.
OPTIONS = {"M": "num_candidates", "K": "num_neighbors", "range_min": "range_min"}


def draw(folder: Path, rows: list[Row], systems: dict[str, System]) -> list[Path]:
    """Draws all figures. Returns the paths of the files."""
    folder.mkdir(exist_ok=True)
    written = []
    for system in systems.values():
        for setting in system.confirm:
            of_data = [row for row in rows if (row.system, row.data) == (system.name, setting.data)]
            if is_confirmed(of_data):
                name = re.sub(r"[^a-z0-9]+", "_", f"{system.name}_{setting.data}".lower()).strip("_")
                written.append(draw_setting(folder / f"{name}.png", of_data, f"{system.name}, {setting.data}", system))
    return written


def draw_setting(path: Path, rows: list[Row], title: str, system: System) -> Path:
    panels: list[Callable[[Any, list[Row], str], None]] = [curves, similarity, false_negatives]
    if any(row.phase in ("sensitivity", "remedies") for row in rows):
        panels += [swept("M"), swept("K"), swept("alpha"), swept("range_min"), against_false_negatives]
    columns = 3 if len(panels) <= 3 else 4
    figure, axes = plt.subplots(
        -(-len(panels) // columns), columns, figsize=(4 * columns, 3.2 * -(-len(panels) // columns)), squeeze=False
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis, rows, system.metric)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle(title)
    save(figure, path)
    return path


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def curves(axis: Any, rows: list[Row], metric: str) -> None:
    """Draws the metric over training time, as means over seeds at equal epochs."""
    for arm, of_arm in confirmed_histories(rows).items():
        evaluated = [i for i in range(of_arm.shape[1]) if not np.isnan(of_arm[:, i, METRIC]).any()]
        seconds, values = (of_arm[:, evaluated, column].mean(0) for column in (SECONDS, METRIC))
        axis.plot(seconds, 100 * values, marker=".", color=COLORS[arm], label=arm)
    untrained = [row.value for row in rows if row.arm == "untrained"]
    if untrained:
        axis.axhline(100 * np.mean(untrained), color=COLORS["untrained"], linestyle=":", label="untrained")
    axis.set(xlabel="training time [s]", ylabel=f"{metric} [%]")
    axis.legend(fontsize=7)


def similarity(axis: Any, rows: list[Row], metric: str) -> None:
    over_epochs(axis, rows, SIMILARITY, "in-batch cosine", 1)


def false_negatives(axis: Any, rows: list[Row], metric: str) -> None:
    over_epochs(axis, rows, FALSE_NEGATIVES, "false negatives [% of pairs]", 100)


def over_epochs(axis: Any, rows: list[Row], column: int, label: str, scale: float) -> None:
    for arm, of_arm in confirmed_histories(rows).items():
        values = scale * of_arm[:, :, column].mean(0)
        axis.plot(np.arange(1, len(values) + 1), values, marker=".", color=COLORS[arm], label=arm)
    axis.set(xlabel="epoch", ylabel=label)


def confirmed_histories(rows: list[Row]) -> dict[str, np.ndarray]:
    """Returns histories of the confirmation by sampler."""
    confirmed = [row for row in rows if row.phase == "confirm" and row.arm in SAMPLERS]
    return {arm: histories(of_arm) for arm, of_arm in groups(confirmed).items()}


def swept(name: str) -> Callable[[Any, list[Row], str], None]:
    """Returns a panel that draws the difference to uniform batches over the values of one parameter."""

    def panel(axis: Any, rows: list[Row], metric: str) -> None:
        uniform = [row for row in rows if (row.phase, row.arm) == ("confirm", "uniform")]
        others = groups(row for row in rows if row.arm.startswith(f"{name}="))
        seeds = {row.seed for of_arm in others.values() for row in of_arm}  # all points have the same seeds
        confirmed = [r for r in rows if (r.phase, r.arm) == ("confirm", "proximity") and r.seed in seeds]
        if name == "alpha":  # it was varied from independent walks
            varied = {"alpha=0.2": [row for row in rows if (row.phase, row.arm) == ("ablations", "independent walks")]}
        else:
            value = json.loads(confirmed[0].parameters).get(OPTIONS[name], 0) if confirmed else 0
            varied = {f"{name}={value}": confirmed}
        points = []
        for arm, of_arm in (varied | others).items():
            differences = differences_of(of_arm, uniform)
            if len(differences) > 1:
                points.append((float(arm.split("=")[1]), differences.mean(), half_width(differences)))
        if points:
            x, centers, halves = np.array(sorted(points)).T
            axis.errorbar(x, centers, halves, marker="o", capsize=3, color=COLORS["proximity"])
        if name in ("M", "K"):
            axis.set_xscale("log")
        axis.axhline(0, color=COLORS["uniform"], linewidth=1)
        axis.set(xlabel=name, ylabel=f"{metric}: points over uniform")

    return panel


def against_false_negatives(axis: Any, rows: list[Row], metric: str) -> None:
    """Draws the metric of each way of sampling over the share of false negatives in its batches."""
    sampled = [row for row in rows if row.phase in ("confirm", "sensitivity", "remedies") and row.arm != "untrained"]
    for arm, of_arm in groups(sampled).items():
        share = 100 * np.mean([row.false_negative_share for row in of_arm])
        axis.plot(share, 100 * np.mean([row.value for row in of_arm]), "o", color=COLORS.get(arm, "0.7"))
        if arm in SAMPLERS:
            axis.annotate(arm, (share, 100 * np.mean([row.value for row in of_arm])), fontsize=7)
    axis.set(xlabel="false negatives [% of pairs]", ylabel=f"{metric} [%]")
