"""Graphs by the CUDA engine equal those of the CPU engine to the bit.

The kernels run on a GPU if there is one. The same source also runs on the CPU, compiled against the emulator of
tests/emulator (the module _cuda_emulated of development builds).
"""

import numpy as np
import pytest
import torch

from batchsampler_ext import ProximityGraph, knn, knn_graph, proximity_graph, reference
from batchsampler_ext.graph_builders import METRICS, GraphConfig, _GraphCall


def features_of(kind: str, num_rows: int, dim: int) -> torch.Tensor:
    rng = np.random.default_rng(num_rows + dim)
    if kind == "real":
        values = rng.standard_normal((num_rows, dim))
    elif kind == "integers":  # many ties
        values = rng.integers(-1, 2, (num_rows, dim))
    elif kind == "equal":
        values = np.ones((num_rows, dim))
    elif kind == "far":
        values = 1000 + rng.standard_normal((num_rows, dim))
    else:  # scales: zero rows, tiny and huge norms; extremes: squares that under- and overflow, which cosine refuses
        exponents = (-17, 18) if kind == "scales" else (-24, 24)
        values = rng.standard_normal((num_rows, dim)) * 10.0 ** rng.integers(*exponents, (num_rows, 1))
        values[rng.random(num_rows) < 0.2] = 0
    return torch.from_numpy(values.astype(np.float32))


def assert_same(build, *arrays, device_engine, **arguments) -> ProximityGraph:
    """Asserts equal results on the CPU and on the device, and returns that of the CPU."""
    expected = build(*arrays, **arguments)
    with device_engine() as device:

        def moved(value):
            return value.to(device) if isinstance(value, torch.Tensor | ProximityGraph) else value

        found = build(*map(moved, arrays), **{name: moved(value) for name, value in arguments.items()})
        if isinstance(found, ProximityGraph):
            found.check()
            assert found.device.type == device.type
            found = found.neighbors.cpu(), None if found.scores is None else found.scores.cpu()
            parts = expected.neighbors, expected.scores
        else:
            found, parts = (found.ids.cpu(), found.scores.cpu()), (expected.ids, expected.scores)
    assert torch.equal(parts[0], found[0])
    if parts[1] is not None:
        assert torch.equal(parts[1].view(torch.int32), found[1].view(torch.int32))  # to the bit
    return expected


KINDS = ("real", "integers", "equal", "scales", "far", "extremes")
KINDS_BY_METRIC = [(kind, metric) for metric in METRICS for kind in KINDS if (kind, metric) != ("extremes", "cosine")]


@pytest.mark.parametrize(("kind", "metric"), KINDS_BY_METRIC)
@pytest.mark.parametrize("candidate_group_size", [1, 7, 256])
def test_proximity_graph_equals_the_cpu(device_engine, kind, metric, candidate_group_size):
    features = features_of(kind, 150, 19)
    assert_same(
        proximity_graph, features, 5, num_candidates=40, candidate_group_size=candidate_group_size, metric=metric,
        return_scores=True, seed=3, device_engine=device_engine,
    )  # fmt: skip


