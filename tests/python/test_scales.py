"""Far from the origin, and for tiny and huge rows: results against float64, in the bounds of csrc/common/score.h."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from batchsampler_ext import (
    FeatureBank,
    ProximityGraph,
    batch_stats,
    compose,
    knn,
    knn_graph,
    proximity_graph,
    reference,
)
from batchsampler_ext._engine.arrays import as_matrix
from batchsampler_ext._plan.clusters import _points
from batchsampler_ext._plan.measures import _scores
from batchsampler_ext.graph_builders import METRICS

OFFSETS = (0.0, 1.0, 1e2, 1e3, 1e6)
SCALES = (1e-30, 1e-22, 1e-19, 1e-10, 1.0, 1e10, 1e15, 1e19, 1e22, 1e30)
DIMS = (1, 2, 3, 17, 128, 1000, 4096)
LARGEST = float(np.finfo(np.float32).max)
NUM_ROWS, K = 24, 7
BAD_NORM = re.escape("expected zeros or a Euclidean norm from 2**-63 to 2**63 (1.1e-19 to 9.2e+18) for metric 'cosine'")


def rows_of(dim: int, offset: float, scale: float) -> np.ndarray:
    normal = np.random.default_rng(dim).standard_normal((NUM_ROWS, dim))
    return ((normal + offset) * scale).astype(np.float32)


def gamma(n: float) -> float:
    return n * 2.0**-24 / (1 - n * 2.0**-24)


def exact_scores(rows: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 scores of all pairs, and bounds on the errors of their float32 scores. Sums may overflow."""
    x, dim = rows.astype(np.float64), rows.shape[1]
    if metric == "l2":
        distances = np.stack([((row - x) ** 2).sum(1) for row in x])
        return -distances, gamma(dim + 2) * distances + dim * 2.0**-150
    if metric == "ip":
        return x @ x.T, gamma(dim) * (np.abs(x) @ np.abs(x).T) + dim * 2.0**-150
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    return units @ units.T, np.full((len(x), len(x)), gamma(4 * dim + 8))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", DIMS)
def test_order_and_scores_are_those_of_float64_within_the_bounds(metric, dim):
    for offset in OFFSETS:
        for scale in SCALES:
            rows = rows_of(dim, offset, scale)
            norms = np.linalg.norm(rows.astype(np.float64), axis=1)
            if metric == "cosine" and not ((norms > 2.0**-63) & (norms < 2.0**63)).all():
                row = np.flatnonzero((norms < 2.0**-63) | (norms > 2.0**63))[0]
                with pytest.raises(
                    ValueError, match=rf"^features\[{row}\]: {BAD_NORM}, got {re.escape(f'{norms[row]:.3g}')}$"
                ):
                    knn_graph(rows, K)
                continue
            options = {"num_candidates": NUM_ROWS - 1, "candidate_group_size": 1, "sort": True, "return_scores": True}
            for graph in (
                knn_graph(rows, K, metric=metric), proximity_graph(rows, K, metric=metric, **options)
            ):  # fmt: skip
                assert graph.scores is not None
                assert_within_bounds(graph.neighbors.numpy(), graph.scores.numpy(), rows, metric)


def assert_within_bounds(ids: np.ndarray, scores: np.ndarray, rows: np.ndarray, metric: str) -> None:
    """Asserts scores with their bounds, and that no other candidate is certainly better than a chosen one."""
    exact, bounds = exact_scores(rows, metric)
    found = scores.astype(np.float64)
    assert not np.isnan(found).any()
    assert (found[:, 1:] <= found[:, :-1]).all()
    chosen, chosen_bounds = np.take_along_axis(exact, ids, 1), np.take_along_axis(bounds, ids, 1)
    if metric != "ip":  # of ip, partial sums may overflow too
        overflow = np.abs(chosen) - chosen_bounds > LARGEST
        assert np.isinf(found[overflow]).all()
    if (np.abs(exact) + bounds / gamma(rows.shape[1])).max() > LARGEST:
        return
    assert (np.abs(found - chosen) <= chosen_bounds).all()
    for row, own in enumerate(ids):
        assert len({row, *own.tolist()}) == K + 1
        others = np.setdiff1d(np.arange(NUM_ROWS), [row, *own])
        assert (exact[row, own] + bounds[row, own]).min() >= (exact[row, others] - bounds[row, others]).max()


@pytest.mark.parametrize("offset", [1e2, 1e3])
def test_nearest_neighbors_far_from_the_origin_are_those_of_float64(isa, offset):
    rows = (np.random.default_rng(0).standard_normal((600, 32)) + offset).astype(np.float32)
    distances = np.stack([((row - rows.astype(np.float64)) ** 2).sum(1) for row in rows.astype(np.float64)])
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances.argsort(1)[:, :10], 1)
    options = {"num_candidates": 599, "metric": "l2"}
    for graph in (
        knn_graph(rows, 10, metric="l2"),
        proximity_graph(rows, 10, **options),
        proximity_graph(rows, 10, candidate_group_size=1, **options),
    ):
        assert np.array_equal(graph.neighbors.sort(1).values.numpy(), nearest)


def test_points_on_a_line_far_from_the_origin_have_their_own_neighbors(isa):
    rows = np.array([[1000.0], [1000.01], [1000.02], [1000.03]], np.float32)
    found = knn(rows, rows, 4, metric="l2")
    assert [row[0] for row in found.ids.tolist()] == [0, 1, 2, 3]
    assert found.ids[0].tolist() == [0, 1, 2, 3]
    assert found.scores[:, 0].tolist() == [0.0] * 4


