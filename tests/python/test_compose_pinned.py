"""The plans of compose(), pinned: equal on any number of threads, instruction set and engine, and in later versions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from batchsampler_ext import Plan, compose

NUM_INSTANCES = 1500
CASES: dict[str, dict] = {
    "b3": {"preset": "b3", "batch_size": 128},
    "b3, large communities": {"preset": "b3", "batch_size": 256, "community_size": 256},
    "walks": {"preset": "walks", "batch_size": 50, "num_candidates": 300},
    "curriculum": {"preset": "curriculum", "batch_size": 64, "num_epochs": 4},
    "uniform": {"preset": "uniform", "batch_size": 64},
    "sources": {"preset": "b3", "batch_size": 64, "sources": np.arange(NUM_INSTANCES) % 3, "leftovers": "mixed"},
    "apart": {
        "preset": "b3", "batch_size": 64, "unique": np.arange(NUM_INSTANCES) // 4, "positives": [[0, 9], [3, 1200]],
        "relative_margin": 0.1, "num_hard_negatives": 3, "num_epochs": 2,
    },
}  # fmt: skip
EXPECTED = {
    "b3": "11c6c4263d83bbce",
    "b3, large communities": "83b1dac3772f8ff1",
    "walks": "7c4ca4bb3cca0bbb",
    "curriculum": "b0a6e1d62ea69d3e",
    "uniform": "e6c455985feb3264",
    "sources": "c15647ba4eaff3fc",
    "apart": "c441dc4bf59c88c7",
}


def integers(stream: int, limit: int, *shape: int) -> np.ndarray:
    """Returns hashes in [0, limit), the same with any version of NumPy."""
    words = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(stream << 32)) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    return ((words >> np.uint64(32)) % np.uint64(limit)).astype(np.int64).reshape(shape)


def made() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns noisy copies of 100 random directions, as small integers."""
    groups = integers(0, 100, NUM_INSTANCES)
    queries = integers(1, 17, 100, 24)[groups] - 8 + integers(2, 9, NUM_INSTANCES, 24) - 4
    documents = queries + integers(3, 5, *queries.shape) - 2
    return torch.from_numpy(queries).float(), torch.from_numpy(documents).float()


def digest(plan: Plan) -> str:
    """Returns a hash of all that a plan gives."""
    found = hashlib.sha256(plan._digest().encode())
    for epoch in range(plan.num_epochs):
        for batch in plan.batches(epoch):
            found.update(batch.to(torch.int64).numpy().tobytes())
            found.update(np.packbits(plan.negative_mask(batch).numpy()).tobytes())
    if plan.info["num_hard_negatives"]:
        found.update(plan.hard_negatives().numpy().tobytes())
    return found.hexdigest()[:16]


def composed(case: str, **options) -> str:
    return digest(compose(*made(), seed=7, **CASES[case], **options))


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_plans_are_equal_on_any_number_of_threads(case, num_threads):
    assert composed(case, num_threads=num_threads) == EXPECTED[case]


@pytest.mark.parametrize("case", CASES)
def test_plans_are_equal_on_each_instruction_set(case, isa):
    assert composed(case) == EXPECTED[case]


@pytest.mark.parametrize("case", CASES)
def test_plans_are_equal_on_the_cuda_engine(case, device_engine):
    queries, documents = made()
    with device_engine() as device:
        plan = compose(queries.to(device), documents.to(device), seed=7, **CASES[case])
        assert digest(plan) == EXPECTED[case]
