"""compose() with all of its promises at once: sources, ids, margins, a saved plan, and ranks that draw it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchsampler_ext import Plan, PlannedBatchSampler, compose
from batchsampler_ext._negatives.keep_apart import Apart
from batchsampler_ext._negatives.negatives import Negatives
from batchsampler_ext._plan.epochs import EpochRequest, batch_sizes, plan_epoch, sources_of_batches
from batchsampler_ext._plan.leftovers import exchanged
from batchsampler_ext._plan.sources import SourceOptions, parts_of
from batchsampler_ext.cli import main

NUM_INSTANCES, BATCH_SIZE, NUM_EPOCHS = 600, 16, 2
MARGIN = 0.1
SIZES = (287, 200, 113)  # of the sources


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """Queries, documents near them, three sources, and two columns of ids that repeat among near instances."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.arange(NUM_INSTANCES) % 60)
    queries = rng.standard_normal((60, 12))[groups] + 0.4 * rng.standard_normal((NUM_INSTANCES, 12))
    documents = queries + 0.3 * rng.standard_normal(queries.shape)
    ids = np.stack([groups, np.where(rng.random(NUM_INSTANCES) < 0.5, -1, rng.integers(0, 150, NUM_INSTANCES))], 1)
    sources = rng.permutation(np.repeat([5, 7, 9], SIZES))
    return {"queries": queries.astype("f4"), "documents": documents.astype("f4"), "ids": ids, "sources": sources}


def composed(data: dict[str, np.ndarray], **options: object) -> Plan:
    arguments: dict = {
        "batch_size": BATCH_SIZE, "rank_window": (2, 30), "community_size": [4, 8], "sources": data["sources"],
        "unique": data["ids"], "margin": MARGIN, "num_epochs": NUM_EPOCHS, "seed": 3,
    }  # fmt: skip
    return compose(data["queries"], data["documents"], **{**arguments, **options})


