"""``compose``: writes a plan, the batches of some epochs, from the embeddings of a frozen encoder."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from .._engine.files import check_output
from .._plan.approximate import NEIGHBORS
from .._plan.recipes import PRESETS
from .._plan.sources import LEFTOVERS
from ..compose import compose as compose_plan
from ..graph_builders import METRICS
from .inputs import (
    IDS_HELP,
    MATRIX_HELP,
    add_input_options,
    load_graph,
    load_ids,
    load_matrix,
    require_no_input,
)
from .option_names import OptionNames
from .plan_report import report
from .progress import Progress, Stage, shown_stages

EXAMPLE = """example:
  batchsampler-ext compose queries.npy documents.npy --batch-size 1024 --epochs 3 --out plan.bse"""

# Arguments of compose() under the same names.
OPTIONS = (
    "batch_size", "preset", "community_size", "mutual", "num_candidates", "num_neighbors", "metric", "drop_last",
    "seed", "num_threads", "max_memory", "margin", "relative_margin", "max_score", "max_per_batch", "leftovers",
    "interleave", "sources_per_batch", "batches_per_cluster", "neighbors",
)  # fmt: skip
FILES = {"sources": 1, "labels": 1, "unique": None, "positives": 2}  # of ids -> columns, None: any number


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "compose",
        help="compose the batches of some epochs before training, and write them as a plan",
        description="Composes hard batches from the embeddings of a frozen encoder. PlannedBatchSampler draws them, "
        "and the command export writes them for other trainers.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("queries", metavar="QUERIES", help=f"matrix [N, D]: {MATRIX_HELP}")
    parser.add_argument("documents", metavar="DOCUMENTS", nargs="?", help="matrix [N, D] of the second texts, likewise")
    add_input_options(parser)
    parser.add_argument("--out", metavar="PLAN", required=True, help="file of the plan")
    parser.add_argument(
        "--hard-negatives", type=int, metavar="H", help="also keep the H hardest negatives of each instance, for export"
    )

    graph = parser.add_argument_group("graph", "Options replace values of the preset.")
    graph.add_argument("--preset", default="b3", help=f"{', '.join(PRESETS)}; default: %(default)s")
    graph.add_argument(
        "--rank-window", type=int, nargs=2, metavar=("P", "Q"), help="edges to neighbors of rank P + 1 to Q"
    )
    graph.add_argument(
        "--source-window",
        type=source_window,
        action="append",
        metavar="SOURCE=P,Q",
        help="likewise for the instances of one source, or SOURCE=none: uniform batches; may be repeated",
    )
    graph.add_argument("--num-candidates", type=int, metavar="M", help="random candidates per row, instead of a window")
    graph.add_argument("--num-neighbors", type=int, metavar="K", help="neighbors among the candidates")
    graph.add_argument(
        "--mutual", action=argparse.BooleanOptionalAction, default=None, help="only edges that go both ways"
    )
    graph.add_argument(
        "--batches-per-cluster", type=int, metavar="C", help="mean number of batches in a cluster, for clusters"
    )
    graph.add_argument(
        "--graph",
        metavar="FILE",
        help="graph to use instead: .npy of neighbors [N, K], -1 is none, or .npz of ProximityGraph.save",
    )
    graph.add_argument(
        "--neighbors",
        default=NEIGHBORS[0],
        help=f"how windows are searched: {', '.join(NEIGHBORS)}; default: %(default)s, whose time grows with N**2",
    )
    graph.add_argument(
        "--metric", default=METRICS[0], help=f"score of a pair: {', '.join(METRICS)}; default: %(default)s"
    )

    batches = parser.add_argument_group("batches")
    batches.add_argument("--batch-size", type=int, required=True, metavar="B", help="instances per batch, of all ranks")
    batches.add_argument(
        "--community-size", type=sizes, metavar="C", help="instances that are close in the graph; 1,2,4: of each epoch"
    )
    batches.add_argument("--epochs", type=int, default=1, metavar="E", help="number of epochs; default: %(default)s")
    batches.add_argument("--drop-last", action="store_true", help="leave out the ragged batch of each epoch")

    batches.add_argument("--sources", metavar="FILE", help=f"source of each instance, for batches of one; {IDS_HELP}")
    batches.add_argument(
        "--leftovers",
        default=LEFTOVERS[0],
        help=f"where instances go that fill no batch of their source: {', '.join(LEFTOVERS)}; default: %(default)s",
    )
    batches.add_argument(
        "--interleave",
        type=weights,
        default="proportional",
        metavar="SOURCE=WEIGHT,...",
        help="batches of each source, in proportion to weights; default: all that it fills",
    )
    batches.add_argument(
        "--sources-per-batch", type=int, default=1, metavar="C", help="sources in a batch; default: %(default)s"
    )

    apart = parser.add_argument_group("false negatives")
    apart.add_argument(
        "--unique", metavar="FILE", help=f"ids [N] or [N, C] that a batch holds once; {IDS_HELP}[,COLUMN]"
    )
    apart.add_argument(
        "--max-per-batch", type=int, default=1, metavar="G", help="instances with an equal id; default: %(default)s"
    )
    apart.add_argument(
        "--positives",
        metavar="FILE",
        help="further positives [P, 2], query and document; .npy, or FILE.parquet[:QUERY,DOCUMENT]",
    )
    apart.add_argument("--labels", metavar="FILE", help=f"instances with equal labels get no edge; {IDS_HELP}")
    apart.add_argument(
        "--margin", type=float, metavar="T", help="documents that score within T of a query's own are no negatives"
    )
    apart.add_argument("--relative-margin", type=float, metavar="T", help="likewise, as a share of that score")
    apart.add_argument("--max-score", type=float, metavar="S", help="no edges that score above this")

    both = parser.add_argument_group("both")
    both.add_argument("--seed", type=int, default=0, help="seed of graph and batches; default: %(default)s")
    both.add_argument("--num-threads", type=int, help="CPU threads; default: torch's setting")
    both.add_argument(
        "--max-memory", type=int, metavar="BYTES", help="limit of the scratch memory for building the graph"
    )
    parser.set_defaults(run=run, names=OptionNames(parser))


def run(options: argparse.Namespace) -> None:
    check_output(options.out, "--out")  # before the work, not after it
    inputs = {"QUERIES": options.queries, "DOCUMENTS": options.documents, "--graph": options.graph}
    require_no_input(options.out, "--out", inputs | {f"--{name}": getattr(options, name) for name in FILES})
    names = {"column": options.column, "tensor": options.tensor}
    queries = load_matrix(options.queries, "QUERIES", **names)
    documents = None if options.documents is None else load_matrix(options.documents, "DOCUMENTS", **names)
    arguments = {name: getattr(options, name) for name in OPTIONS}
    for name, num_columns in FILES.items():
        path = getattr(options, name)
        arguments[name] = None if path is None else load_ids(path, f"--{name}", num_columns=num_columns)
    arguments["graph"] = None if options.graph is None else load_graph(options.graph, "--graph")
    arguments["rank_window"] = rank_window(options)
    arguments |= {"num_hard_negatives": options.hard_negatives, "num_epochs": options.epochs}
    with shown_stages() as stage:
        progress = StagedProgress(stage)
        with options.names.in_errors():
            plan = compose_plan(queries, documents, progress=progress, **arguments)
        plan.save(options.out)
        measured = plan._measured(queries, documents, 0, progress)  # compose has checked the embeddings
    measured.hints = [options.names.written(hint) for hint in measured.hints]
    print(report(plan, measured, os.path.getsize(options.out)))
    print(f"wrote {options.out}")


def rank_window(options: argparse.Namespace) -> Any:
    if options.source_window is not None:
        if options.rank_window is not None:
            raise ValueError(
                "--rank-window: expected none with --source-window; other sources have the preset's window"
            )
        return dict(options.source_window)
    return None if options.rank_window is None else tuple(options.rank_window)


def sizes(text: str) -> int | list[int]:
    """Returns the number, or the numbers between commas."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers as 32 or 1,2,4, got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def source_window(text: str) -> tuple[int, tuple[int, int] | None]:
    """Returns the source and its window, or None for uniform batches."""
    found = re.fullmatch(r"(\d+)=(?:(\d+),(\d+)|none)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected SOURCE=P,Q or SOURCE=none, got {text!r}")
    return int(found[1]), None if found[2] is None else (int(found[2]), int(found[3]))


def weights(text: str) -> str | dict[int, float]:
    """Returns the weight of each source, or the text "proportional"."""
    if text == "proportional":
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {int(source): float(weight) for source, weight in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected SOURCE=WEIGHT,... or proportional, got {text!r}") from None


class StagedProgress:
    """A progress of work that names its stages, see ``_plan/stages.py``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def stage(self, name: str) -> Progress:
        progress = self._stage(name)
        progress(0, 1)  # a stage that counts nothing shows its name
        return progress

    def __call__(self, done: int, total: int) -> None:
        """A stage counts by what :meth:`stage` returns."""
