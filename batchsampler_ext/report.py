"""Shows an inspection to a person: a table and a figure. Needs the ``cli`` extra (rich, matplotlib)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ._files import atomic_write
from .inspection import Inspection, Stage, spread

COLORS = {"uniform": "tab:gray", "proximity": "tab:blue", "kNN": "tab:orange"}
MEASURE_NAMES = {"in_batch_similarity": "in-batch similarity", "false_negative_share": "false negatives"}


@contextmanager
def shown_stages() -> Iterator[Stage]:
    """One progress bar a stage on stderr, if that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:

        def stage(name: str) -> Any:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield stage


def print_report(inspection: Inspection) -> None:
    console = Console()
    settings, costs = inspection.settings, inspection.costs
    console.print(
        f"{settings['num_samples']:,} x {settings['dim']:,} {settings['dtype']}, metric {settings['metric']}, "
        f"M = {settings['num_candidates']}, K = {settings['num_neighbors']}, B = {settings['batch_size']}, "
        f"{settings['num_batches']} batches, {settings['num_threads']} threads",
        highlight=False,
    )
    console.print(comparison_table(inspection))
    console.print(cost_table(costs, inspection.graph))
    console.print(
        "Similarity is the mean cosine of two members of a batch; higher means harder negatives. False negatives are "
        "pairs with equal labels: the price. kNN batches are a sample; they do not cover the data.",
        highlight=False,
    )
    for line in inspection.advice:
        console.print(line, highlight=False)


def comparison_table(inspection: Inspection) -> Table:
    table = Table(title="Mini-batches")
    table.add_column("batches")
    table.add_column("count", justify="right")
    measures = [name for name in MEASURE_NAMES if name in inspection.kinds["uniform"]]
    for name in measures:
        table.add_column(f"{MEASURE_NAMES[name]}\nmean", justify="right")
        table.add_column("\np10" if name == "in_batch_similarity" else "\np90", justify="right")
    for kind, stats in inspection.kinds.items():
        cells = [f"{stats['num_batches']:,}"]
        for name in measures:
            values = spread(stats[f"{name}_per_batch"])
            if name == "in_batch_similarity":  # the easiest tenth of the batches, and the worst tenth for falseness
                cells += [number(values["mean"], ".4f"), number(values["p10"], ".4f")]
            else:
                cells += [number(values["mean"], ".2%"), number(values["p90"], ".2%")]
        table.add_row(kind, *cells)
    return table


def cost_table(costs: dict[str, float | None], graph: dict[str, float]) -> Table:
    table = Table(title="Cost and graph", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("graph", f"{costs['graph_seconds']:.3f} s")
    table.add_row("batches of one epoch", f"{costs['walk_seconds']:.3f} s")
    table.add_row("memory of graph and batches", mebibytes(costs["sampler_memory_bytes"]))
    table.add_row("peak of the process beyond the input", mebibytes(costs["peak_memory_bytes"]))
    table.add_row("instances drawn", f"{costs['covered_share']:.1%}")
    table.add_row("places filled at random", f"{costs['filled_share']:.1%}")
    table.add_row("edges", f"{graph['num_edges']:,}")
    table.add_row("mean edge score", number(graph["mean_score"], ".4f"))
    table.add_row("largest in-degree", f"{graph['max_in_degree']:,}")
    table.add_row("rows without neighbours", f"{graph['isolated_rows']:,}")
    table.add_row("rows nobody links to", f"{graph['unreached_rows']:,}")
    return table


def save_figure(inspection: Inspection, path: str) -> None:
    """Histograms over batches of each measure, one colour a kind."""
    from matplotlib.figure import Figure  # optional; and without pyplot no display is looked for

    measures = [name for name in MEASURE_NAMES if name in inspection.kinds["uniform"]]
    figure = Figure(figsize=(6 * len(measures), 4), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)
    for panel, name in zip(panels[0], measures, strict=True):
        scale = 1 if name == "in_batch_similarity" else 100
        draw_histograms(panel, {kind: scale * stats[f"{name}_per_batch"] for kind, stats in inspection.kinds.items()})
        panel.set_xlabel("mean cosine of two members" if name == "in_batch_similarity" else "share of pairs [%]")
        panel.set_ylabel("share of batches [%]")
        panel.set_title(MEASURE_NAMES[name])
    if panels[0][0].get_legend_handles_labels()[0]:
        panels[0][0].legend(title="batches")
    settings = inspection.settings
    figure.suptitle(
        f"{settings['num_samples']:,} instances, B = {settings['batch_size']}, M = {settings['num_candidates']}, "
        f"K = {settings['num_neighbors']}"
    )
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


def number(value: float, spec: str) -> str:
    return "n/a" if np.isnan(value) else format(value, spec)


def mebibytes(num_bytes: float | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"


def draw_histograms(panel: Any, values: dict[str, np.ndarray]) -> None:
    known = {kind: array[~np.isnan(array)] for kind, array in values.items()}
    everything = np.concatenate(list(known.values()))
    if len(everything) == 0:
        return
    bins = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-6), 41)
    for kind, array in known.items():
        if len(array):
            weights = np.full(len(array), 100 / len(array))
            panel.hist(array, bins=bins, weights=weights, color=COLORS[kind], alpha=0.6, label=kind)
