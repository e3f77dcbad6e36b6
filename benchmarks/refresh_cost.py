"""Times training steps of a ResNet-50 with and without bank and sampler on the same device.

Without sampling, all batches have the same rows. With sampling, each step takes its indices from a
ProximityBatchSampler and stores its embeddings in the bank. Blocks of steps of either kind take turns. A block with
sampling builds one graph. The planner is "walks", so each graph is over all instances.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from batchsampler_ext import FeatureBank, GraphConfig, ProximityBatchSampler


@dataclass
class RefreshCost:
    step_ms: float  # without sampling, median over blocks
    overhead: float  # share of a step, median of paired blocks
    overhead_p10_p90: tuple[float, float]
    graph_ms: float  # of the last graph
    refresh_every: int  # steps between graphs


class Bottleneck(nn.Module):
    """He et al., CVPR 2016, figure 5, with the stride in the 3 x 3 convolution."""

    def __init__(self, num_inputs: int, width: int, stride: int) -> None:
        super().__init__()

        def layers(a: int, b: int, size: int, step: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(a, b, size, step, size // 2, bias=False), nn.BatchNorm2d(b)]

        self.residual = nn.Sequential(
            *layers(num_inputs, width, 1), nn.ReLU(), *layers(width, width, 3, stride), nn.ReLU(),
            *layers(width, 4 * width, 1),
        )  # fmt: skip
        is_same = stride == 1 and num_inputs == 4 * width
        self.shortcut = nn.Identity() if is_same else nn.Sequential(*layers(num_inputs, 4 * width, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


def resnet50(dim: int, width: int = 64) -> nn.Sequential:
    """Returns a ResNet-50 with outputs [B, dim]."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    num_inputs = width
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
        for block in range(num_blocks):
            layers.append(Bottleneck(num_inputs, width << stage, 2 if stage and not block else 1))
            num_inputs = 4 * width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_inputs, dim))


class Training:
    """SimCLR-like steps on constant images, as their time does not depend on the images."""

    def __init__(self, device: torch.device, batch_size: int, image_size: int, dim: int, width: int) -> None:
        self.device = device
        self.model = resnet50(dim, width).to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        images = torch.randn(batch_size, 3, image_size, image_size, device=device)
        self.images = images.to(memory_format=torch.channels_last)

    def step(self) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            embeddings = nn.functional.normalize(self.model(self.images).float(), dim=1)
        first, second = embeddings.chunk(2)
        loss = nn.functional.cross_entropy(first @ second.T / 0.1, torch.arange(len(first), device=self.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return embeddings.detach()

    def seconds(self, num_steps: int, batches: Iterator[list[int]] | None, bank: FeatureBank) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(num_steps):
            indices = None if batches is None else torch.tensor(next(batches))
            embeddings = self.step()
            if indices is not None:
                bank.update(indices, embeddings)
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(
    device: torch.device,
    *,
    num_instances: int = 1_280_000,
    dim: int = 128,
    batch_size: int = 256,
    image_size: int = 224,
    width: int = 64,
    refresh_every: int = 100,
    num_blocks: int = 3,
) -> RefreshCost:
    training = Training(device, batch_size, image_size, dim, width)
    bank = FeatureBank(num_instances, dim, device=device)
    for ids in torch.arange(num_instances).split(1 << 17):  # so that the first plan has a graph
        bank.update(ids, torch.randn(len(ids), dim, device=device))
    sampler = ProximityBatchSampler(
        num_instances, batch_size, drop_last=True, bank=bank, planner="walks", refresh_every=refresh_every,
        graph=GraphConfig(num_candidates=min(1000, num_instances // 4), num_neighbors=min(100, num_instances // 4)),
    )  # fmt: skip
    batches = iter(sampler)
    training.seconds(3, batches, bank)  # warm-up; blocks start in the middle of a plan
    plain, sampled = [], []
    for _ in range(num_blocks):
        plain.append(training.seconds(refresh_every, None, bank))
        sampled.append(training.seconds(refresh_every, batches, bank))
    del batches
    shares = np.array(sampled) / np.array(plain) - 1
    p10, p90 = np.quantile(shares, [0.1, 0.9])
    return RefreshCost(
        1e3 * float(np.median(plain)) / refresh_every, float(np.median(shares)), (float(p10), float(p90)),
        sampler.stats().graph_ms, refresh_every,
    )  # fmt: skip
