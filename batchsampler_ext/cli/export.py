"""``export``: writes the batches of a plan for trainers that read files."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .._engine.files import atomic_directory, atomic_write, check_output
from ..plan import Plan
from .arctic import write_arctic
from .inputs import import_pyarrow, require_no_input
from .option_names import OptionNames
from .progress import Progress, shown_stages

EXAMPLE = """formats:
  npy      int32 [E * num_batches, B], the batches of all epochs in order; shorter ones are padded with -1
  jsonl    a line {"epoch": e, "batch": b, "instances": [...]} per batch
  parquet  a row (epoch, batch, position, instance) of int32 per instance and epoch
  arctic   a directory of pre-batched tokens, as the "contrastive_pretokenized" data of ArcticTraining

formats with --hard-negatives:
  npy      int32 [N, h], the hard negatives of each instance, the best first; rows with fewer end in -1
  jsonl    a line {"anchor": i, "positive": i, "negative_1": j, ...} per instance that has h; without documents,
           the plan knows no positive, and the key is left out
  parquet  likewise, in columns of int32

example:
  batchsampler-ext export plan.bse --format jsonl --out batches.jsonl"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write the batches of a plan for other trainers",
        description="Writes the batches of all epochs of PLAN, or its hard negatives.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN", help="file that compose or Plan.save has written")
    parser.add_argument("--format", required=True, choices=FORMATS, help="see below")
    parser.add_argument("--out", metavar="PATH", required=True, help="file; for arctic a new directory")
    parser.add_argument(
        "--hard-negatives", action="store_true", help="write the hard negatives of each instance instead of batches"
    )
    tokens = parser.add_argument_group("arctic", ".parquet files with a column of token ids, a row per instance")
    tokens.add_argument("--queries-file", metavar="FILE", help="tokens of the queries")
    tokens.add_argument("--documents-file", metavar="FILE", help="tokens of the documents")
    parser.set_defaults(run=run, names=OptionNames(parser))


def run(options: argparse.Namespace) -> None:
    write, is_directory = FORMATS[options.format]
    files = {"--queries-file": options.queries_file, "--documents-file": options.documents_file}
    if options.hard_negatives and is_directory:
        raise ValueError(f"--hard-negatives: expected --format npy, jsonl or parquet, got {options.format}")
    for name, value in files.items():
        if (value is not None) != is_directory:
            expected, found = ("a file", "none") if is_directory else ("none", value)
            raise ValueError(f"{name}: expected {expected} with --format {options.format}, got {found}")
    if is_directory:
        check_new(options.out)
    else:
        check_output(options.out, "--out")
    require_no_input(options.out, "--out", {"PLAN": options.plan, **files})
    with plan_in_errors():
        plan = Plan.load(options.plan)
        if options.hard_negatives:
            with options.names.in_errors():
                print(write_hard_negatives(plan, options))
            return
        with shown_stages() as stage:
            progress = stage(f"export to {options.format}")
            write(plan, options, progress)
    print(f"wrote {options.out}")


@contextmanager
def plan_in_errors() -> Iterator[None]:
    """Raises errors of a damaged plan, which may be found while it is written, with the name of the option."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("path: "):
            raise
        raise ValueError(f"PLAN: {str(error).removeprefix('path: ')}") from error


def write_hard_negatives(plan: Plan, options: argparse.Namespace) -> str:
    """Returns what was written. Formats of tuples cannot hold rows with fewer hard negatives than others."""
    table = plan.hard_negatives().numpy().astype(np.int32)
    if options.format == "npy":
        with atomic_write(options.out) as file:
            np.save(file, table)
        return f"wrote {options.out}"
    anchors = np.flatnonzero(table[:, -1] >= 0).astype(np.int32)
    num_left_out = len(table) - len(anchors)
    has_positives = plan.info.get("documents") is not None  # else each would be the anchor
    names = ["anchor", *["positive"] * has_positives, *(f"negative_{number + 1}" for number in range(table.shape[1]))]
    columns = [*[anchors] * (1 + has_positives), *table[anchors].T]
    pyarrow = import_pyarrow("--format parquet") if options.format == "parquet" else None
    with atomic_write(options.out) as file:
        if pyarrow is not None:
            pyarrow.parquet.write_table(pyarrow.table(columns, names=names), file)
        else:
            for row in np.stack(columns, 1):
                file.write(json.dumps(dict(zip(names, row.tolist(), strict=True))).encode() + b"\n")
    short = f"; {num_left_out:,} instances have fewer than {table.shape[1]} hard negatives and are left out"
    alone = "" if has_positives else "; the plan has no documents, so there is no column of positives"
    return f"wrote {options.out}{short if num_left_out else ''}{alone}"


def write_npy(plan: Plan, options: argparse.Namespace, progress: Progress) -> None:
    shape = (sum(plan._num_batches(epoch) for epoch in range(plan.num_epochs)), plan.batch_size)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": shape}
    with atomic_write(options.out) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for epoch in range(plan.num_epochs):
            full, tail = plan._cut(epoch)
            file.write(full.numpy().data)
            for ids in tail.split(plan._tail_sizes_of(epoch)) if len(tail) else ():
                file.write(ids.numpy().data)
                file.write(np.full(plan.batch_size - len(ids), -1, np.int32).data)
            progress(epoch + 1, plan.num_epochs)


def write_jsonl(plan: Plan, options: argparse.Namespace, progress: Progress) -> None:
    with atomic_write(options.out) as file:
        for epoch in range(plan.num_epochs):
            for number, ids in enumerate(plan._batches_of(epoch)):
                line = json.dumps({"epoch": epoch, "batch": number, "instances": ids.tolist()})
                file.write(line.encode() + b"\n")
            progress(epoch + 1, plan.num_epochs)


def write_parquet(plan: Plan, options: argparse.Namespace, progress: Progress) -> None:
    pyarrow = import_pyarrow("--format parquet")
    schema = pyarrow.schema([(name, pyarrow.int32()) for name in ("epoch", "batch", "position", "instance")])
    with atomic_write(options.out) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for epoch in range(plan.num_epochs):
            ids = plan._epochs[epoch].numpy()
            sizes = plan._sizes_of(epoch)
            batches = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
            places = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            columns = [np.full_like(ids, epoch), batches, places.astype(np.int32), ids]
            writer.write_table(pyarrow.table(columns, schema=schema))
            progress(epoch + 1, plan.num_epochs)


def write_arctic_directory(plan: Plan, options: argparse.Namespace, progress: Progress) -> None:
    with atomic_directory(options.out) as folder:
        write_arctic(plan, options.queries_file, options.documents_file, folder, progress)


def check_new(path: str) -> None:
    """Raises ``ValueError`` unless ``path`` can become a directory."""
    if os.path.lexists(path):
        raise ValueError(f"--out: expected a path that does not exist yet, got {path!r}")
    if not os.access(Path(os.path.abspath(path)).parent, os.W_OK | os.X_OK):
        raise ValueError(f"--out: expected a path in a writable directory, got {path!r}")


# name -> how to write it, and whether it is a directory made of token files
FORMATS: dict[str, tuple[Callable[[Plan, argparse.Namespace, Progress], None], bool]] = {
    "npy": (write_npy, False),
    "jsonl": (write_jsonl, False),
    "parquet": (write_parquet, False),
    "arctic": (write_arctic_directory, True),
}
