"""Random words: known answers, the permutation, and exactly uniform draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from batchsampler_ext import proximity_graph, reference
from batchsampler_ext._engine.backend import core

# Random123 1.14, kat_vectors: philox4x32-10.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, expected):
    assert core.philox4x32(key, *counter) == expected
    assert tuple(reference.philox4x32(key, counter).tolist()) == expected


def root_order(n: int, seed: int) -> np.ndarray:
    order = torch.empty(n, dtype=torch.int64)
    core.root_order(n=n, seed=seed, epoch=0, out=order.data_ptr())
    return order.numpy()


def test_permutation_is_a_bijection_and_equals_the_oracle():
    for n in [*range(1, 131), 255, 256, 257, 1000, 4097]:
        order = root_order(n, seed=n)
        assert np.array_equal(np.sort(order), np.arange(n))
        if n <= 257:
            assert order.tolist() == reference.keyed_permutation(n, n, reference.ROOT_ORDER)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 31, 64])
def test_permutation_pairs_are_uniform(n):
    orders = np.stack([root_order(n, seed) for seed in range(200 * n)])
    first = np.bincount(orders[:, 0], minlength=n)
    assert stats.chisquare(first).pvalue > 1e-4
    pairs = np.bincount(orders[:, 0] * n + orders[:, n - 1], minlength=n * n).reshape(n, n)
    pairs = pairs[~np.eye(n, dtype=bool)]
    assert stats.chisquare(pairs).pvalue > 1e-4


def draws(n: int, num_candidates: int, candidate_group_size: int, seed: int) -> np.ndarray:
    """Returns [n, M] candidates in draw order: K = M keeps all of them, and sort=False keeps the order."""
    features = torch.ones(n, 1)
    graph = proximity_graph(
        features,
        num_candidates,
        num_candidates=num_candidates,
        candidate_group_size=candidate_group_size,
        seed=seed,
        num_threads=1,
    )
    return graph.neighbors.numpy()


@pytest.mark.parametrize("candidate_group_size", [1, 5, 256])
@pytest.mark.parametrize("num_candidates", [1, 3, 1000])
def test_draws_are_uniform_for_every_row_at_every_small_n(candidate_group_size, num_candidates):
    """Each position of a draw is uniform over the other rows. Chi-square of each row's first and last position."""
    num_seeds = 400
    pvalues = []
    for n in range(2, 65):
        m = min(num_candidates, n - 1)
        found = np.stack([draws(n, m, candidate_group_size, seed) for seed in range(num_seeds)])  # [seeds, n, m]
        assert (found != np.arange(n)[:, None]).all()
        assert (np.diff(np.sort(found), axis=2) > 0).all()
        if n == 2:
            continue
        for row in range(n):
            for position in {0, m - 1}:
                counts = np.delete(np.bincount(found[:, row, position], minlength=n), row)
                pvalues.append(stats.chisquare(counts).pvalue)
    pvalues = np.asarray(pvalues)
    assert pvalues.min() > 1e-4 / len(pvalues)
    if candidate_group_size == 1:  # independent rows: many mildly small p-values would betray a small bias
        assert abs((pvalues < 0.05).mean() - 0.05) < 0.02


@pytest.mark.parametrize("candidate_group_size", [1, 2, 256])
@pytest.mark.parametrize(("n", "num_candidates"), [(5, 2), (9, 2), (9, 8)])
def test_ordered_pairs_of_a_draw_are_uniform(candidate_group_size, n, num_candidates):
    found = np.stack([draws(n, num_candidates, candidate_group_size, seed) for seed in range(4000)])
    for row in range(n):
        first, last = found[:, row, 0].astype(int), found[:, row, -1]
        pairs = np.bincount(first * n + last, minlength=n * n).reshape(n, n)
        possible = ~np.eye(n, dtype=bool)
        possible[row] = possible[:, row] = False
        assert stats.chisquare(pairs[possible]).pvalue > 1e-5
        assert pairs[~possible].sum() == 0


@pytest.mark.parametrize("candidate_group_size", [1, 256])
def test_draws_are_uniform_at_large_n(candidate_group_size):
    n, m = 100_003, 64
    found = draws(n, m, candidate_group_size, seed=3)
    # Rows of a group have the same candidates: count each group once, by its first row.
    rows = np.unique(found[:, 0], return_index=True)[1] if candidate_group_size > 1 else np.arange(n)
    values = found[rows].ravel()
    counts = np.bincount(values * 256 // n, minlength=256)
    exposure = np.bincount(np.arange(n) * 256 // n, minlength=256) / n
    assert stats.chisquare(counts, exposure * counts.sum()).pvalue > 1e-4
    assert stats.chisquare(np.bincount(values % 16)).pvalue > 1e-4


def test_draws_equal_the_oracle():
    for n, m, candidate_group_size in [
        (2, 1, 1),
        (2, 1, 256),
        (7, 3, 2),
        (50, 24, 1),
        (50, 26, 8),
        (300, 20, 256),
        (300, 299, 64),
    ]:
        expected = reference.candidates(n, m, candidate_group_size, seed=11)
        assert np.array_equal(draws(n, m, candidate_group_size, seed=11), expected)
