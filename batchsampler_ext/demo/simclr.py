"""SimCLR (Chen et al., ICML 2020) with a small convolutional encoder: augmentations, loss, one training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import kornia.augmentation as augment
import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ..sampler import ProximityBatchSampler
from .data import LabelledImages, Split

WIDTH, EMBEDDING_DIM = 128, 64  # WIDTH: channels of images of 8 pixels
LEARNING_RATE, TEMPERATURE = 1e-3, 0.2
NUM_NEIGHBORS = 5  # of the classifier that judges frozen features


@dataclass(frozen=True)
class Run:
    """What one training run showed, step by step. Similarity is the mean cosine of the embeddings of two members of the
    batch, as the loss sees them."""

    arm: str
    seed: int
    accuracy: float  # of a nearest neighbour classifier on frozen features
    untrained_accuracy: float  # the same before training
    similarities: np.ndarray  # float64 [num_epochs, steps]
    false_negative_shares: np.ndarray  # float64 [num_epochs, steps]
    seconds: float
    sampler_seconds: float  # of those: graphs, walks, bank


class Encoder(nn.Module):
    """Convolutions down to 4 pixels, then 2 x 2 means; and SimCLR's projection head.

    Normalised by group, not by batch: in a batch of look-alikes batch norm subtracts what they have in common, which
    hides the hardness that the sampler brought.
    """

    def __init__(self, num_channels: int, image_size: int) -> None:
        super().__init__()
        width = max(8, WIDTH * 8 // max(image_size, 8))  # larger images: fewer channels, about the same work
        last = 2 * width
        layers = convolution(num_channels, width, stride=1)
        while image_size > 4:
            layers += convolution(width, last, stride=2)
            width, image_size = last, image_size // 2
        layers += convolution(width, last, stride=1)
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(4 * last, last), nn.ReLU(), nn.Linear(last, EMBEDDING_DIM))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit rows [B, EMBEDDING_DIM]."""
        return nn.functional.normalize(self.head(self.backbone(images)), dim=1)


def convolution(num_inputs: int, num_outputs: int, stride: int) -> list[nn.Module]:
    layer = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
    return [layer, nn.GroupNorm(8, num_outputs), nn.ReLU()]


def augmentations(num_channels: int, image_size: int) -> nn.Module:
    """Float images [B, C, S, S] in [0, 1] -> a random view of each."""
    if num_channels == 1:  # characters: neither flips nor colours
        return nn.Sequential(
            augment.RandomAffine(degrees=15, translate=(0.12, 0.12), scale=(0.8, 1.2), p=1.0),
            augment.RandomGaussianNoise(std=0.1, p=0.5),
        )
    return nn.Sequential(
        augment.RandomResizedCrop((image_size, image_size), scale=(0.3, 1.0)),
        augment.RandomHorizontalFlip(),
        augment.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augment.RandomGrayscale(p=0.2),
    )


def nt_xent(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of finding an instance's other view among the 2 B - 1 other views of the batch."""
    views = torch.cat([z1, z2])
    logits = (views @ views.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    targets = torch.arange(len(views)).roll(len(z1))
    return nn.functional.cross_entropy(logits, targets)


def train(
    data: Split,
    arm: str,
    sampler: ProximityBatchSampler,
    num_epochs: int,
    seed: int,
    progress: Callable[[int, int], object],
) -> Run:
    """Runs of a seed start from the same weights and take the same number of steps. The sampler's bank keeps both
    views' embeddings, 2 * EMBEDDING_DIM wide."""
    images, labels = data.train
    _, num_channels, image_size, _ = images.shape
    torch.manual_seed(seed)
    model = Encoder(num_channels, image_size)
    untrained_accuracy = accuracy(model, data)
    view = augmentations(num_channels, image_size)
    num_steps = num_epochs * len(sampler)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    similarities, shares = [], []
    seconds = 0.0
    for _ in range(num_epochs):
        start = time.perf_counter()
        for batch in sampler:
            indices = torch.tensor(batch)
            x = images[indices].float() / 255
            z1, z2 = model(torch.cat([view(x), view(x)])).chunk(2)
            loss = nt_xent(z1, z2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            sampler.bank.update(indices, torch.cat([z1, z2], 1))
            seconds += time.perf_counter() - start
            similarities.append(mean_cosine(z1.detach()))
            shares.append(equal_share(labels[indices]))
            progress(len(shares), num_steps)
            start = time.perf_counter()
    return Run(
        arm,
        seed,
        accuracy(model, data),
        untrained_accuracy,
        np.reshape(similarities, (num_epochs, -1)),
        np.reshape(shares, (num_epochs, -1)),
        seconds,
        sampler.stats().total_seconds + sampler.bank.stats()["update_seconds"],
    )


def mean_cosine(units: torch.Tensor) -> float:
    """Of pairs of distinct rows."""
    count = len(units)
    return float((units.sum(0).square().sum() - count) / (count * (count - 1)))


def equal_share(labels: torch.Tensor) -> float:
    """Share of the pairs of distinct members with equal labels."""
    counts = torch.bincount(labels).double()
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def accuracy(model: Encoder, data: Split) -> float:
    """Of a cosine nearest neighbour classifier from the training set to the test set, on the backbone's features."""
    classifier = KNeighborsClassifier(NUM_NEIGHBORS, metric="cosine")
    classifier.fit(frozen_features(model, data.train), data.train.labels.numpy())
    return float(classifier.score(frozen_features(model, data.test), data.test.labels.numpy()))


@torch.no_grad()
def frozen_features(model: Encoder, data: LabelledImages) -> np.ndarray:
    model.eval()
    features = torch.cat([model.backbone(chunk.float() / 255) for chunk in data.images.split(1024)])
    model.train()
    return features.numpy()
