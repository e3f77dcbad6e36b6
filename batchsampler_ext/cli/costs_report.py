"""Prints costs as tables and sentences."""

from __future__ import annotations

import torch

from .._engine.backend import core
from .._engine.text_tables import mebibytes, table
from .costs import TARGET_SHARE, Costs
from .timing import EVICTED_BYTES, Timing, duration

__all__ = ["advice", "report"]

MIN_SAVING = 0.1  # of the costs of a step: options that save less are not recommended
TABLES = {"bank": "bank", "graph": "graph", "refresh_peak": "peak of a refresh, without the bank"}


def report(costs: Costs, step_seconds: float | None) -> str:
    """Returns the measurements as text. step_seconds: time of a training step without bank and sampler, or None."""
    settings = costs.settings
    return "\n".join(
        [
            f"{settings.num_instances:,} x {settings.dim:,} {settings.dtype}, M = {settings.num_candidates}, "
            f"K = {settings.num_neighbors}, B = {settings.batch_size}, planner {settings.planner}, "
            f"threads = {torch.get_num_threads()}, {core.isa()}",
            "",
            step_table(costs, step_seconds),
            "",
            table("Memory", [], [[title, mebibytes(costs.memory[name])] for name, title in TABLES.items()]),
            "",
            f"Before each timed call, {EVICTED_BYTES >> 20} MiB are copied, as a training step evicts the caches too.",
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
    rows.append(row("total", None, costs.step_seconds))
    return table("Cost of a training step", columns, rows)


def advice(costs: Costs, step_seconds: float | None) -> list[str]:
    """Returns sentences: whether the costs matter, and which of the measured options reduce them."""
    cost = costs.step_seconds
    if step_seconds is None:
        judgment = (
            f"Bank and sampler add {duration(cost)} to a step. This is below {TARGET_SHARE:.0%} if a step takes "
            f"{duration(cost / TARGET_SHARE)} or longer. --step-ms S compares it with your step."
        )
    else:
        side = "above" if costs.matters_to(step_seconds) else "below"
        judgment = (
            f"Bank and sampler add {duration(cost)} to a step of {duration(step_seconds)}. "
            f"This is {cost / step_seconds:.2%}, {side} {TARGET_SHARE:.0%}."
        )
    if not costs.matters_to(step_seconds):
        return [judgment]
    helpful = {option: less for option, less in costs.remedies.items() if less.step_seconds <= (1 - MIN_SAVING) * cost}
    if helpful:
        return [judgment, *(effect(costs, option, less, step_seconds) for option, less in helpful.items())]
    if costs.call_seconds > costs.refresh_seconds_per_step:
        return [judgment, "Most of this time goes into updates and draws, which no option makes faster."]
    return (
        [judgment, "None of the options that were tried saves a tenth of this time."] if costs.remedies else [judgment]
    )


def effect(costs: Costs, option: str, less: Costs, step_seconds: float | None) -> str:
    share = "" if step_seconds is None else f" ({less.step_seconds / step_seconds:.2%})"
    price = "The graphs are then older" if "refresh" in option else "The batches are then somewhat easier"
    refresh = f"a refresh takes {duration(less.refresh.median)} instead of {duration(costs.refresh.median)}"
    return f"With {option}, {refresh}, and a step takes {duration(less.step_seconds)} longer{share}. {price}."
