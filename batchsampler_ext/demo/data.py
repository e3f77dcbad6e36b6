"""Labelled images for the demo: scikit-learn's digits, or a tree with a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

TEST_SHARE = 0.3  # of data without a split of its own
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}


class LabelledImages(NamedTuple):
    images: torch.Tensor  # uint8 [N, C, S, S]
    labels: torch.Tensor  # int64 [N]

    def take(self, ids: torch.Tensor) -> LabelledImages:
        return LabelledImages(self.images[ids], self.labels[ids])


class Split(NamedTuple):
    name: str
    train: LabelledImages
    test: LabelledImages


def load_digits() -> Split:
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn; a random 30% are the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).astype(np.uint8))[:, None]
    return Split("scikit-learn digits", *split(LabelledImages(images, torch.from_numpy(digits.target).long())))


def load_image_folders(
    directory: str, image_size: int, max_images: int | None, progress: Callable[[int, int], object]
) -> Split:
    """Images of ``directory/CLASS/``, or of ``directory/train/CLASS/`` and ``directory/test/CLASS/`` (or ``val``),
    as RGB of ``image_size`` pixels a side. max_images: a random choice, of each split."""
    root = Path(directory)
    parts = [root / "train", next((root / name for name in ("test", "val") if (root / name).is_dir()), root / "test")]
    if not parts[0].is_dir():
        return Split(directory, *split(read_folders(root, image_size, max_images, progress)))
    if not parts[1].is_dir():
        return Split(directory, *split(read_folders(parts[0], image_size, max_images, progress)))
    if class_names(parts[0]) != class_names(parts[1]):
        raise ValueError(f"--images: expected the same classes in {parts[0]} and {parts[1]}")
    train, test = (read_folders(part, image_size, max_images, progress) for part in parts)
    return Split(directory, train, test)


def split(data: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))
    num_test = int(TEST_SHARE * len(order))
    return data.take(order[num_test:]), data.take(order[:num_test])


def class_names(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    except OSError as error:
        raise ValueError(f"--images: cannot read {str(root)!r} ({error.strerror})") from None


def read_folders(
    root: Path, image_size: int, max_images: int | None, progress: Callable[[int, int], object]
) -> LabelledImages:
    names = class_names(root)
    found = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if len(names) < 2 or not found:
        raise ValueError(
            f"--images: expected a folder of images for each class in {str(root)!r}, got {len(found)} images"
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()  # classes are mixed
    found = [found[i] for i in order[:max_images]]
    images = read_images([path for path, _ in found], image_size, progress)
    return LabelledImages(images, torch.tensor([label for _, label in found]))


def read_images(paths: Sequence[Path], image_size: int, progress: Callable[[int, int], object]) -> torch.Tensor:
    from PIL import Image

    result = np.empty((len(paths), image_size, image_size, 3), np.uint8)

    def read(row: int) -> None:
        try:
            with Image.open(paths[row]) as image:
                result[row] = image.convert("RGB").resize((image_size, image_size), Image.Resampling.BILINEAR)
        except OSError as error:  # not all of PIL's errors name the file
            raise ValueError(f"--images: cannot read {str(paths[row])!r} ({error})") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(read, range(len(paths))), start=1):
            progress(done, len(paths))
    return torch.from_numpy(result).permute(0, 3, 1, 2).contiguous()
