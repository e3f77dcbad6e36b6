"""Prints what a plan consists of: a table of hardness beside uniform batches, and a table of costs."""

from __future__ import annotations

from ..plan import Plan
from .tables import mebibytes, number, table

__all__ = ["report"]

_MEASURES = {
    "in_batch_similarity": ("in-batch similarity", ".4f"),
    "in_batch_accuracy": ("in-batch accuracy", ".2%"),
    "edges_inside": ("edges inside batches", ".2%"),
}


def report(plan: Plan, kinds: dict[str, dict[str, float]], num_bytes: int) -> str:
    """Returns lines of text. kinds: the result of :meth:`Plan.report`. num_bytes: size of the file."""
    measures = [name for name in _MEASURES if name in kinds["planned"]]
    lines = [
        f"{plan.num_instances:,} instances, {plan.num_epochs} epochs of {len(plan.batches(0)):,} batches, "
        f"B = {plan.batch_size}, " + ", ".join(_settings(plan)),
        "",
        table(
            "Mini-batches",
            ["", *(_MEASURES[name][0] for name in measures)],
            [[kind, *(number(stats[name], _MEASURES[name][1]) for name in measures)] for kind, stats in kinds.items()],
        ),
        "",
        table(
            "Cost",
            [],
            [
                ["graph", f"{plan.seconds['graph']:.3f} s"],
                ["epochs", f"{plan.seconds['epochs']:.3f} s"],
                ["file", mebibytes(num_bytes) if num_bytes >= 2**20 else f"{num_bytes:,} bytes"],
            ],
        ),
        "",
        f"Similarity is the mean {plan.info['metric']} score of an instance and another one of its batch.",
    ]
    if "in_batch_accuracy" in measures:
        lines.append("Accuracy is the share of queries whose own document scores highest in the batch.")
    return "\n".join(lines)


def _settings(plan: Plan) -> list[str]:
    names = ("preset", "community_size", "rank_window", "num_candidates", "num_neighbors", "mutual")
    values = {name: plan.info.get(name) for name in names}
    sizes = values["community_size"]  # of each epoch
    values["community_size"] = sizes[0] if sizes is not None and len(sizes) == 1 else sizes
    return [f"{name} = {value}" for name, value in values.items() if value is not None]
