"""Splits the data sets of the study, so that no instance is in both the search and the confirmation.

python -m benchmarks.learning.prepare DIR

Reads DIR/text and DIR/cifar10, and writes DIR/study. `make study` runs this first.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    prepare(parser.parse_args().data)


def prepare(data: Path) -> None:
    study = data / "study"
    study.mkdir(exist_ok=True)
    text = data / "text"
    split_lines(text / "captions.tsv", study / "captions_tune.tsv", study / "captions_confirm.tsv", 0.4)
    for name in ("captions_tune", "captions_confirm"):
        sentences = (study / f"{name}.tsv").read_text("utf-8").replace("\t", "\n")
        (study / f"{name}_sentences.txt").write_text(sentences, "utf-8")
    take_development_pairs(text / "sts.tsv", study / "sts_tune.tsv")
    for split, share in {"train": 1 / 3, "test": 0.5}.items():
        split_images(data / "cifar10" / split, study / "cifar10_tune" / split, study / "cifar10_confirm" / split, share)


def split_lines(source: Path, first: Path, second: Path, share: float) -> None:
    lines = source.read_text("utf-8").splitlines(keepends=True)
    random.Random(SEED).shuffle(lines)
    count = int(share * len(lines))
    first.write_text("".join(lines[:count]), "utf-8")
    second.write_text("".join(lines[count:]), "utf-8")


def take_development_pairs(source: Path, target: Path) -> None:
    """Writes the development pairs as test pairs of another table, for the search."""
    head, *rows = [line.split("\t") for line in source.read_text("utf-8").splitlines()]
    split, first, second = (head.index(name) for name in ("split", "sentence1", "sentence2"))

    def pair(row: list[str]) -> frozenset[str]:
        return frozenset((row[first], row[second]))

    tested = {pair(row) for row in rows if row[split] == "test"}  # STS-B contains pairs of earlier sets
    developed = [row for row in rows if row[split] == "dev" and pair(row) not in tested]
    kept = [[*row[:split], "test", *row[split + 1 :]] for row in developed]
    target.write_text("".join("\t".join(row) + "\n" for row in [head, *kept]), "utf-8")


def split_images(source: Path, first: Path, second: Path, share: float) -> None:
    """Writes folders of classes that contain symbolic links to the images."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        images = sorted(folder.iterdir())
        random.Random(SEED).shuffle(images)
        for i, image in enumerate(images):
            target = (first if i < share * len(images) else second) / folder.name / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.symlink_to(os.path.relpath(image.resolve(), target.parent.resolve()))


if __name__ == "__main__":
    main()