def check(plan: Plan, data: dict[str, np.ndarray], leftovers: str) -> None:
    """Compares every promise with its definition."""
    queries, documents = (data[name] / np.linalg.norm(data[name], axis=1)[:, None] for name in ("queries", "documents"))
    scores = queries.astype("f8") @ documents.astype("f8").T
    limit = scores.diagonal()[:, None] - MARGIN
    same_id = np.eye(NUM_INSTANCES, dtype=bool)
    for column in data["ids"].T:
        same_id |= (column[:, None] == column) & (column[:, None] >= 0)
    is_negative, is_sure = ~same_id & (scores < limit), np.abs(scores - limit) > 1e-6  # of exact scores
    for epoch in range(NUM_EPOCHS):
        batches = [batch.numpy() for batch in plan.batches(epoch)]
        sizes = [len(batch) for batch in batches]
        kinds = [set(data["sources"][batch].tolist()) for batch in batches]
        assert plan.sources(epoch).tolist() == [next(iter(kind)) if len(kind) == 1 else -1 for kind in kinds]
        full = sum(size // BATCH_SIZE for size in SIZES)
        if leftovers == "drop":
            assert sizes == [BATCH_SIZE] * full
            assert len(set(np.concatenate(batches).tolist())) == sum(sizes)
        else:
            assert sorted(np.concatenate(batches).tolist()) == list(range(NUM_INSTANCES))
        if leftovers == "short":
            assert sizes == [BATCH_SIZE] * full + [size % BATCH_SIZE for size in SIZES]
        if leftovers == "mixed":
            assert sizes == [BATCH_SIZE] * (NUM_INSTANCES // BATCH_SIZE) + [NUM_INSTANCES % BATCH_SIZE]
            assert sum(len(kind) == 1 for kind in kinds) >= full
        else:
            assert all(len(kind) == 1 for kind in kinds)
        for batch in batches:
            for column in data["ids"][batch].T:
                known = column[column >= 0]
                assert len(np.unique(known)) == len(known)
            block = np.ix_(batch, batch)
            mask = plan.negative_mask(batch).numpy()
            assert (mask == is_negative[block])[is_sure[block] | same_id[block]].all()
    # Edges join instances of one source, that may be negatives.
    edges = plan.graph.neighbors.numpy()
    row, column = np.nonzero(edges >= 0)
    other = edges[row, column]
    assert len(row) > 500
    assert (data["sources"][row] == data["sources"][other]).all()
    assert (is_negative | ~is_sure)[row, other].all()


@pytest.mark.parametrize("leftovers", ["mixed", "short", "drop"])
def test_every_promise_at_once(data, leftovers, tmp_path):
    plan = composed(data, leftovers=leftovers)
    check(plan, data, leftovers)
    assert sum(plan.info["num_moved"]) > 0  # the ids repeat among near instances
    plan.save(tmp_path / "plan.bse")
    loaded = Plan.load(tmp_path / "plan.bse")
    loaded.graph = plan.graph
    check(loaded, data, leftovers)
    loaded.save(tmp_path / "again.bse")
    assert (tmp_path / "again.bse").read_bytes() == (tmp_path / "plan.bse").read_bytes()
    threads = composed(data, leftovers=leftovers, num_threads=3)
    assert threads._digest() == loaded._digest() == plan._digest()

    ranks = [PlannedBatchSampler(tmp_path / "plan.bse", rank=rank, num_replicas=2) for rank in range(2)]
    for epoch in range(NUM_EPOCHS):
        expected = [batch.tolist() for batch in plan.batches(epoch)]
        assert [len(sampler) for sampler in ranks] == [len(expected)] * 2
        drawn = list(zip(*ranks, strict=True))
        assert len(drawn) == len(expected)
        for (first, second), batch in zip(drawn, expected, strict=True):
            assert len(first) == len(second)
            assert (first + second)[: len(batch)] == batch
            padding = (first + second)[len(batch) :]
            assert len(padding) == len(batch) % 2
            assert not set(padding) & set(batch)


@pytest.mark.parametrize("num_drawn", [1, 36, 37, 38])
def test_a_sampler_resumes_among_several_shorter_batches(data, num_drawn):
    plan = composed(data, leftovers="short")
    expected = [batch.tolist() for batch in plan.batches(0)]
    assert len(expected) == 39
    sampler = PlannedBatchSampler(plan, rank=0, num_replicas=1)
    drawing = iter(sampler)
    assert [next(drawing) for _ in range(num_drawn)] == expected[:num_drawn]
    state = sampler.state_dict()
    again = PlannedBatchSampler(plan, rank=0, num_replicas=1)
    again.load_state_dict(state)
    assert list(again) == expected[num_drawn:]
    assert list(again) == [batch.tolist() for batch in plan.batches(1)]


@pytest.mark.parametrize("preset", ["walks", "b3", "curriculum", "clusters", "uniform"])
def test_constraints_apply_to_all_presets(data, preset):
    options: dict = (
        {} if preset in ("clusters", "uniform", "walks") else {"rank_window": (2, 30), "community_size": [4, 8]}
    )
    plan = compose(
        data["queries"], data["documents"], batch_size=BATCH_SIZE, preset=preset, sources=data["sources"],
        unique=data["ids"], positives=np.arange(NUM_INSTANCES).reshape(-1, 2), leftovers="short", **options,
    )  # fmt: skip
    assert sorted(torch.cat(list(plan.batches(0))).tolist()) == list(range(NUM_INSTANCES))
    for batch in plan.batches(0):
        assert len(set(data["sources"][batch.numpy()].tolist())) == 1
        for column in data["ids"][batch.numpy()].T:
            known = column[column >= 0]
            assert len(np.unique(known)) == len(known)
        mask = plan.negative_mask(batch)
        for row, i in enumerate(batch.tolist()):
            assert not mask[row, batch == i + 1].any() or i % 2


def test_ids_that_no_composing_can_keep_apart_are_refused_before_the_work(data):
    ids = np.full(NUM_INSTANCES, -1)
    rows = np.flatnonzero(data["sources"] == 9)
    ids[rows[:9]] = 4  # 113 instances are 7 batches of 16, and one short or mixed one
    embeddings = np.zeros((NUM_INSTANCES, 2), "f4")

    def stop(*_):
        raise AssertionError("the work has begun")

    for leftovers in ("short", "mixed"):
        options = {"sources": data["sources"], "leftovers": leftovers, "batch_size": 16, "progress": stop}
        if leftovers == "mixed":
            ids[rows[:11]] = 4  # 24 mixed instances
        expected = r"unique: expected each id on at most 8 instances \(.* batches of s.*, .* got id 4 of column 0 on"
        with pytest.raises(ValueError, match=expected):
            compose(embeddings, unique=ids, rank_window=(2, 30), community_size=8, **options)
    with pytest.raises(ValueError, match="sources_per_batch: expected 1 with unique or positives"):
        compose(embeddings, unique=ids, sources=data["sources"], sources_per_batch=2, batch_size=16, preset="uniform")


def test_the_command_line_has_the_same_plan(data, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.chdir(tmp_path)
    for name in ("queries", "documents", "ids", "sources"):
        np.save(f"{name}.npy", data[name])
    parquet.write_table(pyarrow.table({"text": list("ab") * 300, "source": data["sources"]}), "sources.parquet")
    parquet.write_table(pyarrow.table({"a": data["ids"][:, 0], "b": data["ids"][:, 1]}), "ids.parquet")
    np.save("labels.npy", data["ids"][:, 0])
    expected = composed(data, leftovers="short", relative_margin=0.2, labels=data["ids"][:, 0])
    for ids, sources in (("ids.npy", "sources.parquet"), ("ids.parquet:a,b", "sources.npy")):
        arguments = (
            f"queries.npy documents.npy --batch-size {BATCH_SIZE} --rank-window 2 30 --community-size 4,8 --epochs 2 "
            f"--seed 3 --margin {MARGIN} --relative-margin 0.2 --leftovers short --unique {ids} --sources {sources} "
            "--labels labels.npy --out plan.bse"
        )
        assert main(["compose", *arguments.split()]) == 0
        found = Plan.load("plan.bse")
        assert found._digest() == expected._digest()
        batch = torch.arange(NUM_INSTANCES)
        assert torch.equal(found.negative_mask(batch), expected.negative_mask(batch))
    assert main(["export", "plan.bse", "--format", "npy", "--out", "batches.npy"]) == 0
    rows = [row[row >= 0].tolist() for row in np.load("batches.npy")]
    lists = [batch.tolist() for epoch in range(NUM_EPOCHS) for batch in expected.batches(epoch)]
    assert rows == lists
    assert main(["export", "plan.bse", "--format", "parquet", "--out", "batches.parquet"]) == 0
    table = parquet.read_table("batches.parquet").to_pydict()
    numbers = [
        (e, b, p) for e in range(2) for b, ids in enumerate(lists[e * 39 : (e + 1) * 39]) for p in range(len(ids))
    ]
    assert list(zip(table["epoch"], table["batch"], table["position"], strict=True)) == numbers
    assert table["instance"] == [i for ids in lists for i in ids]


@pytest.mark.parametrize("seed", range(20))
def test_leftovers_are_exchanged_within_their_source(seed):
    rng = np.random.default_rng(seed)
    sources = torch.from_numpy(rng.permutation(np.repeat([0, 1, 2], [75, 60, 41])))
    request = EpochRequest(16, 16, False, seed, 0, 1, SourceOptions())
    epoch = plan_epoch(parts_of(sources, 176), request)
    kinds, sizes = sources_of_batches(epoch, sources, 16), batch_sizes(epoch, 16)
    mixed = torch.cat([batch for batch, kind in zip(epoch.ids.split(sizes.tolist()), kinds, strict=True) if kind < 0])
    ids = np.stack([rng.integers(0, 40, 176), rng.integers(-1, 60, 176)], 1)
    ids[mixed[:9].numpy(), 0] = 99  # at most 3 times in the 3 mixed batches
    apart = Apart(ids, 1, np.empty((0, 2), np.int64))
    result, num_moved = exchanged(epoch.ids, sizes, kinds, sources, apart, seed=seed, epoch=0)
    assert sorted(result.tolist()) == sorted(epoch.ids.tolist())
    assert torch.equal(sources[result.long()], sources[epoch.ids.long()])
    assert num_moved == int((result != epoch.ids).sum()) >= 12
    held = np.concatenate([b.numpy() for b, kind in zip(result.split(sizes.tolist()), kinds, strict=True) if kind < 0])
    for column in ids[held].T:
        _, counts = np.unique(column[column >= 0], return_counts=True)
        assert counts.max() <= 3
    assert torch.equal(epoch.ids, plan_epoch(parts_of(sources, 176), request).ids)  # the argument stays


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": torch.tensor([0, 2, 1, 2, 2])}, "offsets do not ascend from 0 to 2"),
        ({"offsets": torch.tensor([0, 1, 1, 1, 1])}, "offsets do not ascend from 0 to 2"),
        ({"offsets": torch.tensor([0, 1, 2])}, r"offsets are torch.int64 \[3\]"),
        ({"documents": torch.tensor([1, 4], dtype=torch.int32)}, r"documents are outside \[0, 4\)"),
        ({"groups": torch.zeros(1, 3, dtype=torch.int32)}, r"groups are torch.int32 \[1, 3\]"),
    ],
)
def test_damaged_negatives_of_a_file_are_refused_when_used(tmp_path, changes, message):
    pairs = [np.array([[0, 1], [2, 3]])]
    negatives = Negatives.of(4, torch.tensor([[0, 0, -1, -1]], dtype=torch.int32), pairs)
    for part in ({}, changes):
        plan = Plan([torch.arange(4, dtype=torch.int32)], 4, 2, {}, negatives=negatives._replace(**part))
        plan.save(tmp_path / "plan.bse")
        loaded = Plan.load(tmp_path / "plan.bse")
        assert [batch.tolist() for batch in loaded.batches(0)] == [[0, 1], [2, 3]]
        if not part:
            expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
            assert loaded.negative_mask([0, 1, 2, 3]).int().tolist() == expected
    with pytest.raises(ValueError, match=message):
        loaded.negative_mask([0, 1])


def test_damaged_sizes_and_sources_of_a_file_are_refused(tmp_path):
    ids = [torch.arange(7, dtype=torch.int32)]
    path = tmp_path / "plan.bse"
    Plan(ids, 7, 4, {}, tail_sizes=(2, 2)).save(path)
    with pytest.raises(ValueError, match=r"epoch_0 of 7 instances does not end in .*\(2, 2\)"):
        Plan.load(path)
    Plan(ids, 7, 4, {}, tail_sizes=(3, 4)).save(path)
    with pytest.raises(ValueError, match="wrong header .tail_sizes: expected an integer from 1 to 3"):
        Plan.load(path)
    Plan(ids, 7, 4, {}, sources=torch.zeros(1, 3, dtype=torch.int64)).save(path)
    loaded = Plan.load(path)
    with pytest.raises(ValueError, match=r"sources are torch.int64 \[1, 3\], not int64 \[1, 2\]"):
        loaded.sources(0)
