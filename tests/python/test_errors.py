"""Bad input raises a TypeError or ValueError that names the argument, what was expected and what was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchsampler_ext import (
    CoverByWalksPlanner,
    FeatureBank,
    PartitionPlanner,
    ProximityBatchSampler,
    ProximityGraph,
    WalkPlanner,
    batch_stats,
    compose,
    knn,
    knn_graph,
    proximity_graph,
    sample_batches,
)
from batchsampler_ext import random_walk_with_restart as walk

X = torch.arange(40, dtype=torch.float32).view(10, 4)
TABLE = torch.tensor([[1, 2], [2, 0], [0, 1], [0, -1]], dtype=torch.int32)


def with_value(value: float) -> torch.Tensor:
    features = X.clone()
    features[7, 2] = value
    return features


BAD_FEATURES = [
    (X[0], ValueError, r"features: expected a matrix \[N, D\], got shape \[4\]"),
    (X[None], ValueError, r"features: expected a matrix \[N, D\], got shape \[1, 10, 4\]"),
    (X[:0], ValueError, "features: expected at least one row"),
    (X[:, :0], ValueError, "features: expected at least one row and one column"),
    (X.double(), TypeError, "features: expected float32, bfloat16 or float16, got torch.float64"),
    (X.int().numpy(), TypeError, "features: expected float32, bfloat16 or float16, got int32"),
    (X.numpy().astype(">f4"), TypeError, "features: expected float32, bfloat16 or float16, got >f4"),
    (X.to("meta"), ValueError, "features: expected a device of type 'cpu'.* got 'meta'"),
    (X.to_sparse(), TypeError, "features: expected a dense tensor"),
    ([[1.0, 2.0]], TypeError, "features: expected a tensor or an array .* got list"),
    (with_value(float("nan")), ValueError, r"features\[7, 2\]: expected finite values, got nan"),
    (with_value(float("inf")), ValueError, r"features\[7, 2\]: expected finite values, got inf"),
    (with_value(-float("inf")).bfloat16(), ValueError, r"features\[7, 2\]: expected finite values, got -inf"),
]


@pytest.mark.parametrize(("features", "error", "message"), BAD_FEATURES)
@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_bad_features_are_refused(features, error, message, metric):
    with pytest.raises(error, match=message):
        proximity_graph(features, 1, metric=metric)
    with pytest.raises(error, match=message):
        knn_graph(features, 1, metric=metric)
    for name, call in [("queries", lambda: knn(features, X, 1)), ("base", lambda: knn(X, features, 1))]:
        with pytest.raises(error, match=message.replace("features", name)):
            call()
    with pytest.raises(error, match=message.replace("features", "documents")):
        proximity_graph(X, 1, documents=features, metric=metric)


BAD_GRAPH_ARGUMENTS = [
    ({"num_neighbors": 0}, ValueError, "num_neighbors: expected an integer from 1 to 9"),
    ({"num_neighbors": -3}, ValueError, "num_neighbors: .* got -3"),
    ({"num_neighbors": 10}, ValueError, "num_neighbors: expected an integer from 1 to 9 .* got 10"),
    ({"num_neighbors": 6, "num_candidates": 5}, ValueError, r"num_neighbors: .* 1 to 5 \(num_candidates\), got 6"),
    ({"num_candidates": 10}, ValueError, r"num_candidates: .* 1 to 9 \(10 rows, itself excluded\), got 10"),
    ({"num_candidates": 0}, ValueError, "num_candidates: .* got 0"),
    ({"num_candidates": 4, "rows": [1, 2, 3]}, ValueError, r"num_candidates: .* 1 to 2 \(3 rows"),
    ({"num_neighbors": 1.0}, TypeError, "num_neighbors: expected an integer, got 1.0"),
    ({"num_neighbors": True}, TypeError, "num_neighbors: expected an integer, got True"),
    ({"metric": "dot"}, ValueError, "metric: expected one of 'cosine', 'ip', 'l2'.*, got 'dot'"),
    ({"compute_dtype": "bf16"}, ValueError, "compute_dtype: expected one of torch.float32, torch.bfloat16, got 'bf16'"),
    ({"candidate_group_size": 0}, ValueError, "candidate_group_size: .* got 0"),
    ({"range_min": -1}, ValueError, "range_min: .* got -1"),
    ({"max_score": "high"}, TypeError, "max_score: expected a float or None, got 'high'"),
    ({"max_score": float("nan")}, ValueError, "max_score: expected a number, got nan"),
    ({"seed": -1}, ValueError, "seed: .* got -1"),
    ({"seed": 2**64}, ValueError, "seed: .* got 18446744073709551616"),
    ({"num_threads": 0}, ValueError, "num_threads: .* got 0"),
    ({"max_memory": 0}, ValueError, "max_memory: .* got 0"),
    ({"max_memory": 10}, ValueError, r"max_memory: expected at least \d+ bytes of scratch for this call, got 10"),
    ({"progress": True}, TypeError, "progress: expected a callable"),
    ({"sort": 1}, TypeError, "sort: expected True or False, got 1"),
    ({"return_scores": "yes"}, TypeError, "return_scores: expected True or False"),
    ({"labels": [0] * 9}, ValueError, "labels: expected one for each of 10 instances, got 9"),
    ({"labels": [0.5] * 10}, TypeError, "labels: expected integers, got float64"),
    ({"labels": [-2] * 10}, ValueError, r"labels: expected values in \[-1, .* got -2"),
    ({"labels": torch.zeros(10, 1, dtype=torch.int64)}, ValueError, "labels: expected one dimension"),
    ({"rows": []}, ValueError, "rows: expected at least one instance"),
    ({"rows": [1, 1]}, ValueError, "rows: expected distinct ids, got 1 more than once"),
    ({"rows": [0, 10]}, ValueError, r"rows: expected values in \[0, 10\), got 10"),
    ({"rows": [-1, 3]}, ValueError, r"rows: expected values in \[0, 10\), got -1"),
    ({"rows": torch.tensor([True, False])}, TypeError, "rows: expected integers, got torch.bool"),
    ({"documents": X[:9]}, ValueError, r"documents: expected the shape of features, \[10, 4\], got \[9, 4\]"),
    ({"documents": X[:, :3].contiguous()}, ValueError, r"documents: expected the shape of features"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_GRAPH_ARGUMENTS)
def test_bad_graph_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        proximity_graph(X, **{"num_neighbors": 2 if "rows" in arguments else 3, **arguments})
    if not arguments.keys() & {"num_candidates", "candidate_group_size", "seed", "sort"}:
        with pytest.raises(error, match=message.split(" .*")[0]):
            knn_graph(X, **{"num_neighbors": 1, **arguments})


def test_bad_knn_arguments_are_refused():
    with pytest.raises(ValueError, match="base: expected 4 columns as queries has, got 3"):
        knn(X, X[:, :3], 1)
    with pytest.raises(ValueError, match=r"num_neighbors: .* 1 to 10 \(base has 10 rows\), got 11"):
        knn(X, X, 11)
    with pytest.raises(ValueError, match="num_neighbors: .* got 1"):
        knn_graph(X[:1], 1)


BAD_TABLES = [
    (TABLE.long(), TypeError, "graph: expected torch.int32, got torch.int64"),
    (TABLE[0], ValueError, r"graph: expected shape \[R, K\] with R >= 1, got \[2\]"),
    (TABLE[:0], ValueError, "graph: expected shape"),
    (TABLE.to("meta"), ValueError, "graph: expected a device of type 'cpu'"),
    (TABLE.tolist(), TypeError, "graph: expected a ProximityGraph or an int32 tensor, got list"),
    (torch.tensor([[0, 4]] * 4, dtype=torch.int32), ValueError, r"graph: expected neighbors in \[-1, 4\)"),
    (torch.tensor([[0, -2]] * 4, dtype=torch.int32), ValueError, r"graph: expected neighbors in \[-1, 4\)"),
    (torch.tensor([[-1, 0]] * 4, dtype=torch.int32), ValueError, "graph: expected a valid prefix and then -1"),
]


@pytest.mark.parametrize(("table", "error", "message"), BAD_TABLES)
def test_bad_neighbor_tables_are_refused(table, error, message):
    with pytest.raises(error, match=message):
        walk(table, [0], 2)
    for mode in ("partition", "walks", "cover_by_walks"):
        with pytest.raises(error, match=message):
            sample_batches(table, 2, planner=mode)


BAD_WALK_ARGUMENTS = [
    ({"batch_size": 0}, ValueError, "batch_size: .* got 0"),
    ({"batch_size": -4}, ValueError, "batch_size: .* got -4"),
    ({"batch_size": 2.5}, TypeError, "batch_size: expected an integer, got 2.5"),
    ({"restart_prob": 1.0}, ValueError, r"restart_prob: expected a float in \[0, 1\), got 1.0"),
    ({"restart_prob": -0.1}, ValueError, r"restart_prob: expected a float in \[0, 1\), got -0.1"),
    ({"restart_prob": float("nan")}, ValueError, "restart_prob: .* got nan"),
    ({"restart_prob": "often"}, TypeError, "restart_prob: .* got 'often'"),
    ({"seed": -1}, ValueError, "seed: .* got -1"),
    ({"epoch": 2**24}, ValueError, "epoch: .* got 16777216"),
    ({"num_threads": 0}, ValueError, "num_threads: .* got 0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_WALK_ARGUMENTS)
def test_bad_walk_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        walk(TABLE, [0], **{"batch_size": 2, **arguments})
    with pytest.raises(error, match=message):
        sample_batches(TABLE, **{"batch_size": 2, **arguments})


@pytest.mark.parametrize(
    ("roots", "error", "message"),
    [
        ([4], ValueError, r"roots: expected values in \[0, 4\), got 4"),
        ([-1], ValueError, r"roots: expected values in \[0, 4\), got -1"),
        ([0.0], TypeError, "roots: expected integers, got float64"),
        ([[0]], ValueError, r"roots: expected one dimension, got shape \[1, 1\]"),
        ([[0], [1, 2]], ValueError, "roots: expected a one-dimensional array of integers"),
    ],
)
def test_bad_roots_are_refused(roots, error, message):
    with pytest.raises(error, match=message):
        walk(TABLE, roots, 2)


def test_no_roots_give_no_walks():
    assert walk(TABLE, [], 2).nodes.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"planner": "random"},
            "planner: expected one of 'partition', 'walks', .*, got 'random'",
        ),
        (
            {"batch_size": 4, "planner": CoverByWalksPlanner("knn")},
            "order: expected a graph with at least 3 neighbors per row",
        ),
        ({"num_batches": 3}, r"num_batches: .* 1 to 2 \(the batches of this epoch\), got 3"),
        ({"num_batches": 0, "planner": "walks"}, "num_batches: .* got 0"),
        ({"num_batches": 2**63, "planner": "walks"}, "num_batches: .* from 1 to 2147483647, got 9223372036854775808"),
        (
            {"num_batches": 2, "planner": "walks", "batch_size": 9},
            r"num_batches: .* \(batch_size exceeds the 4 rows\), got 2",
        ),
    ],
)
def test_bad_epoch_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_batches(TABLE, **{"batch_size": 2, **arguments})


def test_bad_planners_are_refused():
    with pytest.raises(ValueError, match="hardness: expected one of 'soft', 'default', 'hard', got 'harder'"):
        PartitionPlanner(hardness="harder")
    with pytest.raises(ValueError, match="order: expected one of"):
        WalkPlanner("rwp")
    for planner in (PartitionPlanner, WalkPlanner, CoverByWalksPlanner):
        with pytest.raises(ValueError, match=r"restart_prob: expected a float in \[0, 1\), got 1.0"):
            planner(restart_prob=1.0)
    for planner in (PartitionPlanner, 3, object()):
        with pytest.raises(TypeError, match="planner: expected a name or a BatchPlanner, got"):
            sample_batches(TABLE, 2, planner=planner)


def test_bad_graphs_are_refused():
    with pytest.raises(ValueError, match=r"scores: expected the shape of neighbors, \[4, 2\], got \[4, 1\]"):
        ProximityGraph(TABLE, scores=torch.zeros(4, 1))
    with pytest.raises(TypeError, match="scores: expected torch.float32"):
        ProximityGraph(TABLE, scores=torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="ids: expected one for each of 4 rows, got 3"):
        ProximityGraph(TABLE, ids=torch.tensor([0, 1, 2]), num_instances=5)
    with pytest.raises(ValueError, match="ids: expected distinct ids, got 2 more than once"):
        ProximityGraph(TABLE, ids=torch.tensor([0, 1, 2, 2]), num_instances=5)
    with pytest.raises(ValueError, match="num_instances: .* got 3"):
        ProximityGraph(TABLE, num_instances=3)
    with pytest.raises(ValueError, match="ids: expected the instance ids of 4 rows out of 9, got None"):
        ProximityGraph(TABLE, num_instances=9)
    with pytest.raises(ValueError, match="device: expected a device of type 'cpu'"):
        ProximityGraph(TABLE).to("meta")


def test_bad_batch_stats_arguments_are_refused():
    with pytest.raises(ValueError, match=r"batches: expected values in \[-1, 10\), got 10"):
        batch_stats([[0, 10]], X)
    with pytest.raises(ValueError, match="labels: expected one for each of 10 instances, got 2"):
        batch_stats([[0, 1]], X, labels=[0, 1])
    with pytest.raises(ValueError, match="graph: expected a graph over 10 instances, the rows of features, got 4"):
        batch_stats([[0, 1]], X, graph=ProximityGraph(TABLE))


def test_sizes_beyond_any_machine_are_taken_as_no_limit():
    expected = proximity_graph(X, 3, num_candidates=5, candidate_group_size=len(X)).neighbors
    for options in ({"max_memory": 2**63}, {"candidate_group_size": 2**63}):
        options = {"candidate_group_size": len(X)} | options
        assert torch.equal(proximity_graph(X, 3, num_candidates=5, **options).neighbors, expected)


def test_errors_do_not_write_out_tensors_that_repeat_elements():
    huge = torch.zeros(1, dtype=torch.bfloat16).expand(2**43)
    for call in (lambda: knn_graph(X, huge), lambda: compose(X, batch_size=huge, preset="uniform")):
        with pytest.raises(TypeError, match=r"expected an integer, got a tensor of torch.bfloat16 \[8796093022208\]"):
            call()
    for name in ("planner", "rank"):
        with pytest.raises((TypeError, ValueError), match=r"got a tensor of torch.bfloat16 \[8796093022208\]"):
            ProximityBatchSampler(10, 4, **{"bank": FeatureBank(10, 4), name: huge})


@pytest.mark.parametrize("wrong", [np.empty(0), np.ones(2), torch.ones(2)])
def test_arrays_in_the_place_of_words_are_refused_by_name(wrong):
    for name in ("interleave", "leftovers", "preset", "metric", "neighbors"):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
            compose(X, **{"batch_size": 4, "rank_window": (1, 4), "sources": torch.arange(10) % 2, name: wrong})
    for name in ("planner", "scope"):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
            ProximityBatchSampler(10, 4, **{"bank": FeatureBank(10, 4), name: wrong})
