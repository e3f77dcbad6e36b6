"""Shows costs to a person. Needs the ``cli`` extra (rich)."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .._backend import core
from .._timing import EVICTED_BYTES, Timing, duration
from ..report import mebibytes
from .model import Costs, Settings

CALLS = {"update": "bank.update, one batch", "draw": "draw within a window", "state_dict": "sampler.state_dict"}
TABLES = {
    "bank": "bank",
    "graph": "graph over all instances",
    "window": "batches of a window, drawn instances",
    "sampler_peak": "peak of a refresh beyond the bank",
}


def print_costs(costs: Costs, step_seconds: float | None, lines: list[str]) -> None:
    console = Console()
    settings = costs.settings
    console.print(
        f"{settings.num_samples:,} x {settings.dim:,} {settings.dtype}, M = {settings.num_candidates}, "
        f"K = {settings.num_neighbors}, B = {settings.batch_size}, {settings.epoch_mode} epochs of "
        f"{settings.num_batches:,} batches, {costs.num_threads} threads, {core.isa()}",
        highlight=False,
    )
    console.print(call_table(costs))
    console.print(refresh_table(costs))
    console.print(memory_table(costs))
    console.print(step_table(costs, step_seconds))
    console.print(" ".join([explanation(costs), *lines]), highlight=False)


def call_table(costs: Costs) -> Table:
    table = Table(title="Calls", caption=f"cold: after {EVICTED_BYTES >> 20} MiB were copied, as a training step does")
    table.add_column("")
    for name in ("warm\nmedian", "\np90", "cold\nmedian", "\np90", "\nruns"):
        table.add_column(name, justify="right")
    for name, title in CALLS.items():
        if name in costs.calls:
            cost = costs.calls[name]
            table.add_row(title, *spread(cost.warm), *spread(cost.cold), str(len(cost.cold.seconds)))
    return table


def refresh_table(costs: Costs) -> Table:
    table = Table(title="Refreshes")
    table.add_column("")
    for name in ("instances", "median", "p90", "graph", "runs"):
        table.add_column(name, justify="right")
    for cost in costs.refreshes:
        table.add_row(
            "first window of an epoch" if cost.is_first else "within an epoch",
            f"{cost.num_left:,}",
            *spread(cost.timing),
            f"{cost.graph_share:.0%}",
            str(len(cost.timing.seconds)),
        )
    return table


def memory_table(costs: Costs) -> Table:
    table = Table(title="Memory", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, title in TABLES.items():
        table.add_row(title, mebibytes(costs.memory[name]))
    return table


def step_table(costs: Costs, step_seconds: float | None) -> Table:
    settings = costs.settings
    calls, refreshes = costs.call_seconds(), costs.refresh_seconds(settings.refresh_every)
    table = Table(title="A training step")
    table.add_column("")
    table.add_column("time", justify="right")
    if step_seconds is not None:
        table.add_column(f"share of {duration(step_seconds)}", justify="right")
    rows = {
        "update and draw, cold": calls,
        refreshes_title(settings): refreshes,
        "in all": calls + refreshes,
    }
    for title, seconds in rows.items():
        shares = [] if step_seconds is None else [f"{seconds / step_seconds:.2%}"]
        table.add_row(title, duration(seconds), *shares)
    return table


def refreshes_title(settings: Settings) -> str:
    if settings.refresh_every >= settings.num_batches and settings.epoch_mode != "paper":
        return "a refresh an epoch"
    return f"refreshes every {settings.refresh_every:,} steps"


def explanation(costs: Costs) -> str:
    settings = costs.settings
    if settings.epoch_mode != "partition":
        return "Every refresh builds the graph of all instances; the cost of a step follows from the first one."
    measured = ", ".join(f"{cost.num_left:,}" for cost in costs.refreshes)
    counts = settings.undrawn(settings.refresh_every)
    if len(counts) == 1:
        return (
            "An epoch has one refresh, over all instances; what more of them would cost is interpolated between those "
            f"measured, with {measured} undrawn. They are of the same embeddings: training updates what was drawn."
        )
    return (
        f"Refreshes an epoch: {len(counts):,}, over {counts[0]:,} down to {counts[-1]:,} undrawn instances; measured "
        f"with {measured}, interpolated between."
    )


def spread(timing: Timing) -> tuple[str, str]:
    return duration(timing.median), duration(timing.p90)
