"""Images for the examples: folders of classes, random views, a small ResNet, evaluation of frozen features."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import kornia.augmentation as augment
import numpy as np
import parsing
import processes
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
SMALL = 64  # pixels per side: up to this size, images stay in memory and the network starts at full resolution


def add_arguments(parser: argparse.ArgumentParser, *, crop_min: float) -> None:
    parser.add_argument("data", type=Path, help="folder with train/CLASS/ and test/CLASS/ (or val/CLASS/) of images")
    group = parser.add_argument_group("images and encoder")
    group.add_argument("--image-size", type=parsing.positive_int, default=32)
    group.add_argument(
        "--crop-min", type=parsing.share, default=crop_min, help="smallest share of the image that a view shows"
    )
    group.add_argument("--jitter", type=parsing.positive, metavar="S",
                       help="strength of color jitter (SimCLR, appendix A); default: 0.5 for small images, 1 for "
                       "others; in MoCo v3, the strengths of its paper")  # fmt: skip
    group.add_argument(
        "--max-test", type=parsing.positive_int, metavar="N", help="evaluates on a random subset of this size"
    )
    group.add_argument(
        "--arch",
        default="small",
        help="small: a ResNet of --width and --depth; or a name of torchvision, such as resnet50",
    )
    group.add_argument(
        "--width", type=parsing.positive_int, default=64, help="small: channels of the first stage; 64 is ResNet-18"
    )
    group.add_argument(
        "--depth", type=parsing.positive_int, default=2, help="small: blocks of each of four stages; 2 is ResNet-18"
    )
    group.add_argument("--norm", choices=("batch", "group"), default="batch",
                       help="small: group norm does not hide what the members of a batch have in common")  # fmt: skip
    group.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")


# --- data ------------------------------------------------------------------------------------------------------------
class ImageFolder(Dataset[torch.Tensor]):
    """Images uint8 [3, S, S] of ROOT/CLASS/: shorter side scaled to S, center crop. Small images are read once."""

    def __init__(self, root: Path, image_size: int, max_samples: int | None, *, quiet: bool = False) -> None:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        found = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not found:
            raise SystemExit(f"expected a folder of images for each class in {root}")
        chosen = [found[i] for i in common.random_choice(len(found), max_samples)]
        self.paths = [path for path, _ in chosen]
        self.labels = torch.tensor([label for _, label in chosen])
        self.num_classes = len(names)
        self._size = image_size
        self._images: torch.Tensor | None = None
        if image_size <= SMALL:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                read = tqdm(pool.map(self._read, self.paths), "reading", len(self), leave=False, disable=quiet or None)
                self._images = torch.stack(list(read))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._read(self.paths[index]) if self._images is None else self._images[index]

    def _read(self, path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            scale = self._size / min(image.size)
            width, height = (max(self._size, round(side * scale)) for side in image.size)
            pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        top, left = (height - self._size) // 2, (width - self._size) // 2
        cut = pixels[top : top + self._size, left : left + self._size]
        return torch.from_numpy(cut.copy()).permute(2, 0, 1).contiguous()


def load(args: argparse.Namespace) -> tuple[ImageFolder, ImageFolder]:
    """Returns training and test images."""
    test = next((args.data / name for name in ("test", "val") if (args.data / name).is_dir()), args.data / "test")
    parts = ((args.data / "train", args.max_samples), (test, args.max_test))
    for path, _ in parts:
        if not path.is_dir():
            raise SystemExit(f"data: expected a folder {path}")
    train, test_images = (ImageFolder(path, args.image_size, count, quiet=args.quiet) for path, count in parts)
    return train, test_images


View = Callable[[torch.Tensor], torch.Tensor]


def new_view(
    args: argparse.Namespace, *, blur: float, solarize: float = 0.0, jitter: tuple[float, ...] | None = None
) -> View:
    """Returns a function from uint8 [B, 3, S, S] images to float random views.

    Args:
        blur: probability of blur; small images are never blurred.
        solarize: probability of solarization.
        jitter: strengths for brightness, contrast, saturation and hue. --jitter overrides them.
    """
    size = args.image_size
    if args.jitter is not None or jitter is None:
        strength = args.jitter if args.jitter is not None else 0.5 if size <= SMALL else 1.0
        jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, min(0.5, 0.2 * strength))
    layers: list[nn.Module] = [
        augment.RandomResizedCrop((size, size), scale=(args.crop_min, 1.0)),
        augment.RandomHorizontalFlip(),
        augment.ColorJitter(*jitter, p=0.8),
        augment.RandomGrayscale(p=0.2),
    ]
    if size > SMALL:
        kernel = size // 20 * 2 + 1  # a tenth of the image (SimCLR, appendix A)
        layers.append(augment.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur))
    if solarize:
        layers.append(augment.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=solarize))
    view = nn.Sequential(*layers)

    @torch.no_grad()
    def make(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):  # half precision would shift pixels
            return normalized(view(images.float() / 255))

    return make


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Normalizes values in [0, 1] by the mean and deviation of ImageNet."""
    mean = images.new_tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = images.new_tensor([0.229, 0.224, 0.225])[:, None, None]
    return (images - mean) / deviation


