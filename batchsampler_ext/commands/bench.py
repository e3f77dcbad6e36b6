"""``bench``: what graph, walks and bank cost a training step on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from .. import _validate
from .._files import atomic_write, check_output
from .._window_maker import count_batches, default_refresh_every
from ._common import require_packages

EXAMPLE = """example:
  python -m batchsampler_ext bench --num-samples 1280000 --dim 256 --batch-size 512 --step-ms 250"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="what graph, walks and bank cost a training step on this machine",
        description="Measures bank and sampler on random embeddings of the given sizes, as a training loop uses them; "
        "prints times, memory and their share of a training step. Defaults take some ten seconds on 2 cores.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--num-samples", type=int, default=100_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=128, metavar="D", help="of an embedding; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=256, metavar="B", help="default: %(default)s")
    parser.add_argument("--refresh-every", type=int, metavar="T", help="steps; default: an epoch of partitions, or 100")
    parser.add_argument("--num-candidates", type=int, metavar="M", help="default: min(1000, N - 1)")
    parser.add_argument("--num-neighbors", type=int, metavar="K", help="default: min(100, M)")
    parser.add_argument("--dtype", default="bfloat16", help="of the bank: bfloat16 (default), float16 or float32")
    parser.add_argument("--epoch-mode", default="partition", help="partition (default), independent or paper")
    parser.add_argument("--num-threads", type=int, help="default: torch's setting")
    parser.add_argument("--step-ms", type=float, metavar="S", help="of a training step without all this: adds shares")
    parser.add_argument("--json", metavar="REPORT", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    require_packages("bench", "cli", ["rich"])
    from ..costs.advice import advice
    from ..costs.measurement import measure_costs
    from ..costs.model import Settings
    from ..costs.report import print_costs
    from ..report import shown_stages

    if options.json is not None:
        check_output(options.json, "json")  # before the work, not after it
    step_seconds = None if options.step_ms is None else check_step(options.step_ms) / 1e3
    num_candidates = options.num_candidates
    if num_candidates is None:
        num_candidates = min(1000, options.num_samples - 1)
    num_neighbors = min(100, num_candidates) if options.num_neighbors is None else options.num_neighbors
    refresh_every = options.refresh_every
    if refresh_every is None:
        num_batches = count_batches(options.num_samples, max(1, options.batch_size), drop_last=False)  # checked below
        refresh_every = default_refresh_every(options.epoch_mode, num_batches)
    settings = Settings(
        options.num_samples,
        options.dim,
        options.batch_size,
        refresh_every,
        num_candidates,
        num_neighbors,
        options.dtype,
        options.epoch_mode,
    )
    num_threads = _validate.num_threads(options.num_threads)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)  # as training code says it
    try:
        with shown_stages() as stage:
            costs = measure_costs(settings, stage)
    finally:
        torch.set_num_threads(torch_threads)
    lines = advice(costs, step_seconds)
    print_costs(costs, step_seconds, lines)
    if options.json is not None:
        content = {**costs.summary(), "step_ms": options.step_ms, "advice": lines}
        with atomic_write(options.json) as file:
            file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        print(f"wrote {options.json}")


def check_step(milliseconds: float) -> float:
    if not 0 < milliseconds < float("inf"):  # also nan
        raise ValueError(f"--step-ms: expected a positive number, got {milliseconds}")
    return milliseconds
