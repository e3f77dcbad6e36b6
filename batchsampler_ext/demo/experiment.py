"""The demo's comparison: the same training with different samplers, over a few seeds, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import torch

from ..bank import FeatureBank
from ..build import GraphConfig
from ..planners import WalkPlanner
from ..sampler import ProximityBatchSampler
from .data import Split
from .simclr import EMBEDDING_DIM, Run, train

REMEDIES: dict[str, Any] = {"range_min": 20, "max_score": 0.5, "labels": None}  # against false negatives
NUM_PARTS = 5  # of an epoch, whose similarities are compared


@dataclass(frozen=True)
class Settings:
    batch_size: int
    num_epochs: int
    num_seeds: int
    num_candidates: int
    num_neighbors: int
    remedy: str  # of REMEDIES; labels are those of the data

    @property
    def arms(self) -> tuple[str, ...]:
        return ("uniform", "kNN", "proximity", f"proximity, {self.remedy}")


class Spread(NamedTuple):
    """Of a quantity over seeds."""

    mean: float
    deviation: float  # standard deviation of a sample; nan of one seed
    half_width: float  # of the 95% confidence interval of the mean (Student's t); nan of one seed


@dataclass(frozen=True)
class Summary:
    """Of the runs of an arm. Accuracies and shares in [0, 1]."""

    accuracy: Spread
    untrained_accuracy: Spread
    difference: Spread  # of accuracies, to the uniform run of the same seed
    similarity: float  # mean of the steps after the first epoch, which is uniform in all arms
    false_negative_share: float  # of the same steps
    similarity_by_part: list[float]  # of an epoch, first to last
    step_milliseconds: float
    sampler_share: float  # of the time of a step


def run_experiment(
    data: Split, settings: Settings, stage: Callable[[str], Callable[[int, int], object]]
) -> dict[str, list[Run]]:
    """Arm -> one run for each seed. stage announces a run and returns its progress."""
    num_instances = len(data.train.labels)
    if num_instances < 2 * settings.batch_size:
        raise ValueError(
            f"--batch-size: expected at most half of the {num_instances} images, got {settings.batch_size}"
        )
    runs: dict[str, list[Run]] = {arm: [] for arm in settings.arms}
    for seed in range(settings.num_seeds):
        for arm in settings.arms:  # side by side, so that a busy machine slows all arms alike
            bank = FeatureBank(num_instances, 2 * EMBEDDING_DIM)
            sampler = make_sampler(arm, settings, bank, data.train.labels, seed)
            progress = stage(f"seed {seed + 1} of {settings.num_seeds}, {arm}")
            runs[arm].append(train(data, arm, sampler, settings.num_epochs, seed, progress))
    return runs


def make_sampler(
    arm: str, settings: Settings, bank: FeatureBank, labels: torch.Tensor, seed: int
) -> ProximityBatchSampler:
    graph = GraphConfig(num_candidates=settings.num_candidates, num_neighbors=settings.num_neighbors)
    arguments: dict[str, Any] = {"graph": graph}
    if arm == "uniform":
        arguments["planner"] = "uniform"
    elif arm == "kNN":  # a random root and its nearest others: batches may overlap
        arguments["planner"] = WalkPlanner(order="knn")
        arguments["graph"] = GraphConfig(num_candidates=len(labels) - 1, num_neighbors=settings.batch_size - 1)
    elif arm != "proximity":
        remedy: Any = labels if settings.remedy == "labels" else REMEDIES[settings.remedy]
        arguments["graph"] = replace(graph, **{settings.remedy: remedy})
    return ProximityBatchSampler(len(labels), settings.batch_size, drop_last=True, bank=bank, seed=seed, **arguments)


def summarize(runs: dict[str, list[Run]]) -> dict[str, Summary]:
    uniform = np.array([run.accuracy for run in runs["uniform"]])
    return {arm: summarize_arm(arm_runs, uniform) for arm, arm_runs in runs.items()}


def summarize_arm(runs: list[Run], uniform: np.ndarray) -> Summary:
    accuracies = np.array([run.accuracy for run in runs])
    similarities = np.stack([run.similarities for run in runs])[:, 1:]  # [seeds, epochs - 1, steps]
    shares = np.stack([run.false_negative_shares for run in runs])[:, 1:]
    seconds = sum(run.seconds for run in runs)
    parts = np.array_split(similarities.mean((0, 1)), min(NUM_PARTS, similarities.shape[2]))
    return Summary(
        accuracy=spread(accuracies),
        untrained_accuracy=spread(np.array([run.untrained_accuracy for run in runs])),
        difference=spread(accuracies - uniform),
        similarity=float(similarities.mean()),
        false_negative_share=float(shares.mean()),
        similarity_by_part=[float(part.mean()) for part in parts],
        step_milliseconds=1e3 * seconds / sum(run.similarities.size for run in runs),
        sampler_share=sum(run.sampler_seconds for run in runs) / seconds,
    )


def spread(values: np.ndarray) -> Spread:
    if len(values) < 2:
        return Spread(float(values.mean()), math.nan, math.nan)
    deviation = float(values.std(ddof=1))
    factor = float(scipy.stats.t.ppf(0.975, len(values) - 1)) / math.sqrt(len(values))
    return Spread(float(values.mean()), deviation, factor * deviation)


def findings(summaries: dict[str, Summary]) -> list[str]:
    """What the numbers say of each sampler against uniform batches, and the likely reason where one does harm."""
    uniform = summaries["uniform"]
    lines = []
    for arm, summary in summaries.items():
        if arm == "uniform":
            continue
        mean, _, half_width = (100 * value for value in summary.difference)
        line = f"{arm}: {mean:+.2f} points against uniform"
        if math.isnan(half_width):
            lines.append(f"{line}; one seed says nothing about chance.")
            continue
        line += f", 95% interval {mean - half_width:+.2f} to {mean + half_width:+.2f}: "
        if abs(mean) <= half_width:
            lines.append(f"{line}no difference that this many seeds can show.")
        elif mean > 0:
            lines.append(f"{line}it helps here.")
        else:
            share, base = summary.false_negative_share, uniform.false_negative_share
            reason = f" {share:.0%} of its negatives are false (uniform: {base:.0%})." if share > 1.1 * base else ""
            lines.append(f"{line}it does harm here.{reason}")
    return lines
