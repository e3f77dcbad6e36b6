"""``demo``: SimCLR trained with uniform, kNN and proximity batches, side by side."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from .. import __version__, _validate
from .._files import atomic_write, check_output
from ._common import require_packages


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="train a small SimCLR with uniform, kNN and proximity batches and compare",
        description="Trains a small SimCLR encoder with several samplers, from the same initial weights and for equal "
        "steps, over a few seeds; prints a table of what was measured and writes a figure. Without "
        "--images on scikit-learn's handwritten digits, in under 3 minutes on 2 cores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", metavar="DIR", help="a folder for each class, or train/ and test/ of such")
    parser.add_argument("--image-size", type=int, default=32, metavar="S", help="pixels a side; with --images")
    parser.add_argument("--max-images", type=int, metavar="N", help="take a random choice of each split; with --images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128, metavar="B")
    parser.add_argument("--num-candidates", type=int, default=200, metavar="M")
    parser.add_argument("--num-neighbors", type=int, default=50, metavar="K")
    parser.add_argument("--remedy", default="range_min", help="of the last arm: range_min, max_score or labels")
    parser.add_argument("--figure", default="demo.png", metavar="PNG")
    parser.add_argument("--json", metavar="REPORT", help="write the numbers as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    require_packages("demo", "demo", ["kornia", "matplotlib", "PIL", "rich", "sklearn"])
    from ..demo.data import load_digits, load_image_folders
    from ..demo.experiment import REMEDIES, Settings, findings, run_experiment, summarize
    from ..demo.report import print_report, save_figure
    from ..report import shown_stages

    for name in ("epochs", "seeds", "batch_size", "num_candidates", "num_neighbors", "image_size", "max_images"):
        check_count(name, getattr(options, name), 2 if name in ("epochs", "batch_size") else 1)
    _validate.choice(options.remedy, "--remedy", tuple(REMEDIES))
    for name in ("figure", "json"):
        if getattr(options, name) is not None:
            check_output(getattr(options, name), name)  # before the work, not after it
    settings = Settings(
        options.batch_size, options.epochs, options.seeds, options.num_candidates, options.num_neighbors, options.remedy
    )
    with shown_stages() as stage:
        if options.images is None:
            data = load_digits()
        else:
            data = load_image_folders(options.images, options.image_size, options.max_images, stage("reading images"))
        runs = run_experiment(data, settings, stage)
    summaries = summarize(runs)
    lines = findings(summaries)
    print_report(data, settings, summaries, lines)
    save_figure(runs, options.figure)
    if options.json is not None:
        content = {
            "version": __version__,
            "data": data.name,
            "settings": asdict(settings),
            "arms": {arm: asdict(summary) for arm, summary in summaries.items()},
            "findings": lines,
        }
        with atomic_write(options.json) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
    for path in filter(None, (options.figure, options.json)):
        print(f"wrote {path}")


def check_count(name: str, value: int | None, minimum: int) -> None:
    if value is not None and value < minimum:
        raise ValueError(f"--{name.replace('_', '-')}: expected at least {minimum}, got {value}")
