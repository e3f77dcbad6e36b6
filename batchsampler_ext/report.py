"""Shows an inspection to a person: a table and a figure. Needs the ``cli`` extra (rich, matplotlib)."""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import matplotlib
    from rich.console import Console
    from rich.table import Table
except ImportError as error:
    raise ImportError(f'{error}. The command line needs: pip install "batchsampler_ext[cli]"') from error

from .inspection import Inspection, spread

COLORS = {"uniform": "tab:gray", "proximity": "tab:blue", "kNN": "tab:orange"}
MEASURE_NAMES = {"in_batch_similarity": "in-batch similarity", "false_negative_share": "false negatives"}


def print_report(inspection: Inspection, console: Console) -> None:
    settings, costs = inspection.settings, inspection.costs
    console.print(
        f"{settings['num_samples']:,} x {settings['dim']:,} {settings['dtype']}, metric {settings['metric']}, "
        f"M = {settings['num_candidates']}, K = {settings['num_neighbors']}, B = {settings['batch_size']}, "
        f"{settings['num_batches']} batches, {settings['num_threads']} threads",
        highlight=False,
    )
    console.print(comparison_table(inspection))
    console.print(cost_table(inspection.costs, inspection.graph))
    console.print(
        "Similarity is the mean cosine of two members of a batch; higher means harder negatives. False negatives are "
        "pairs with equal labels: the price. kNN batches are a sample; they do not cover the data.",
        highlight=False,
    )
    if costs["filled_share"]:
        console.print(f"{costs['filled_share']:.1%} of the instances were assigned at random.", highlight=False)
    for line in inspection.advice:
        console.print(line, highlight=False)


def comparison_table(inspection: Inspection) -> Table:
    table = Table(title="Mini-batches")
    table.add_column("batches")
    measures = [name for name in MEASURE_NAMES if name in inspection.kinds["uniform"]]
    for name in measures:
        table.add_column(f"{MEASURE_NAMES[name]}\nmean", justify="right")
        table.add_column("\np10" if name == "in_batch_similarity" else "\np90", justify="right")
    for kind, stats in inspection.kinds.items():
        cells = []
        for name in measures:
            values = spread(stats[f"{name}_per_batch"])
            if name == "in_batch_similarity":  # the easiest tenth of the batches, and the worst tenth for falseness
                cells += [f"{values['mean']:.4f}", f"{values['p10']:.4f}"]
            else:
                cells += [f"{values['mean']:.2%}", f"{values['p90']:.2%}"]
        table.add_row(kind, *cells)
    return table


def cost_table(costs: dict[str, float | None], graph: dict[str, float]) -> Table:
    table = Table(title="Cost and graph", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("graph", f"{costs['graph_seconds']:.3f} s")
    table.add_row("batches of one epoch", f"{costs['walk_seconds']:.3f} s")
    memory = costs["peak_memory_bytes"]
    table.add_row("peak memory beyond the input", "unknown" if memory is None else f"{memory / 2**20:,.0f} MiB")
    table.add_row("mean edge score", f"{graph['mean_score']:.4f}")
    table.add_row("largest in-degree", f"{graph['max_in_degree']:,}")
    table.add_row("rows without neighbours", f"{graph['isolated_rows']:,}")
    table.add_row("rows nobody links to", f"{graph['unreached_rows']:,}")
    return table


def save_figure(inspection: Inspection, path: str) -> None:
    """Histograms over batches of each measure, one colour a kind."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    measures = [name for name in MEASURE_NAMES if name in inspection.kinds["uniform"]]
    figure, panels = pyplot.subplots(
        1, len(measures), figsize=(6 * len(measures), 4), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels[0], measures, strict=True):
        draw_histograms(panel, {kind: stats[f"{name}_per_batch"] for kind, stats in inspection.kinds.items()})
        panel.set_xlabel("mean cosine of two members" if name == "in_batch_similarity" else "share of pairs")
        panel.set_ylabel("share of batches")
        panel.set_title(MEASURE_NAMES[name])
    panels[0][0].legend(title="batches")
    settings = inspection.settings
    figure.suptitle(
        f"{settings['num_samples']:,} instances, B = {settings['batch_size']}, M = {settings['num_candidates']}, "
        f"K = {settings['num_neighbors']}"
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_histograms(panel: Any, values: dict[str, np.ndarray]) -> None:
    known = {kind: array[~np.isnan(array)] for kind, array in values.items()}
    everything = np.concatenate(list(known.values()))
    if len(everything) == 0:
        return
    bins = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-6), 41)
    for kind, array in known.items():
        if len(array):
            weights = np.full(len(array), 1 / len(array))
            panel.hist(array, bins=bins, weights=weights, color=COLORS[kind], alpha=0.6, label=kind)
