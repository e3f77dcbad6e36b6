"""The samplers that the pilot compares, and the hyperparameters each may tune."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from batchsampler_ext import FeatureBank, ProximityBatchSampler

Parameters = dict[str, Any]

# name: what it is. "labels" are known false negatives, where the data set has them.
ARMS = {
    "uniform": "a random partition",
    "knn": "a random root and its exact nearest neighbours",
    "knn, labels": "the same, equal labels never linked",
    "proximity": "partition of the proximity graph",
    "proximity, range_min": "the same, each row's nearest candidates skipped",
    "proximity, max_score": "the same, candidates above a cosine never linked",
    "proximity, labels": "the same, equal labels never linked",
    "proximity, mask": "proximity; equal labels are no negatives in the loss",
}


def search_space(arm: str, system: Any) -> dict[str, tuple]:
    """Choices of the arm's own hyperparameters; those of the loss and the optimiser are common to all arms."""
    space: dict[str, tuple] = {}
    if arm.startswith("proximity"):
        space = {"num_candidates": system.CANDIDATES, "num_neighbors": (32, 100)}
    if arm.endswith("range_min"):
        space["range_min"] = (1, 3, 10, 30)
    if arm.endswith("max_score"):
        space["max_score"] = (0.3, 0.5, 0.7, 0.9)
    return space


def draw_parameters(arm: str, system: Any, trial: int) -> Parameters:
    """Random search. Trial i has the same learning rate and temperature in all arms."""
    common = np.random.default_rng([trial, 0])
    own = np.random.default_rng([trial, 1])
    parameters: Parameters = {
        name: float(f"{math.exp(common.uniform(math.log(low), math.log(high))):.3g}")
        for name, (low, high) in system.RANGES.items()
    }
    for name, choices in search_space(arm, system).items():
        parameters[name] = choices[int(own.integers(len(choices)))]
    return parameters


def common(parameters: Parameters) -> tuple[float, float]:
    """Those that all arms have."""
    return parameters["lr"], parameters["temperature"]


def make_sampler(
    arm: str, parameters: Parameters, bank: FeatureBank, batch_size: int, labels: torch.Tensor, seed: int
) -> ProximityBatchSampler:
    """Ragged batches are dropped, graphs are refreshed twice an epoch; once for kNN, whose graph is exact and dear."""
    num_batches = bank.num_samples // batch_size
    graph_options = {name: parameters[name] for name in ("range_min", "max_score") if name in parameters}
    if arm.endswith("labels"):
        graph_options["labels"] = labels
    arguments: dict[str, Any] = {"refresh_every": math.ceil(num_batches / 2)}
    if arm == "uniform":
        arguments["strategy"] = "uniform"
    elif arm.startswith("knn"):
        arguments = {
            "strategy": "knn",
            "epoch_mode": "independent",
            "num_candidates": bank.num_samples - 1,
            "num_neighbors": batch_size - 1,
            "refresh_every": num_batches,
        }
    else:
        arguments |= {name: parameters[name] for name in ("num_candidates", "num_neighbors")}
    return ProximityBatchSampler(
        bank.num_samples, batch_size, drop_last=True, bank=bank, seed=seed, graph_options=graph_options, **arguments
    )


def false_negatives(labels: torch.Tensor) -> torch.Tensor:
    """bool [B, B]: pairs of distinct members with equal labels."""
    return (labels[:, None] == labels[None, :]).fill_diagonal_(False)
