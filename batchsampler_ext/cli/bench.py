"""``bench``: measures the time that bank and sampler add to a training step on this machine."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

import torch

from .. import __version__
from .._engine.backend import core
from ..planners import PLANNERS
from .costs import Settings, measure_costs
from .costs_report import advice, report
from .outputs import check_outputs, write_json
from .progress import shown_stages
from .timing import torch_threads

EXAMPLE = """example:
  batchsampler-ext bench --num-instances 1280000 --dim 256 --batch-size 512 --step-ms 250"""

SIZES = tuple(size.name for size in fields(Settings))


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure the time that bank and sampler add to a training step on this machine",
        description="Measures bank and sampler on random embeddings of the given sizes, as a training loop uses them. "
        "Prints times, memory, their share of a training step, and options that reduce them. The defaults take about "
        "ten seconds on 2 cores.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--num-instances", type=int, default=100_000, metavar="N", help="number of instances; default: %(default)s"
    )
    parser.add_argument("--dim", type=int, default=128, metavar="D", help="width of an embedding; default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="B", help="instances per batch; default: %(default)s"
    )
    parser.add_argument("--planner", default="partition", help=f"{', '.join(PLANNERS)}; default: %(default)s")
    parser.add_argument(
        "--refresh-every", type=int, metavar="T", help="batches per graph, for planners that walk; default: 100"
    )
    parser.add_argument(
        "--num-candidates", type=int, metavar="M", help="random candidates per row; default: min(1000, N - 1)"
    )
    parser.add_argument("--num-neighbors", type=int, metavar="K", help="neighbors per row; default: min(100, M)")
    parser.add_argument(
        "--dtype", default="bfloat16", help="number format of the bank: bfloat16 (default), float16 or float32"
    )
    parser.add_argument("--num-threads", type=int, help="CPU threads; default: torch's setting")
    parser.add_argument(
        "--step-ms",
        type=float,
        metavar="S",
        help="milliseconds of a training step without bank and sampler; adds their share of it",
    )
    parser.add_argument("--json", metavar="REPORT", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    check_outputs({"--json": options.json}, {})  # before the work, not after it
    step_seconds = None if options.step_ms is None else check_step(options.step_ms) / 1e3
    with torch_threads(options.num_threads):
        with shown_stages() as stage:
            costs = measure_costs(settings_of(options), step_seconds, stage)
        print(report(costs, step_seconds))
        machine = {"isa": core.isa(), "torch": torch.__version__, "num_threads": torch.get_num_threads()}
    if options.json is not None:
        numbers = {"version": __version__, **machine, **costs.summary()}
        content = {**numbers, "step_ms": options.step_ms, "advice": advice(costs, step_seconds)}
        write_json(options.json, content)
        print(f"wrote {options.json}")


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns the sizes, with the sampler's defaults for options that were not given."""
    sizes = {name: getattr(options, name) for name in SIZES}
    if sizes["num_candidates"] is None:
        sizes["num_candidates"] = min(1000, options.num_instances - 1)
    if sizes["num_neighbors"] is None:
        sizes["num_neighbors"] = min(100, sizes["num_candidates"])
    planner = PLANNERS.get(options.planner)
    if sizes["refresh_every"] is None and planner is not None and not planner.covers_once:
        sizes["refresh_every"] = 100
    return Settings(**sizes)


def check_step(milliseconds: float) -> float:
    if not 0 < milliseconds < float("inf"):  # also nan
        raise ValueError(f"--step-ms: expected a positive number, got {milliseconds}")
    return milliseconds
