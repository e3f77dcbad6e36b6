"""Sources, clusters and curricula of compose(), against the oracle and by their properties."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsampler_ext import ProximityGraph, knn_graph, reference
from batchsampler_ext._engine.arrays import as_matrix
from batchsampler_ext._negatives.negatives import neighbors_of_instances
from batchsampler_ext._plan import clusters as fast_clusters
from batchsampler_ext._plan import sources as fast
from batchsampler_ext._plan.epochs import EpochRequest, PlannedEpoch, repaired, sources_of_batches
from batchsampler_ext.compose import compose
from batchsampler_ext.plan import Plan
from batchsampler_ext.reference import sources as oracle
from batchsampler_ext.reference.communities import communities as communities_oracle

COMMON = settings(derandomize=True, deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**64 - 1)
COMMUNITIES, UNIONS = 238, 254


def embeddings(num_rows: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32))


def sources_of_sizes(sizes: list[int], values: list[int] | None = None, seed: int = 0) -> np.ndarray:
    values = list(range(len(sizes))) if values is None else values
    return np.random.default_rng(seed).permutation(np.repeat(values, sizes))


def instances(plan: Plan, epoch: int = 0) -> list[int]:
    return [int(i) for batch in plan.batches(epoch) for i in batch]


def lists(plan: Plan, epoch: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in plan.batches(epoch)]


# --- against the oracle ----------------------------------------------------------------------------------------------
@st.composite
def source_arguments(draw):
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))
    values = draw(st.lists(st.integers(0, 2**40), min_size=len(sizes), max_size=len(sizes), unique=True))
    batch_size = draw(st.sampled_from([4, 8, 12]))
    per_batch = draw(st.sampled_from([c for c in (1, 1, 2, 4) if sum(n >= batch_size // c for n in sizes) >= c] or [1]))
    block = batch_size // per_batch
    arguments = {"sources_per_batch": per_batch, "seed": draw(SEEDS)}
    leftovers = ["mixed"]
    if min(sizes) >= block:
        leftovers.append("drop")
    if per_batch == 1:
        leftovers.append("short")
    arguments["leftovers"] = draw(st.sampled_from(leftovers))
    size = draw(st.sampled_from([size for size in (1, 2, 4, block) if block % size == 0]))
    return sources_of_sizes(sizes, values, draw(st.integers(0, 100))), batch_size, size, arguments


def expected_communities(features, rows, size: int, source: int, seed: int, epoch: int, block: int):
    """The communities of a source in the order in which they are united, and the instances in none of them."""
    seed = oracle.derived_seed(seed, oracle.SOURCE, source)
    if size == 1 or len(rows) < 2:
        order = [int(rows[i]) for i in reference.keyed_permutation(len(rows), seed, reference.ROOT_ORDER, epoch)]
        whole = len(order) // size * size
        return [order[i : i + size] for i in range(0, whole, size)], order[whole:]
    graph = knn_graph(features, min(3, len(rows) - 1), rows=rows, return_scores=False)
    row_of = {int(instance): row for row, instance in enumerate(rows)}
    neighbors = [[row_of[j] for j in others] for others in graph.neighbors.tolist()]
    key = oracle.derived_seed(seed, COMMUNITIES, epoch=epoch)
    full, tail = communities_oracle(neighbors, size, key)
    communities, tail = [[int(rows[i]) for i in members] for members in full], [int(rows[i]) for i in tail]
    if size < block:
        communities = oracle.shuffled(communities, oracle.derived_seed(seed, UNIONS), epoch)
    return communities, tail


@COMMON
@given(source_arguments())
def test_epochs_are_those_of_the_oracle(arguments):
    sources, batch_size, size, options = arguments
    features = embeddings(len(sources))
    windows = {
        int(s): (0, min(3, n - 1)) if n > 1 else None
        for s, n in zip(*np.unique(sources, return_counts=True), strict=True)
    }
    plan = compose(
        features, batch_size=batch_size, rank_window=windows, mutual=False, community_size=size, sources=sources,
        num_epochs=2, **options,
    )  # fmt: skip
    for epoch in range(2):
        parts = [
            expected_communities(
                features, np.flatnonzero(sources == s), size, s, options["seed"], epoch,
                batch_size // options["sources_per_batch"],
            )
            for s in windows
        ]  # fmt: skip
        expected = oracle.epoch_of_sources(
            [communities for communities, _ in parts], [singles for _, singles in parts], batch_size,
            epoch=epoch, **options,
        )  # fmt: skip
        assert lists(plan, epoch) == expected
        kinds = [set(sources[batch].tolist()) for batch in expected]
        assert plan.sources(epoch).tolist() == [kind.pop() if len(kind) == 1 else -1 for kind in kinds]
        if options["leftovers"] != "drop":
            assert sorted(instances(plan, epoch)) == list(range(len(sources)))
        if options["leftovers"] == "mixed":
            assert len(plan.batches(epoch)) == -(-len(sources) // batch_size)


@COMMON
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), SEEDS, st.integers(0, 5))
def test_batches_of_a_source_are_spread_evenly(counts, seed, epoch):
    order = fast.interleaved(counts, seed, epoch).tolist()
    pairs = [(source, k) for source, count in enumerate(counts) for k in range(count)]
    assert [pairs[i] for i in order] == oracle.interleaved(counts, seed, epoch)
    total, kinds = len(pairs), np.array([pairs[i][0] for i in order])
    for source, count in enumerate(counts):
        prefix = np.cumsum(kinds == source)
        wanted = np.arange(1, total + 1) * count / max(total, 1)
        assert (np.abs(prefix - wanted) < 1 + len(counts) * count / max(total, 1)).all()


@COMMON
@given(st.lists(st.integers(0, 12), min_size=2, max_size=7), st.integers(2, 4), SEEDS, st.integers(0, 5))
def test_batches_of_several_sources_hold_as_many_blocks_as_possible(available, per_batch, seed, epoch):
    num_batches, expected = oracle.counts_of_blocks(available, per_batch)
    counts = fast.counts_of_blocks(available, per_batch)
    assert list(counts) == expected
    chosen = fast.chosen_sources(counts, per_batch, seed, epoch).tolist()
    assert chosen == oracle.chosen_sources(counts, per_batch, seed, epoch)
    assert len(chosen) == num_batches
    assert all(len(set(batch)) == per_batch for batch in chosen)
    assert np.bincount(np.array(chosen, dtype=np.int64).ravel(), minlength=len(available)).tolist() == list(counts)


@COMMON
@given(st.lists(st.tuples(st.integers(40, 200), st.integers(1, 9)), min_size=1, max_size=4), SEEDS)
def test_weights_set_the_number_of_batches(sizes_and_weights, seed):
    sizes, weights = zip(*sizes_and_weights, strict=True)
    sources = sources_of_sizes(list(sizes))
    expected = oracle.weighted_counts([n // 4 for n in sizes], dict(enumerate(weights)))
    plan = compose(
        embeddings(len(sources)), batch_size=4, preset="uniform", sources=sources, seed=seed,
        interleave={source: weight / 10 for source, weight in enumerate(weights)},
    )  # fmt: skip
    assert np.bincount(plan.sources(0), minlength=len(sizes)).tolist() == expected
    assert len(set(instances(plan))) == 4 * sum(expected)
    assert plan.batches(0).tail_sizes == ()


# --- sources ---------------------------------------------------------------------------------------------------------
def test_candidates_and_ranks_are_within_a_source():
    """A source is planned as if there were no other."""
    sources, features = sources_of_sizes([96, 64, 160]), embeddings(320)
    arguments = {"batch_size": 16, "rank_window": (2, 20), "community_size": 8, "seed": 3}
    plan = compose(features, sources=sources, **arguments)
    for source in range(3):
        rows = np.flatnonzero(sources == source)
        alone = compose(features[rows], sources=np.full(len(rows), source), **arguments)
        batches = [batch for batch, own in zip(lists(plan), plan.sources(0).tolist(), strict=True) if own == source]
        assert batches == [rows[batch].tolist() for batch in lists(alone)]


@pytest.mark.parametrize("preset", ["b3", "walks", "clusters", "uniform"])
def test_threads_do_not_change_a_plan(preset):
    sources, features = sources_of_sizes([400, 150, 131]), embeddings(681)
    plans = [
        compose(features, features.flip(1), batch_size=32, preset=preset, sources=sources, num_threads=threads)
        for threads in (1, 3)
    ]
    assert lists(plans[0]) == lists(plans[1])


def test_a_given_graph_counts_within_sources():
    sources, features = sources_of_sizes([40, 60]), embeddings(100)
    graph = knn_graph(features, 10)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    listed = ProximityGraph(graph.neighbors[order], ids=order, num_instances=100)
    values = torch.from_numpy(sources)
    for given_graph in (graph, listed):
        parts = fast.parts_of_graph(given_graph, fast.parts_of(values, 100), values)
        assert [len(part.graph) for part in parts] == [40, 60]
        for row, neighbors in enumerate(neighbors_of_instances([part.graph for part in parts], 100).tolist()):
            kept = [j for j in graph.neighbors[row].tolist() if sources[j] == sources[row]]
            assert neighbors == kept + [-1] * (10 - len(kept))
    arguments = {"batch_size": 8, "community_size": 4, "sources": sources}
    assert lists(compose(features, graph=graph, **arguments)) == lists(compose(features, graph=listed, **arguments))


def test_mixed_batches_keep_communities():
    sources = sources_of_sizes([27, 22, 30])
    plan = compose(embeddings(79), batch_size=16, rank_window=(0, 5), community_size=4, sources=sources)
    kinds = plan.sources(0)
    assert kinds[kinds >= 0].tolist().count(0) == 1
    mixed = [batch for batch, kind in zip(lists(plan), kinds.tolist(), strict=True) if kind == -1]
    communities = [part for batch in mixed for part in np.split(np.array(batch), range(4, len(batch), 4))]
    assert sum(len(part) == 4 and len(set(sources[part])) == 1 for part in communities) >= 2 + 1 + 3


def test_drop_leaves_out_others_each_epoch():
    sources = sources_of_sizes([20, 21])
    plan = compose(embeddings(41), batch_size=8, preset="uniform", sources=sources, leftovers="drop", num_epochs=6)
    assert all(len(instances(plan, epoch)) == 32 for epoch in range(6))
    assert len(set().union(*(instances(plan, epoch) for epoch in range(6)))) == 41


def test_short_batches_come_last(tmp_path):
    sources = sources_of_sizes([20, 21, 8], [7, 2, 5])
    plan = compose(embeddings(49), batch_size=8, preset="uniform", sources=sources, leftovers="short", num_epochs=2)
    assert plan.batches(0).tail_sizes == (5, 4)
    assert [len(batch) for batch in plan.batches(1)] == [8] * 5 + [5, 4]
    assert plan.sources(1).tolist()[-2:] == [2, 7]
    plan.save(tmp_path / "plan")
    loaded = Plan.load(tmp_path / "plan")
    assert lists(loaded, 1) == lists(plan, 1)
    assert loaded.sources(1).tolist() == plan.sources(1).tolist()
    assert loaded.info == plan.info


def test_a_plan_without_sources_has_none(tmp_path):
    plan = compose(embeddings(20), batch_size=8, preset="uniform")
    plan.save(tmp_path / "plan")
    assert plan.sources(0) is None
    assert Plan.load(tmp_path / "plan").sources(0) is None


def test_a_repair_sees_the_batches_of_one_source():
    sources = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1])
    epoch = PlannedEpoch(torch.tensor([0, 2, 1, 3, 4, 6, 5, 8, 7], dtype=torch.int32), (1,))
    calls = []

    def repair(members, sizes, part, left_out, num_mixed):
        calls.append((members.tolist(), sizes.tolist(), part, left_out.tolist(), num_mixed))
        return members.flip(0)

    request = EpochRequest(2, 1, False, 0, 0, 1, repair=repair)
    result = repaired(epoch, sources_of_batches(epoch, sources, 2), [0, 1], fast.parts_of(sources, 9), request)
    assert calls == [([0, 2, 4, 6], [2, 2], 1, [], 0), ([1, 3, 5, 8, 7], [2, 2, 1], 2, [], 0)]
    assert result.ids.tolist() == [6, 4, 7, 8, 2, 0, 5, 3, 1]
    assert sources_of_batches(result, sources, 2).tolist() == [0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": [0] * 99}, "sources: expected one for each of 100 instances, got 99"),
        ({"sources": [-1] * 100}, "sources: expected values in"),
        ({"leftovers": "drop"}, "leftovers: expected the default without sources"),
        ({"interleave": {0: 1}}, "interleave: expected the default without sources"),
        ({"sources_per_batch": 2}, "sources_per_batch: expected the default without sources"),
        ({"leftovers": "keep"}, "leftovers: expected one of 'mixed', 'drop', 'short', got 'keep'"),
        ({"interleave": "random"}, "interleave: expected 'proportional' or a dict of weights, got 'random'"),
    ],
)
def test_bad_sources_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose(embeddings(100), batch_size=8, preset="uniform", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"leftovers": "drop"}, r"leftovers: 'drop' would leave out .* source 9 \(5 instances\)"),
        ({"leftovers": "short", "drop_last": True}, "drop_last: expected False with leftovers='short'"),
        ({"interleave": {3: 1, 4: 1}}, "interleave: .* no weight of source 9"),
        ({"interleave": {3: 1, 4: 1, 9: 1, 10: 1}}, "interleave: .* a weight of the unknown source 10"),
        ({"interleave": {3: 1, 4: 1, 9: 1}}, r"interleave: expected at least batch_size 8 .* source 9 \(5 instances\)"),
        ({"interleave": {3: 1, 4: -1, 9: 1}, "batch_size": 4}, "interleave: expected positive weights, got -1"),
        ({"interleave": {3: 1, 4: 0.001, 9: 1}, "batch_size": 4}, r"got no batch of source 4 \(30 instances\)"),
        ({"sources_per_batch": 3}, "sources_per_batch: expected a divisor of batch_size 8, got 3"),
        ({"sources_per_batch": 4}, "sources_per_batch: expected at most 3, .* = 2 instances, got 4"),
        ({"sources_per_batch": 2, "leftovers": "short"}, "leftovers: expected 'mixed' or 'drop'"),
        ({"sources_per_batch": 2, "interleave": {3: 1, 4: 1, 9: 1}}, "interleave: expected 'proportional'"),
        ({"rank_window": (1, 5)}, r"rank_window: .* got \(1, 5\) for source 9 \(5 instances\); rank_window=\{9: "),
        ({"rank_window": {5: None}}, "rank_window: .* unknown source 5"),
        ({"rank_window": {9: None}}, "rank_window: expected a window of each source, got none of source 3"),
    ],
)
def test_small_sources_are_named_with_their_size(arguments, message):
    sources = sources_of_sizes([65, 30, 5], [3, 4, 9])
    with pytest.raises(ValueError, match=message):
        compose(embeddings(100), **{"batch_size": 8, "preset": "uniform", "sources": sources, **arguments})


def test_windows_of_some_sources_replace_the_presets():
    sources, features = sources_of_sizes([200, 60, 20]), embeddings(280)
    with pytest.raises(ValueError, match=r"source 1 \(60 instances\), source 2 \(20 instances\)"):
        compose(features, batch_size=32, sources=sources)
    plan = compose(features, batch_size=32, sources=sources, rank_window={1: (5, 30), 2: None})
    assert sorted(instances(plan)) == list(range(280))
    assert plan.info["rank_window"] == [30, 130]
    assert plan.info["windows"] == {"1": [5, 30], "2": None}


# --- clusters --------------------------------------------------------------------------------------------------------
@COMMON
@given(st.data())
def test_assignments_are_those_of_the_oracle(data):
    num_rows, num_clusters = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = rng.integers(-4, 1, (num_rows, num_clusters)).astype(np.float32)
    cuts = np.sort(rng.integers(0, num_rows + 1, num_clusters - 1))
    capacities = np.diff([0, *cuts, num_rows])
    wishes = np.argsort(-scores, axis=1, kind="stable")
    found = fast_clusters.stable_assignment(wishes, np.take_along_axis(scores, wishes, 1), capacities)
    assert found.tolist() == oracle.stable_assignment(scores, capacities.tolist())


@COMMON
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(sum), st.integers(1, 500))
def test_counts_sum_to_the_total(sizes, total):
    counts = fast_clusters.rounded_counts(np.array(sizes), total)
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (counts[np.array(sizes) == 0] <= 1).all()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clusters_hold_multiples_of_a_batch(metric, dtype):
    features = embeddings(1003).to(dtype)
    towers = [as_matrix(features, "queries"), as_matrix(features.flip(1), "documents")]
    rows = torch.arange(1, 1003, 2)
    found = fast_clusters.balanced_clusters(towers, rows, 3, 8, metric=metric, seed=0, num_threads=2)
    sizes = np.bincount(found)
    assert len(sizes) == 501 // 8 // 3
    assert (sizes[:-1] % 8 == 0).all()
    assert sizes.sum() == 501


def test_assignment_goes_on_when_all_nearest_centers_are_full(monkeypatch):
    monkeypatch.setattr(fast_clusters, "_WISHES", 1)
    towers, rows = [as_matrix(embeddings(640), "queries")], torch.arange(640)
    found = fast_clusters.balanced_clusters(towers, rows, 1, 8, metric="cosine", seed=0, num_threads=2)
    assert (np.bincount(found) % 8 == 0).all()
    assert len(found) == 640


def test_batches_of_clusters_are_alike():
    """Of 20 blobs, a batch holds few."""
    rng = np.random.default_rng(0)
    blob = rng.integers(0, 20, 2000)
    features = (5 * rng.standard_normal((20, 16))[blob] + rng.standard_normal((2000, 16))).astype(np.float32)
    plan = compose(features, features, batch_size=25, preset="clusters", num_epochs=2)
    assert sorted(instances(plan, 1)) == list(range(2000))
    assert lists(plan, 0) != lists(plan, 1)
    shares = [np.bincount(blob[batch]).max() / 25 for batch in lists(plan, 1)]
    assert np.mean(shares) > 0.6  # .16 in random batches
    assert lists(plan) == lists(compose(features, features, batch_size=25, preset="clusters", num_epochs=2))


def test_clusters_without_scikit_learn_name_it():
    code = (
        "import sys; sys.modules['sklearn.cluster'] = None\n"
        "import torch; from batchsampler_ext.compose import compose\n"
        "compose(torch.randn(100, 4), batch_size=4, preset='clusters')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: preset: 'clusters' needs scikit-learn; pip install 'batchsampler_ext[clusters]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "clusters", "community_size": 4}, "community_size: expected None with preset='clusters'"),
        ({"preset": "clusters", "rank_window": (1, 5)}, "rank_window: expected None with preset='clusters'"),
        ({"preset": "clusters", "batches_per_cluster": 0}, "batches_per_cluster: expected an integer at least 1"),
        ({"preset": "uniform", "batches_per_cluster": 2}, "batches_per_cluster: expected None with preset='uniform'"),
        ({"preset": "clusters", "metric": "dot"}, "metric: expected one of"),
    ],
)
def test_bad_options_of_clusters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose(embeddings(100), batch_size=8, **arguments)


# --- curricula -------------------------------------------------------------------------------------------------------
def test_each_epoch_has_its_community_size():
    features = embeddings(301)
    arguments = {"batch_size": 16, "rank_window": (1, 10), "mutual": False, "sources": sources_of_sizes([200, 101])}
    plan = compose(features, community_size=[1, 2, 8], num_epochs=4, **arguments)
    for epoch, size in enumerate([1, 2, 8, 8]):
        assert lists(plan, epoch) == lists(compose(features, community_size=size, num_epochs=4, **arguments), epoch)


def test_the_preset_curriculum_doubles_communities():
    plan = compose(embeddings(300), batch_size=64, preset="curriculum", num_epochs=7)
    assert plan.info["community_size"] == [1, 2, 4, 8, 16, 32]
    assert all(sorted(instances(plan, epoch)) == list(range(300)) for epoch in range(7))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], "community_size: expected a size for at least one epoch, got none"),
        ([1, 3], "community_size: expected a divisor of batch_size 16, got 3"),
        ([1, 32], r"community_size: expected an integer from 1 to 16 \(batch_size\), got 32"),
    ],
)
def test_bad_curricula_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        compose(embeddings(300), batch_size=16, preset="curriculum", community_size=sizes)


# --- devices ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("preset", ["b3", "walks", "clusters"])
def test_plans_are_equal_on_a_device(preset, device_engine):
    sources, features = sources_of_sizes([300, 140]), embeddings(440)
    arguments = {"batch_size": 32, "preset": preset, "sources": sources, "num_epochs": 2}
    expected = compose(features, **arguments)
    with device_engine() as device:
        found = compose(features.to(device), **arguments)
    assert [lists(found, epoch) for epoch in range(2)] == [lists(expected, epoch) for epoch in range(2)]
