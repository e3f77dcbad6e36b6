"""Graphs and kNN against the oracle: scores to the bit, indices equal, on every instruction set and thread count."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

from batchsampler_ext import ProximityGraph, knn, knn_graph, proximity_graph, reference
from batchsampler_ext.graph_builders import METRICS


def same(graph: ProximityGraph, expected: tuple[np.ndarray, np.ndarray]) -> bool:
    """Returns whether neighbors and scores are equal to the bit."""
    neighbors, scores = expected
    assert graph.scores is not None
    return np.array_equal(graph.neighbors.numpy(), neighbors) and np.array_equal(
        graph.scores.numpy().view(np.int32), scores.view(np.int32)
    )


def features_of(rng: np.random.Generator, kind: str, n: int, dim: int) -> np.ndarray:
    normal = rng.standard_normal((n, dim)).astype(np.float32)
    if kind == "normal":
        return normal
    if kind == "integers":  # many ties
        return rng.integers(-2, 3, (n, dim)).astype(np.float32)
    if kind == "equal rows":
        return np.repeat(normal[:1], n, axis=0)
    if kind == "zero rows":
        normal[rng.random(n) < 0.5] = 0
        return normal
    if kind == "subnormal":
        return (normal * np.float32(1e-22)).astype(np.float32)  # products and squares are subnormal
    if kind == "overflowing":  # so are some products and squares; cosine refuses both kinds
        return normal * np.float32(10) ** rng.integers(15, 38, (n, 1)).astype(np.float32)
    if kind == "lengths":  # of all scales that cosine allows, without an error bound of the prefilter
        lengths = np.float32(2) ** rng.integers(-62, 63, (n, 1)).astype(np.float32)
        return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32) * lengths
    if kind == "common mean":
        return normal + np.float32(1000)
    raise AssertionError(kind)


KINDS = ("normal", "integers", "equal rows", "zero rows", "lengths", "common mean", "subnormal", "overflowing")


DRAWS = [(1, False), (16, True), (256, False)]  # candidate_group_size, sort


@functools.lru_cache
def inputs_and_answers(kind: str, metric: str):
    """Returns features and the oracle's graphs of them. Cached: the oracle is slow."""
    features = features_of(np.random.default_rng(7), kind, 70, 19)
    graphs = [
        reference.proximity_graph(
            features, 6, 33, metric=metric, candidate_group_size=candidate_group_size, sort=sort, seed=7
        )
        for candidate_group_size, sort in DRAWS
    ]
    return features, graphs, reference.knn_graph(features, 6, metric=metric)


@pytest.mark.parametrize(
    ("kind", "metric"),
    [(k, m) for k in KINDS for m in METRICS if m != "cosine" or k not in ("subnormal", "overflowing")],
)
def test_graphs_equal_the_oracle(isa, kind, metric):
    features, graphs, knn_answer = inputs_and_answers(kind, metric)
    for num_threads in (1, 2, 5):
        for (candidate_group_size, sort), expected in zip(DRAWS, graphs, strict=True):
            graph = proximity_graph(
                features, 6, num_candidates=33, metric=metric, candidate_group_size=candidate_group_size, sort=sort,
                seed=7, return_scores=True, num_threads=num_threads,
            )  # fmt: skip
            assert same(graph, expected)
        assert same(knn_graph(features, 6, metric=metric, num_threads=num_threads), knn_answer)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 256, 257, 300])
