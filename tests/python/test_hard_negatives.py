"""Plan.hard_negatives() against its oracle, and the files that compose and export write of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsampler_ext import Plan, ProximityGraph, compose, knn_graph, reference
from batchsampler_ext._plan.hard_negatives import HardNegatives
from batchsampler_ext.cli import main
from batchsampler_ext.reference.hard_negatives import hard_negatives as oracle

NUM_INSTANCES = 90


def grid(seed: int, num_rows: int = NUM_INSTANCES) -> np.ndarray:
    """Returns small integers, so that scores are exact, and ties are common."""
    return np.random.default_rng(seed).integers(-2, 3, (num_rows, 4)).astype("f4")


def equal(values: np.ndarray) -> np.ndarray:
    return (values[:, None] == values) & (values[:, None] >= 0)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from(["ip", "l2"]),
    st.sampled_from([None, "unique", "columns", "labels", "positives", "margin", "max_score", "sources"]),
)
def test_hard_negatives_are_those_of_the_oracle(seed, has_documents, metric, constraint):
    rng = np.random.default_rng(seed)
    queries, documents = grid(seed), grid(seed + 1) if has_documents else None
    scores = reference.similarity(queries[:, None], (queries if documents is None else documents)[None], metric)
    first = int(rng.integers(0, 8))
    window = (first, first + int(rng.integers(1, 12)))
    is_ranked = np.ones((NUM_INSTANCES, NUM_INSTANCES), dtype=bool)
    is_excluded = np.zeros_like(is_ranked)
    options: dict = {}
    ids = rng.integers(-1, 40, (NUM_INSTANCES, 2))
    if constraint == "unique":  # with one column, ranks do not count equal ids
        options, is_ranked = {"unique": ids[:, 0]}, ~equal(ids[:, 0])
    elif constraint == "columns":
        options, is_excluded = {"unique": ids}, equal(ids[:, 0]) | equal(ids[:, 1])
    elif constraint == "labels":
        options, is_ranked = {"labels": ids[:, 0]}, ~equal(ids[:, 0])
    elif constraint == "positives":
        options = {"positives": rng.integers(0, NUM_INSTANCES, (200, 2))}
        is_excluded[tuple(options["positives"].T)] = True
        is_excluded |= is_excluded.T
    elif constraint == "margin" and has_documents:
        options = {"margin": 2.0}
        is_excluded = scores >= scores.diagonal()[:, None] - 2.0
    elif constraint == "max_score":
        options = {"max_score": 3.0 if metric == "ip" else -6.0}
        is_ranked = scores <= options["max_score"]
    elif constraint == "sources":
        options = {"sources": rng.permutation(np.repeat([3, 8], [50, 40]))}
        is_ranked = equal(options["sources"])
    expected = oracle(scores, 6, is_ranked, is_excluded, window)[:, : window[1] - window[0]]
    plan = compose(
        queries, documents, batch_size=10, metric=metric, rank_window=window, mutual=bool(seed % 2), community_size=5,
        num_hard_negatives=min(6, window[1] - window[0]), num_threads=1 + seed % 3, **options,
    )  # fmt: skip
    found = plan.hard_negatives()
    assert (found.dtype, found.device.type) == (torch.int64, "cpu")
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("mutual", [False, True])
def test_candidates_are_listed_best_first(mutual):
    features = grid(0)
    plan = compose(
        features, batch_size=10, preset="walks", num_candidates=30, num_neighbors=9, metric="ip", mutual=mutual,
        num_hard_negatives=9, seed=5,
    )  # fmt: skip
    neighbors, _ = reference.proximity_graph(features, 9, 30, metric="ip", seed=5)
    is_ranked = np.zeros((NUM_INSTANCES, NUM_INSTANCES), dtype=bool)
    np.put_along_axis(is_ranked, neighbors, True, axis=1)
    scores = reference.similarity(features[:, None], features[None], "ip")
    assert np.array_equal(plan.hard_negatives(), oracle(scores, 9, is_ranked, np.zeros_like(is_ranked), (0, 9)))
    # The batches are the same without.
    without = compose(
        features, batch_size=10, preset="walks", num_candidates=30, num_neighbors=9, metric="ip", mutual=mutual, seed=5
    )
    assert without._digest() == plan._digest()


def test_a_given_graph_is_ranked_by_its_scores_or_by_place():
    features = grid(1)
    neighbors = torch.tensor([[0, 3, 2, 3, 1], [2, 0, -1, -1, -1], [-1] * 5, [1, 0, 2, 2, -1]], dtype=torch.int32)
    scores = torch.tensor(
        [[9.0, 1, 2, 1, 2], [1, 3, -torch.inf, -torch.inf, -torch.inf], [-torch.inf] * 5, [5, 5, 6, 6, -torch.inf]]
    )
    options: dict = {"batch_size": 2, "community_size": 2, "num_hard_negatives": 3}
    plan = compose(features[:4], graph=ProximityGraph(neighbors), **options)
    assert plan.hard_negatives().tolist() == [[3, 2, 1], [2, 0, -1], [-1, -1, -1], [1, 0, 2]]
    plan = compose(features[:4], graph=ProximityGraph(neighbors, scores), **options)
    assert plan.hard_negatives().tolist() == [[1, 2, 3], [0, 2, -1], [-1, -1, -1], [2, 0, 1]]
    plan = compose(features[:4], graph=ProximityGraph(neighbors, scores), sources=[0, 1, 1, 0], **options)
    assert plan.hard_negatives().tolist() == [[3, -1, -1], [2, -1, -1], [-1, -1, -1], [0, -1, -1]]


def test_scores_of_either_sign_are_in_order():
    rng = np.random.default_rng(0)
    neighbors = torch.from_numpy(np.argsort(rng.random((50, 50)), axis=1)[:, :20].astype("i4"))
    values = np.array([-np.inf, -1e30, -2, -1e-40, -0.0, 0.0, 1e-40, 1, 1 + 2**-23, 1e30], "f4")
    scores = torch.from_numpy(values[rng.integers(0, len(values), (50, 20))])
    found = HardNegatives(50, 7)
    found.add(ProximityGraph(neighbors, scores))
    for own, others in zip(scores.tolist(), zip(neighbors.tolist(), found.table.tolist(), strict=True), strict=True):
        listed, best = others
        assert best == [j for _, j in sorted(zip(own, listed, strict=True), key=lambda pair: (-pair[0], pair[1]))][:7]


def test_many_rows_are_taken_in_parts(monkeypatch):
    graph = knn_graph(grid(2), 5, metric="ip")
    found = [HardNegatives(NUM_INSTANCES, 4) for _ in range(2)]
    found[0].add(graph)
    monkeypatch.setattr("batchsampler_ext._plan.hard_negatives._ROWS_AT_ONCE", 7)
    found[1].add(graph)
    assert torch.equal(found[0].table, found[1].table)
    assert torch.equal(found[0].table, graph.neighbors[:, :4])


def test_they_are_kept_in_the_file(tmp_path):
    plan = compose(grid(0), batch_size=10, rank_window=(2, 9), community_size=5, num_hard_negatives=5)
    plan.save(tmp_path / "plan.bse")
    loaded = Plan.load(tmp_path / "plan.bse")
    assert torch.equal(loaded.hard_negatives(), plan.hard_negatives())
    assert torch.equal(loaded.hard_negatives(2), plan.hard_negatives()[:, :2])
    assert loaded.info["num_hard_negatives"] == 5
    loaded.save(tmp_path / "again.bse")
    assert (tmp_path / "again.bse").read_bytes() == (tmp_path / "plan.bse").read_bytes()
    for h in (0, 6):
        with pytest.raises(ValueError, match=r"num_hard_negatives: expected an integer from 1 to 5 \(as the plan was"):
            loaded.hard_negatives(h)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.zeros(90, 5, dtype=torch.int64), r"are torch.int64 \[90, 5\], not int32 \[90, h\]"),
        (torch.zeros(89, 5, dtype=torch.int32), r"are torch.int32 \[89, 5\]"),
        (torch.zeros(90, 0, dtype=torch.int32), r"are torch.int32 \[90, 0\]"),
        (torch.full((90, 1), 90, dtype=torch.int32), r"are outside \[-1, 90\)"),
        (torch.full((90, 1), -2, dtype=torch.int32), r"are outside \[-1, 90\)"),
    ],
)
def test_damaged_hard_negatives_of_a_file_are_refused_when_used(tmp_path, table, message):
    ids = [torch.arange(90, dtype=torch.int32)]
    Plan(ids, 90, 10, {}, hard_negatives=table).save(tmp_path / "plan.bse")
    loaded = Plan.load(tmp_path / "plan.bse")
    assert len(loaded.batches(0)) == 9
    with pytest.raises(ValueError, match=f"hard_negatives {message}"):
        loaded.hard_negatives()


def test_errors_come_before_the_work():
    def stop(*_):
        raise AssertionError("the work has begun")

    for options in ({"preset": "uniform"}, {"preset": "clusters"}):
        with pytest.raises(ValueError, match="num_hard_negatives: expected None with preset=.*because it has no graph"):
            compose(grid(0), batch_size=10, num_hard_negatives=2, progress=stop, **options)
    for h in (0, 8):
        with pytest.raises(ValueError, match=r"num_hard_negatives: expected an integer from 1 to 7 \(neighbors of an"):
            compose(grid(0), batch_size=10, rank_window=(2, 9), community_size=5, num_hard_negatives=h, progress=stop)
    with pytest.raises(TypeError, match="num_hard_negatives: expected an integer"):
        compose(grid(0), batch_size=10, preset="walks", num_hard_negatives=2.0, progress=stop)
    plan = compose(grid(0), batch_size=10, preset="walks")
    with pytest.raises(ValueError, match="expected a plan that was composed with num_hard_negatives, got one without"):
        plan.hard_negatives(3)


# --- files -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def exported(tmp_path, monkeypatch, capsys):
    """Returns export(format) -> path, and the hard negatives, some rows of which are short. Documents are queries."""
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", grid(0))
    np.save("ids.npy", np.stack([np.arange(NUM_INSTANCES) % 18, np.full(NUM_INSTANCES, -1)], 1))
    arguments = (
        "compose q.npy q.npy --batch-size 10 --rank-window 2 9 --community-size 5 --metric ip --unique ids.npy "
        "--hard-negatives 7 --out plan.bse"
    )
    assert main(arguments.split()) == 0
    table = Plan.load("plan.bse").hard_negatives().numpy()
    assert 10 < (table[:, -1] < 0).sum() < 80

    def export(kind: str) -> str:
        capsys.readouterr()
        assert main(["export", "plan.bse", "--hard-negatives", "--format", kind, "--out", f"n.{kind}"]) == 0
        assert ("left out" in capsys.readouterr().out) == (kind != "npy")
        return f"n.{kind}"

    return export, table


def records(table: np.ndarray) -> list[dict[str, int]]:
    names = ["anchor", "positive", *(f"negative_{k}" for k in range(1, 8))]
    return [dict(zip(names, [i, i, *row], strict=True)) for i, row in enumerate(table.tolist()) if row[-1] >= 0]


def test_export_of_hard_negatives(exported):
    export, table = exported
    found = np.load(export("npy"))
    assert found.dtype == np.int32
    assert np.array_equal(found, table)
    with open(export("jsonl")) as file:
        assert [json.loads(line) for line in file] == records(table)


def test_export_of_hard_negatives_to_parquet(exported):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    export, table = exported
    assert pyarrow.parquet.read_table(export("parquet")).to_pylist() == records(table)


def test_without_documents_there_is_no_column_of_positives(exported, capsys):
    plan = compose(grid(0), batch_size=10, rank_window=(0, 2), community_size=5, num_hard_negatives=2)
    plan.save("plan.bse")
    capsys.readouterr()
    assert main(["export", "plan.bse", "--hard-negatives", "--format", "jsonl", "--out", "n.jsonl"]) == 0
    assert capsys.readouterr().out.endswith("; the plan has no documents, so there is no column of positives\n")
    with open("n.jsonl") as file:
        assert set(json.loads(next(file))) == {"anchor", "negative_1", "negative_2"}


def test_errors_of_exporting_hard_negatives(exported, capsys):
    assert main(["export", "plan.bse", "--hard-negatives", "--format", "arctic", "--out", "n"]) == 2
    assert "--hard-negatives: expected --format npy, jsonl or parquet, got arctic" in capsys.readouterr().err
    assert main(["compose", "q.npy", "--batch-size", "10", "--preset", "uniform", "--out", "plan.bse"]) == 0
    capsys.readouterr()
    assert main(["export", "plan.bse", "--hard-negatives", "--format", "npy", "--out", "n.npy"]) == 2
    assert "composed with --hard-negatives, got one without" in capsys.readouterr().err
