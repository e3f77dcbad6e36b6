"""One run: trains a student on the batches of an arm for a number of steps, then ranks the test documents."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import batchsampler_ext as bse

from . import batches, features, pairs, students

WARMUP = 0.1  # share of the steps
HARDNESS = {"infonce": 0.0, "hardness": 9.0}  # alpha; 9 in Lan et al. 2025 (arXiv 2503.04812)


@dataclasses.dataclass(frozen=True)
class Run:
    tier: str
    data: str
    arm: str
    loss: str
    batch_size: int
    lr: float
    temperature: float
    num_steps: int  # 0: before training
    seed: int


def train(run: Run, data: Path, device: str = "cpu") -> dict[str, Any]:
    """Returns metrics in [0, 1], the number of steps, seconds of training, and the mean cosine of negatives."""
    torch.manual_seed(run.seed)
    kind = students.TIERS[run.tier]
    student, texts = kind(data).to(device), read(run.tier, data, run.data, "train", device)
    start = time.perf_counter()
    similarities = []
    if run.num_steps:
        optimizer = student.optimizer(run.lr)
        warmup = max(1, round(WARMUP * run.num_steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (run.num_steps - step) / (run.num_steps - warmup + 1))
        )
        for indices, mask, negatives, update in batches_of(run, data, student, texts):
            batch, negatives = indices.to(device), negatives.to(device)
            queries = student.embed(students.QUERIES, texts[0], batch)
            documents = student.embed(students.DOCUMENTS, texts[1], torch.cat([batch, negatives.flatten()]))
            cosines = queries @ documents.T
            loss = contrastive(cosines, run.temperature, HARDNESS[run.loss], None if mask is None else mask.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                similarities.append((cosines.sum() - cosines.diagonal().sum()).item() / (cosines.numel() - len(batch)))
                if update is not None:
                    update(indices, queries, documents[: len(batch)])
    seconds = time.perf_counter() - start
    return {
        "metrics": evaluate(
            student, texts=read(run.tier, data, run.data, "test", device), ids=test_ids(data, run.data)
        ),
        "num_steps": len(similarities),
        "train_seconds": seconds,
        "in_batch_similarity": float(np.mean(similarities)) if similarities else float("nan"),
    }


def contrastive(cosines: torch.Tensor, temperature: float, hardness: float, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns the mean InfoNCE of B queries.

    Args:
        cosines: [B, m] of queries and documents. The first B documents are those of the queries.
        hardness: alpha, the weight of stop_grad(cosine) that is added to the logits of negatives. This is
            `hardness_mode="all_negatives"` of sentence-transformers' MultipleNegativesRankingLoss.
        mask: bool [B, B], which pairs are negatives. None: all pairs of different instances.
    """
    size = len(cosines)
    logits = cosines / temperature
    if hardness:
        penalty = hardness * cosines.detach()
        penalty.fill_diagonal_(0)
        logits = logits + penalty
    if mask is not None:
        excluded = torch.zeros_like(logits, dtype=torch.bool)
        excluded[:, :size] = ~mask
        logits = logits.masked_fill(excluded.fill_diagonal_(False), -torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(size, device=cosines.device))


def batches_of(run: Run, data: Path, student: Any, texts: list[Any]) -> Iterator[tuple[torch.Tensor, Any, Any, Any]]:
    """Yields run.num_steps batches: indices, mask or None, further negatives [B, h], what to call after the step."""
    arm = batches.arm_of(run.arm)
    none = torch.empty(run.batch_size, 0, dtype=torch.int64)
    if arm.preset == "online":
        sampler = batches.online(data, run.data, student, texts, run.batch_size, run.seed)
        for batch in forever(sampler, run.num_steps):
            yield batch, None, none, sampler.bank.update
        return
    plan = batches.plan(data, run.data, arm, run.batch_size, run.num_steps, run.seed)
    negatives = batches.mined(data, run.data)[:, : arm.num_mined] if arm.num_mined else None
    for batch in forever(bse.PlannedBatchSampler(plan), run.num_steps):
        mask = plan.negative_mask(batch) if arm.is_masked else None
        yield batch, mask, none if negatives is None else negatives[batch], None


def forever(sampler: Any, num_steps: int) -> Iterator[torch.Tensor]:
    """Yields num_steps batches, epoch after epoch."""
    epochs = itertools.chain.from_iterable(sampler for _ in itertools.count())
    return map(torch.as_tensor, itertools.islice(epochs, num_steps))


@functools.lru_cache(maxsize=4)
def read(tier: str, data: Path, name: str, side: str, device: str) -> list[Any]:
    return [column.to(device) for column in students.TIERS[tier].read(data, name, side)]


@functools.lru_cache(maxsize=4)
def test_ids(data: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(pairs.positive_ids(pairs.read(data, name, "test")))


@torch.no_grad()
def evaluate(student: Any, texts: list[Any], ids: torch.Tensor) -> dict[str, float]:
    """Ranks all documents for each query. The best rank of a positive counts: see `pairs.positive_ids`.

    Where scores are equal throughout, or NaN, the rank is the last one.
    """
    student.eval()
    queries, documents = (
        embed_all(student, column, texts[column]) for column in (students.QUERIES, students.DOCUMENTS)
    )
    scores = (queries @ documents.T).cpu()
    positive = (ids[:, None] == ids[None]).any(2)
    best = scores.masked_fill(~positive, -torch.inf).amax(1)
    has_diverged = ~(scores.amax(1) > scores.amin(1))
    rank = 1 + (((scores > best[:, None]) | has_diverged[:, None]) & ~positive).sum(1)
    return {
        "mrr_at_10": float(torch.where(rank <= 10, 1 / rank, 0.0).mean()),
        **{f"recall_at_{k}": float((rank <= k).double().mean()) for k in (1, 10)},
    }


def embed_all(student: Any, column: int, texts: Any) -> torch.Tensor:
    """Embeds all texts of a column."""
    order = (
        texts.lengths().argsort()
        if isinstance(texts, features.Tokens)
        else torch.arange(len(texts), device=texts.device)
    )
    return features.in_order(order, lambda part: student.embed(column, texts, part))
