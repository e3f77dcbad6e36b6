"""Shows the demo's comparison: a table, findings in words, a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table

from .._files import atomic_write
from ..report import draw_histograms, number
from .data import Split
from .experiment import Settings, Spread, Summary
from .simclr import NUM_NEIGHBORS, Run

COLORS = {
    "uniform": "tab:gray",
    "kNN": "tab:orange",
    "proximity": "tab:blue",
    "remedy": "tab:green",
}
KINDS = ("uniform", "kNN", "proximity")  # of batches, whose distributions are shown


def print_report(data: Split, settings: Settings, summaries: dict[str, Summary], lines: list[str]) -> None:
    console = Console()
    console.print(
        f"SimCLR on {data.name}: {len(data.train.labels):,} training and {len(data.test.labels):,} test images, "
        f"B = {settings.batch_size}, M = {settings.num_candidates}, K = {settings.num_neighbors}, "
        f"{settings.num_epochs} epochs, {settings.num_seeds} seeds",
        highlight=False,
    )
    console.print(table_of(summaries))
    untrained = summaries["uniform"].untrained_accuracy
    console.print(
        f"Accuracy: {NUM_NEIGHBORS} nearest neighbours on frozen features, mean ± standard deviation over seeds; an "
        f"untrained encoder has {points(untrained)}. False negatives: pairs of a batch with equal labels. Sampler: "
        "graphs, walks and bank updates as a share of the time of a training step; a step takes "
        f"{summaries['proximity'].step_milliseconds:.0f} ms.",
        highlight=False,
    )
    parts = summaries["proximity"].similarity_by_part
    console.print(
        f"Similarity in proximity batches from the first to the last part of an epoch: "
        f"{', '.join(f'{value:.3f}' for value in parts)}.",
        highlight=False,
    )
    for line in lines:
        console.print(line, highlight=False)


def table_of(summaries: dict[str, Summary]) -> Table:
    table = Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("batches", no_wrap=True)
    for name in ("accuracy\n[%]", "against\nuniform", "in-batch\nsimilarity", "false\nnegatives", "\nsampler"):
        table.add_column(name, justify="right")
    for arm, summary in summaries.items():
        table.add_row(
            arm,
            points(summary.accuracy),
            "" if arm == "uniform" else points(summary.difference, "+"),
            f"{summary.similarity:.3f}",
            f"{summary.false_negative_share:.1%}",
            f"{summary.sampler_share:.2%}",
        )
    return table


def points(value: Spread, sign: str = "") -> str:
    return f"{100 * value.mean:{sign}.2f} ±{number(100 * value.deviation, '.2f')}"


def save_figure(runs: dict[str, list[Run]], path: str) -> None:
    """Distributions of the kinds of batch; hardness over training, and over the course of an epoch."""
    from matplotlib.figure import Figure  # without pyplot no display is looked for

    similarities = {arm: np.stack([run.similarities for run in arm_runs]) for arm, arm_runs in runs.items()}
    figure = Figure(figsize=(16, 4), layout="constrained")
    distributions, training, epoch = figure.subplots(1, 3)
    last_half = {kind: similarities[kind][:, similarities[kind].shape[1] // 2 :].ravel() for kind in KINDS}
    draw_histograms(distributions, last_half)
    label(distributions, "Batches of the second half of training", "mean cosine of two members", "share of batches [%]")
    for arm, values in similarities.items():  # [seeds, epochs, steps]
        color = COLORS.get(arm, COLORS["remedy"])
        training.plot(values.mean((0, 2)), color=color, label=arm)
        steps = values[:, 1:].mean((0, 1))
        epoch.plot(np.arange(len(steps)) + 0.5, steps, color=color, label=arm)
    label(training, "Hardness over training", "epoch", "mean cosine of two members")
    label(epoch, "Hardness over an epoch, without the first", "step of the epoch", "mean cosine of two members")
    epoch.set_ylim(bottom=min(0, epoch.get_ylim()[0]))
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


def label(panel: Any, title: str, x: str, y: str) -> None:
    panel.set_title(title)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.legend()
