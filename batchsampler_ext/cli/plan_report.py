"""Prints what a plan consists of: what it cost, and its report."""

from __future__ import annotations

from .._engine.text_tables import mebibytes, table
from .._plan.report import PlanReport
from ..plan import Plan

__all__ = ["report"]


def report(plan: Plan, measured: PlanReport, num_bytes: int) -> str:
    """Returns lines of text. num_bytes: size of the file."""
    return "\n".join(
        [
            f"{plan.num_instances:,} instances, {plan.num_epochs} epochs of {len(plan.batches(0)):,} batches, "
            f"B = {plan.batch_size}, " + ", ".join(_settings(plan)),
            "",
            table(
                "Cost",
                [],
                [
                    *([name, f"{seconds:.3f} s"] for name, seconds in plan.seconds.items()),
                    ["file", mebibytes(num_bytes) if num_bytes >= 2**20 else f"{num_bytes:,} bytes"],
                ],
            ),
            "",
            str(measured),
        ]
    )


def _settings(plan: Plan) -> list[str]:
    names = ("preset", "community_size", "rank_window", "num_candidates", "num_neighbors", "mutual")
    values = {name: plan.info.get(name) for name in names}
    sizes = values["community_size"]  # of each epoch
    if plan.info.get("neighbor_search") is not None:
        values["neighbors"] = plan.info["neighbors"]
    values["community_size"] = sizes[0] if sizes is not None and len(sizes) == 1 else sizes
    return [f"{name} = {value}" for name, value in values.items() if value is not None]
