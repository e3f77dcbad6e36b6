"""Prints an inspection as tables, and draws it as a figure, which needs matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._engine.files import atomic_write
from .._engine.text_tables import mebibytes, number, table
from .inspection import Inspection, spread

__all__ = ["report", "save_figure"]

COLORS = {"uniform": "tab:gray", "proximity": "tab:blue", "kNN": "tab:orange"}
MEASURE_NAMES = {"in_batch_similarity": "in-batch similarity", "false_negative_share": "false negatives"}


def report(inspection: Inspection) -> str:
    """Returns the measurements as text. The sentences about them come last."""
    settings = inspection.settings
    return "\n".join(
        [
            f"{settings['num_instances']:,} x {settings['dim']:,} {settings['dtype']}, metric {settings['metric']}, "
            f"M = {settings['num_candidates']}, K = {settings['num_neighbors']}, B = {settings['batch_size']}, "
            f"{settings['num_batches']} batches, threads = {settings['num_threads']}",
            "",
            comparison_table(inspection),
            "",
            cost_table(inspection.costs, inspection.graph),
            "",
            "Similarity is the mean cosine of two members of a batch. Higher means harder negatives.",
            *(
                ["False negatives are pairs with equal labels."]
                if "false_negative_share" in inspection.kinds["uniform"]
                else []
            ),
            "kNN batches are a sample and do not cover the data.",
            "",
            "Summary",
            *(f"  {sentence}" for sentence in inspection.conclusions),
        ]
    )


def comparison_table(inspection: Inspection) -> str:
    columns = ["", "count"]
    measures = [name for name in MEASURE_NAMES if name in inspection.kinds["uniform"]]
    for name in measures:
        columns += [MEASURE_NAMES[name], "p10" if name == "in_batch_similarity" else "p90"]
    rows = []
    for kind, stats in inspection.kinds.items():
        cells = [kind, f"{stats['num_batches']:,}"]
        for name in measures:
            values = spread(stats[f"{name}_per_batch"])
            if name == "in_batch_similarity":  # p10: the easiest batches; p90 below: the most false ones
                cells += [number(values["mean"], ".4f"), number(values["p10"], ".4f")]
            else:
                cells += [number(values["mean"], ".2%"), number(values["p90"], ".2%")]
        rows.append(cells)
    return table("Mini-batches", columns, rows)


def cost_table(costs: dict[str, float | None], graph: dict[str, float]) -> str:
    rows = [
        ["graph", f"{costs['graph_seconds']:.3f} s"],
        ["batches of one epoch", f"{costs['walk_seconds']:.3f} s"],
        ["memory of graph and batches", mebibytes(costs["sampler_memory_bytes"])],
        ["peak memory of the process, without the input", mebibytes(costs["peak_memory_bytes"])],
        ["instances drawn", f"{costs['drawn_share']:.1%}"],
        ["random fills", f"{costs['random_fill_share']:.1%}"],
        ["edges", f"{graph['num_edges']:,}"],
        ["mean edge score", number(graph["mean_score"], ".4f")],
        ["largest in-degree", f"{graph['max_in_degree']:,}"],
        ["rows without outgoing edges", f"{graph['isolated_rows']:,}"],
        ["rows without incoming edges", f"{graph['unreached_rows']:,}"],
    ]
    return table("Cost and graph", [], rows)


def save_figure(inspection: Inspection, path: str) -> None:
    """Writes a PNG with a histogram over batches for each measure, one color per kind of batches."""
    from matplotlib.figure import Figure  # optional, and without pyplot, which looks for a display

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
        f"{settings['num_instances']:,} instances, B = {settings['batch_size']}, M = {settings['num_candidates']}, "
        f"K = {settings['num_neighbors']}"
    )
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


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
