"""What compose() refuses, with the words that it says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from batchsampler_ext import PlannedBatchSampler, compose

ROWS = np.random.default_rng(0).standard_normal((500, 8)).astype("f4")
SOURCES = np.arange(500) // 480  # 480 and 20 instances
ONE_WINDOW = {0: (30, 130), 1: None}


def with_value(value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[7, 3] = value
    return rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": ROWS[:-1]}, "documents: expected the shape of queries, [500, 8], got [499, 8]"),
        ({"batch_size": 100, "community_size": 32}, "community_size: expected a divisor of batch_size 100, got 32"),
        ({"community_size": 24}, "community_size: expected a divisor of batch_size 64, got 24"),
        (
            {"rank_window": (30, 500)},
            "rank_window: expected (p, q) with 0 <= p < q <= 499 (500 instances, itself excluded), got (30, 500)",
        ),
        (
            {"unique": np.arange(500) // 9},
            "unique: expected each id on at most 8 instances (8 batches, max_per_batch 1), got id 0 of column 0 on 9",
        ),
        (
            {"sources": SOURCES},
            "rank_window: expected (p, q) with 0 <= p < q below the size of each source, got (30, 130) for source 1 "
            "(20 instances); rank_window={1: (p, q)} gives a source another window, and {1: None} makes its batches "
            "uniform",
        ),
        (
            {"sources": SOURCES, "leftovers": "drop", "rank_window": ONE_WINDOW},
            "leftovers: 'drop' would leave out every instance of sources that do not fill batch_size / "
            "sources_per_batch = 64; expected 'mixed' or 'short' with source 1 (20 instances)",
        ),
        (
            {"sources": SOURCES, "interleave": {0: 1, 1: 1}, "rank_window": ONE_WINDOW},
            "interleave: expected at least batch_size 64 instances of each source with weights, got source 1 "
            "(20 instances)",
        ),
        ({"relative_margin": 0.1}, "relative_margin: expected None without documents, because the score of an"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(ROWS, **{"batch_size": 64, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", ["b3", "walks", "clusters", "uniform"])
def test_values_that_are_not_finite_are_named_with_every_preset(preset, dtype):
    for value in (np.nan, np.inf, -np.inf):
        rows = torch.from_numpy(with_value(value)).to(dtype)
        with pytest.raises(ValueError, match=re.escape("queries[7, 3]: expected finite values, got nan or inf")):
            compose(rows, batch_size=64, preset=preset)
        with pytest.raises(ValueError, match=re.escape("documents[7, 3]: expected finite values, got nan or inf")):
            compose(torch.from_numpy(ROWS).to(dtype), rows, batch_size=64, preset=preset)


def test_the_largest_finite_values_are_accepted():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rows = torch.full((8, 2), torch.finfo(dtype).max, dtype=dtype)
        compose(rows, batch_size=4, preset="uniform", metric="l2")


def test_a_plan_is_refused_with_another_data_set():
    plan = compose(ROWS, batch_size=64)
    with pytest.raises(ValueError, match="dataset: expected the 500 instances that the plan was composed for, got 499"):
        PlannedBatchSampler(plan, dataset=499)
