"""``inspect``: measures hardness, false negatives and cost of batches of a matrix of features."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import numpy as np
import torch

from .._engine.files import atomic_write
from ..batches import Batches
from ..graph_builders import METRICS
from ..planners import PLANNERS
from .inputs import MATRIX_HELP, add_input_options, load_labels, load_matrix
from .inspection import inspect_features
from .inspection_report import report, save_figure
from .option_names import OptionNames
from .outputs import check_outputs, write_json
from .progress import shown_stages

EXAMPLE = """example:
  batchsampler-ext inspect features.npy --labels labels.npy --num-candidates 1000 --out batches.npy"""

# Options that proximity_graph and sample_batches take under the same names.
GRAPH_OPTIONS = (
    "num_candidates", "num_neighbors", "metric", "compute_dtype", "candidate_group_size", "range_min", "max_score",
    "seed", "num_threads", "max_memory",
)  # fmt: skip
EPOCH_OPTIONS = ("planner", "restart_prob", "drop_last", "seed", "epoch", "num_threads")


def compute_dtype(name: str) -> torch.dtype:
    if name not in ("float32", "bfloat16"):
        raise argparse.ArgumentTypeError(f"expected float32 or bfloat16, got {name}")
    return torch.float32 if name == "float32" else torch.bfloat16


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="measure hardness, false negatives and cost of the sampler's batches of your features",
        description="Builds a proximity graph over FEATURES, plans an epoch of mini-batches as the sampler does during "
        "training, and compares them with uniform and kNN batches. For batches that are composed before training, use "
        "the command advise.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("features", metavar="FEATURES", help=f"matrix [N, D]: {MATRIX_HELP}")
    add_input_options(parser)
    parser.add_argument("--labels", metavar="Y", help=".npy integers [N], -1 = unknown: counts pairs with equal labels")
    parser.add_argument(
        "--out", metavar="BATCHES", help="write the batches as .npy, int32 [num_batches, B], -1 past the end"
    )
    parser.add_argument("--json", metavar="REPORT", help="write the numbers as JSON")
    parser.add_argument("--figure", metavar="PNG", help="write histograms over the batches; needs matplotlib")

    graph = parser.add_argument_group("graph")
    graph.add_argument(
        "--num-candidates", type=int, metavar="M", help="random candidates per row; default: min(1000, N - 1)"
    )
    graph.add_argument("--num-neighbors", type=int, metavar="K", help="neighbors per row; default: min(100, M)")
    graph.add_argument(
        "--metric", default=METRICS[0], help=f"score of a pair: {', '.join(METRICS)}; default: %(default)s"
    )
    graph.add_argument(
        "--compute-dtype",
        type=compute_dtype,
        default="float32",
        metavar="DTYPE",
        help="type of features in scores: float32 (default) or bfloat16",
    )
    graph.add_argument(
        "--candidate-group-size", type=int, default=256, help="rows that share a candidate set; default: %(default)s"
    )
    graph.add_argument(
        "--range-min", type=int, default=0, help="nearest candidates of each row to skip; default: %(default)s"
    )
    graph.add_argument("--max-score", type=float, help="no edges to candidates that score above this")
    graph.add_argument("--exclude-same-label", action="store_true", help="no edges between instances with equal labels")

    epoch = parser.add_argument_group("batches")
    epoch.add_argument(
        "--batch-size", type=int, default=256, metavar="B", help="instances per batch; default: %(default)s"
    )
    epoch.add_argument("--planner", default="partition", help=f"{', '.join(PLANNERS)}; default: %(default)s")
    epoch.add_argument(
        "--restart-prob", type=float, default=0.2, metavar="ALPHA", help="of walks; default: %(default)s"
    )
    epoch.add_argument("--drop-last", action="store_true", help="leave out the ragged last batch")
    epoch.add_argument("--epoch", type=int, default=0, help="epoch to plan; default: %(default)s")

    both = parser.add_argument_group("both")
    both.add_argument("--seed", type=int, default=0, help="seed of candidates and walks; default: %(default)s")
    both.add_argument("--num-threads", type=int, help="CPU threads; default: torch's setting")
    both.add_argument(
        "--max-memory", type=int, metavar="BYTES", help="limit of the scratch memory for building the graph"
    )
    parser.set_defaults(run=run, names=OptionNames(parser))


def run(options: argparse.Namespace) -> None:
    check_writing(options)  # before the work, not after it
    if options.exclude_same_label and options.labels is None:
        raise ValueError("--exclude-same-label: expected --labels as well, got none")
    features = load_matrix(options.features, "FEATURES", column=options.column, tensor=options.tensor)
    labels = None if options.labels is None else load_labels(options.labels, len(features))
    graph_arguments = {name: getattr(options, name) for name in GRAPH_OPTIONS}
    graph_arguments["labels"] = labels if options.exclude_same_label else None
    epoch_arguments = {name: getattr(options, name) for name in EPOCH_OPTIONS}
    with shown_stages() as stage, options.names.in_errors():
        inspection = inspect_features(
            features,
            options.batch_size,
            labels=labels,
            graph_arguments=graph_arguments,
            epoch_arguments=epoch_arguments,
            stage=stage,
        )
    print(report(inspection))
    if options.out is not None:
        with atomic_write(options.out) as file:
            np.save(file, padded(inspection.batches))
    if options.json is not None:
        write_json(options.json, inspection.summary())
    if options.figure is not None:
        save_figure(inspection, options.figure)
    for path in filter(None, (options.out, options.json, options.figure)):
        print(f"wrote {path}")


def check_writing(options: argparse.Namespace) -> None:
    """Raises the errors of writing before the work: an unfit path, one that is given twice, or a missing matplotlib."""
    check_outputs(
        {"--out": options.out, "--json": options.json, "--figure": options.figure},
        {"FEATURES": options.features, "--labels": options.labels},
    )
    if options.figure is not None and importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "--figure: expected matplotlib to be installed, got none; run pip install 'batchsampler_ext[cli]'"
        )


def padded(batches: Batches) -> np.ndarray:
    """Returns int32 [num_batches, B]. The ragged last batch is padded with -1."""
    rows = torch.full((len(batches), batches.indices.shape[1]), -1, dtype=torch.int32)
    rows[: len(batches.indices)] = batches.indices.int()
    if len(batches.tail):
        rows[-1, : len(batches.tail)] = batches.tail.int()
    return rows.numpy()