def test_awkward_dimensions_equal_the_oracle(rng, isa, dim):
    features = rng.standard_normal((40, dim)).astype(np.float32)
    graph = proximity_graph(features, 5, num_candidates=20, return_scores=True)
    assert same(graph, reference.proximity_graph(features, 5, 20))


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 130])
def test_awkward_sizes_equal_the_oracle(rng, isa, n):
    features = rng.integers(-3, 4, (n, 5)).astype(np.float32)
    for m in {1, (n - 1) // 2, n - 1} - {0}:
        for k in {1, (m + 1) // 2, m}:
            graph = proximity_graph(features, k, num_candidates=m, candidate_group_size=8, return_scores=True)
            assert same(graph, reference.proximity_graph(features, k, m, candidate_group_size=8))


def test_graphs_are_exact_across_every_block_boundary(rng, isa):
    """More candidates, rows and buffer refills than one block of the engine holds."""
    features = rng.integers(-4, 5, (1300, 6)).astype(np.float32)
    exact = knn_graph(features, 40, metric="l2")
    complete = proximity_graph(features, 40, num_candidates=1299, metric="l2", sort=True, return_scores=True)
    # With M = N - 1 the score at each rank is that of exact kNN; ids may differ only among equal scores at the end.
    assert torch.equal(exact.scores, complete.scores)
    rows = rng.choice(1300, 25, replace=False)
    for row in rows:
        scores = reference.similarity(features[row][None], features, "l2")
        scores[row] = np.nan
        order = sorted((i for i in range(1300) if i != row), key=lambda i: (-scores[i], i))[:40]
        assert exact.neighbors[row].tolist() == order


def test_filters_equal_the_oracle(rng, isa):
    features = rng.integers(-2, 3, (60, 4)).astype(np.float32)
    documents = rng.integers(-2, 3, (60, 4)).astype(np.float32)
    labels = rng.integers(-1, 4, 60)
    rows = rng.permutation(60)[:41]
    options = {
        "documents": [None, documents],
        "labels": [None, labels],
        "max_score": [None, 0.5],
        "range_min": [0, 3],
        "rows": [None, rows],
    }
    for values in itertools.product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        graph = proximity_graph(features, 5, num_candidates=30, candidate_group_size=16, return_scores=True, **chosen)
        assert same(graph, reference.proximity_graph(features, 5, 30, candidate_group_size=16, **chosen)), chosen
        assert same(knn_graph(features, 5, **chosen), reference.knn_graph(features, 5, **chosen)), chosen


def test_filters_exclude_labels_scores_and_ranks(rng):
    features = rng.standard_normal((200, 8)).astype(np.float32)
    labels = torch.from_numpy(rng.integers(-1, 5, 200))
    graph = proximity_graph(features, 150, num_candidates=199, labels=labels, max_score=0.4, return_scores=True)
    linked = graph.neighbors >= 0
    own = labels[:, None].expand_as(graph.neighbors)[linked]
    other = labels[graph.neighbors.clamp(min=0).long()][linked]
    assert not ((own == other) & (own >= 0)).any()
    assert (own == -1).any()
    assert graph.scores[linked].max() <= 0.4
    assert (graph.scores[~linked] == -torch.inf).all()
    sorted_graph = proximity_graph(features, 20, num_candidates=199, sort=True, seed=1)
    skipped = proximity_graph(features, 15, num_candidates=199, sort=True, seed=1, range_min=5)
    assert torch.equal(skipped.neighbors, sorted_graph.neighbors[:, 5:])


def test_rows_draw_from_their_subset_only(rng):
    features = rng.standard_normal((100, 8)).astype(np.float32)
    rows = rng.permutation(100)[:30]
    graph = proximity_graph(features, 10, num_candidates=20, rows=rows)
    assert graph.ids.tolist() == rows.tolist()
    assert graph.num_instances == 100
    assert set(graph.neighbors.unique().tolist()) <= set(rows.tolist())
    assert not (graph.neighbors == graph.ids[:, None]).any()
    single = proximity_graph(features, rows=[4])
    assert single.neighbors.shape == (1, 0)


def test_knn_equals_the_oracle(rng, isa):
    for num_queries, num_base, k in [(1, 1, 1), (5, 40, 7), (40, 5, 5), (3, 1000, 17)]:
        queries = rng.integers(-2, 3, (num_queries, 9)).astype(np.float32)
        base = rng.integers(-2, 3, (num_base, 9)).astype(np.float32)
        for metric in METRICS:
            scores, ids = knn(queries, base, k, metric=metric, num_threads=2)
            expected_scores, expected_ids = reference.knn(queries, base, k, metric=metric)
            assert np.array_equal(ids.numpy(), expected_ids)
            assert np.array_equal(scores.numpy(), expected_scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_16_bit_features_are_read_exactly(rng, isa, dtype):
    features = torch.from_numpy(rng.standard_normal((50, 300)) * np.logspace(-7, 1, 300)).to(dtype)
    graph = proximity_graph(features, 6, num_candidates=20, return_scores=True)
    assert same(graph, reference.proximity_graph(features.float().numpy(), 6, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_computing_in_bfloat16_equals_rounding_the_features_first(rng, isa, dtype):
    features = torch.from_numpy(rng.standard_normal((50, 40))).to(dtype)
    rounded = proximity_graph(features, 6, num_candidates=20, return_scores=True, compute_dtype=torch.bfloat16)
    expected = proximity_graph(features.bfloat16(), 6, num_candidates=20, return_scores=True)
    assert torch.equal(rounded.neighbors, expected.neighbors)
    assert torch.equal(rounded.scores, expected.scores)
    exact = knn_graph(features, 49).scores.sum(1)
    assert (knn_graph(features, 49, compute_dtype=torch.bfloat16).scores.sum(1) - exact).abs().max() < 49 * 2**-7


def test_knn_graph_equals_float64_except_at_ties(rng):
    """Compares with torch in float64, which shares no code with the definition of the scores."""
    features = torch.from_numpy(rng.standard_normal((400, 64)).astype(np.float32))
    graph = knn_graph(features, 10)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    scores = unit @ unit.T
    scores.fill_diagonal_(-torch.inf)
    best = scores.topk(10, dim=1)
    assert (graph.scores.double() - best.values).abs().max() < 1e-5
    different = graph.neighbors != best.indices
    assert (scores.gather(1, graph.neighbors.long()) - best.values)[different].abs().sum() < 1e-5


def test_result_independent_of_flush_to_zero_in_the_calling_thread(rng):
    features = features_of(rng, "subnormal", 60, 20)
    expected = proximity_graph(features, 5, num_candidates=30, metric="ip", return_scores=True)
    if not torch.set_flush_denormal(True):
        pytest.skip("no flush-to-zero on this CPU")
    try:
        for num_threads in (1, 3):
            graph = proximity_graph(
                features, 5, num_candidates=30, metric="ip", return_scores=True, num_threads=num_threads
            )
            assert torch.equal(graph.neighbors, expected.neighbors)
            assert torch.equal(graph.scores, expected.scores)
    finally:
        torch.set_flush_denormal(False)


def test_result_independent_of_scratch_limit(rng):
    features = rng.standard_normal((700, 300)).astype(np.float32)
    expected = proximity_graph(features, 20, num_candidates=600, return_scores=True)
    for max_memory in (300_000, 1_000_000):
        graph = proximity_graph(features, 20, num_candidates=600, return_scores=True, max_memory=max_memory)
        assert torch.equal(graph.neighbors, expected.neighbors)
        assert torch.equal(graph.scores, expected.scores)
        assert torch.equal(knn_graph(features, 20, max_memory=max_memory).scores, knn_graph(features, 20).scores)
    with pytest.raises(ValueError, match=r"max_memory: expected at least \d+ bytes .* got 20000"):
        proximity_graph(features, 20, num_candidates=600, max_memory=20_000)
    with pytest.raises(ValueError, match="max_memory"):
        knn_graph(features, 20, max_memory=100)


def test_every_layout_gives_the_same_graph(rng, tmp_path):
    features = rng.standard_normal((90, 24)).astype(np.float32)
    expected = knn_graph(features, 5)
    np.save(tmp_path / "features.npy", features)
    wide = np.zeros((90, 40), np.float32)
    wide[:, 8:32] = features
    layouts = {
        "tensor": torch.from_numpy(features),
        "read-only memmap": np.load(tmp_path / "features.npy", mmap_mode="r"),
        "columns of a wider matrix": wide[:, 8:32],
        "transposed": np.asfortranarray(features),
        "transposed tensor": torch.from_numpy(np.ascontiguousarray(features.T)).T,
        "buffer": memoryview(features),
        "reversed twice": features[::-1].copy()[::-1],
        "requires grad": torch.from_numpy(features).requires_grad_(),
    }
    for name, layout in layouts.items():
        assert torch.equal(knn_graph(layout, 5).scores, expected.scores), name
    with torch.inference_mode():
        inferred = knn_graph(torch.from_numpy(features) * 1, 5)
    assert torch.equal(inferred.degrees(), expected.degrees())


def test_dlpack_objects_are_accepted(rng):
    class Exported:
        def __init__(self, tensor: torch.Tensor) -> None:
            self._tensor = tensor

        def __dlpack__(self, **kwargs):
            return self._tensor.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self._tensor.__dlpack_device__()

    features = torch.from_numpy(rng.standard_normal((30, 8)).astype(np.float32))
    assert torch.equal(knn_graph(Exported(features), 3).neighbors, knn_graph(features, 3).neighbors)


@functools.lru_cache
def large_inputs_and_answer(kind: str, metric: str, options: tuple[tuple[str, object], ...]):
    rng = np.random.default_rng(11)
    features = features_of(rng, kind, 1300, 3)
    labels = rng.integers(-1, 3, len(features)) if "labels" in dict(options) else None
    chosen = {key: value for key, value in options if key != "labels"}
    return features, labels, reference.knn_graph(features, 9, metric=metric, labels=labels, **chosen)


@pytest.mark.parametrize(
    ("kind", "metric", "options"),
    [
        ("normal", "cosine", ()),
        ("integers", "ip", ()),
        ("integers", "l2", (("range_min", 20),)),
        ("equal rows", "cosine", ()),
        ("overflowing", "ip", ()),
        ("normal", "cosine", (("labels", True), ("max_score", 0.9), ("range_min", 3))),
    ],
)
def test_knn_graph_of_many_blocks_is_exact(isa, kind, metric, options):
    """Each pair is scored once, in several blocks of rows, or twice in little memory. Both equal the oracle."""
    features, labels, answer = large_inputs_and_answer(kind, metric, options)
    chosen = {key: value for key, value in options if key != "labels"}
    for num_threads in (1, 2, 5):
        graph = knn_graph(features, 9, metric=metric, labels=labels, num_threads=num_threads, **chosen)
        assert same(graph, answer)
    little = knn_graph(features, 9, metric=metric, labels=labels, max_memory=300_000, num_threads=2, **chosen)
    assert same(little, answer)


def test_knn_graph_is_independent_of_the_order_of_rows(rng, isa):
    """If rows ascend, each pair is scored once. In another order, each row is scored by itself."""
    features = rng.integers(-3, 4, (900, 3)).astype(np.float32)
    rows = np.sort(rng.permutation(900)[:700])
    shuffled = rng.permutation(700)
    ascending, other = knn_graph(features, 9, rows=rows), knn_graph(features, 9, rows=rows[shuffled])
    assert torch.equal(ascending.neighbors[torch.from_numpy(shuffled)], other.neighbors)
    assert torch.equal(ascending.scores[torch.from_numpy(shuffled)], other.scores)


def bfloat16_features(rng: np.random.Generator, kind: str, n: int, dim: int) -> torch.Tensor:
    """Returns features that a prefilter by bfloat16 products cannot decide: near ties, extremes, zeros."""
    normal = rng.standard_normal((n, dim))
    if kind == "near ties":  # scores differ by a few units in the last place of float32
        normal = 1 + np.where(rng.random((n, dim)) < 3 / dim, 2.0**-7, 0)
    elif kind == "one cluster":
        normal = normal[:1] + 0.05 * normal
    elif kind == "heavy tails":
        normal *= np.exp(6 * rng.standard_normal((n, 1)))
    elif kind == "cancelling":  # large terms, small sums
        normal[:, 1::2] = -normal[:, : dim - dim % 2 : 2] * (1 + 2.0**-7 * rng.integers(0, 2, (n, dim // 2)))
    elif kind == "zero rows":
        normal[rng.random(n) < 0.3] = 0
    elif kind == "tiny":  # many of their products are subnormal
        normal = 1e-18 * (normal + 0.2 * np.sign(normal))
    elif kind == "huge":  # the prefilter has no bound for their norms
        normal *= 1e17
    return torch.from_numpy(normal).bfloat16()


@functools.lru_cache
def bfloat16_inputs_and_answers(kind: str, dim: int):
    rng = np.random.default_rng(3)
    features, documents = (bfloat16_features(rng, kind, 90, dim) for _ in range(2))
    options: list[dict] = [
        {},
        {"range_min": 7},
        {"labels": rng.integers(-1, 3, 90)},
        {"rows": rng.permutation(90)[:80], "documents": documents},
        {"metric": "ip"},
    ]
    answers = []
    for chosen in options:
        arrays = chosen | ({"documents": documents.float().numpy()} if "documents" in chosen else {})
        answers.append(
            [
                reference.proximity_graph(
                    features.float().numpy(), 9, 70, candidate_group_size=candidate_group_size, **arrays
                )[0]
                for candidate_group_size in (40, 1)
            ]
        )
    return features, options, answers


@pytest.mark.parametrize("dim", [1, 3, 16, 257])
@pytest.mark.parametrize(
    "kind", ["normal", "near ties", "one cluster", "heavy tails", "cancelling", "zero rows", "tiny", "huge"]
)
def test_bfloat16_graphs_without_scores_equal_the_oracle(isa, kind, dim):
    """Without scores, the engine may prefilter by bfloat16 products and rescore what is too close to call."""
    features, options, answers = bfloat16_inputs_and_answers(kind, dim)
    wide = torch.zeros((90, dim + 3), dtype=torch.bfloat16)
    wide[:, 1 : dim + 1] = features  # rows that begin at odd addresses
    layouts = {
        "tensor": (features, torch.float32),
        "columns": (wide[:, 1 : dim + 1], torch.float32),
        "float32": (features.float(), torch.bfloat16),
    }
    for chosen, answer in zip(options, answers, strict=True):
        for name, (layout, compute_dtype) in layouts.items():
            for candidate_group_size, expected in zip((40, 1), answer, strict=True):
                graph = proximity_graph(
                    layout, 9, num_candidates=70, candidate_group_size=candidate_group_size,
                    compute_dtype=compute_dtype, num_threads=2, **chosen,
                )  # fmt: skip
                assert np.array_equal(graph.neighbors.numpy(), expected), (chosen, name, candidate_group_size)


def test_bfloat16_prefilter_of_many_candidates_is_exact(isa):
    """Takes several blocks of candidates, and cuts buffers back more than once."""
    rng = np.random.default_rng(5)
    for kind in ("normal", "near ties", "one cluster"):
        features = bfloat16_features(rng, kind, 2600, 24)
        expected = proximity_graph(features, 60, num_candidates=2500, sort=True, return_scores=True)
        graph = proximity_graph(features, 60, num_candidates=2500)
        assert torch.equal(graph.neighbors.sort(1).values, expected.neighbors.sort(1).values), kind


def test_knn_graph_is_exact_where_sampled_columns_mislead(isa):
    """The engine guesses thresholds from evenly spaced columns. Here these columns are each other's neighbors."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((1300, 3)).astype(np.float32)
    features[np.arange(90) * 1300 // 512] = 50 + rng.standard_normal((90, 3))
    scores, ids = knn(features, features, 101)
    graph = knn_graph(features, 100, num_threads=2)
    for row in range(1300):
        expected = [i for i in ids[row].tolist() if i != row]
        assert graph.neighbors[row].tolist() == expected[:100]
        assert torch.equal(graph.scores[row], scores[row][ids[row] != row][:100])


@functools.lru_cache
def float32_inputs_and_answers(kind: str, dim: int):
    rng = np.random.default_rng(4)
    # Values differ from bfloat16 values by less than bfloat16 can resolve.
    features, documents = (
        bfloat16_features(rng, kind, 90, dim).float() * (1 + 1e-4 * torch.from_numpy(rng.random((90, dim)))).float()
        for _ in range(2)
    )
    options: list[dict] = [
        {},
        {"range_min": 7},
        {"labels": rng.integers(-1, 3, 90)},
        {"rows": rng.permutation(90)[:80], "documents": documents},
    ]
    answers = []
    for chosen in options:
        arrays = chosen | ({"documents": documents.numpy()} if "documents" in chosen else {})
        answers.append(reference.proximity_graph(features.numpy(), 9, 70, candidate_group_size=1, **arrays))
    return features, options, answers


@pytest.mark.parametrize("dim", [32, 257])
@pytest.mark.parametrize(
    "kind", ["normal", "near ties", "one cluster", "heavy tails", "cancelling", "zero rows", "tiny", "huge"]
)
def test_float32_graphs_of_per_row_candidates_equal_the_oracle(isa, kind, dim):
    """The engine may prefilter by rounded rows and rescore what is too close to call."""
    features, options, answers = float32_inputs_and_answers(kind, dim)
    for chosen, (neighbors, scores) in zip(options, answers, strict=True):
        for wants_scores in (False, True):
            graph = proximity_graph(
                features,
                9,
                num_candidates=70,
                candidate_group_size=1,
                return_scores=wants_scores,
                num_threads=2,
                **chosen,
            )
            assert np.array_equal(graph.neighbors.numpy(), neighbors), chosen
            if wants_scores:
                assert np.array_equal(graph.scores.numpy(), scores), chosen


@pytest.mark.parametrize(
    "kind", ["normal", "near ties", "one cluster", "heavy tails", "cancelling", "zero rows", "tiny", "huge"]
)
def test_symmetric_knn_graph_equals_knn(isa, kind):
    """knn_graph scores each pair once, behind a prefilter. knn of queries in a base does neither."""
    rng = np.random.default_rng(6)
    features = bfloat16_features(rng, kind, 1100, 40).float()
    features *= (1 + 1e-4 * torch.from_numpy(rng.random((1100, 40)))).float()
    labels = torch.from_numpy(rng.integers(-1, 3, 1100))
    exact = knn(features, features, 1100)
    scores, ids = exact.scores.numpy(), exact.ids.numpy()
    rows = np.arange(1100)[:, None]
    for chosen in ({}, {"range_min": 7}, {"labels": labels}):
        wanted = ids != rows
        if "labels" in chosen:
            wanted &= (labels[ids] != labels[rows]).numpy() | (labels.numpy()[rows] < 0)
        first = chosen.get("range_min", 0)
        graph = knn_graph(features, 30, num_threads=2, **chosen)
        for row in range(1100):
            expected = np.full(30, -1), np.full(30, -np.inf)
            for column, of_row in zip(expected, (ids[row], scores[row]), strict=True):
                kept = of_row[wanted[row]][first : first + 30]
                column[: len(kept)] = kept
            assert np.array_equal(graph.neighbors[row].numpy(), expected[0]), (chosen, row)
            assert np.array_equal(graph.scores[row].numpy(), expected[1]), (chosen, row)


@pytest.mark.parametrize("seed", range(8))
def test_knn_graph_is_exact_with_k_columns_above_the_threshold(isa, seed):
    """Row 1 has exactly K columns above its threshold. The prefilter cannot tell the last from one at the threshold."""
    rng = np.random.default_rng(seed)
    num_rows, num_neighbors = 1100, 100
    cosines = np.zeros(num_rows)
    sampled = np.arange(512) * num_rows // 512
    others = np.setdiff1d(np.arange(2, num_rows), sampled)
    cosines[1] = 1
    cosines[sampled[:73]] = cosines[others[:26]] = 0.9
    cosines[sampled[73]], cosines[others[26]] = 0.5, 0.5 - 1e-5
    across = rng.standard_normal((num_rows, 63))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    rotation = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    features = np.hstack([cosines[:, None], np.sqrt(1 - cosines**2)[:, None] * across]) @ rotation
    features = features.astype(np.float32)
    graph = knn_graph(features, num_neighbors, num_threads=2)
    exact = knn(features[1:2], features, num_neighbors + 1)
    assert torch.equal(graph.neighbors[1], exact.ids[0, 1:])
    assert torch.equal(graph.scores[1], exact.scores[0, 1:])
