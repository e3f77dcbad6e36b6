"""The training loop that all systems of the pilot share: in-batch InfoNCE between two views."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from batchsampler_ext import FeatureBank

from .arms import Parameters, false_negatives, make_sampler


def info_nce(a: torch.Tensor, b: torch.Tensor, temperature: float, ignored: torch.Tensor | None = None) -> torch.Tensor:
    """Symmetric in-batch InfoNCE of unit rows a, b [B, D]; ignored: bool [B, B], pairs that are no negatives."""
    logits = a @ b.T / temperature
    if ignored is not None:
        logits = logits.masked_fill(ignored, float("-inf"))
    targets = torch.arange(len(a))
    return (nn.functional.cross_entropy(logits, targets) + nn.functional.cross_entropy(logits.T, targets)) / 2


def train(
    model: nn.Module,
    views: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    labels: torch.Tensor,
    *,
    arm: str,
    parameters: Parameters,
    dim: int,
    batch_size: int,
    num_epochs: int,
    seed: int,
) -> dict[str, Any]:
    """Trains with Adam and a cosine schedule; views: instances [B] -> unit rows of both views, [B, dim].

    Returns what was seen after the first, uniform, epoch: cosine of the anchors of a batch, share of false negatives;
    and the time of all of it, the sampler's included.
    """
    bank = FeatureBank(len(labels), 2 * dim)
    sampler = make_sampler(arm, parameters, bank, batch_size, labels, seed)
    optimizer = torch.optim.Adam(model.parameters(), parameters["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * len(sampler))
    similarities, shares = [], []
    start = time.perf_counter()
    for epoch in range(num_epochs):
        for batch in sampler:
            indices = torch.tensor(batch)
            a, b = views(indices)
            same = false_negatives(labels[indices])
            loss = info_nce(a, b, parameters["temperature"], same if arm.endswith("mask") else None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if arm != "uniform":
                bank.update(indices, torch.cat([a, b], 1))
            if epoch > 0:
                shares.append(float(same.float().mean() * len(indices) / (len(indices) - 1)))
                similarities.append(mean_cosine(a.detach()))
    return {
        "in_batch_similarity": sum(similarities) / len(similarities),
        "false_negative_share": sum(shares) / len(shares),
        "num_steps": num_epochs * len(sampler),
        "train_seconds": time.perf_counter() - start,
        "sampler_seconds": sampler.stats()["total_seconds"] + bank.stats()["update_seconds"],
    }


def mean_cosine(units: torch.Tensor) -> float:
    """Of pairs of distinct unit rows."""
    count = len(units)
    return float((units.sum(0).square().sum() - count) / (count * (count - 1)))
