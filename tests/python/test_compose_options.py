"""Which options of compose() go together, what presets choose for a batch size, and graphs that users give."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from batchsampler_ext import ProximityGraph, compose, knn_graph

NUM_INSTANCES = 300
ROWS = np.random.default_rng(0).standard_normal((NUM_INSTANCES, 8)).astype("f4")
RING = (np.arange(NUM_INSTANCES)[:, None] + [1, 2, 3]) % NUM_INSTANCES  # no edge goes both ways
SOURCES = np.arange(NUM_INSTANCES) // 150


def composed(**options):
    return compose(ROWS, **{"batch_size": 64, **options})


def lists(plan) -> list[list[int]]:
    return [batch.tolist() for epoch in range(plan.num_epochs) for batch in plan.batches(epoch)]


# --- graphs that are given -------------------------------------------------------------------------------------------
def test_edges_of_a_given_graph_are_mutual_if_that_is_asked():
    graph = ProximityGraph(torch.from_numpy(RING).int())
    for mutual, num_edges in ((None, 900), (False, 900), (True, 0)):
        for sources, kept in ((None, num_edges), (SOURCES, num_edges and 900 - 2 * 6)):
            plan = composed(graph=graph, mutual=mutual, sources=sources)
            assert plan.info["mutual"] == bool(mutual)
            assert plan.graph.stats().num_edges == kept
    knn = knn_graph(ROWS, 20)
    plans = [composed(graph=knn, mutual=True), composed(graph=knn.mutual()), composed(graph=knn)]
    assert lists(plans[0]) == lists(plans[1]) != lists(plans[2])


def test_hard_negatives_of_a_given_graph_are_taken_before_mutual():
    plan = composed(graph=RING.astype("i4"), mutual=True, num_hard_negatives=3)
    assert np.array_equal(plan.hard_negatives().numpy(), RING)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "int16"])
@pytest.mark.parametrize("is_tensor", [False, True])
def test_neighbors_of_other_libraries_are_a_graph(dtype, is_tensor):
    table = knn_graph(ROWS, 20).neighbors.numpy()
    expected = composed(graph=ProximityGraph(table))
    listed = np.full((NUM_INSTANCES, 23), -1)  # each row begins with itself, and has gaps
    listed[:, 0] = np.arange(NUM_INSTANCES)
    listed[:, 2:12], listed[:, 13:] = table[:, :10], table[:, 10:]
    given = listed.astype(dtype)
    plan = composed(graph=torch.from_numpy(given) if is_tensor else given)
    assert np.array_equal(plan.graph.neighbors[:, :20], table)
    assert lists(plan) == lists(expected)


def test_self_loops_of_a_given_graph_are_ignored():
    graph = knn_graph(ROWS, 9, return_scores=True)
    own = torch.arange(NUM_INSTANCES, dtype=torch.int32)[:, None]
    table, scores = torch.hstack([own, graph.neighbors]), torch.hstack([torch.full(own.shape, 9.0), graph.scores])
    order = torch.randperm(NUM_INSTANCES, generator=torch.Generator().manual_seed(0))
    for rows, ids in ((own[:, 0].long(), None), (order, order)):
        looped = ProximityGraph(table[rows], scores[rows], ids, NUM_INSTANCES)
        plain = ProximityGraph(graph.neighbors[rows], graph.scores[rows], ids, NUM_INSTANCES)
        found, expected = (composed(graph=given, max_score=0.9) for given in (looped, plain))
        assert torch.equal(found.graph.neighbors[:, :-1], expected.graph.neighbors)
        assert lists(found) == lists(expected)
        assert torch.equal(looped.neighbors, table[rows])  # as before


def test_given_graphs_are_the_same_on_a_device(device_engine):
    graph = knn_graph(ROWS, 20)
    given = torch.hstack([torch.arange(NUM_INSTANCES)[:, None], graph.neighbors.long()])
    expected = lists(composed(graph=graph, mutual=True, sources=SOURCES, num_hard_negatives=5))
    with device_engine() as device:
        for found in (given.to(device), ProximityGraph(given.int().to(device))):
            plan = compose(
                torch.from_numpy(ROWS).to(device), batch_size=64, graph=found, mutual=True, sources=SOURCES,
                num_hard_negatives=5,
            )  # fmt: skip
            assert lists(plan) == expected


@pytest.mark.parametrize(
    ("graph", "error", "message"),
    [
        (3, TypeError, "graph: expected a ProximityGraph, or an array or tensor of neighbors [300, K], got int"),
        ((ROWS, RING), TypeError, "graph: expected a ProximityGraph, or an array or tensor of neighbors"),
        (ROWS, TypeError, "graph: expected integers as neighbors, got float32"),
        (RING > 3, TypeError, "graph: expected integers as neighbors, got bool"),
        (torch.from_numpy(RING > 3), TypeError, "graph: expected integers as neighbors, got torch.bool"),
        (RING[1:], ValueError, "graph: expected neighbors of shape [300, K] with K >= 1, as queries has 300"),
        (RING[:, :0], ValueError, "graph: expected neighbors of shape [300, K]"),
        (np.where(RING == 7, 300, RING), ValueError, "graph: expected neighbors in [-1, 300), got 300 in row 4"),
        (np.where(RING == 7, 2**32, RING), ValueError, "got 4294967296 in row 4"),
        (np.where(RING == 7, -2, RING), ValueError, "graph: expected neighbors in [-1, 300), got -2 in row 4"),
        (
            ProximityGraph(torch.from_numpy(RING).int(), ids=torch.arange(300), num_instances=350),
            ValueError,
            "graph: expected a graph of 300 instances with a row for each, as queries has, got 300 rows of 350",
        ),
    ],
)  # fmt: skip
def test_wrong_graphs_are_named(graph, error, message):
    with pytest.raises(error, match=re.escape(message)):
        composed(graph=graph)


# --- sizes that presets choose ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("batch_size", "size", "sizes"),
    [
        (64, 32, [1, 2, 4, 8, 16, 32]),
        (100, 25, [1, 2, 4, 5, 10, 25]),
        (16, 16, [1, 2, 4, 8, 16]),
        (31, 31, [1, 31]),
        (45, 15, [1, 3, 5, 15]),
        (1, 1, [1]),
    ],
)
def test_communities_of_presets_are_divisors_of_the_batch_size(batch_size, size, sizes):
    assert composed(batch_size=batch_size).info["community_size"] == [size]
    plan = composed(batch_size=batch_size, preset="curriculum", num_epochs=6)
    assert plan.info["community_size"] == sizes
    plan = composed(batch_size=2 * batch_size, sources=SOURCES, sources_per_batch=2)
    assert plan.info["community_size"] == [size]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 37},
            "community_size: expected a size with preset='b3' and batch_size 37, which has no divisor from 2 to 32; "
            "pass community_size=37, or a batch_size that has one",
        ),
        ({"batch_size": 100, "community_size": 32}, "community_size: expected a divisor of batch_size 100, got 32"),
        (
            {"preset": "curriculum"},
            "num_epochs: expected at least 2, because each epoch has one of the community sizes [1, 2, 4, 8, 16, 32], "
            "and communities of 1 make uniform batches, got 1",
        ),
        ({"community_size": [1, 1, 8], "num_epochs": 2}, "num_epochs: expected at least 3, because each epoch has one"),
    ],
)
def test_sizes_without_an_epoch_or_divisor_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        composed(**options)
    composed(batch_size=37, community_size=37)


def test_sizes_without_an_epoch_get_a_hint():
    for options, numbers in (
        ({"preset": "curriculum", "num_epochs": 4}, "6 sizes for 4 epochs, so 16, 32 are not used. Set num_epochs=6,"),
        ({"community_size": [2, 4], "num_epochs": 1}, "2 sizes for 1 epoch, so 4 is not used. Set num_epochs=2,"),
    ):
        hint = composed(**options).report(ROWS).hints[0]
        assert hint.startswith("Each epoch has one size of communities, and the plan has ")
        assert numbers in hint
    for options in ({"preset": "curriculum", "num_epochs": 6}, {"community_size": [1, 1]}, {"preset": "uniform"}):
        hints = composed(**{"num_epochs": 2, **options}).report(ROWS).hints
        assert not [hint for hint in hints if hint.startswith("Each epoch has one size")]


def test_small_data_are_told_that_the_window_is_of_the_preset():
    for num_rows, advice in ((130, "rank_window=(8, 32)"), (5, "rank_window=(0, 1)"), (2, "rank_window=(0, 1)")):
        message = (
            f"rank_window: expected (p, q) with 0 <= p < q <= {num_rows - 1} ({num_rows} instances, itself excluded), "
            f"got (30, 130), the window of preset 'b3'; pass a nearer window, such as {advice}"
        )
        with pytest.raises(ValueError, match=re.escape(message) + "$"):
            compose(ROWS[:num_rows], batch_size=4)
        compose(ROWS[:num_rows], batch_size=4, rank_window=eval(advice[12:]))
    with pytest.raises(ValueError, match="got .30, 130., the window of preset 'b3'; pass preset='uniform'$"):
        compose(ROWS[:1], batch_size=4)
    with pytest.raises(ValueError, match=r"itself excluded\), got \(0, 130\)$"):
        compose(ROWS[:130], batch_size=4, rank_window=(0, 130))
    with pytest.raises(ValueError, match=r"batches uniform; \(30, 130\) is the window of preset 'b3'$"):
        composed(sources=np.arange(NUM_INSTANCES) // 200)


# --- values ----------------------------------------------------------------------------------------------------------
def test_sizes_may_be_an_array():
    expected = lists(composed(community_size=[1, 8], num_epochs=2))
    for sizes in (np.array([1, 8]), torch.tensor([1, 8]), (1, np.int64(8))):
        assert lists(composed(community_size=sizes, num_epochs=2)) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "walks", "num_neighbors": 0}, ValueError, "num_neighbors: expected an integer at least 1, got 0"),
        ({"preset": "walks", "num_neighbors": 1e9}, TypeError, "num_neighbors: expected an integer, got 1000000000.0"),
        ({"num_candidates": 1e9}, TypeError, "num_candidates: expected an integer, got 1000000000.0 of type float"),
        ({"num_candidates": "a"}, TypeError, "num_candidates: expected an integer, got 'a' of type str"),
        ({"num_candidates": 0}, ValueError, "num_candidates: expected an integer at least 1, got 0"),
        (
            {"num_candidates": 10, "num_neighbors": 11}, ValueError,
            "num_neighbors: expected an integer from 1 to 10 (num_candidates), got 11",
        ),
        ({"community_size": np.array([[1, 2]])}, TypeError, "community_size: expected an integer, got array([[1, 2]])"),
        ({"community_size": "32"}, TypeError, "community_size: expected an integer, got '32' of type str"),
        ({"preset": np.array(["b3", "b4"])}, ValueError, "preset: expected one of 'walks', 'b3'"),
        ({"community_size": [1.5]}, TypeError, "community_size: expected an integer, got 1.5 of type float"),
        ({"batch_size": np.array([4])}, TypeError, "batch_size: expected an integer, got array([4]) of type ndarray"),
        ({"batch_size": torch.tensor([4, 5])}, TypeError, "batch_size: expected an integer, got tensor([4, 5])"),
        (
            {"batch_size": 301, "drop_last": True, "preset": "uniform"}, ValueError,
            "drop_last: expected False with 300 instances and batch_size 301, because no batch would be left",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        composed(**options)


# --- options without an effect ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": RING, "rank_window": (3, 20)}, "rank_window: expected None with graph, because it has the edges"),
        ({"graph": RING, "num_candidates": 30}, "num_candidates: expected None with graph, because it has the edges"),
        ({"graph": RING, "num_neighbors": 3, "preset": "walks"}, "num_neighbors: expected None with graph"),
        ({"graph": RING, "preset": "clusters"}, "graph: expected None with preset='clusters'"),
        (
            {"preset": "walks", "rank_window": (3, 20), "num_neighbors": 9},
            "num_neighbors: expected None with rank_window, because a window has q - p neighbors",
        ),
        ({"num_neighbors": 9}, "num_neighbors: expected None without num_candidates, because a window has q - p"),
        (
            {"preset": "uniform", "num_neighbors": 2},
            "num_neighbors: expected None with preset='uniform', whose batches",
        ),
        ({"preset": "uniform", "community_size": 2}, "community_size: expected None with preset='uniform'"),
        ({"preset": "uniform", "community_size": [[1]]}, "community_size: expected None with preset='uniform'"),
        ({"preset": "uniform", "community_size": [1, 2]}, "community_size: expected None with preset='uniform'"),
        ({"preset": "uniform", "mutual": True}, "mutual: expected None with preset='uniform'"),
        (
            {"preset": "uniform", "max_score": 0.5},
            "max_score: expected None with preset='uniform', which has no edges, and negative_mask does not know it",
        ),
        ({"preset": "clusters", "max_score": 0.5}, "max_score: expected None with preset='clusters'"),
        ({"preset": "clusters", "mutual": False}, "mutual: expected None with preset='clusters'"),
        ({"max_per_batch": 2}, "max_per_batch: expected 1 without unique, got 2"),
        ({"rank_window": {0: (3, 20)}}, "rank_window: expected (p, q) without sources, got a dict"),
        (
            {"sources": SOURCES, "interleave": {0: 1, 1: 1}, "leftovers": "short"},
            "leftovers: expected 'mixed' or 'drop' with weights, got 'short'",
        ),
    ],
)
def test_options_without_an_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        composed(**options)


def test_options_that_ask_for_nothing_are_allowed():
    expected = lists(composed(preset="uniform"))
    labels = np.arange(NUM_INSTANCES) // 2
    for options in ({"mutual": False}, {"community_size": 1}, {"labels": labels}, {"max_per_batch": 1}):
        assert lists(composed(preset="uniform", **options)) == expected
    assert not composed(preset="uniform", labels=labels).negative_mask([0, 1]).any()


# --- reports ---------------------------------------------------------------------------------------------------------
def test_reports_are_of_the_embeddings_that_made_the_plan(tmp_path):
    documents = ROWS[::-1].copy()
    one, two = composed(preset="uniform"), compose(ROWS, documents, batch_size=64, preset="uniform")
    wrong = ROWS.copy()
    wrong[9, 1] += 1
    with pytest.raises(
        ValueError, match="queries: expected the embeddings that the plan was composed from, in the same"
    ):
        one.report(wrong)
    wrong[9, 1] = np.nan
    with pytest.raises(ValueError, match=re.escape("queries[9, 1]: expected finite values, got nan or inf")):
        one.report(wrong)
    with pytest.raises(ValueError, match="queries: expected the embeddings"):
        one.report(torch.from_numpy(ROWS).half())
    with pytest.raises(ValueError, match="documents: expected the embeddings"):
        two.report(ROWS, ROWS)
    with pytest.raises(ValueError, match="documents: expected None, because the plan was composed without, got"):
        one.report(ROWS, documents)
    with pytest.raises(ValueError, match="documents: expected those of the plan, got None"):
        two.report(ROWS)
    with pytest.raises(ValueError, match=re.escape("documents: expected the shape of queries, [300, 8], got [300, 2]")):
        two.report(ROWS, documents[:, :2])
    assert one.report(torch.from_numpy(ROWS)) == one.report(ROWS)
    two.report(ROWS, documents)