@pytest.mark.parametrize("num_rows", [2, 3, 17, 33, 65, 129])
@pytest.mark.parametrize("candidate_group_size", [1, 16, 256])
def test_keeping_every_candidate_equals_the_cpu(device_engine, num_rows, candidate_group_size):
    features = features_of("integers", num_rows, 3)
    for num_candidates in {1, (num_rows - 1) // 2 or 1, num_rows - 1}:
        for num_neighbors in {1, num_candidates}:
            assert_same(
                proximity_graph, features, num_neighbors, num_candidates=num_candidates,
                candidate_group_size=candidate_group_size, sort=num_neighbors == 1, return_scores=True, seed=num_rows,
                device_engine=device_engine,
            )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_every_dtype_equals_the_cpu(device_engine, dtype, compute_dtype):
    features = features_of("real", 90, 33).to(dtype)
    for options in ({}, {"candidate_group_size": 1}):
        assert_same(
            proximity_graph, features, 7, num_candidates=30, compute_dtype=compute_dtype, return_scores=True,
            device_engine=device_engine, **options,
        )  # fmt: skip
    assert_same(knn_graph, features, 7, compute_dtype=compute_dtype, device_engine=device_engine)


@pytest.mark.parametrize("kind", ["real", "integers", "equal", "scales", "near", "no bound"])
@pytest.mark.parametrize("dim", [8, 40, 136])
def test_bfloat16_tensor_core_prefilter_equals_the_cpu(device_engine, kind, dim):
    """Grouped candidates of bfloat16 rows without scores: only those too close to call get exact scores."""
    features = features_of("scales" if kind == "no bound" else "real" if kind == "near" else kind, 200, dim)
    if kind == "near":  # every score is too close to call, few are equal
        features = features[0] + 1e-2 * features
    elif kind == "scales":  # norms with an error bound
        features = (
            features
            / features.norm(dim=1, keepdim=True).clamp(min=1e-30)
            * 10.0 ** (torch.arange(200) % 6 - 3)[:, None]
        )
    features = features.bfloat16()
    labels = torch.arange(200) % 3 - 1
    for options in ({}, {"labels": labels}, {"documents": features.flip(0)}, {"rows": torch.arange(0, 200, 2)}):
        assert_same(
            proximity_graph, features, 20, num_candidates=90, candidate_group_size=70, seed=dim,
            device_engine=device_engine, **options,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("num_rows", "dim", "num_candidates", "num_neighbors", "candidate_group_size"),
    [
        (150, 40, 149, 149, 64),  # keeps every candidate; the last group has fewer rows
        (150, 24, 99, 1, 150),
        (203, 16, 100, 9, 100),  # the last group has three rows
        (97, 13, 50, 7, 40),  # not a multiple of eight elements: matrix top-k
        (1100, 8, 1050, 20, 550),
    ],
)
def test_fused_topk_equals_matrix_topk_and_oracle(
    device_engine, num_rows, dim, num_candidates, num_neighbors, candidate_group_size
):
    """The edges equal those with scores, which take matrix top-k, and those of the oracle."""
    shape = {"num_candidates": num_candidates, "candidate_group_size": candidate_group_size, "seed": dim}
    for kind in ("real", "integers"):
        features = features_of(kind, num_rows, dim).bfloat16()
        graph = assert_same(proximity_graph, features, num_neighbors, device_engine=device_engine, **shape)
        with_scores = assert_same(
            proximity_graph, features, num_neighbors, device_engine=device_engine, return_scores=True, **shape
        )
        assert torch.equal(graph.neighbors, with_scores.neighbors)
        if num_rows < 200:
            neighbors, _ = reference.proximity_graph(features.float().numpy(), num_neighbors, **shape)
            np.testing.assert_array_equal(graph.neighbors.numpy(), neighbors)


@pytest.mark.parametrize(
    "options",
    [
        {"range_min": 9},
        {"range_min": 80},
        {"range_min": 200},
        {"labels": torch.arange(140) % 2},
        {"max_score": 0.2},
        {"range_min": 3, "labels": torch.arange(140) % 4 - 1, "rows": torch.arange(0, 140, 1).flip(0)},
    ],
)
def test_restricted_edges_of_bfloat16_equal_the_cpu(device_engine, options):
    for kind in ("real", "integers"):
        features = features_of(kind, 140, 16).bfloat16()
        assert_same(
            proximity_graph,
            features,
            11,
            num_candidates=90,
            candidate_group_size=48,
            device_engine=device_engine,
            **options,
        )


@pytest.mark.parametrize("build", ["shared", "own", "knn"])
@pytest.mark.parametrize("kind", ["real", "integers"])
def test_restricted_edges_equal_the_cpu(device_engine, build, kind):
    features, documents = features_of(kind, 120, 8), features_of(kind, 120, 8).roll(1, 0)
    rows = torch.from_numpy(np.random.default_rng(5).permutation(120)[:75])
    labels = torch.arange(120) % 5 - 1
    options = {
        "num_candidates": 60,
        "candidate_group_size": 1 if build == "own" else 32,
        "seed": 9,
        "return_scores": True,
    }
    make, options = (knn_graph, {}) if build == "knn" else (proximity_graph, options)
    for restricted in (
        {"rows": rows},
        {"documents": documents},
        {"labels": labels},
        {"max_score": 0.3},
        {"range_min": 13},
        {"range_min": 200},
        {"rows": rows, "documents": documents, "labels": labels, "max_score": 0.5, "range_min": 4, "metric": "ip"},
    ):
        for sort in {False, True} if build != "knn" else {None}:
            chosen = options if sort is None else {**options, "sort": sort}
            assert_same(make, features, 6, device_engine=device_engine, **chosen, **restricted)


@pytest.mark.parametrize("metric", METRICS)
def test_knn_equals_the_cpu(device_engine, metric):
    queries, base = features_of("integers", 37, 5), features_of("integers", 140, 5)
    assert_same(knn, queries, base, 9, metric=metric, device_engine=device_engine)
    assert_same(knn, queries, base, 140, metric=metric, device_engine=device_engine)
    assert_same(knn_graph, base, 139, metric=metric, device_engine=device_engine)


def rows_for_lists(kind: str, num_rows: int, dim: int) -> torch.Tensor:
    """Returns enough rows for streaming top-k instead of matrix top-k."""
    rng = np.random.default_rng(num_rows + dim)
    values = rng.standard_normal((num_rows, dim))
    if kind in KINDS:
        return features_of(kind, num_rows, dim)
    if kind == "cluster":  # more candidates within the error of the prefilter than there is room for
        values = values[0] + 1e-3 * values
    elif kind == "mean":
        values += 20 * rng.standard_normal(dim)
    elif kind == "rising":  # to most queries, every tile is better than the tiles before
        values = values[0] + values * np.linspace(1, 1e-2, num_rows)[:, None]
    elif kind == "no bound":  # a few rows of extreme norms leave no error bound
        values *= np.where(rng.random(num_rows) < 0.01, 1e12, 1.0)[:, None]
    return torch.from_numpy(values.astype(np.float32))


LIST_KINDS = ("real", "equal", "integers", "scales", "cluster", "mean", "rising", "no bound")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", LIST_KINDS)
def test_streaming_topk_equals_the_cpu(device_engine, kind, dtype):
    """Has fewer tiles of queries (two) than there are multiprocessors, so the base is split."""
    base = rows_for_lists(kind, 1301, 40).to(dtype)
    assert_same(knn, base[::9], base, 5, device_engine=device_engine)


@pytest.mark.parametrize("num_neighbors", [1, 37, 300])
@pytest.mark.parametrize("dim", [1, 8, 9, 168])  # 9: not a multiple of 8; 168: more pieces than stages
def test_streaming_topk_of_every_size_equals_the_cpu(device_engine, num_neighbors, dim):
    base = rows_for_lists("real", 1217, dim).bfloat16()
    assert_same(knn, base[:70].flip(0), base, num_neighbors, device_engine=device_engine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_restricted_streaming_topk_equals_the_cpu(device_engine, dtype):
    features = rows_for_lists("real", 1400, 16).to(dtype)
    features[:500] = features[0] * (1 + torch.arange(500) % 3)[:, None]  # ties, and edges above max_score
    rows = torch.from_numpy(np.random.default_rng(5).permutation(1400)[:1100])
    labels = torch.arange(1400) % 5 - 1
    some_score = float(knn(features[800:801], features, 30).scores[0, 20])
    for restricted in (
        {"labels": torch.zeros(1400, dtype=torch.int64)},
        {"rows": rows, "labels": labels, "max_score": some_score},
        {"rows": rows, "documents": features.flip(0), "range_min": 13},
    ):
        assert_same(knn_graph, features, 6, device_engine=device_engine, **restricted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("kind", "metric"), KINDS_BY_METRIC)
def test_streaming_topk_of_every_metric_equals_the_cpu(device_engine, kind, metric, dtype):
    base = rows_for_lists(kind, 1100, 5).to(dtype)
    assert_same(knn, base[:40], base, 6, metric=metric, device_engine=device_engine)


def test_matrices_at_one_address_equal_the_cpu(device_engine):
    flat = features_of("real", 120, 8).flatten()
    queries, base = flat[:480].view(60, 8), flat.view(60, 16)[:, :8]
    assert_same(knn, queries, base, 5, device_engine=device_engine)
    assert_same(proximity_graph, queries, 5, num_candidates=30, documents=base, device_engine=device_engine)


def test_result_independent_of_scratch_limit(device_engine):
    features = features_of("real", 200, 6)
    calls = [(proximity_graph, {"num_candidates": 50, "candidate_group_size": 16}), (knn_graph, {})]
    with device_engine() as device:
        for build, options in calls:
            expected = build(features.to(device), 4, **options).neighbors
            for max_memory in (20_000, 100_000):
                found = build(features.to(device), 4, max_memory=max_memory, **options).neighbors
                assert torch.equal(expected, found)
            with pytest.raises(ValueError, match="max_memory: expected at least [0-9]+ bytes of scratch"):
                build(features.to(device), 4, max_memory=1, **options)


def test_hash_tables_and_sort_buffers_beyond_shared_memory_equal_the_cpu(device_engine):
    features = features_of("integers", 4500, 2)
    assert_same(
        proximity_graph, features[:2300], 3, num_candidates=900, candidate_group_size=2300, device_engine=device_engine
    )
    assert_same(knn, features[:3], features, 4200, device_engine=device_engine)


@pytest.mark.parametrize("options", [{}, {"return_scores": True}, {"candidate_group_size": 1}])  # fused, matrix, own
def test_a_range_of_groups_equals_these_rows_of_the_whole_graph(device_engine, options):
    features = features_of("real", 330, 16).bfloat16()
    config = GraphConfig(num_candidates=90, num_neighbors=11, **{"candidate_group_size": 40, **options})
    with device_engine() as device:
        call = _GraphCall.check(features.to(device), None, None, config, None, None, 4, None)
        call.build(range(call.request.num_groups))
        order = call.order()
        whole = [None if table is None else table.cpu() for table in (call.result.neighbors, call.result.scores)]
        rows_of = torch.arange(330) if order is None else order.cpu().long()
        expected = reference.keyed_permutation(330, 4, reference.GROUPS)
        assert rows_of.tolist() == (expected if config.candidate_group_size > 1 else list(range(330)))
        for groups in (range(3), range(3, call.request.num_groups)):
            for table in (call.result.neighbors, call.result.scores):
                if table is not None:
                    table.fill_(-7)
            call.build(groups)
            positions = call.positions(groups)
            built = torch.zeros(330, dtype=torch.bool)
            built[rows_of[positions.start : positions.stop]] = True
            for table, right in zip((call.result.neighbors, call.result.scores), whole, strict=True):
                if table is not None and right is not None:
                    assert torch.equal(table.cpu()[built].view(torch.int32), right[built].view(torch.int32))
                    assert bool((table.cpu()[~built] == -7).all())


def test_proximity_graph_equals_the_oracle(device_engine):
    features = features_of("real", 60, 7)
    neighbors, scores = reference.proximity_graph(features.numpy(), 5, 20, candidate_group_size=16, seed=1)
    with device_engine() as device:
        graph = proximity_graph(
            features.to(device), 5, num_candidates=20, candidate_group_size=16, seed=1, return_scores=True
        ).to("cpu")
    np.testing.assert_array_equal(graph.neighbors.numpy(), neighbors)
    np.testing.assert_array_equal(graph.scores.numpy().view(np.int32), scores.view(np.int32))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_values_are_reported_when_results_are_read(device_engine, value):
    features = features_of("real", 50, 40)
    features[31, 35] = features[40, 0] = value
    backwards = torch.arange(49, -1, -1)
    for num_threads in (1, 3):  # the CPU engine names the same value
        with pytest.raises(ValueError, match=r"features\[31, 35\]: expected finite values"):
            proximity_graph(features, 5, rows=backwards, num_threads=num_threads)
    with device_engine() as device:
        with pytest.raises(ValueError, match=r"features\[31, 35\]: expected finite values"):
            proximity_graph(features.to(device), 5, num_candidates=20, rows=backwards.to(device)).check()
        for graph in (proximity_graph(features.to(device), 5, num_candidates=20), knn_graph(features.to(device), 3)):
            with pytest.raises(ValueError, match=r"features\[31, 35\]: expected finite values"):
                graph.check()
        good = features_of("real", 50, 40).to(device)
        with pytest.raises(ValueError, match=r"base\[31, 35\]: expected finite values"):
            knn(good, features.to(device), 3)
        with pytest.raises(ValueError, match=r"documents\[31, 35\]: expected finite values"):
            proximity_graph(good, 5, num_candidates=20, documents=features.to(device)).check()


BAD_VALUES = [
    ({"rows": [3, 50, 4]}, r"rows: expected values in \[0, 50\), got 50"),
    ({"rows": [3, -1, 50, 4]}, r"rows: expected values in \[0, 50\), got -1"),
    ({"rows": [7, 3, 9, 9, 3, 7]}, "rows: expected distinct ids, got 3 more than once"),
    ({"labels": [0] * 49 + [-2]}, r"labels: expected values in \[-1, 9223372036854775808\), got -2"),
]


@pytest.mark.parametrize(("values", "message"), BAD_VALUES)
@pytest.mark.parametrize("build", [proximity_graph, knn_graph])
def test_bad_values_are_reported_when_results_are_read(device_engine, no_host_reads, build, values, message):
    features = features_of("real", 50, 4)
    with pytest.raises(ValueError, match=message):
        build(features, 2, **values)
    with device_engine() as device:
        features = features.to(device)
        values = {name: torch.tensor(value, device=device) for name, value in values.items()}
        with no_host_reads():
            graph = build(features, 2, **values)
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                graph.check()


def test_building_does_not_wait_for_the_device(device_engine, no_host_reads):
    features = features_of("real", 60, 8)
    rows, labels = torch.arange(59, -1, -1)[:40], torch.arange(60) % 7 - 1
    options = {"rows": rows, "labels": labels, "max_score": 0.9, "range_min": 1}
    expected = [build(features, 4, **options) for build in (proximity_graph, knn_graph)]
    with device_engine() as device:
        features, documents = features.to(device), features.to(device)
        options |= {"rows": rows.to(device), "labels": labels.to(device)}
        proximity_graph(features, 4, **options)  # loads and allocates what the first use needs
        with no_host_reads():
            found = [build(features, 4, **options) for build in (proximity_graph, knn_graph)]
            proximity_graph(features, 4, documents=documents, candidate_group_size=1, return_scores=True, sort=True)
        assert all(torch.equal(a.neighbors, b.neighbors.cpu()) for a, b in zip(expected, found, strict=True))


def test_bad_ids_of_graphs_are_reported_when_results_are_read(device_engine, no_host_reads):
    table, good = torch.tensor([[4], [2], [2]], dtype=torch.int32), torch.tensor([2, 4, 3])
    for ids, message in [([2, 5, 3], r"ids: expected values in \[0, 5\), got 5"), ([2, 4, 2], "ids: .* got 2 more")]:
        with pytest.raises(ValueError, match=message):
            ProximityGraph(table, ids=torch.tensor(ids), num_instances=5)
        with device_engine() as device:
            moved, wrong, right = table.to(device), torch.tensor(ids).to(device), good.to(device)
            with no_host_reads():
                graph = ProximityGraph(moved, ids=wrong, num_instances=5)
                assert ProximityGraph(moved, ids=right, num_instances=5).ids is not None
            with pytest.raises(ValueError, match=message):
                graph.stats()


def test_changed_ids_of_graphs_are_checked_in_place(device_engine):
    table, ids = torch.tensor([[4], [2], [2]], dtype=torch.int32), torch.tensor([2, 4, 3])
    with device_engine() as device:
        graph = ProximityGraph(table.to(device), ids=ids.to(device), num_instances=5)
        view = graph.ids
        view[2] = 0
        assert len(graph.mutual()) == 3
        for wrong, message in ((5, r"ids: expected values in \[0, 5\), got 5"), (4, "ids: .* got 4 more")):
            view[2] = wrong  # the view is still one of the graph's ids
            for call in (graph.mutual, graph.degrees, lambda: graph.to("cpu")):
                with pytest.raises(ValueError, match=message):
                    call()
        view[2] = 3
        assert graph.degrees().tolist() == [1, 1, 1]
