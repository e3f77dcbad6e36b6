"""Windows by an approximate search: the best of lists against the oracle, what a library lists, recall, and errors."""

from __future__ import annotations

import builtins
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from batchsampler_ext import Plan, compose, reference
from batchsampler_ext._engine.arrays import as_matrix
from batchsampler_ext._plan import approximate, libraries
from batchsampler_ext._plan.approximate import ApproximateSearch
from batchsampler_ext.cli import main
from batchsampler_ext.graph_builders import METRICS

NUM_INSTANCES = 700
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def towers(rng) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy copies of 20 directions, as small integers, so that many scores are equal."""
    centers = rng.integers(-8, 9, (20, 15))[rng.integers(0, 20, NUM_INSTANCES)]
    queries = centers + rng.integers(-4, 5, centers.shape)
    documents = queries + rng.integers(-2, 3, centers.shape)
    return torch.from_numpy(queries).float(), torch.from_numpy(documents).float()


@pytest.fixture(autouse=True)
def few_rows(monkeypatch) -> None:
    """Sources of any size are searched by a library."""
    monkeypatch.setattr(approximate, "FEW_ROWS", 1)


class Listed(libraries.Index):
    """An index without a library: lists a share of the nearest rows, at random. The effort is the share."""

    METRICS = METRICS
    SHARES = (1.0,)
    SIZE = None
    NUM_STARVED = 0  # the first rows, whose lists hold five
    made: ClassVar[list[Listed]] = []

    def __init__(self, rows, last, num_equal, seed, num_threads, progress=None):
        self.rows, self.level, self.last, self.num_searched = rows, 0, last, 0
        Listed.made.append(self)

    def fitted_size(self, numbers, expected):
        return self.last + 1 if self.SIZE is None else self.SIZE

    def order(self):
        return torch.arange(len(self.rows.ids)).flip(0)

    def search(self, numbers, size):
        self.num_searched += len(numbers)
        queries = torch.from_numpy(self.rows.query_rows(numbers)).double()
        documents = torch.from_numpy(self.rows.document_rows(torch.arange(len(self.rows.ids)))).double()
        scores = -torch.cdist(queries, documents) if self.rows.metric == "l2" else queries @ documents.T
        order = scores.sort(dim=1, descending=True, stable=True).indices
        is_found = torch.rand(order.shape, generator=torch.Generator().manual_seed(3)) < self.SHARES[self.level]
        order = torch.where(is_found, order, -1)
        order = order.gather(1, (order < 0).to(torch.int8).argsort(dim=1, stable=True))[:, :size].to(torch.int32)
        order[numbers < self.NUM_STARVED, 5:] = -1
        return order

    def raise_effort(self):
        can_rise = self.level + 1 < len(self.SHARES)
        self.level += can_rise
        return can_rise

    def settings(self):
        return {"share": self.SHARES[self.level]}


@pytest.fixture
def listed(monkeypatch) -> type[Listed]:
    """neighbors="faiss" is an index that lists what it should. It needs no library."""
    monkeypatch.setitem(approximate.INDEXES, "faiss", Listed)
    monkeypatch.setattr(approximate, "require_library", lambda name: type("module", (), {"__version__": "9.9"}))
    monkeypatch.setattr(Listed, "made", [])
    return Listed


def content(plan: Plan) -> list:
    batches = [batch.tolist() for epoch in range(plan.num_epochs) for batch in plan.batches(epoch)]
    masks = [plan.negative_mask(batch).tolist() for batch in batches]
    return [batches, masks, plan.hard_negatives().tolist() if plan.info["num_hard_negatives"] else None]


# --- the best of lists -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("has_documents", [False, True])
def test_best_of_lists_equals_the_oracle(towers, rng, isa, metric, dtype, is_limited, has_documents):
    queries, documents = towers[0].to(dtype), towers[1].to(dtype) if has_documents else None
    lists = rng.integers(-1, NUM_INSTANCES, (60, 90)).astype(np.int32)  # with repeats
    rows = rng.choice(NUM_INSTANCES, 60, replace=False)
    lists[:30, 7] = rows[:30]
    lists[5] = -1
    labels = rng.integers(-1, 20, NUM_INSTANCES) if is_limited else None
    max_score = {"cosine": 0.5, "ip": 90.0, "l2": -300.0}[metric] if is_limited else None
    for window in ((0, 9), (3, 40), (0, 100)):
        found = best_of_lists(queries, documents, rows, lists, window, metric, labels, max_score, num_threads=3)
        expected = reference.knn_of_lists(
            queries.float().numpy(), window[1] - window[0], lists, rows=rows, metric=metric, labels=labels,
            documents=None if documents is None else documents.float().numpy(), max_score=max_score,
            range_min=window[0],
        )  # fmt: skip
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_lists_hold_places_in_the_base(towers, rng):
    queries, ids = towers[0], np.sort(rng.choice(NUM_INSTANCES, 500, replace=False))
    rows, lists = ids[::9], rng.integers(-1, len(ids), (56, 90)).astype(np.int32)
    search = ApproximateSearch("faiss", as_matrix(queries, "q"), None, "cosine", None, None, 2, [])
    numbers = torch.arange(0, len(ids), 9)
    neighbors, scores = search._best(torch.from_numpy(ids), numbers, torch.from_numpy(lists), (0, 20))
    expected = reference.knn_of_lists(queries.numpy(), 20, np.where(lists < 0, -1, ids[lists]), rows=rows)
    np.testing.assert_array_equal(neighbors.numpy(), expected[0])
    np.testing.assert_array_equal(scores.numpy(), expected[1])
    lists[3, 4] = 500
    with pytest.raises(ValueError, match=r"lists: expected integers in \[-1, 500\), got 500"):
        search._best(torch.from_numpy(ids), numbers, torch.from_numpy(lists), (0, 20))


def best_of_lists(queries, documents, rows, lists, window, metric, labels, max_score, num_threads):
    search = ApproximateSearch(
        "faiss", as_matrix(queries, "q"), None if documents is None else as_matrix(documents, "d"), metric,
        None if labels is None else torch.from_numpy(labels), max_score, num_threads, [],
    )  # fmt: skip
    found = search._best(torch.arange(len(queries)), torch.from_numpy(rows), torch.from_numpy(lists), window)
    return [part.numpy() for part in found]


# --- plans -----------------------------------------------------------------------------------------------------------
CASES = {
    "b3": {},
    "ip": {"metric": "ip"},
    "l2, hard negatives": {"metric": "l2", "num_hard_negatives": 4},
    "not mutual": {"mutual": False, "rank_window": (0, 20)},
    "unique": {"unique": np.arange(NUM_INSTANCES) // 3, "num_epochs": 2},
    "two columns": {"unique": np.stack([np.arange(NUM_INSTANCES) // 3, np.arange(NUM_INSTANCES) % 300], 1)},
    "labels": {"labels": np.arange(NUM_INSTANCES) % 9, "rank_window": (3, 60)},
    "max_score": {"max_score": 0.7, "rank_window": (3, 60)},
    "positives": {"positives": [[0, 9], [3, 600]]},
    "sources": {"sources": np.arange(NUM_INSTANCES) % 3, "rank_window": {0: (5, 30), 1: None, 2: (0, 200)}},
    "sources, labels": {"sources": np.arange(NUM_INSTANCES) % 2, "labels": np.arange(NUM_INSTANCES) // 40},
    "seed": {"seed": 5, "community_size": 8, "num_epochs": 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("has_documents", [False, True])
def test_plan_is_the_exact_one_if_all_neighbors_are_listed(towers, listed, monkeypatch, case, has_documents):
    options = {"batch_size": 32, **CASES[case]}
    if has_documents and case != "ip":
        options["relative_margin"] = 0.05
    documents = towers[1] if has_documents else None
    queries = towers[0].to(torch.bfloat16) if case == "b3" else towers[0]
    documents = documents.to(queries.dtype) if has_documents else None
    monkeypatch.setattr(listed, "SIZE", NUM_INSTANCES)  # of equal scores, any may be listed
    plan = compose(queries, documents, neighbors="faiss", **options)
    exact = compose(queries, documents, **options)
    assert content(plan) == content(exact)
    assert listed.made
    assert plan.info["neighbor_search"]["recall"] == 1.0
    names = {"neighbors", "neighbor_search"}
    assert {k: v for k, v in plan.info.items() if k not in names} == {
        k: v for k, v in exact.info.items() if k not in names
    }


def test_rows_whose_lists_hold_too_few_are_searched_exactly(towers, listed, monkeypatch, rng):
    queries = towers[0] + torch.from_numpy(rng.standard_normal(towers[0].shape)).float()  # without equal scores
    queries[:40] = queries[:1] + 0.01 * queries[:40]  # nearer to each other than to the others
    labels = np.where(np.arange(NUM_INSTANCES) < 40, 4, -1)
    options = {"batch_size": 50, "rank_window": (2, 30), "labels": labels, "num_hard_negatives": 28}
    plan = compose(queries, neighbors="faiss", **options)
    assert plan.info["neighbor_search"]["sources"][0]["num_exact"] == 40
    assert content(plan) == content(compose(queries, **options))
    monkeypatch.setattr(listed, "NUM_STARVED", 60)
    plan = compose(queries, neighbors="faiss", **options)
    assert plan.info["neighbor_search"]["sources"][0]["num_exact"] == 60
    assert content(plan) == content(compose(queries, **options))


def test_too_many_rows_to_search_exactly_are_refused_before_all_are_searched(towers, listed, monkeypatch):
    monkeypatch.setattr(approximate, "_NUM_SAMPLED", 200)
    message = r"neighbors: expected 'exact', because \d+ of 200 sampled instances have fewer than 40 .* got 'faiss'"
    for options in ({"max_score": 0.1}, {"labels": np.arange(NUM_INSTANCES) // 350}):
        with pytest.raises(ValueError, match=message):
            compose(towers[0], batch_size=50, rank_window=(3, 40), neighbors="faiss", **options)
        assert listed.made[-1].num_searched == 200


def test_effort_is_raised_while_lists_are_short(towers, listed, monkeypatch):
    monkeypatch.setattr(listed, "SHARES", (0.97, 0.98, 0.99))
    monkeypatch.setattr(listed, "NUM_STARVED", 20)
    plan = compose(towers[0], batch_size=50, neighbors="faiss")
    assert plan.info["neighbor_search"]["sources"][0]["share"] == 0.99


def test_effort_is_raised_until_the_recall_is_reached(towers, listed, monkeypatch):
    monkeypatch.setattr(listed, "SHARES", (0.3, 0.8, 0.97, 1.0))
    plan = compose(towers[0], batch_size=50, neighbors="faiss")
    found = plan.info["neighbor_search"]
    assert found["version"] == "9.9"
    assert found["sources"] == [
        {
            "source": None,
            "num_rows": NUM_INSTANCES,
            "num_sampled": 700,
            "num_listed": 131,
            "recall": found["recall"],
            "share": 0.97,
            "num_exact": 0,
        }
    ]
    assert 0.95 <= found["recall"] < 1.0


def test_recall_is_that_of_exact_neighbors_of_the_sample(rng, listed, monkeypatch):
    queries = torch.from_numpy(rng.standard_normal((NUM_INSTANCES, 16))).float()
    monkeypatch.setattr(listed, "SHARES", (0.6,))
    monkeypatch.setattr(approximate, "_NUM_SAMPLED", 100)
    with pytest.warns(UserWarning, match=r"compose: faiss found 6\d\.\d% of the nearest neighbors .* goal of 95%"):
        plan = compose(queries, batch_size=50, rank_window=(0, 40), neighbors="faiss", num_hard_negatives=40)
    recall = plan.info["neighbor_search"]["recall"]
    assert abs(recall - 0.6) < 0.02
    exact = compose(queries, batch_size=50, rank_window=(0, 40), num_hard_negatives=40).hard_negatives()
    own = np.mean([np.isin(a, b).mean() for a, b in zip(exact.numpy(), plan.hard_negatives().numpy(), strict=True)])
    assert abs(own - recall) < 0.02
    report = plan.report(queries)
    assert report.recall == recall
    assert f"faiss 9.9 found {recall:.1%} of the nearest neighbors" in " ".join(str(report).split())


def test_recall_of_several_sources_is_their_mean_by_rows(towers, listed, tmp_path):
    sources = (np.arange(NUM_INSTANCES) >= 400).astype(int)
    plan = compose(towers[0], batch_size=20, rank_window=(2, 30), sources=sources, neighbors="faiss")
    found = plan.info["neighbor_search"]
    assert [(part["source"], part["num_rows"]) for part in found["sources"]] == [(0, 400), (1, 300)]
    mean = sum(part["recall"] * part["num_rows"] for part in found["sources"]) / NUM_INSTANCES
    assert found["recall"] == mean
    plan.save(tmp_path / "plan.bse")
    assert Plan.load(tmp_path / "plan.bse").report(towers[0]).recall == mean


def test_a_source_below_the_goal_is_named(towers, listed, monkeypatch):
    monkeypatch.setattr(listed, "SHARES", (0.9,))
    sources = (np.arange(NUM_INSTANCES) >= 400).astype(int)
    monkeypatch.setattr(approximate, "FEW_ROWS", 350)
    with pytest.warns(UserWarning, match=r"compose: faiss found [89]\d\.\d% .* of source 0, below the goal of 95%"):
        compose(towers[0], batch_size=20, rank_window=(2, 30), sources=sources, neighbors="faiss")


def test_small_sources_are_searched_exactly(towers, listed, monkeypatch):
    monkeypatch.setattr(approximate, "FEW_ROWS", 500)
    sources = (np.arange(NUM_INSTANCES) >= 600).astype(int)
    options = {"batch_size": 20, "rank_window": (2, 30), "sources": sources}
    plan = compose(towers[0], neighbors="faiss", **options)
    assert [part["source"] for part in plan.info["neighbor_search"]["sources"]] == [0]
    monkeypatch.setattr(approximate, "FEW_ROWS", 10_000)
    plan = compose(towers[0], neighbors="faiss", **options)
    assert content(plan) == content(compose(towers[0], **options))
    assert "Neighbors are exact, because no source has the 10,000 instances" in str(plan.report(towers[0]))


def test_progress_counts_indexed_and_searched_rows(towers, listed):
    stages: dict[str, list] = {}

    class Progress:
        def stage(self, name):
            return lambda done, total: stages.setdefault(name, []).append((done, total))

        def __call__(self, done, total):
            raise AssertionError("a stage is told")

    compose(towers[0], batch_size=50, neighbors="faiss", progress=Progress())
    assert stages["graph"][-1] == (NUM_INSTANCES, NUM_INSTANCES)
    seen = []
    compose(towers[0], batch_size=50, neighbors="faiss", progress=lambda *counts: seen.append(counts))
    assert seen == [(NUM_INSTANCES, NUM_INSTANCES), (1, 1)]


# --- libraries -------------------------------------------------------------------------------------------------------
LIBRARY_CASES = [
    ("cosine", {}, torch.float32),
    ("l2", {"labels": np.arange(NUM_INSTANCES) // 5}, torch.bfloat16),
    ("ip", {"sources": np.arange(NUM_INSTANCES) % 2, "num_hard_negatives": 3}, torch.float16),
]


@pytest.mark.parametrize(("metric", "options", "dtype"), LIBRARY_CASES)
@pytest.mark.parametrize("has_documents", [False, True])
def test_faiss_finds_all_with_the_largest_effort(towers, monkeypatch, metric, options, dtype, has_documents):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "RECALL_GOAL", 1.0)
    monkeypatch.setattr(libraries.FaissIndex, "_ROWS_PER_LIST", 50)
    monkeypatch.setattr(libraries.FaissIndex, "fitted_size", lambda *_: NUM_INSTANCES)
    queries, documents = (tower.to(dtype) for tower in towers)
    arguments = {"batch_size": 32, "metric": metric, "rank_window": (3, 40), **options}
    documents = documents if has_documents else None
    plan = compose(queries, documents, neighbors="faiss", **arguments)
    assert content(plan) == content(compose(queries, documents, **arguments))
    for part in plan.info["neighbor_search"]["sources"]:
        assert part["num_lists"] == part["num_rows"] // 50


def test_faiss_reaches_the_goal_and_leaves_its_threads_alone(rng):
    faiss = pytest.importorskip("faiss")
    queries = torch.from_numpy(rng.standard_normal((4000, 24))).float()
    before = faiss.omp_get_max_threads()
    plans = [compose(queries, batch_size=50, neighbors="faiss", num_threads=threads) for threads in (1, 2, 2)]
    assert faiss.omp_get_max_threads() == before
    assert content(plans[0]) == content(plans[1]) == content(plans[2])
    found = plans[0].info["neighbor_search"]
    assert found["version"] == faiss.__version__
    assert 0.95 <= found["recall"] <= 1.0
    assert found["sources"][0]["num_probed"] <= found["sources"][0]["num_lists"] == 8


def test_rows_that_faiss_cannot_tell_apart_have_neighbors(rng):
    """With repeated rows, its lists hold copies of a row, or too few."""
    pytest.importorskip("faiss")
    different = rng.standard_normal((3800, 16))
    rows = np.concatenate([different, np.repeat(different[:10], 20, axis=0)]).astype(np.float32)
    plan = compose(rows, batch_size=50, rank_window=(0, 60), mutual=False, num_hard_negatives=60, neighbors="faiss")
    assert int(plan.hard_negatives().min()) >= 0


def test_values_that_overflow_in_faiss_are_refused(rng):
    pytest.importorskip("faiss")
    rows = 1e19 * rng.standard_normal((2000, 8)).astype(np.float32)
    for metric in ("ip", "l2"):
        with pytest.raises(ValueError, match="expected 'exact' for values above 1e\\+15, got [1-9].*e\\+19"):
            compose(rows, batch_size=50, metric=metric, neighbors="faiss")


@pytest.mark.parametrize("has_documents", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_pynndescent_reaches_the_goal(rng, has_documents, metric):
    """Also with opposite towers, whose cosines are negative, and with more threads than cores."""
    pytest.importorskip("pynndescent")
    queries = torch.from_numpy(rng.standard_normal((2000, 8))).float()
    documents = None
    if has_documents:
        documents = 0.1 * torch.from_numpy(rng.standard_normal((2000, 8))).float() - queries - 3
        queries = queries + 3
    plan = compose(
        queries,
        documents,
        batch_size=50,
        neighbors="pynndescent",
        metric=metric,
        labels=np.arange(2000) // 4,
        num_threads=8,
    )
    found = plan.info["neighbor_search"]
    assert 0.95 <= found["recall"] <= 1.0
    assert ("epsilon" in found["sources"][0]) == has_documents


@pytest.mark.parametrize("library", ["faiss", "pynndescent"])
def test_missing_library_is_named_with_how_to_install_it(towers, monkeypatch, library):
    monkeypatch.delitem(sys.modules, library, raising=False)
    original = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name == library:
            raise ImportError(f"No module named {name!r}")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(libraries, "import_module", lambda name: refuse(name))
    with pytest.raises(
        ImportError,
        match=rf"neighbors: '{library}' needs the package {library}.* pip install 'batchsampler_ext\[{library}\]'",
    ):
        compose(towers[0], batch_size=50, neighbors=library)


# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": "annoy"}, "neighbors: expected one of 'exact', 'faiss', 'pynndescent', got 'annoy'"),
        ({"preset": "walks"}, "neighbors: expected 'exact' without a window of ranks, got 'faiss'"),
        ({"preset": "uniform"}, "neighbors: expected 'exact' without a window of ranks"),
        ({"preset": "clusters"}, "neighbors: expected 'exact' without a window of ranks"),
        ({"num_candidates": 100}, "neighbors: expected 'exact' without a window of ranks"),
        ({"graph": np.zeros((NUM_INSTANCES, 2), int)}, "neighbors: expected 'exact' without a window of ranks"),
        ({"max_memory": 1 << 30}, "max_memory: expected None with neighbors='faiss', .* got 1073741824"),
        (
            {"sources": np.zeros(NUM_INSTANCES, int), "rank_window": {0: None}},
            "neighbors: expected 'exact' without a window of ranks",
        ),
        (
            {"metric": "ip", "neighbors": "pynndescent"},
            "neighbors: expected 'exact' or 'faiss' with metric='ip', got 'pynndescent'",
        ),
    ],
)
def test_options_without_effect_are_refused_by_name(towers, listed, options, message):
    with pytest.raises(ValueError, match=message):
        compose(towers[0], **{"batch_size": 50, "neighbors": "faiss", **options})


# --- the command -----------------------------------------------------------------------------------------------------
def test_command_takes_neighbors_and_prints_the_recall(towers, listed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", towers[0].numpy())
    arguments = ["compose", "q.npy", "--batch-size", "50", "--out", "plan.bse", "--neighbors"]
    assert main([*arguments, "faiss"]) == 0
    printed = capsys.readouterr().out
    assert "neighbors = faiss" in printed
    assert "faiss 9.9 found 100.0% of the nearest neighbors" in printed
    assert content(Plan.load("plan.bse")) == content(compose(towers[0], batch_size=50, neighbors="faiss"))
    assert main([*arguments, "faiss", "--preset", "walks"]) == 2
    assert "--neighbors: expected 'exact' without a window of ranks" in capsys.readouterr().err
