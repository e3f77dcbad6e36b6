"""``advise``: measures settings of ``compose``, recommends one, and writes a page that shows why."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from .._engine.files import atomic_write
from ..graph_builders import METRICS
from .advice_page import page
from .advice_report import command_line, python_call, report
from .advising import findings_of, instances_of
from .compose import StagedProgress
from .inputs import IDS_HELP, MATRIX_HELP, add_input_options, load_ids, load_matrix
from .option_names import OptionNames
from .outputs import check_outputs, write_json
from .progress import shown_stages
from .shown_rows import IMAGES_HELP, TEXTS_HELP, Images, Texts
from .timing import torch_threads

EXAMPLE = """example:
  batchsampler-ext advise queries.npy documents.npy --batch-size 256 --texts pairs.jsonl --out advice.html"""

FILES = {"unique": None, "positives": 2, "labels": 1}  # of ids -> columns, None: any number
DEFAULTS = {"metric": METRICS[0], "seed": 0}  # of further options that compose has, too


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "advise",
        help="choose settings of compose for your embeddings, with a page that shows why",
        description="Composes an epoch with each of some settings, measures its batches, and recommends a setting for "
        "the command compose, which makes batches before training. For batches of the sampler, which plans them during "
        "training, use the command inspect. The time grows with N**2, as neighbors are searched exactly.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("queries", metavar="QUERIES", help=f"matrix [N, D]: {MATRIX_HELP}")
    parser.add_argument("documents", metavar="DOCUMENTS", nargs="?", help="matrix [N, D] of the second texts, likewise")
    add_input_options(parser)
    parser.add_argument("--batch-size", type=int, required=True, metavar="B", help="instances per batch, of all ranks")
    parser.add_argument("--out", metavar="PAGE", required=True, help="HTML page in one file, which opens offline")
    parser.add_argument("--json", metavar="REPORT", help="write the numbers as JSON")
    parser.add_argument("--texts", metavar="FILE", help=TEXTS_HELP)
    parser.add_argument("--images", metavar="FILE", help=f"{IMAGES_HELP}; needs Pillow")
    parser.add_argument(
        "--unique", metavar="FILE", help=f"as in compose: ids that a batch holds once; {IDS_HELP}[,COLUMN]"
    )
    parser.add_argument("--positives", metavar="FILE", help="as in compose: further positives [P, 2]")
    parser.add_argument(
        "--labels", metavar="FILE", help=f"as in compose; also counts pairs with equal labels in batches; {IDS_HELP}"
    )
    parser.add_argument(
        "--metric", default=DEFAULTS["metric"], help=f"score of a pair: {', '.join(METRICS)}; default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULTS["seed"], help="seed of batches and sample rows; default: %(default)s"
    )
    parser.add_argument("--num-threads", type=int, help="CPU threads; default: torch's setting")
    parser.set_defaults(run=run, names=OptionNames(parser))


def run(options: argparse.Namespace) -> None:
    inputs = {"QUERIES": options.queries, "DOCUMENTS": options.documents}
    inputs |= {f"--{name}": getattr(options, name) for name in ("texts", "images", *FILES)}
    check_outputs({"--out": options.out, "--json": options.json}, inputs)  # before the work, not after it
    names = {"column": options.column, "tensor": options.tensor}
    towers = {"queries": options.queries, "documents": options.documents}
    queries = load_matrix(options.queries, "QUERIES", **names)
    documents = None if options.documents is None else load_matrix(options.documents, "DOCUMENTS", **names)
    texts = None if options.texts is None else Texts(options.texts, len(queries), has_documents=documents is not None)
    images = None if options.images is None else Images(options.images, len(queries))
    paths = {name: getattr(options, name) for name in FILES}
    apart = {
        name: None if path is None else load_ids(path, f"--{name}", num_columns=FILES[name])
        for name, path in paths.items()
    }
    with shown_stages() as stage, options.names.in_errors(), torch_threads(options.num_threads):
        findings = findings_of(
            queries,
            documents,
            batch_size=options.batch_size,
            metric=options.metric,
            apart=apart,
            seed=options.seed,
            num_threads=options.num_threads,
            progress=StagedProgress(stage),
        )
    if texts is not None and texts.num_repeated and options.unique is None:
        reason = (
            f"{texts.num_repeated:,} of {len(queries):,} instances repeat a text of an earlier one. Keep instances "
            "that belong together out of one batch: give them equal ids with --unique, and run this command again."
        )
        reasons = [*findings.advice.reasons, reason]
        findings = replace(findings, advice=findings.advice._replace(reasons=reasons))
    changed = {name: getattr(options, name) for name, default in DEFAULTS.items() if getattr(options, name) != default}
    given_towers = [path for path in towers.values() if path is not None]
    command = command_line(findings, {**names, **paths, **changed}, given_towers)
    files = {name: path for name, path in {**towers, **paths}.items() if path is not None}
    call = python_call(findings, changed, files)
    try:  # neither a full disk nor a closed pipe costs both the files and the text
        if options.json is not None:
            write_json(options.json, findings.summary() | {"command": command, "python": call})
        shown = instances_of(findings.rows)
        shown_texts = {} if texts is None else texts.of(shown)
        shown_images, problems = ({}, []) if images is None else images.of(shown)
        with atomic_write(options.out) as file:
            file.write(page(findings, command, call, given_towers, shown_texts, shown_images))
    finally:
        print(report(findings, command))
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        print(f"warning: {problems[0]}{others}; the page has row numbers instead", file=sys.stderr)
    for path in filter(None, (options.out, options.json)):
        print(f"wrote {path}")
