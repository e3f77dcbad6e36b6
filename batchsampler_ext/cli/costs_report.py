"""Costs in words and tables."""

from __future__ import annotations

import torch

from .._engine.backend import core
from .costs import TARGET_SHARE, Costs
from .tables import mebibytes, table
from .timing import EVICTED_BYTES, Timing, duration

__all__ = ["advice", "report"]

MIN_SAVING = 0.1  # of a step's cost: what saves less is no remedy
TABLES = {"bank": "bank", "graph": "graph", "refresh_peak": "peak of a refresh beyond the bank"}


def report(costs: Costs, step_seconds: float | None) -> str:
    """All that was measured, as text. step_seconds: of a training step without bank and sampler, if known."""
    settings = costs.settings
    return "\n".join(
        [
            f"{settings.num_instances:,} x {settings.dim:,} {settings.dtype}, M = {settings.num_candidates}, "
            f"K = {settings.num_neighbors}, B = {settings.batch_size}, planner {settings.planner}, "
            f"{torch.get_num_threads()} threads, {core.isa()}",
            "",
            step_table(costs, step_seconds),
            "",
            table("Memory", [], [[title, mebibytes(costs.memory[name])] for name, title in TABLES.items()]),
            "",
            f"Calls are timed after {EVICTED_BYTES >> 20} MiB were copied, as a training step evicts the caches too.",
            *advice(costs, step_seconds),
        ]
    )


def step_table(costs: Costs, step_seconds: float | None) -> str:
    settings = costs.settings
    columns = ["", "median", "p90", "runs", "per step"]
    if step_seconds is not None:
        columns.append(f"share of {duration(step_seconds)}")

    def row(title: str, timing: Timing | None, seconds: float) -> list[str]:
        measured = ["", "", ""]
        if timing is not None:
            measured = [duration(timing.median), duration(timing.p90), str(len(timing.seconds))]
        shares = [] if step_seconds is None else [f"{seconds / step_seconds:.2%}"]
        return [title, *measured, duration(seconds), *shares]

    interval = f"{settings.steps_per_refresh:,.0f} steps"
    if settings.refresh_every is None:
        interval = f"epoch ({interval})"
    rows = [row("update, one batch", costs.update, costs.update.median)]
    if costs.draw is not None:
        rows.append(row("draw, one batch", costs.draw, costs.draw.median))
    rows.append(row(f"refresh, per {interval}", costs.refresh, costs.refresh_seconds_per_step))
    rows.append(row("in all", None, costs.step_seconds))
    return table("Cost of a training step", columns, rows)


def advice(costs: Costs, step_seconds: float | None) -> list[str]:
    """What the costs suggest: whether they matter, and what makes them less as far as it was measured."""
    cost = costs.step_seconds
    if step_seconds is None:
        judgment = (
            f"A step costs {duration(cost)} more: below {TARGET_SHARE:.0%} if it takes "
            f"{duration(cost / TARGET_SHARE)} or longer. --step-ms S says it for yours."
        )
    else:
        side = "above" if costs.matters_to(step_seconds) else "below"
        judgment = (
            f"A step costs {duration(cost)} more, {cost / step_seconds:.2%} of {duration(step_seconds)}: "
            f"{side} {TARGET_SHARE:.0%}."
        )
    if not costs.matters_to(step_seconds):
        return [judgment]
    helpful = {option: less for option, less in costs.remedies.items() if less.step_seconds <= (1 - MIN_SAVING) * cost}
    if helpful:
        return [judgment, *(effect(costs, option, less, step_seconds) for option, less in helpful.items())]
    if costs.call_seconds > costs.refresh_seconds_per_step:
        return [judgment, "Most of it is updates and draws, which no option makes cheaper."]
    return [judgment, "None of the options that were tried saves a tenth of it."] if costs.remedies else [judgment]


def effect(costs: Costs, option: str, less: Costs, step_seconds: float | None) -> str:
    share = "" if step_seconds is None else f" ({less.step_seconds / step_seconds:.2%})"
    price = "with staler graphs" if "refresh" in option else "with somewhat easier batches"
    refresh = f"a refresh takes {duration(less.refresh.median)} instead of {duration(costs.refresh.median)}"
    return f"With {option} {refresh}, and a step costs {duration(less.step_seconds)} more{share}, {price}."
