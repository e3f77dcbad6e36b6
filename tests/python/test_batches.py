"""Epochs of mini-batches: partitions, independent walks, covers by walks, and the other orders of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from batchsampler_ext import (
    CoverByWalksPlanner,
    PartitionPlanner,
    ProximityGraph,
    WalkPlanner,
    batch_stats,
    knn_graph,
    proximity_graph,
    reference,
    sample_batches,
)
from batchsampler_ext.reference import partition as reference_partition

ORDERS = ("rwr", "rw", "bfs", "dfs", "knn", "uniform")


def members(batches) -> list[int]:
    return sorted(int(i) for batch in batches for i in batch)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 150, 151])
@pytest.mark.parametrize("full", [True, False])
def test_partition_equals_the_oracle(random_table, full, batch_size, drop_last):
    table = random_table(150, 10, full=full)
    for epoch, restart_prob, hardness in [(0, 0.2, "default"), (3, 0.0, "soft"), (3, 0.7, "hard")]:
        arguments = {"restart_prob": restart_prob, "drop_last": drop_last, "seed": 5, "epoch": epoch}
        expected, tail = reference_partition.partition(table, batch_size, hardness=hardness, **arguments)
        planner = PartitionPlanner(hardness=hardness)
        for num_threads in (1, 2, 5):
            batches = sample_batches(
                torch.from_numpy(table), batch_size, planner=planner, num_threads=num_threads, **arguments
            )
            assert batches.indices.tolist() == expected
            assert batches.tail.tolist() == tail


@pytest.mark.parametrize("hardness", ["soft", "default", "hard"])
def test_partition_of_real_features_equals_the_oracle(hardness):
    graph = knn_graph(load_digits().data.astype(np.float32)[:600], 12)
    expected, tail = reference_partition.partition(graph.neighbors.numpy(), 64, hardness=hardness, seed=1)
    batches = sample_batches(graph, 64, planner=PartitionPlanner(hardness=hardness), seed=1)
    assert batches.indices.tolist() == expected
    assert batches.tail.tolist() == tail


def ended_graphs(n: int) -> dict[str, np.ndarray]:
    column = np.arange(n, dtype=np.int32)[:, None]
    return {
        "all -1": np.full((n, 3), -1, np.int32),
        "no columns": np.empty((n, 0), np.int32),
        "star": np.zeros((n, 3), np.int32),
        "self-loops": np.repeat(column, 2, axis=1),
        "pairs": np.minimum(column ^ 1, n - 1),
        "components of four": np.minimum(column // 4 * 4 + np.arange(4, dtype=np.int32), n - 1),
    }


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("name", ended_graphs(8))
def test_every_epoch_ends_and_is_a_partition(name, drop_last):
    for n in (1, 2, 5, 63, 500):
        table = torch.from_numpy(ended_graphs(n)[name])
        for batch_size in (1, 2, 8, 63, 1000):
            batches = sample_batches(table, batch_size, drop_last=drop_last, seed=n)
            found = members(batches)
            assert len(set(found)) == len(found) == (n // batch_size * batch_size if drop_last else n)
            assert all(len(batch) == batch_size for batch in batches.indices)


def test_partition_batches_stay_hard_and_cover_every_instance():
    """On real data, similarity is far above that of uniform batches, also in the lowest tenth of the batches."""
    digits = load_digits()
    features = digits.data.astype(np.float32) - digits.data.mean(0).astype(np.float32)
    graph = proximity_graph(features, 32, num_candidates=600, seed=2)
    for epoch in range(5):
        batches = sample_batches(graph, 32, seed=2, epoch=epoch)
        assert members(batches) == list(range(1797))
        hard = batch_stats(batches, features)
        uniform = batch_stats(sample_batches(graph, 32, planner="uniform", seed=2, epoch=epoch), features)
        independent = batch_stats(sample_batches(graph, 32, planner="walks", seed=2, epoch=epoch), features)
        assert hard["in_batch_similarity"] > uniform["in_batch_similarity"] + 0.2
        kept = hard["in_batch_similarity"] - uniform["in_batch_similarity"]
        assert kept > 0.6 * (independent["in_batch_similarity"] - uniform["in_batch_similarity"])
        per_batch = hard["in_batch_similarity_per_batch"]
        assert np.quantile(per_batch, 0.1) > uniform["in_batch_similarity_per_batch"].max()
        order = stats.spearmanr(np.arange(len(per_batch)), per_batch)
        assert order.pvalue > 1e-3  # no drift through the epoch


def test_similarity_grows_with_hardness_and_default_is_close_to_walks():
    """On two graphs of real data, an unlimited partition is more than twice as hard as walks, and somewhat harder."""
    digits = load_digits()
    features = digits.data.astype(np.float32) - digits.data.mean(0).astype(np.float32)
    for graph in (proximity_graph(features, 100, num_candidates=1000, seed=2), knn_graph(features, 100)):

        def similarity(graph=graph, **arguments):
            epochs = [sample_batches(graph, 64, seed=2, epoch=epoch, **arguments) for epoch in range(4)]
            return np.mean([batch_stats(batches, features)["in_batch_similarity"] for batches in epochs])

        soft, default, hard = (
            similarity(planner=PartitionPlanner(hardness)) for hardness in ("soft", "default", "hard")
        )
        walks = similarity(planner="walks")
        assert 0 < soft < default < hard
        assert 0.75 * walks < default < 1.25 * walks


def test_instances_left_out_by_drop_last_are_random(random_table):
    table = torch.from_numpy(random_table(21, 4))
    left_out = np.zeros(21)
    for epoch in range(2000):
        left_out[list(set(range(21)) - set(members(sample_batches(table, 8, drop_last=True, epoch=epoch))))] += 1
    assert left_out.sum() == 5 * 2000
    assert stats.chisquare(left_out).pvalue > 1e-4


def test_epochs_and_seeds_give_different_batches(random_table):
    table = torch.from_numpy(random_table(300, 10, full=True))
    batches = [sample_batches(table, 16, seed=s, epoch=e).indices for s in (0, 1, 2**63) for e in (0, 1)]
    for i, first in enumerate(batches):
        assert not any(torch.equal(first, second) for second in batches[i + 1 :])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("full", [True, False])
def test_walks_and_cover_by_walks_equal_the_oracle(random_table, order, full):
    table = random_table(130, 12, full=full)
    for batch_size in (1, 10, 13):
        arguments = {"seed": 4, "epoch": 6}
        independent = sample_batches(
            torch.from_numpy(table), batch_size, planner=WalkPlanner(order), num_batches=9, **arguments
        )
        assert independent.indices.tolist() == reference.independent_batches(
            table, batch_size, num_batches=9, strategy=order, **arguments
        )
        paper = sample_batches(torch.from_numpy(table), batch_size, planner=CoverByWalksPlanner(order), **arguments)
        expected, tail = reference.covering_batches(table, batch_size, strategy=order, **arguments)
        assert paper.indices.tolist() == expected
        assert paper.tail.tolist() == tail
        assert set(members(paper)) == set(range(130))


def test_uniform_partition_equals_the_oracle(random_table):
    table = torch.from_numpy(random_table(50, 3))
    for drop_last in (False, True):
        batches = sample_batches(table, 8, planner="uniform", drop_last=drop_last, seed=9)
        expected, tail = reference_partition.uniform_partition(50, 8, drop_last=drop_last, seed=9)
        assert (batches.indices.tolist(), batches.tail.tolist()) == (expected, tail)


def test_batch_sizes_follow_drop_last_and_num_batches(random_table):
    table = torch.from_numpy(random_table(50, 20, full=True))
    for mode in ("partition", "walks"):
        whole = sample_batches(table, 8, planner=mode)
        assert [len(b) for b in whole] == [8] * 6 + [2]
        assert [len(b) for b in sample_batches(table, 8, planner=mode, drop_last=True)] == [8] * 6
        part = sample_batches(table, 8, planner=mode, num_batches=4)
        assert torch.equal(part.indices, whole.indices[:4])
        assert len(part) == 4
        assert [len(b) for b in sample_batches(table, 64, planner=mode)] == [50]
        assert len(sample_batches(table, 64, planner=mode, drop_last=True)) == 0
    assert len(sample_batches(table, 8, planner="walks", num_batches=100).indices) == 100
    paper = sample_batches(table, 8, planner="cover_by_walks")
    assert torch.equal(sample_batches(table, 8, planner="cover_by_walks", num_batches=3).indices, paper.indices[:3])
    assert len(sample_batches(table, 8, planner="cover_by_walks", drop_last=True).tail) == 0
    assert members(sample_batches(table, 64, planner="cover_by_walks")) == list(range(50))


def test_subset_graph_gives_batches_of_its_instances(rng):
    features = rng.standard_normal((200, 8)).astype(np.float32)
    rows = rng.permutation(200)[:77]
    graph = proximity_graph(features, 10, rows=rows)
    for mode in ("partition", "cover_by_walks"):
        batches = sample_batches(graph, 16, planner=mode)
        assert set(members(batches)) == set(rows.tolist())
    assert set(members(sample_batches(graph, 16, planner="walks"))) <= set(rows.tolist())
    assert members(sample_batches(graph, 16, planner="uniform")) == sorted(rows.tolist())


def test_batches_behave_as_a_sequence(random_table):
    batches = sample_batches(torch.from_numpy(random_table(20, 3)), 8)
    assert len(batches) == 3
    assert torch.equal(batches[-1], batches.tail)
    assert torch.equal(batches[1], batches.indices[1])
    assert [len(b) for b in batches[1:]] == [8, 4]
    with pytest.raises(IndexError, match="index: expected one of 3 batches, got 3"):
        batches[3]
    assert batches[0].dtype == batches.tail.dtype == torch.int64
    assert repr(batches) == "Batches(num_full=2, batch_size=8, tail=4)"


def test_batch_stats_equal_their_definition(rng):
    features = rng.standard_normal((40, 6)).astype(np.float32)
    labels = rng.integers(-1, 3, 40)
    graph = knn_graph(features, 5)
    batches = [rng.permutation(40)[:7], np.array([3, 4, -1, -1]), np.array([5])]
    result = batch_stats(batches, features, labels=labels, graph=graph)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i, batch in enumerate(batches[:2]):
        nodes = [n for n in batch.tolist() if n >= 0]
        pairs = [(a, b) for a in nodes for b in nodes if a != b]
        known = [(a, b) for a, b in pairs if labels[a] >= 0 and labels[b] >= 0]
        assert result["in_batch_similarity_per_batch"][i] == pytest.approx(
            np.mean([unit[a] @ unit[b] for a, b in pairs])
        )
        assert result["edge_share_per_batch"][i] == np.mean([b in graph.neighbors[a] for a, b in pairs])
        if known:
            assert result["false_negative_share_per_batch"][i] == pytest.approx(
                np.mean([labels[a] == labels[b] for a, b in known])
            )
    assert np.isnan(result["in_batch_similarity_per_batch"][2])
    assert result["num_batches"] == 3
    assert result["in_batch_similarity"] == pytest.approx(np.nanmean(result["in_batch_similarity_per_batch"]))
    subset = ProximityGraph(torch.tensor([[7], [3]], dtype=torch.int32), ids=torch.tensor([3, 7]), num_instances=40)
    assert batch_stats([[3, 7, 9]], features, graph=subset)["edge_share"] == pytest.approx(2 / 6)
