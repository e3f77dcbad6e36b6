"""What may not meet in a batch of a plan: the repair against its oracle, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsampler_ext import Plan, ProximityGraph, compose, knn_graph, reference
from batchsampler_ext._engine.arrays import as_matrix
from batchsampler_ext._engine.backend import core
from batchsampler_ext._engine.requests import KeepApartRequest
from batchsampler_ext._negatives.keep_apart import Apart, Repairs, codes_of_repeated, keep_apart, partners_of
from batchsampler_ext._negatives.negatives import Demands, Margins, groups_of, neighbors_of_instances, without_positives
from batchsampler_ext._negatives.tables import sizes_of
from batchsampler_ext.reference import keep_apart as oracle

COMMON = settings(derandomize=True, max_examples=200, deadline=None)


@st.composite
def problems(draw):
    """(members, sizes, Apart, neighbors): small, and often impossible."""
    num_instances = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_members = draw(st.integers(1, num_instances))
    num_columns, num_ids = draw(st.integers(0, 3)), draw(st.integers(1, 40))
    ids = rng.integers(-1, num_ids, (num_instances, num_columns))
    pairs = rng.integers(0, num_instances, (draw(st.integers(0, 10)), 2))
    members = torch.from_numpy(rng.permutation(num_instances)[:num_members].astype(np.int32))
    num_neighbors = draw(st.integers(0, 6))
    neighbors = None
    if num_neighbors:
        neighbors = rng.integers(0, num_instances, (num_instances, num_neighbors)).astype(np.int32)
        neighbors = torch.from_numpy(
            np.where(np.arange(num_neighbors) < rng.integers(0, 7, (num_instances, 1)), neighbors, -1)
        )
    sizes = sizes_of(num_members, draw(st.integers(1, 12)))
    return members, sizes, Apart(ids, draw(st.integers(1, 3)), pairs), neighbors


def has_too_many(members, sizes, apart: Apart) -> bool:
    for batch in np.split(members, np.cumsum(sizes)[:-1]):
        for column in apart.ids[batch].T:
            _, counts = np.unique(column[column >= 0], return_counts=True)
            if counts.max(initial=0) > apart.max_per_batch:
                return True
    return False


def num_met(members, sizes, pairs) -> int:
    batch_of = dict(zip(members.tolist(), np.repeat(np.arange(len(sizes)), sizes).tolist(), strict=True))
    return sum(i != j and batch_of.get(i, -1) == batch_of.get(j, -2) for i, j in pairs.tolist())


def exists(members, sizes, apart: Apart) -> bool:
    """Whether an assignment exists for a single column: a maximum flow from ids to batches, by augmenting paths."""
    column = apart.ids[members, 0]
    values, counts = np.unique(column[column >= 0], return_counts=True)
    room = [[apart.max_per_batch] * len(sizes) for _ in values]
    free = list(sizes)
    flow = [[0] * len(sizes) for _ in values]

    def augment(i, seen):
        for b in range(len(sizes)):
            if room[i][b] and b not in seen:
                seen.add(b)
                if free[b]:
                    free[b] -= 1
                else:
                    for other in range(len(values)):
                        if flow[other][b] and other != i and augment(other, seen):
                            flow[other][b] -= 1
                            room[other][b] += 1
                            break
                    else:
                        continue
                room[i][b] -= 1
                flow[i][b] += 1
                return True
        return False

    return all(augment(i, set()) for i, count in enumerate(counts) for _ in range(count))


@COMMON
@given(problems())
def test_no_batch_holds_an_id_too_often_or_the_call_is_refused(problem):
    members, sizes, apart, neighbors = problem
    before = members.clone()
    try:
        repaired = keep_apart(members, sizes, apart, neighbors, seed=1, epoch=0)
    except ValueError as refusal:
        message = str(refusal)
        repaired = None
    if repaired is None:
        assert message.startswith("unique: expected")
        assert has_too_many(members.numpy(), sizes, apart)
        assert apart.ids.shape[1] > 1 or not exists(members.numpy(), sizes, apart)
        return
    assert torch.equal(members, before)
    assert sorted(repaired.members.tolist()) == sorted(members.tolist())
    assert not has_too_many(repaired.members.numpy(), sizes, apart)
    assert repaired.num_met == num_met(repaired.members.numpy(), sizes, apart.positives)


@COMMON
@given(problems(), st.integers(0, 2**64 - 1))
def test_repair_equals_the_oracle(problem, key):
    members, sizes, apart, neighbors = problem
    codes = codes_of_repeated(apart.ids[members.numpy()], apart.max_per_batch)
    offsets, partners = partners_of(apart.positives, len(apart.ids))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    lists = {i: partners[offsets[i] : offsets[i + 1]].tolist() for i in range(len(apart.ids))}
    num_codes = int(codes.max(initial=-1)) + 1
    table = None if neighbors is None else neighbors.numpy()
    expected = oracle.keep_apart(members.tolist(), starts, codes, num_codes, apart.max_per_batch, lists, table, key)
    result = members.clone()
    request = KeepApartRequest(
        result.data_ptr(), len(result), starts.ctypes.data, len(sizes), codes.ctypes.data, codes.shape[1], num_codes,
        apart.max_per_batch, offsets.ctypes.data, partners.ctypes.data,
        0 if neighbors is None else neighbors.data_ptr(), 0 if neighbors is None else neighbors.shape[1],
        len(apart.ids), key,
    )  # fmt: skip
    found = core.keep_apart(request)
    assert (result.tolist(), *found) == expected


@pytest.mark.parametrize("max_per_batch", [1, 2])
def test_columns_that_just_fit_are_placed(max_per_batch):
    num_batches, batch_size, seed = 6, 12, 0
    for seed in range(20):  # each batch holds every id of two columns max_per_batch times: no slack at all
        rng = np.random.default_rng(seed)
        one_batch = np.repeat(np.arange(batch_size // max_per_batch), max_per_batch)
        ids = np.concatenate([np.stack([one_batch, rng.permutation(one_batch)], 1) for _ in range(num_batches)])
        ids = ids[rng.permutation(len(ids))]
        ids[rng.random(ids.shape) < 0.25] = -1  # a little slack
        sizes = sizes_of(len(ids), batch_size)
        apart = Apart(ids, max_per_batch, np.empty((0, 2), np.int64))
        members = torch.arange(len(ids), dtype=torch.int32)
        repaired = keep_apart(members, sizes, apart, None, seed=seed, epoch=0)
        assert not has_too_many(repaired.members.numpy(), sizes, apart)


def test_one_of_many_duplicates_of_a_full_epoch_is_placed():
    ids = np.repeat(np.arange(50), 20)[:, None]  # 20 batches of 50: each must hold every id
    members, sizes = torch.arange(1000, dtype=torch.int32), sizes_of(1000, 50)
    apart = Apart(ids, 1, np.empty((0, 2), np.int64))
    assert not has_too_many(keep_apart(members, sizes, apart, None, seed=0, epoch=0).members.numpy(), sizes, apart)


def test_an_id_on_too_many_instances_is_refused_with_counts():
    embeddings = torch.randn(25, 4, generator=torch.Generator().manual_seed(0))
    ids = np.arange(50).reshape(25, 2)
    ids[:4, 1] = 7
    with pytest.raises(ValueError, match=r"unique: .* at most 3 .*3 batches, .*got id 7 of column 1 on 4"):
        compose(embeddings, batch_size=10, preset="uniform", unique=ids)
    ids[3, 1] = -1  # the ragged batch takes the third
    plan = compose(embeddings, batch_size=10, preset="uniform", unique=ids)
    assert [sum(int(i) < 3 for i in batch) for batch in plan.batches(0)] == [1, 1, 1]
    compose(embeddings, batch_size=10, preset="uniform", unique=np.repeat(ids[:, :1], 2, 1), max_per_batch=2)


def test_counts_that_fit_without_an_assignment_are_refused():
    with pytest.raises(ValueError, match=r"1 largest of 2 batches can hold 2 .* must hold 3, .*no assignment"):
        compose(torch.eye(4), batch_size=3, preset="uniform", unique=[1, 1, 2, 2])


@pytest.fixture(scope="module")
def towers():
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(12, 8, generator=generator).repeat(25, 1)
    noise = [0.4 * torch.randn(300, 8, generator=generator) for _ in range(2)]
    return centers + noise[0], centers + noise[1]


def what_may_not_meet(num_instances=300):
    rng = np.random.default_rng(0)
    return {
        "unique": np.stack([np.arange(num_instances) % 75, rng.integers(-1, 200, num_instances)], 1),
        "positives": rng.integers(0, num_instances, (50, 2)),
        "labels": rng.integers(-1, 40, num_instances),
    }


def exact_scores(queries, documents, metric):
    return reference.similarity(queries.numpy()[:, None], documents.numpy()[None], metric)


def test_a_larger_relative_margin_excludes_more_also_where_the_own_score_is_negative():
    queries, documents = torch.randn(2, 100, 8, generator=torch.Generator().manual_seed(0))
    before = torch.ones(100, 100, dtype=torch.bool)
    for margin in (0.0, 0.1, 0.5, 1.0):
        plan = compose(queries, documents, batch_size=100, preset="uniform", relative_margin=margin)
        mask = plan.negative_mask(range(100))
        scores = torch.from_numpy(exact_scores(queries, documents, "cosine"))
        assert not mask[scores > scores.diagonal()[:, None]].any()
        assert not (mask & ~before).any()
        assert mask.sum() < before.sum()
        before = mask


@pytest.mark.parametrize(
    ("metric", "margin", "relative_margin"),
    [
        ("cosine", 0.05, None),
        ("cosine", None, 0.1),
        ("ip", 0.5, 0.02),
        ("l2", 0.7, None),
        ("ip", 0.0, None),
        ("l2", None, 0.3),
    ],
)
def test_mask_equals_its_definition(towers, metric, margin, relative_margin, tmp_path):
    given = what_may_not_meet()
    plan = compose(
        *towers, batch_size=64, preset="walks", num_candidates=100, num_neighbors=20, metric=metric, num_epochs=2,
        margin=margin, relative_margin=relative_margin, **given,
    )  # fmt: skip
    plan.save(tmp_path / "plan.bse")
    loaded = Plan.load(tmp_path / "plan.bse")
    scores = exact_scores(*towers, metric).astype(np.float64)
    own = scores.diagonal()
    limit = np.minimum(
        own - margin if margin is not None else np.inf,
        own - relative_margin * np.abs(own) if relative_margin is not None else np.inf,
    )
    positives = {tuple(pair) for pair in given["positives"].tolist()}
    columns = [*given["unique"].T, given["labels"]]

    def is_negative(i, j):
        is_equal = any(column[i] == column[j] >= 0 for column in columns)
        return i != j and not is_equal and (i, j) not in positives and scores[i, j] < limit[i]

    num_within = 0
    for epoch in range(2):
        for batch in plan.batches(epoch):
            ids = batch.tolist()
            expected = [[is_negative(i, j) for j in ids] for i in ids]
            assert plan.negative_mask(batch).tolist() == expected
            assert loaded.negative_mask(ids).tolist() == expected
            num_within += sum(scores[i, j] >= limit[i] and i != j for i in ids for j in ids)
    assert num_within > 0


def test_mask_takes_repeated_indices(towers):
    plan = compose(*towers, batch_size=64, preset="uniform", margin=0.1, **what_may_not_meet())
    ids = torch.tensor([5, 0, 60, 5, 17])
    mask = plan.negative_mask(ids)
    assert not mask[0, 3]
    assert torch.equal(mask[0], mask[3])
    assert torch.equal(mask[1:, 1:], plan.negative_mask(ids[1:]))


def test_edges_join_negatives_only(towers):
    given = what_may_not_meet()
    graph = knn_graph(towers[0], 40, documents=towers[1])
    margins = Margins.check(0.05, None, as_matrix(towers[0], "q"), as_matrix(towers[1], "d"), "cosine", 1)
    apart = Apart(given["unique"], 1, given["positives"])
    thinned = without_positives(graph, Demands(apart, groups_of(given["unique"], given["labels"]), margins, 0.99))
    scores = exact_scores(*towers, "cosine")
    pairs = {tuple(pair) for pair in given["positives"].tolist()}
    columns = [*given["unique"].T, given["labels"]]
    for i in range(300):
        kept = [
            j
            for j in graph.neighbors[i].tolist()
            if not any(column[i] == column[j] >= 0 for column in columns)
            and not {(i, j), (j, i)} & pairs
            and float(scores[i, j]) < float(scores[i, i]) - 0.05
            and scores[i, j] <= np.float32(0.99)
        ]
        assert thinned.neighbors[i].tolist() == kept + [-1] * (40 - len(kept))


def test_edges_of_a_subset_are_dropped(towers):
    rows, pairs = np.arange(299, 0, -3), np.random.default_rng(0).integers(0, 300, (3000, 2))
    graph = knn_graph(towers[0], 20, rows=rows)
    apart = Apart(np.empty((300, 0), np.int64), 1, pairs)
    thinned = without_positives(graph, Demands(apart, groups_of(apart.ids, None), None, None))
    dropped = {tuple(pair) for pair in np.concatenate([pairs, pairs[:, ::-1]]).tolist()}
    table = neighbors_of_instances([thinned], 300)
    assert thinned.stats().num_edges < graph.stats().num_edges
    for i, before in zip(rows.tolist(), graph.neighbors.tolist(), strict=True):
        kept = [j for j in before if (i, j) not in dropped]
        assert table[i].tolist() == kept + [-1] * (20 - len(kept))
    assert (table[torch.arange(0, 300, 3)] == -1).all()


def test_repair_of_parts_swaps_only_inside_them():
    ids = np.arange(200)[:, None] % 50
    apart = Apart(ids, 1, np.empty((0, 2), np.int64))
    repairs = Repairs(apart, None, 0, [3, 8])
    repair = repairs.of_epoch(0)
    order = torch.from_numpy(np.random.default_rng(0).permutation(200).astype(np.int32)).view(2, 100)
    for part, members in enumerate(order):
        sizes = np.array([30, 30, 30, 10])
        result = repair(members, sizes, part)
        assert sorted(result.tolist()) == sorted(members.tolist())
        assert not has_too_many(result.numpy(), sizes, apart)
    assert repairs.num_moved[0] > 0
    ids[order[1, :5].numpy()] = 77
    with pytest.raises(ValueError, match=r"at most 4 instances \(4 batches of source 8, .*got id 77 of column 0 on 5"):
        repair(order[1], np.array([30, 30, 30, 10]), 2)


def test_plan_independent_of_threads(towers):
    plans = [
        compose(
            *towers, batch_size=32, preset="b3", rank_window=(2, 40), community_size=8, margin=0.05,
            num_threads=threads, **what_may_not_meet(),
        )
        for threads in (1, 3)
    ]  # fmt: skip
    assert torch.equal(plans[0].batches(0).indices, plans[1].batches(0).indices)
    assert torch.equal(plans[0].batches(0).tail, plans[1].batches(0).tail)


def test_positives_are_kept_apart_where_possible(towers):
    pairs = np.random.default_rng(3).integers(0, 300, (400, 2))
    before = compose(*towers, batch_size=30, preset="walks")
    after = compose(*towers, batch_size=30, preset="walks", positives=pairs)
    members = torch.cat(list(before.batches(0))).numpy()
    assert num_met(members, sizes_of(300, 30), pairs) > 10
    assert after.info["num_positives_met"] == [0]


@pytest.mark.parametrize("num_instances", [24, 25])
def test_dropped_batches_are_the_last_ones(num_instances):
    embeddings = torch.randn(num_instances, 4, generator=torch.Generator().manual_seed(0))
    plan = compose(
        embeddings, embeddings, batch_size=5, preset="uniform", drop_last=True, unique=np.arange(num_instances) // 4,
        positives=[[0, 1]], margin=0.1,
    )  # fmt: skip
    batches = list(plan.batches(0))
    assert [len(batch) for batch in batches] == [5] * (num_instances // 5)
    assert all(len({int(i) // 4 for i in batch}) == 5 for batch in batches)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"unique": [0.5] * 10}, TypeError, "unique: expected integers"),
        ({"unique": [0] * 9}, ValueError, r"unique: expected shape \[10\]"),
        ({"unique": [-2] * 10}, ValueError, "unique: expected ids"),
        ({"max_per_batch": 0}, ValueError, "max_per_batch: expected"),
        ({"positives": [[0, 10]]}, ValueError, "positives: expected values in"),
        ({"positives": [0, 1]}, ValueError, "positives: expected pairs"),
        ({"margin": 0.1, "documents": None}, ValueError, "margin: expected None without documents"),
        ({"margin": -0.1}, ValueError, "margin: expected"),
        ({"relative_margin": 2.0}, ValueError, "relative_margin: expected"),
        ({"labels": [0] * 9}, ValueError, "labels: expected one for each"),
        ({"max_score": float("nan")}, ValueError, "max_score: expected"),
        ({"metric": "dot"}, ValueError, "metric: expected"),
        (
            {"margin": 0.1, "graph": ProximityGraph(torch.full((10, 1), -1, dtype=torch.int32))},
            ValueError,
            "graph: exp",
        ),
    ],
)
def test_bad_arguments_are_named(given, error, message):
    with pytest.raises(error, match=message):
        compose(torch.eye(10), **{"documents": torch.eye(10), "batch_size": 5, "preset": "uniform", **given})


def test_bad_indices_are_named():
    plan = compose(torch.eye(4), batch_size=2, preset="uniform")
    with pytest.raises(ValueError, match="indices: expected values in"):
        plan.negative_mask([4])