def test_distances_that_overflow_rank_last_and_are_never_nan(isa, device_engine):
    values = np.array([0.0, 1e10, -1e10, 2e19, -3e38, 3e38], np.float32)
    for dim in (1, 40):
        rows = np.zeros((6, dim), np.float32)
        rows[:, :: max(1, dim - 1)] = values[:, None]  # the first and the last dimension
        expected_scores, expected = reference.knn(rows, rows, 6, metric="l2")
        assert expected[0].tolist() == [0, 1, 2, 3, 4, 5]
        assert np.isneginf(expected_scores[0, 3:]).all()
        assert not np.isnan(expected_scores).any()
        features = torch.from_numpy(rows)
        found = knn(features, features, 6, metric="l2")
        with device_engine() as device:
            other = knn(features.to(device), features.to(device), 6, metric="l2")
        for scores, ids in (found, other):
            assert np.array_equal(ids.cpu().numpy(), expected)
            assert np.array_equal(scores.cpu().numpy(), expected_scores)


def test_squares_that_underflow_are_zero(isa):
    rows = np.array([[0.0], [1e-30], [-1e-30], [1e-10]], np.float32)
    for metric in ("ip", "l2"):
        found = knn(rows, rows[1:3], 2, metric=metric)
        assert found.scores[:3].view(torch.int32).tolist() == [[0, 0]] * 3  # not -0
        assert found.ids[:3].tolist() == [[0, 1]] * 3


def checked(result) -> None:
    """Raises the errors of a device. knn() has raised its own."""
    if isinstance(result, ProximityGraph):
        result.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [1e-20, 1e-30, 9.3e18, 1e19, 1e38])
def test_rows_without_accurate_cosines_are_named(isa, device_engine, norm, dtype):
    good = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    good[3] = 0
    bad = good.clone()
    bad[5] = bad[7] = 0
    bad[7, 6] = bad[9, 0] = norm
    calls = {
        "features": [
            lambda good, bad: knn_graph(bad, 2),
            lambda good, bad: proximity_graph(bad, 2),
            lambda good, bad: proximity_graph(bad, 2, candidate_group_size=1, rows=[9, 7, 3]),
            lambda good, bad: proximity_graph(bad, 2, documents=good),
        ],
        "documents": [lambda good, bad: proximity_graph(good, 2, documents=bad)],
        "queries": [lambda good, bad: knn(bad, good, 2)],
        "base": [lambda good, bad: knn(good, bad, 2)],
    }
    got = re.escape(f"{float(bad[7, 6]):.3g}")
    for name, failing in calls.items():
        for call in failing:
            with pytest.raises(ValueError, match=rf"^{name}\[7\]: {BAD_NORM}, got {got}$"):
                call(good, bad)
            with device_engine() as device, pytest.raises(ValueError, match=rf"^{name}\[7\]: {BAD_NORM}$"):
                checked(call(good.to(device), bad.to(device)))
    for metric in ("ip", "l2"):
        knn_graph(bad, 2, metric=metric)
    assert knn_graph(good, 3).scores[3].tolist() == [0.0] * 3  # a row of zeros


@pytest.mark.parametrize("preset", ["b3", "walks", "clusters", "uniform"])
def test_compose_names_rows_without_accurate_cosines(preset):
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    for norm in (1e-20, 1e19):
        bad = rows.clone()
        bad[77] = 0
        bad[211, 3] = norm
        bad[211] *= torch.arange(8) == 3
        with pytest.raises(ValueError, match=rf"^queries\[211\]: {BAD_NORM}, got {re.escape(f'{norm:.3g}')}$"):
            compose(bad, batch_size=20, preset=preset)
        with pytest.raises(ValueError, match=rf"^documents\[211\]: {BAD_NORM}"):
            compose(rows, bad, batch_size=20, preset=preset)
        compose(bad, batch_size=20, preset=preset, metric="l2", num_threads=1)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e18, 1e30])
def test_norms_and_measures_are_those_of_float64_at_every_scale(device_engine, scale):
    rows = rows_of(40, 0.5, scale)
    rows[5] = 0
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    units = wide / np.where(norms > 0, norms, 1)
    bank = FeatureBank(NUM_ROWS, 40, dtype=torch.float32)
    bank.update(torch.arange(NUM_ROWS), torch.from_numpy(rows))
    np.testing.assert_allclose(bank.rows_for_graph().features.numpy(), units, rtol=2**-22)
    np.testing.assert_allclose(_points([as_matrix(rows, "rows")], torch.arange(NUM_ROWS), "cosine"), units, rtol=2**-22)
    cosines = units @ units.T
    np.testing.assert_allclose(_scores(*2 * [torch.from_numpy(rows)], "cosine"), cosines, atol=1e-6)
    mean = (cosines.sum() - np.trace(cosines)) / NUM_ROWS / (NUM_ROWS - 1)
    assert batch_stats([range(NUM_ROWS)], rows)["in_batch_similarity"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_distances_of_reports_are_those_of_float64_far_from_the_origin(offset):
    rows = rows_of(40, offset, 1.0)
    exact, bounds = exact_scores(rows, "l2")
    assert (np.abs(_scores(*2 * [torch.from_numpy(rows)], "l2").numpy() - exact) <= 2 * bounds).all()
