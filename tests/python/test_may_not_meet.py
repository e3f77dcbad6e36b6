"""What compose() and the sampler promise alike about what may not meet, and what many pairs and sources cost."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsampler_ext import FeatureBank, Plan, PlannedBatchSampler, ProximityBatchSampler, compose
from batchsampler_ext._engine.arrays import as_ids
from batchsampler_ext._engine.deferred_checks import DeferredChecks
from batchsampler_ext._negatives.keep_apart import Apart, as_ids_of_columns, as_pairs, keep_apart
from batchsampler_ext._negatives.negatives import PairSet, split_positives
from batchsampler_ext._negatives.tables import sizes_of
from batchsampler_ext._plan import all_epochs
from batchsampler_ext._plan.sources import chosen_sources
from batchsampler_ext.cli.inputs import load_ids

NONE = np.empty((0, 2), np.int64)


def most_equal(batch, ids: np.ndarray) -> int:
    columns = ids.reshape(len(ids), -1)[np.asarray(batch)].T
    return max((int(np.unique(c[c >= 0], return_counts=True)[1].max(initial=0)) for c in columns), default=0)


def exists(counts: list[int], num_without: int, sizes: list[int], most: int, num_left_out: int = 0) -> bool:
    """Whether batches of these sizes can be filled, by a maximum flow. Exactly num_left_out instances stay outside."""
    nodes = [*((size, most) for size in sizes), (num_left_out, num_left_out)]
    free, uses = [size for size, _ in nodes], [[0] * len(nodes) for _ in counts]

    def augment(i: int, seen: set[int]) -> bool:
        for b, (_, limit) in enumerate(nodes):
            if b in seen or uses[i][b] >= limit:
                continue
            seen.add(b)
            if free[b]:
                free[b] -= 1
            else:
                for other in range(len(counts)):
                    if other != i and uses[other][b] and augment(other, seen):
                        uses[other][b] -= 1
                        break
                else:
                    continue
            uses[i][b] += 1
            return True
        return False

    return all(augment(i, set()) for i, count in enumerate(counts) for _ in range(count)) and sum(free) == num_without


def counts_of(ids: np.ndarray) -> tuple[list[int], int]:
    return np.unique(ids[ids >= 0], return_counts=True)[1].tolist(), int((ids < 0).sum())


# --- instances left out ----------------------------------------------------------------------------------------------
def test_left_out_instances_may_take_the_place_of_members():
    ids = np.array([7, 7, 7, -1, -1])
    for seed in range(100):
        plan = compose(
            torch.eye(5), batch_size=2, preset="uniform", drop_last=True, unique=ids, seed=seed, num_epochs=2
        )
        for epoch in range(2):
            batches = [batch.tolist() for batch in plan.batches(epoch)]
            assert [len(batch) for batch in batches] == [2, 2]
            assert len(set(itertools.chain(*batches))) == 4
            assert max(most_equal(batch, ids) for batch in batches) == 1


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 24), st.integers(2, 6), st.integers(1, 2), st.integers(1, 2))
def test_demands_with_drop_last_are_refused_at_once_or_met(seed, num_instances, batch_size, num_columns, most):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, rng.integers(1, num_instances), (num_instances, num_columns))
    batch_size = min(batch_size, num_instances)
    num_full, num_left_out = num_instances // batch_size, num_instances % batch_size
    can_be = num_columns > 1 or exists(*counts_of(ids), [batch_size] * num_full, most, num_left_out)
    given = {"unique": ids, "max_per_batch": min(most, batch_size), "seed": seed % 1000}
    bank, refusals = FeatureBank(num_instances, 4), []
    try:
        plan = compose(
            torch.ones(num_instances, 4), batch_size=batch_size, preset="uniform", drop_last=True, num_epochs=3, **given
        )
        assert can_be
        assert all(most_equal(batch, ids) <= most for epoch in range(3) for batch in plan.batches(epoch))
    except ValueError as refusal:
        refusals.append(str(refusal))
    try:
        sampler = ProximityBatchSampler(num_instances, batch_size, True, bank=bank, **given)
    except ValueError as refusal:
        refusals.append(str(refusal))
        sampler = None
    if num_columns == 1:
        assert len(refusals) == (0 if can_be else 2)
        assert len(set(refusals)) <= 1  # the same words
    for batch in itertools.chain(*([list(sampler)] if sampler and num_columns == 1 else [])):
        assert most_equal(batch, ids) <= most


def test_what_is_left_out_stays_so_when_the_graph_is_refreshed():
    num = 47
    ids = np.where(np.arange(num) < 12, 3, np.arange(num) + 9)  # on 12: 9 batches of 5, and 2 left out
    with pytest.raises(ValueError, match=r"9 batches and 2 left out \(drop_last\)"):
        ProximityBatchSampler(num, 5, True, bank=FeatureBank(num, 4), unique=ids)
    ids[11] = -1
    bank = FeatureBank(num, 4, dtype=torch.float32)
    for seed in range(10):
        sampler = ProximityBatchSampler(num, 5, True, bank=bank, unique=ids, seed=seed)
        states, drawn = [], []
        for i, batch in enumerate(sampler):
            assert most_equal(batch, ids) == 1
            bank.update(batch, torch.randn(5, 4, generator=torch.Generator().manual_seed(i)))
            drawn += batch
            states.append(sampler.state_dict())
            if i % 3 == 1:
                sampler.refresh()
        assert len(drawn) == len(set(drawn)) == 45
        resumed = ProximityBatchSampler(num, 5, True, bank=bank, unique=ids, seed=seed)
        resumed.load_state_dict(states[4])
        rest = list(itertools.chain(*resumed))
        assert len(rest) == 20
        assert not set(rest) & set(drawn[:25])


@pytest.mark.parametrize("leftovers", ["drop", "weights"])
def test_left_out_instances_of_a_source_come_back_for_its_ids(leftovers):
    sources = np.repeat([0, 1], [23, 30])
    ids = np.arange(53)
    ids[:8] = 60  # source 0 has two batches of 10, or 1, and leaves out the others
    options = {"leftovers": "drop"} if leftovers == "drop" else {"interleave": {0: 1, 1: 2}}
    if leftovers == "drop":
        ids[5:8] = np.arange(3)
    for seed in range(30):
        plan = compose(
            torch.ones(53, 4), batch_size=10, preset="uniform", sources=sources, unique=ids, seed=seed, **options
        )
        batches = [batch.tolist() for batch in plan.batches(0)]
        assert all(len(set(sources[batch])) == 1 and most_equal(batch, ids) == 1 for batch in batches)
        assert len(set(itertools.chain(*batches))) == 10 * len(batches)


# --- sources ---------------------------------------------------------------------------------------------------------
def stopped(*_):
    raise AssertionError("the work has begun")


@pytest.mark.parametrize("leftovers", ["short", "mixed", "drop"])
def test_sources_that_cannot_be_split_are_refused_before_the_work(leftovers):
    ids, sources = np.arange(2000) // 2, np.arange(2000) // 100
    with pytest.raises(
        ValueError, match=r"unique: .*batches of source 0 can hold 50 instances and must hold 64, .*no as"
    ):
        compose(
            torch.ones(2000, 4), batch_size=64, rank_window=(2, 30), sources=sources, unique=ids, leftovers=leftovers,
            progress=stopped,
        )  # fmt: skip


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from(["short", "drop", "mixed"]), st.booleans())
def test_demands_of_sources_are_refused_at_once_or_met(seed, batch_size, leftovers, drop_last):
    rng = np.random.default_rng(seed)
    sources = np.repeat([2, 5, 6], rng.integers(batch_size, 20, 3))
    ids = rng.integers(-1, rng.integers(4, 30), len(sources))
    drop_last = drop_last and leftovers != "short"
    can_be = True
    for source in (2, 5, 6) if leftovers != "mixed" else ():
        own = ids[sources == source]
        sizes = sizes_of(len(own), batch_size)
        num_left_out = len(own) % batch_size if leftovers == "drop" else 0
        sizes = sizes[:-1] if num_left_out else sizes
        can_be &= exists(*counts_of(own), sizes.tolist(), 1, num_left_out)
    begun = []
    try:
        plan = compose(
            torch.ones(len(ids), 4), batch_size=batch_size, preset="walks", num_candidates=3, num_neighbors=2,
            sources=sources, unique=ids, leftovers=leftovers, drop_last=drop_last, seed=seed % 1000,
            progress=lambda *_: begun.append(1),
        )  # fmt: skip
    except ValueError as refusal:
        message = str(refusal)
    else:
        message = None
    if message is not None:
        assert leftovers == "mixed" or not can_be
        assert not begun or (leftovers == "mixed" and "it may be that none exists" in message)
        return
    assert can_be
    assert all(most_equal(batch, ids) <= 1 for batch in plan.batches(0))


def test_a_late_refusal_names_the_batches_of_several_sources():
    members, sizes = torch.arange(8, dtype=torch.int32), np.array([4, 4])
    apart = Apart(np.array([[1], [1], [1], [2], [3], [4], [5], [6]]), 1, NONE)
    with pytest.raises(
        ValueError, match=r"some instances .*, or in the 3 batches of several sources \(no way was found"
    ):
        keep_apart(members, sizes, apart, None, seed=0, epoch=0, part=1, what="batches of source 4", num_mixed=3)


@pytest.mark.parametrize("num_neighbors", [0, 3])
def test_a_part_of_many_instances_is_repaired_as_if_it_were_all(num_neighbors):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        num, large = 40, 400
        ids, pairs = rng.integers(-1, 15, (num, 2)), rng.integers(0, num, (30, 2))
        place = rng.permutation(large)[:num]
        table = rng.integers(-1, num, (num, num_neighbors)).astype(np.int32)
        table = -np.sort(-table, 1)
        large_ids, large_table = rng.integers(0, 15, (large, 2)), rng.integers(0, large, (large, num_neighbors))
        large_ids[place] = ids
        large_table[place] = np.where(table < 0, -1, place[table])
        outside = np.setdiff1d(np.arange(large), place)[: 2 * num].reshape(num, 2)
        both = rng.permutation(np.concatenate([place[pairs], np.stack([place, outside[:, 0]], 1), outside]))
        members = rng.permutation(num)[:32].astype(np.int32)
        found = [
            keep_apart(
                torch.from_numpy(own.astype(np.int32)), sizes_of(32, 8), Apart(all_ids, 2, all_pairs),
                torch.from_numpy(edges.astype(np.int32)) if num_neighbors else None, seed=seed, epoch=0,
            )
            for own, all_ids, all_pairs, edges in (
                (members, ids, pairs, table), (place[members], large_ids, both, large_table)
            )
        ]  # fmt: skip
        assert place[found[0].members.numpy()].tolist() == found[1].members.tolist()
        assert found[0][1:3] == found[1][1:3]


def test_positives_are_split_by_source():
    rng = np.random.default_rng(0)
    pairs, sources = rng.integers(0, 50, (300, 2)), rng.integers(0, 4, 50)
    rows = [torch.from_numpy(np.flatnonzero(sources == s)) for s in range(4)]
    for source, own in enumerate(split_positives(Apart(np.empty((50, 0), np.int64), 1, pairs), rows)):
        assert own.positives.tolist() == pairs[(sources[pairs] == source).all(1)].tolist()


def test_graphs_of_sources_share_one_table_of_rows(monkeypatch):
    import batchsampler_ext.graph as graph_module

    def per_source(ids, num_instances):
        raise AssertionError("memory of all instances for one source")

    sources, embeddings = np.arange(200) // 20, torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    expected = [compose(embeddings, batch_size=5, preset=p, sources=sources, **o) for p, o in PRESETS]
    monkeypatch.setattr(graph_module, "row_of_instances", per_source)
    for (preset, options), plan in zip(PRESETS, expected, strict=True):
        again = compose(embeddings, batch_size=5, preset=preset, sources=sources, **options)
        assert again._digest() == plan._digest()


PRESETS = [("b3", {"rank_window": (1, 6), "community_size": 5}), ("walks", {"num_candidates": 8, "num_neighbors": 4})]


@pytest.mark.parametrize(("preset", "options"), PRESETS)
def test_labels_are_checked_once_for_all_sources(preset, options, monkeypatch):
    sources, embeddings = np.arange(200) // 20, torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    given = {"batch_size": 5, "preset": preset, "sources": sources, "labels": np.arange(200) % 7, **options}
    expected, ids = compose(embeddings, **given), DeferredChecks.ids

    def of_rows(self, value, name, low, high):
        assert name != "labels"
        return ids(self, value, name, low, high)

    monkeypatch.setattr(DeferredChecks, "ids", of_rows)
    assert compose(embeddings, **given)._digest() == expected._digest()


def test_many_sources_share_orders(monkeypatch):
    monkeypatch.setattr("batchsampler_ext._plan.sources._SOURCES_PER_ORDER", 8)
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, 50)
    counts[0] += -counts.sum() % 3
    chosen = chosen_sources(counts.tolist(), 3, 4, 0)
    assert np.bincount(chosen.ravel(), minlength=50).tolist() == counts.tolist()
    assert (chosen[:, 1:] > chosen[:, :-1]).all()


# --- padding ---------------------------------------------------------------------------------------------------------
def test_planned_padding_keeps_ids_apart_and_varies(tmp_path):
    ids, padded = np.array([1, 1, 2, 2, 3, 3, 4, 4, -1]), set()
    for seed in range(50):
        plan = compose(torch.eye(9), batch_size=4, preset="uniform", unique=ids, num_epochs=2, seed=seed)
        plan.save(tmp_path / "plan.bse")
        for source in (plan, Plan.load(tmp_path / "plan.bse")):
            ranks = [PlannedBatchSampler(source, rank=rank, num_replicas=2) for rank in range(2)]
            for _ in range(2):
                last = list(itertools.chain(*[list(sampler)[-1] for sampler in ranks]))
                assert len(set(last)) == 2
                assert most_equal(last, ids) <= 1
                padded.add(last[1])
    assert len(padded) >= 8


def test_planned_padding_looks_at_all_instances():
    ids = np.repeat([5, 6], [1, 999])  # 1,000 batches with one instance more than fits
    plan = compose(torch.ones(1000, 2), batch_size=999, preset="uniform", unique=ids, max_per_batch=998, seed=1)
    ranks = [PlannedBatchSampler(plan, rank=rank, num_replicas=3) for rank in range(3)]
    assert len(set(itertools.chain(*[list(sampler)[-1] for sampler in ranks]))) == 3


# --- values ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("large", [2**63, 2**64 - 1])
def test_ids_that_int64_does_not_hold_are_refused(large, tmp_path):
    ids, message = np.full(4, large, np.uint64), f"expected integers below 2\\*\\*63, got {large}"
    for value in (ids, torch.from_numpy(ids), ids.tolist()):
        for name in ("unique", "sources", "labels"):
            with pytest.raises(ValueError, match=f"{name}: {message}"):
                compose(torch.eye(4), batch_size=2, preset="uniform", **{name: value})
        with pytest.raises(ValueError, match=f"ids: {message}"):
            as_ids(value, "ids", 0, 2**63 - 1)
    assert as_ids_of_columns(np.full(4, 2**63 - 1, np.uint64), 4).tolist() == [[2**63 - 1]] * 4
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": ids}), tmp_path / "ids.parquet")
    with pytest.raises(ValueError, match=f"unique: {message}"):
        load_ids(str(tmp_path / "ids.parquet"), "unique")


@pytest.mark.parametrize("empty", [[], np.empty((0, 2)), torch.empty(0, 2), np.empty((0, 2), np.int64)])
def test_there_may_be_no_positives(empty):
    assert as_pairs(empty, 4).shape == (0, 2)
    compose(torch.eye(4), batch_size=2, preset="uniform", positives=empty)


@pytest.mark.parametrize("name", ["unique", "positives"])
def test_ragged_lists_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: expected an array of integers"):
        compose(torch.eye(4), batch_size=2, preset="uniform", **{name: [[1, 2], [3], [0, 1], [2, 3]]})
    with pytest.raises(TypeError, match=f"{name}: expected integers, got torch.bfloat16"):
        compose(torch.eye(4), batch_size=2, preset="uniform", **{name: torch.ones(4, 2, dtype=torch.bfloat16)})


# --- margins ---------------------------------------------------------------------------------------------------------
def test_pairs_of_epochs_are_kept_once():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 30, (50, 2)).astype(np.int32) for _ in range(12)]
    found = PairSet(30)
    for first in range(0, 12, 4):
        found.add(pairs[first : first + 4])
    negatives = found.negatives(torch.empty(0, 30, dtype=torch.int32))
    expected = {tuple(pair) for part in pairs for pair in part.tolist()}
    assert [
        (i, j) for i in range(30) for j in negatives.documents[negatives.offsets[i] : negatives.offsets[i + 1]].tolist()
    ] == sorted(expected)


def test_margins_that_exclude_most_pairs_are_told(monkeypatch):
    first = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    towers = first, first + 0.1
    monkeypatch.setattr(all_epochs, "_FEW_PAIRS", 1000)
    with pytest.warns(
        UserWarning, match=r"margin and relative_margin exclude 100% of the pairs in the first 5 batches"
    ) as told:
        plan = compose(*towers, batch_size=40, preset="uniform", margin=2.0, num_epochs=2)
    assert len(told) == 1
    assert not any(plan.negative_mask(batch).any() for batch in plan.batches(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose(*towers, batch_size=40, preset="uniform", margin=0.0)