# --- encoder ---------------------------------------------------------------------------------------------------------
def new_backbone(args: argparse.Namespace) -> tuple[nn.Module, int]:
    """Returns a network with outputs [B, width], and the width."""
    if args.arch == "small":
        return SmallResNet(args.width, args.depth, args.norm, args.image_size), 8 * args.width
    import torchvision

    backbone = torchvision.models.get_model(args.arch)
    width = backbone.fc.in_features
    backbone.fc = nn.Identity()
    return backbone, width


def normalization(kind: str, num_channels: int) -> nn.Module:
    return nn.BatchNorm2d(num_channels) if kind == "batch" else nn.GroupNorm(min(8, num_channels), num_channels)


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False),
            normalization(norm, num_outputs),
            nn.ReLU(),
            nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False),
            normalization(norm, num_outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False), normalization(norm, num_outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


class SmallResNet(nn.Sequential):
    """ResNet-18 at width 64 and depth 2. For small images the first layer has stride 1, as in SimCLR (B.9)."""

    def __init__(self, width: int, depth: int, norm: str, image_size: int) -> None:
        is_small = image_size <= SMALL
        kernel, stride = (3, 1) if is_small else (7, 2)
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False),
            normalization(norm, width),
            nn.ReLU(),
        ]
        if not is_small:
            layers.append(nn.MaxPool2d(3, 2, padding=1))
        num_inputs = width
        for stage in range(4):
            for block in range(depth):
                layers.append(Block(num_inputs, width << stage, 2 if stage and not block else 1, norm))
                num_inputs = width << stage
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def new_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Returns an optimizer without weight decay on biases and norms."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, args.lr, momentum=0.9, weight_decay=args.weight_decay)
    return torch.optim.AdamW(groups, args.lr, weight_decay=args.weight_decay)


def synchronized(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Makes batch norm span all processes, as in the papers. On GPUs only, because torch has none for the CPU."""
    is_cuda = torch.device(device).type == "cuda"
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if is_cuda and processes.num_processes() > 1 else model


# --- evaluation ------------------------------------------------------------------------------------------------------
def evaluate(backbone: nn.Module, train: ImageFolder, test: ImageFolder, args: argparse.Namespace) -> dict[str, float]:
    """Returns test accuracies of nearest neighbors and of a linear classifier on frozen features."""
    (x, y), (test_x, test_y) = (features_of(backbone, images, args) for images in (train, test))
    return {
        "knn_accuracy": knn_accuracy(x, y, test_x, test_y, train.num_classes),
        "linear_accuracy": linear_accuracy(x, y, test_x, test_y, train.num_classes),
    }


@torch.no_grad()
def features_of(
    backbone: nn.Module, images: ImageFolder, args: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor]:
    loader = DataLoader(images, 256, num_workers=args.workers)
    parts = [backbone(normalized(batch.to(args.device).float() / 255)).float() for batch in loader]
    return torch.cat(parts), images.labels.to(args.device)


def knn_accuracy(
    x: torch.Tensor, y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor, num_classes: int
) -> float:
    """Returns the accuracy of 200 nearest neighbors with weights exp(cosine / 0.1) (Wu et al., CVPR 2018, 3.4)."""
    x, test_x = (nn.functional.normalize(rows, dim=1) for rows in (x, test_x))
    votes = torch.zeros((len(test_x), num_classes), device=x.device)
    for part, part_votes in zip(test_x.split(512), votes.split(512), strict=True):
        cosines, ids = (part @ x.T).topk(min(200, len(x)))
        part_votes.scatter_add_(1, y[ids], (cosines / 0.1).exp())
    return float((votes.argmax(1) == test_y).float().mean())


def linear_accuracy(
    x: torch.Tensor, y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor, num_classes: int
) -> float:
    """Returns the accuracy of logistic regression on standardized features, by L-BFGS over all rows at once."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, test_x = (x - mean) / deviation, (test_x - mean) / deviation
    classifier = nn.Linear(x.shape[1], num_classes, device=x.device)
    nn.init.zeros_(classifier.weight)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(classifier(x), y) + 5e-4 * classifier.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return float((classifier(test_x).argmax(1) == test_y).float().mean())


def projector(widths: Sequence[int], *, last_norm: bool) -> nn.Sequential:
    """Returns linear layers with batch norm and ReLU between them. last_norm: adds batch norm without affine part."""
    layers: list[nn.Module] = []
    for i in range(1, len(widths)):
        is_last = i == len(widths) - 1
        layers.append(nn.Linear(widths[i - 1], widths[i], bias=is_last and not last_norm))
        if not is_last:
            layers += [nn.BatchNorm1d(widths[i]), nn.ReLU()]
        elif last_norm:
            layers.append(nn.BatchNorm1d(widths[i], affine=False))
    return nn.Sequential(*layers)
