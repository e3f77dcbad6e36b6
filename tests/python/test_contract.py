"""What may not meet, with the sampler: the same contract as that of plans, for every epoch, on all ranks."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsampler_ext import FeatureBank, GraphConfig, ProximityBatchSampler, compose, reference
from batchsampler_ext._negatives import keep_apart
from batchsampler_ext._negatives.keep_apart import require_assignment

NUM, FEW = 300, GraphConfig(num_candidates=60, num_neighbors=12)


def towers(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(12, 8, generator=generator).repeat(NUM // 12, 1)
    return [centers + 0.4 * torch.randn(NUM, 8, generator=generator) for _ in range(2)]


def make(num_updated: int = NUM, seed: int = 0, **options) -> ProximityBatchSampler:
    bank = FeatureBank(NUM, 8, two_towers=True, dtype=torch.float32)
    if num_updated:
        bank.update(torch.arange(num_updated), *(tower[:num_updated] for tower in towers(seed)))
    return ProximityBatchSampler(**{"sampler": NUM, "batch_size": 32, "bank": bank, "graph": FEW, **options})


def train(sampler: ProximityBatchSampler, batch: list[int], step: int) -> None:
    """Moves the embeddings of a batch, as a step of training does."""
    moved = [tower[batch] for tower in towers(step)]
    sampler.bank.update(batch, *moved)


def ids_of(num_columns: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = [np.arange(NUM) // 8, rng.integers(-1, 150, NUM)]  # near instances have equal ids
    return np.stack(columns[:num_columns], 1)


def most_equal(batch: list[int], ids: np.ndarray) -> int:
    columns = ids[batch].T
    return max(int(np.unique(column[column >= 0], return_counts=True)[1].max(initial=0)) for column in columns)


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"planner": "uniform"}, {"sampler": range(3, 290)}])
@pytest.mark.parametrize(("num_columns", "max_per_batch"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("num_updated", [0, 150, NUM])
def test_no_batch_of_any_epoch_holds_an_id_too_often(num_updated, num_columns, max_per_batch, options):
    ids = ids_of(num_columns)
    sampler = make(num_updated, unique=ids, max_per_batch=max_per_batch, **options)
    before = list(make(num_updated, **options))
    for epoch in range(3):
        batches = [(batch, train(sampler, batch, epoch))[0] for batch in sampler]
        assert [len(batch) for batch in batches] == [len(batch) for batch in before]
        assert max(most_equal(batch, ids) for batch in batches) <= max_per_batch
        drawn = sorted(itertools.chain(*batches))
        assert len(set(drawn)) == len(drawn)
        if not options.get("drop_last"):
            assert drawn == list(options.get("sampler", range(NUM)))
    assert max(most_equal(batch, ids) for batch in before) > max_per_batch


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_with_any_number_of_threads_draw_one_global_sequence(drop_last):
    ids, expected = ids_of(2), None
    given = {"unique": ids, "positives": [[0, 9]], "margin": 0.05, "drop_last": drop_last}
    for num_replicas, num_threads in itertools.product((1, 2, 4), (1, 2)):
        samplers = [
            make(
                batch_size=32 // num_replicas, graph=replace(FEW, num_threads=num_threads), rank=rank,
                num_replicas=num_replicas, **given,
            )
            for rank in range(num_replicas)
        ]  # fmt: skip
        for _ in range(2):
            steps = [list(itertools.chain(*step)) for step in zip(*samplers, strict=True)]
        assert max(most_equal(step, ids) for step in steps) == 1  # with the padding, too
        full, mask = steps[: NUM // 32], samplers[0].negative_mask(steps[3])
        expected = expected or (full, mask)
        assert full == expected[0]
        assert all(torch.equal(sampler.negative_mask(steps[3]), expected[1]) for sampler in samplers)


@pytest.mark.parametrize("num_replicas", [2, 4])
@pytest.mark.parametrize("num_instances", [296, 293, 290, 257])
def test_local_batches_keep_ids_apart_on_each_rank(num_replicas, num_instances):
    ids = ids_of(2)
    samplers = [
        make(
            sampler=range(num_instances), batch_size=32 // num_replicas, scope="local", rank=rank,
            num_replicas=num_replicas, unique=ids,
        )
        for rank in range(num_replicas)
    ]  # fmt: skip
    for _ in range(2):
        steps = list(zip(*samplers, strict=True))
        assert max(most_equal(batch, ids) for step in steps for batch in step) == 1
        assert set(itertools.chain(*itertools.chain(*steps))) == set(range(num_instances))
        for step in steps:
            drawn = list(itertools.chain(*step))
            assert len(set(drawn)) == len(drawn)


def contracts() -> dict:
    rng = np.random.default_rng(1)
    return {"unique": ids_of(2), "max_per_batch": 2, "positives": rng.integers(0, NUM, (60, 2))}


def expected_mask(sampler, rows, is_known, batch, margin, relative_margin, metric="cosine"):
    """The definition, from the embeddings that the plan was made from."""
    given, labels = contracts(), sampler.graph_config.labels
    scores = reference.similarity(rows[0][:, None], rows[1][None], metric).astype(np.float64)
    positives = {tuple(pair) for pair in given["positives"].tolist()}
    columns = [*given["unique"].T, *([] if labels is None else [labels])]

    def is_negative(i, j):
        if i == j or (i, j) in positives or any(column[i] == column[j] >= 0 for column in columns):
            return False
        if not (is_known[i] and is_known[j]):
            return True
        return not (
            (margin is not None and scores[i, j] >= scores[i, i] - margin)
            or (relative_margin is not None and scores[i, j] >= scores[i, i] - relative_margin * abs(scores[i, i]))
        )

    return [[is_negative(i, j) for j in batch] for i in batch]


@pytest.mark.parametrize("num_updated", [0, 200, NUM])
@pytest.mark.parametrize(
    ("margin", "relative_margin", "metric"),
    [(None, None, "cosine"), (0.05, None, "cosine"), (None, 0.1, "ip"), (0.1, 0.02, "cosine"), (0.3, None, "l2")],
)
def test_mask_equals_its_definition(num_updated, margin, relative_margin, metric):
    labels = np.random.default_rng(2).integers(-1, 40, NUM)
    graph = GraphConfig(num_candidates=60, num_neighbors=12, metric=metric, labels=labels)
    sampler = make(num_updated, graph=graph, margin=margin, relative_margin=relative_margin, **contracts())
    bank, num_within = sampler.bank, 0
    for epoch in range(2):
        rows = bank.data.numpy().copy(), bank.documents.numpy().copy()
        is_known = (bank.last_update >= 0).numpy().copy()
        for batch in sampler:
            mask = sampler.negative_mask(batch)
            assert mask.tolist() == expected_mask(sampler, rows, is_known, batch, margin, relative_margin, metric)
            train(sampler, batch, epoch)
            assert torch.equal(sampler.negative_mask(torch.tensor(batch)), mask)
            num_within += int((~mask).sum()) - len(batch)
    assert num_within > 0


def test_mask_of_a_plan_from_the_same_embeddings_is_the_same():
    given = {**contracts(), "margin": 0.05}
    sampler = make(**given)
    queries, documents = sampler.bank.data, sampler.bank.documents
    plan = compose(queries, documents, batch_size=NUM, preset="uniform", **{**given, "max_per_batch": 100})
    for batch in sampler:  # all pairs meet in the plan's only batch
        assert torch.equal(sampler.negative_mask(batch), plan.negative_mask(batch))


@pytest.mark.parametrize("planner", ["partition", "walks", "cover_by_walks"])
def test_edges_join_negatives_only(planner):
    given = {**contracts(), "margin": 0.05}
    if planner != "partition":
        del given["unique"]
    sampler = make(planner=planner, **given)
    plain = make(planner=planner)
    batch = next(iter(sampler))
    next(iter(plain))
    rows = sampler.bank.data.numpy(), sampler.bank.documents.numpy()
    everything = list(range(NUM))
    allowed = np.array(expected_mask(sampler, rows, [True] * NUM, everything, 0.05, None))
    if planner != "partition":
        is_equal = (ids_of(2)[:, None] == ids_of(2)[None]) & (ids_of(2)[None] >= 0)
        allowed |= is_equal.any(2)
        scores = reference.similarity(rows[0][:, None], rows[1][None], "cosine").astype(np.float64)
        allowed &= ~(scores >= scores.diagonal()[:, None] - 0.05)
    positives = given["positives"]
    allowed[positives[:, 0], positives[:, 1]] = allowed[positives[:, 1], positives[:, 0]] = False
    for row, neighbors in enumerate(sampler.graph.neighbors.tolist()):
        kept = [j for j in plain.graph.neighbors[row].tolist() if j >= 0 and allowed[row, j]]
        assert [j for j in neighbors if j >= 0] == kept
    mask = sampler.negative_mask(batch)
    assert not mask[~torch.from_numpy(allowed[np.ix_(batch, batch)])].all()


def test_equal_ids_do_not_take_the_places_of_neighbors():
    """One column of ids counts as labels of the graph, as in compose: rows keep K neighbors."""
    sampler = make(unique=np.arange(NUM) % 12, max_per_batch=3)  # the nearest instances
    next(iter(sampler))
    neighbors = sampler.graph.neighbors
    assert (neighbors >= 0).all()
    assert (neighbors % 12 != torch.arange(NUM)[:, None] % 12).all()


@pytest.mark.parametrize("place", [1, 4, 9])
@pytest.mark.parametrize("refresh_after", [None, 3])
def test_resumed_epochs_have_the_same_batches_and_masks(place, refresh_after):
    def run(sampler, num_done, num_batches):
        steps = []
        while len(steps) < num_batches:
            for batch in sampler:
                steps.append((batch, sampler.negative_mask(batch).tolist()))
                if num_done + len(steps) == refresh_after:
                    sampler.refresh()
                train(sampler, batch, num_done + len(steps))
                if len(steps) == num_batches:
                    break
        return steps

    given = {**contracts(), "margin": 0.05, "relative_margin": 0.01}
    whole = run(make(**given), 0, 25)
    first, second = make(**given), make(num_updated=0, **given)
    assert run(first, 0, place) == whole[:place]
    states = copy.deepcopy((first.bank.state_dict(), first.state_dict()))
    second.bank.load_state_dict(states[0])
    second.load_state_dict(states[1])
    assert run(second, place, 25 - place) == whole[place:]


def test_result_independent_of_default_device():
    runs = []
    for default in (None, "meta"):
        samplers = [make(rank=rank, num_replicas=2, **contracts(), margin=0.05) for rank in range(2)]
        torch.set_default_device(default)
        try:
            runs.append([(batch, sampler.negative_mask(batch).tolist()) for sampler in samplers for batch in sampler])
        finally:
            torch.set_default_device(None)
    assert runs[0] == runs[1]


def test_columns_that_are_hard_to_place_get_other_random_choices(monkeypatch):
    keys, repair = [], keep_apart._repaired_once

    def unlucky(*arguments):
        *_, key, _ = arguments
        keys.append(key)
        result, num_left, num_met = repair(*arguments)
        return result, num_left + (len(keys) % 3 > 0), num_met

    monkeypatch.setattr(keep_apart, "_repaired_once", unlucky)
    ids = ids_of(2)
    assert max(most_equal(batch, ids) for batch in make(unique=ids)) == 1
    assert (len(keys), len(set(keys))) == (6, 6)  # a trial, and the first epoch
    compose(towers()[0], batch_size=32, preset="uniform", unique=ids)
    assert (len(keys), len(set(keys[6:]))) == (9, 3)
    with pytest.raises(ValueError, match="no way"):
        next(iter(make(unique=ids_of(1))))  # for one column, other choices do not help


def test_refresh_keeps_ids_apart():
    ids = ids_of(2)
    sampler = make(unique=ids)
    for i, batch in enumerate(sampler):
        assert most_equal(batch, ids) == 1
        train(sampler, batch, i)
        if i % 3 == 1:
            sampler.refresh()


def test_states_have_pairs_of_margins_only():
    states = {}
    for name, margin in {"plain": None, "margin": 0.05}.items():
        sampler = make(margin=margin)
        next(iter(sampler))
        states[name] = sampler.state_dict()
    assert states["plain"]["plans"][0].keys() == {"first", "indices", "tail"}
    pairs = states["margin"]["plans"][0]["pairs"]
    for wrong in (pairs.long(), pairs[:, :1], pairs + NUM, None):
        state = copy.deepcopy(states["margin"])
        state["plans"][0]["pairs"] = wrong
        if wrong is None:
            del state["settings"]["margin"]
        with pytest.raises(ValueError, match="state: expected"):
            make(margin=0.05).load_state_dict(state)


@pytest.mark.parametrize(
    ("given", "name"),
    [({"unique": np.arange(NUM)}, "unique"), ({"unique": ids_of(1), "max_per_batch": 2}, "max_per_batch"),
     ({"unique": ids_of(1), "margin": 0.1}, "margin")],
)  # fmt: skip
def test_states_of_another_contract_are_refused(given, name):
    with pytest.raises(ValueError, match=f"state: expected {name} "):
        make(**given).load_state_dict(make(unique=ids_of(1)).state_dict())


def test_demands_that_no_epoch_can_meet_are_refused_with_counts():
    ids = np.arange(NUM)
    ids[:11] = 5  # 10 batches
    with pytest.raises(ValueError, match=r"unique: .* at most 10 instances \(10 batches, .*got id 5 of column 0 on 11"):
        make(unique=ids)
    make(unique=ids, max_per_batch=2)
    make(unique=ids, sampler=range(1, 290))
    ids[0] = -1
    make(unique=ids)
    make(unique=ids, drop_last=True)
    ids[:22] = 5  # 9 batches, and 12 left out
    with pytest.raises(ValueError, match=r"at most 21 instances \(9 batches and 12 left out \(drop_last\), .*on 22"):
        make(unique=ids, drop_last=True)
    ids[:12], ids[5] = np.arange(12), -1
    with pytest.raises(ValueError, match=r"at most 5 instances \(5 batches, .*on 10"):
        make(unique=ids, rank=0, num_replicas=2)
    make(unique=ids, rank=0, num_replicas=2, scope="local")
    bank = FeatureBank(4, 2)
    with pytest.raises(ValueError, match=r"the 1 largest of 2 batches can hold 2 instances and must hold 3"):
        ProximityBatchSampler(4, 3, bank=bank, unique=[1, 1, 2, 2])
    ids = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0], [2, 2, 2]])  # any two of the first three must part
    with pytest.raises(ValueError, match="no way was found to place all ids of all columns together"):
        ProximityBatchSampler(4, 2, bank=bank, unique=ids)


def exists(counts: list[int], num_without: int, sizes: list[int], max_per_batch: int) -> bool:
    """Whether an assignment exists, by trying all."""
    if not counts:
        return True
    count, *others = counts
    choices = [range(min(size, max_per_batch, count) + 1) for size in sizes]
    return any(
        exists(others, num_without, [size - n for size, n in zip(sizes, taken, strict=True)], max_per_batch)
        for taken in itertools.product(*choices)
        if sum(taken) == count
    )


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=4), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 2))
def test_an_assignment_is_refused_if_none_exists(counts, sizes, max_per_batch):
    num_without = sum(sizes) - sum(counts)
    if num_without < 0:
        return
    ids = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(num_without, -1)])[:, None]
    try:
        require_assignment(ids, np.array(sizes), max_per_batch)
        is_possible = True
    except ValueError:
        is_possible = False
    assert is_possible == exists(counts, num_without, sizes, max_per_batch)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"unique": [0.5] * NUM}, TypeError, "unique: expected integers"),
        ({"unique": [0] * 9}, ValueError, r"unique: expected shape \[300\] or \[300, C\] as the bank has"),
        ({"unique": [-2] * NUM}, ValueError, "unique: expected ids"),
        ({"unique": np.arange(NUM), "planner": "walks"}, ValueError, "unique: .* Use planner='partition'"),
        ({"unique": np.arange(NUM), "planner": "cover_by_walks"}, ValueError, "unique: .* batches overlap"),
        ({"max_per_batch": 0}, ValueError, "max_per_batch: expected"),
        ({"max_per_batch": 33}, ValueError, "max_per_batch: expected .* 1 to 32"),
        ({"positives": [[0, NUM]]}, ValueError, "positives: expected values in"),
        ({"positives": [0, 1]}, ValueError, "positives: expected pairs"),
        ({"margin": -0.1}, ValueError, "margin: expected"),
        ({"relative_margin": 2.0}, ValueError, "relative_margin: expected"),
        ({"margin": 0.1, "bank": FeatureBank(NUM, 8)}, ValueError, "margin: expected None without documents"),
    ],
)
def test_bad_arguments_are_named(given, error, message):
    with pytest.raises(error, match=message):
        make(**given)


def test_bad_indices_are_named():
    with pytest.raises(ValueError, match="indices: expected values in"):
        make().negative_mask([NUM])
