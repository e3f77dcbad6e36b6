"""Ids, labels and rows are read alike from every array of integers, and every other array is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from batchsampler_ext import (
    FeatureBank,
    GraphConfig,
    Plan,
    ProximityBatchSampler,
    ProximityGraph,
    batch_stats,
    compose,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
)
from batchsampler_ext.metrics import equal_label_share, mean_cosine

N = 20
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
TABLE = knn_graph(X, 4).neighbors.numpy()
IDS = (np.arange(N) * 7) % N  # distinct


def filled() -> FeatureBank:
    bank = FeatureBank(N, 4)
    bank.update(np.arange(N), X)
    return bank


def drawn(**options: Any) -> list[list[int]]:
    return list(ProximityBatchSampler(N, 4, bank=filled(), **options))


def pairs(values: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return torch.stack([values, values.flip(0)], 1)
    stack = np.ma.stack if isinstance(values, np.ma.MaskedArray) else np.stack
    return stack([values, values[::-1]], 1)


# name of the argument -> call
CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("labels", lambda v: proximity_graph(X, 3, num_candidates=9, labels=v).neighbors),
    ("labels", lambda v: knn_graph(X, 3, labels=v).neighbors),
    ("labels", lambda v: compose(X, batch_size=4, preset="walks", labels=v).batches(0).indices),
    ("labels", lambda v: batch_stats([range(N)], X, labels=v)["false_negative_share"]),
    ("labels", lambda v: drawn(graph=GraphConfig(labels=v))),
    ("labels", equal_label_share),
    ("rows", lambda v: proximity_graph(X, 3, rows=v).neighbors),
    ("rows", lambda v: knn_graph(X, 3, rows=v).neighbors),
    ("roots", lambda v: random_walk_with_restart(torch.from_numpy(TABLE), v, 5).nodes),
    ("ids", lambda v: ProximityGraph(TABLE, ids=v).ids),
    ("ids", lambda v: ProximityGraph(TABLE, ids=v, num_instances=N).ids),
    ("batches", lambda v: batch_stats([v], X)["in_batch_similarity"]),
    ("unique", lambda v: compose(X, batch_size=4, preset="walks", unique=v).negative_mask(range(N))),
    ("unique", lambda v: compose(X, batch_size=4, preset="walks", unique=pairs(v)).negative_mask(range(N))),
    ("unique", lambda v: drawn(unique=v)),
    ("positives", lambda v: compose(X, batch_size=4, preset="walks", positives=pairs(v)).negative_mask(range(N))),
    ("positives", lambda v: drawn(positives=pairs(v))),
    ("sources", lambda v: compose(X, batch_size=4, preset="uniform", sources=v).sources(0)),
    ("indices", lambda v: compose(X, batch_size=4, preset="uniform", unique=IDS).negative_mask(v)),
    ("indices", lambda v: filled().update(v, X)),
    ("sampler", lambda v: list(ProximityBatchSampler(v, 4, bank=filled()))),
    ("graph", lambda v: compose(X, batch_size=4, community_size=2, graph=pairs(v)).batches(0).indices),
]  # fmt: skip
NAMES = [f"{number}-{name}" for number, (name, _) in enumerate(CALLS)]


def as_list(result: Any) -> Any:
    return result.tolist() if isinstance(result, torch.Tensor) else result


@pytest.mark.parametrize(("name", "call"), CALLS, ids=NAMES)
def test_all_kinds_of_integers_mean_the_same(name, call):
    expected = as_list(call(IDS))
    for dtype in ("i1", "i2", "i4", "u1", "u2", "u4", "u8", ">i4", ">u8"):
        assert as_list(call(IDS.astype(dtype))) == expected, dtype
    spread = np.stack([IDS, IDS], 1)[:, 0]
    backward = IDS[::-1].copy()[::-1]
    fixed = IDS.copy()
    fixed.setflags(write=False)
    for array in (spread, backward, fixed):
        assert as_list(call(array)) == expected
    for dtype in (torch.int8, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        if name in ("positives", "graph") or "unique" in name:
            continue  # torch cannot stack columns of all of them
        assert as_list(call(torch.from_numpy(IDS).to(dtype))) == expected, dtype


@pytest.mark.parametrize(("name", "call"), CALLS, ids=NAMES)
def test_other_values_are_refused_by_name(name, call):
    huge = IDS.astype(np.uint64)
    huge[3] = 2**63 + 5
    mask = np.arange(N) % 2 == 0
    for value in (huge, torch.from_numpy(huge), mask, torch.from_numpy(mask)):
        if isinstance(value, torch.Tensor) and value.dtype == torch.uint64 and name in ("positives", "graph", "unique"):
            continue  # torch cannot flip them
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected") as raised:
            call(value)
        if value is huge:
            assert str(2**63 + 5) in str(raised.value)
    if name != "sampler":  # which may be a dataset of numbers
        for value in (IDS + 0j, IDS.astype(float), torch.from_numpy(IDS).float(), IDS.astype(object)):
            with pytest.raises(TypeError, match=rf"^{name}: expected"):
                call(value)
    if name not in ("positives", "graph", "unique"):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
            call(mask.tolist())


@pytest.mark.parametrize(("name", "call"), CALLS, ids=NAMES)
def test_masked_values_are_refused_by_name(name, call):
    masked = np.ma.masked_array(IDS, mask=IDS < 3)
    with pytest.raises(ValueError, match=rf"^{name}: expected no masked values, got \d+ of \d+"):
        call(masked)
    if name not in ("positives", "graph", "unique"):  # of pairs
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
            call(list(masked))


def test_lists_of_masked_rows_are_refused():
    rows = [np.ma.masked_array([0, 1], mask=[False, True])]
    with pytest.raises(ValueError, match=r"^positives: expected no masked values, got 1 of 2"):
        drawn(positives=rows)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("features", lambda v: knn_graph(v, 3)),
        ("features", lambda v: proximity_graph(v, 3, num_candidates=9)),
        ("queries", lambda v: compose(v, batch_size=4, preset="uniform")),
        ("embeddings", lambda v: FeatureBank(N, 4).update(IDS, v)),
    ],
)
def test_masked_rows_are_refused_by_name(name, call):
    mask = np.zeros((N, 4), bool)
    call(np.ma.masked_array(X.numpy(), mask))  # none is masked
    mask[3] = True
    with pytest.raises(ValueError, match=rf"^{name}: expected no masked values, got 4 of 80"):
        call(np.ma.masked_array(X.numpy(), mask))


def test_measures_of_rows_need_tensors():
    for wrong in (X.numpy(), X.tolist(), X.long(), X.half(), X[0]):
        with pytest.raises((TypeError, ValueError), match="rows: expected"):
            mean_cosine(wrong)


@pytest.mark.parametrize("argument", ["labels", "unique"])
def test_the_largest_ids_mean_what_others_mean(argument):
    """Ids are hashes at times: all of int64 that is not negative."""
    ids = np.arange(N) // 2
    large = np.where(ids == 9, 2**63 - 1, np.where(ids == 8, 2**63 - 2, ids))
    for name, call in CALLS:
        if name == argument and call is not equal_label_share:
            assert as_list(call(large)) == as_list(call(ids))
    for options in ({"rank_window": (1, 6), "community_size": 2}, {"preset": "walks"}, {"preset": "uniform"}):
        both = [compose(X, X, batch_size=4, **options, **{argument: value}) for value in (large, ids)]
        assert both[0].batches(0).indices.tolist() == both[1].batches(0).indices.tolist()


@pytest.mark.parametrize(
    "options",
    [{"rank_window": (1, 4)}, {"rank_window": {3: (1, 4), 2**63 - 1: (0, 5)}, "interleave": {3: 1.0, 2**63 - 1: 1.0}}],
)
def test_a_source_may_have_the_largest_number(options, tmp_path):
    sources = np.where(np.arange(N) < 8, 3, 2**63 - 1)
    plan = compose(X, batch_size=4, sources=sources, community_size=2, **options)
    assert set(plan.sources(0).tolist()) == {3, 2**63 - 1}
    plan.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan").sources(0).tolist() == plan.sources(0).tolist()


def test_ids_beyond_int64_in_lists_are_refused():
    for items in ([2**63], [0, 2**70], [-(2**64)]):
        with pytest.raises(ValueError, match=r"sampler: expected integers below 2\*\*63, got"):
            ProximityBatchSampler(items, 1, bank=filled())


@pytest.mark.parametrize("name", ["neighbors", "scores"])
def test_tables_of_graphs_are_read_from_every_layout(name):
    scores = np.linspace(1, 0, TABLE.size, dtype=np.float32).reshape(TABLE.shape)
    good = {"neighbors": TABLE, "scores": scores}
    expected = getattr(ProximityGraph(**good), name)
    table = good[name]
    for same in (table[::-1][::-1], np.asfortranarray(table), torch.from_numpy(table).t().contiguous().t()):
        assert torch.equal(getattr(ProximityGraph(**{**good, name: same}), name), expected)
    for wrong in (table.tolist(), table.astype(object), table.astype(table.dtype.newbyteorder()), table > 0):
        with pytest.raises(TypeError, match=f"{name}: expected"):
            ProximityGraph(**{**good, name: wrong})


def test_tables_of_one_row_or_column_are_read_backward():
    """NumPy takes them for contiguous whatever their strides are."""
    for table in (TABLE[:1][::-1], TABLE[:, :1][:, ::-1]):
        assert min(table.strides) < 0
        graph = ProximityGraph(table, ids=IDS[: len(table)], num_instances=N)
        assert graph.neighbors.tolist() == table.tolist()


def test_ids_are_kept_apart_on_any_number_of_ranks():
    sampler = ProximityBatchSampler(N, 2**20, bank=filled(), unique=IDS, rank=0, num_replicas=2**45)
    assert sampler.num_replicas == 2**45


@pytest.mark.parametrize("memory", [memoryview(np.array(4)), memoryview(TABLE), b"\2\4", bytearray(b"\4")])
def test_memory_is_no_list_of_sizes(memory):
    with pytest.raises(TypeError, match="^community_size: expected an integer, got "):
        compose(X, batch_size=4, rank_window=(1, 5), community_size=memory)
