"""Plan.report(): ranks, the figure, and when it gives a hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchsampler_ext import Plan, ProximityGraph, compose, knn_graph
from batchsampler_ext._plan import measures
from batchsampler_ext._plan.report import histogram

NUM_INSTANCES = 400


@pytest.fixture(scope="module")
def towers() -> tuple[np.ndarray, np.ndarray]:
    """Ten classes of queries, and documents that are often, but not always nearest to their queries."""
    rng = np.random.default_rng(0)
    centers = 2 * rng.standard_normal((10, 16))
    queries = centers[rng.integers(0, 10, NUM_INSTANCES)] + rng.standard_normal((NUM_INSTANCES, 16))
    documents = queries + 0.9 * rng.standard_normal(queries.shape)
    return queries.astype("f4"), documents.astype("f4")


def b3(*towers, **options) -> Plan:
    return compose(*towers, **{"batch_size": 40, "rank_window": (5, 30), "community_size": 20, **options})


def hints_of(plan: Plan, *towers, epoch: int = 0) -> list[str]:
    found = plan.report(*towers, epoch=epoch).hints
    text = " ".join(str(plan.report(*towers, epoch=epoch)).split())
    assert ("Hints" in text) == bool(found)
    assert all(hint in text for hint in found)
    return found


def test_good_plans_get_no_hint(towers):
    for options in ({}, {"community_size": [1, 20], "num_epochs": 2}, {"mutual": False}, {"metric": "l2"}):
        assert hints_of(b3(*towers, **options), *towers) == []
    for preset in ("uniform", "clusters"):
        assert hints_of(compose(*towers, batch_size=40, preset=preset), *towers) == []
    assert hints_of(b3(towers[0]), towers[0]) == []
    assert hints_of(compose(towers[0], batch_size=500, preset="walks"), towers[0]) == []


def test_a_plan_that_is_loaded_gets_the_same_report(towers, tmp_path):
    plan = b3(*towers)
    plan.save(tmp_path / "plan.bse")
    expected, found = (p.report(*towers) for p in (plan, Plan.load(tmp_path / "plan.bse")))
    assert "edges_inside" in expected["planned"]
    assert "edges_inside" not in found["planned"]
    assert (found.own_rank, found.figure, found.hints) == (expected.own_rank, expected.figure, expected.hints)


# --- the window ------------------------------------------------------------------------------------------------------
def test_candidates_that_miss_the_window_of_b3(towers):
    (hint,) = hints_of(
        compose(*towers, batch_size=40, preset="walks", num_candidates=3, num_neighbors=2), *towers
    )[:1]  # fmt: skip
    assert hint == (
        "The 2 best of 3 random candidates among 400 instances have ranks from about 133 to 267, so nearer ones are "
        "rarely found. Set rank_window=(30, 130), which is searched exactly, or num_candidates=14 and num_neighbors=4, "
        "which reach these ranks in expectation."
    )
    for num_candidates, is_missed in ((3, True), (4, False), (400, False)):
        plan = compose(*towers, batch_size=40, preset="walks", num_candidates=num_candidates)
        assert any("random candidates" in hint for hint in hints_of(plan, *towers)) == is_missed


def test_the_window_is_that_of_the_largest_source(towers):
    for sizes, is_missed in (((300, 100), True), ((210, 190), False)):
        sources = np.repeat([4, 7], sizes)
        plan = compose(*towers, batch_size=20, preset="walks", num_candidates=2, sources=sources)
        found = [hint for hint in hints_of(plan, *towers) if "random candidates" in hint]
        assert len(found) == is_missed
        assert all("2 random candidates among the 300 instances of source 4 have" in hint for hint in found)


def test_the_ranks_in_the_hint_are_those_that_candidates_have(towers):
    """The k-th best of M random candidates among N has rank k N / M in expectation, up to the end of the list."""
    queries = towers[0]
    graph = compose(queries, batch_size=40, preset="walks", num_candidates=8, num_neighbors=2, num_hard_negatives=2)
    order = knn_graph(queries, NUM_INSTANCES - 1).neighbors
    found = graph.hard_negatives()
    ranks = (order[:, None, :] == found[:, :, None]).nonzero()[:, 2].reshape(NUM_INSTANCES, 2) + 1
    expected = NUM_INSTANCES / 9 * torch.tensor([1.0, 2.0])
    assert torch.allclose(ranks.double().mean(0).float(), expected, rtol=0.15)


# --- the teacher -----------------------------------------------------------------------------------------------------
def test_own_ranks_are_those_of_a_simple_computation(towers, monkeypatch):
    for metric in ("cosine", "ip", "l2"):
        queries, documents = (torch.from_numpy(tower).double() for tower in towers)
        if metric == "cosine":
            queries, documents = (torch.nn.functional.normalize(tower, dim=1) for tower in (queries, documents))
        scores = -torch.cdist(queries, documents) if metric == "l2" else queries @ documents.T
        chosen = np.linspace(0, NUM_INSTANCES - 1, 256).astype(int)
        ranks = 1 + (scores > scores.diagonal()[:, None]).sum(1).numpy()[chosen]
        found = b3(*towers, metric=metric).report(*towers).own_rank
        assert found == np.median(ranks)
        monkeypatch.setattr(measures, "_ROWS_AT_ONCE", 28)
        assert measures.median_rank_of_own(*towers, metric) == found
        monkeypatch.undo()
    assert b3(towers[0]).report(towers[0]).own_rank is None


def test_equal_documents_do_not_worsen_ranks():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2000)
    documents = rng.standard_normal((5, 33)).astype("f4")[labels]
    queries = documents + 0.01 * rng.standard_normal(documents.shape).astype("f4")
    assert [measures.median_rank_of_own(queries, documents, metric) for metric in ("cosine", "ip", "l2")] == [1, 1, 1]


def test_ranks_among_a_sample_are_scaled(towers, monkeypatch):
    rng = np.random.default_rng(0)
    shuffled = towers[1][rng.permutation(NUM_INSTANCES)]
    exact = measures.median_rank_of_own(towers[0], shuffled, "cosine")
    monkeypatch.setattr(measures, "MAX_RANKED_DOCUMENTS", 100)
    assert measures.median_rank_of_own(towers[0], shuffled, "cosine") == pytest.approx(exact, rel=0.15)


def test_a_teacher_that_does_not_know_the_pairs(towers):
    shuffled = towers[0], towers[1][np.random.default_rng(0).permutation(NUM_INSTANCES)]
    (hint,) = hints_of(b3(*shuffled), *shuffled)
    rank = b3(*shuffled).report(*shuffled).own_rank
    assert 100 < rank < 300
    assert hint.startswith(
        f"The teacher ranks the own document of half of the queries at {rank:,.0f} or worse, below all of their hard "
        "negatives (ranks up to 30)."
    )
    # Ranks among all documents say nothing about windows of sources.
    plan = b3(*shuffled, sources=np.arange(NUM_INSTANCES) % 2)
    assert not any("ranks the own document" in hint for hint in hints_of(plan, *shuffled))


def test_accuracy_near_chance():
    """Groups of twenty equal documents."""
    rng = np.random.default_rng(0)
    documents = np.repeat(rng.standard_normal((20, 16)), 20, axis=0) + 1e-3 * rng.standard_normal((400, 16))
    queries = documents + 0.05 * rng.standard_normal(documents.shape)
    towers = queries.astype("f4"), documents.astype("f4")
    (hint,) = hints_of(b3(*towers, rank_window=(0, 19), batch_size=20), *towers)
    assert hint.startswith("In the plan's batches, the teacher scores the own document highest for ")
    assert "where guessing among 20 hard negatives has 5.0%" in hint


# --- hardness --------------------------------------------------------------------------------------------------------
def test_batches_that_the_teacher_solves(towers):
    near = towers[0], towers[0] + 1e-3
    (hint,) = hints_of(b3(*near), *near)
    assert hint.startswith("In the plan's batches, the teacher scores the own document highest for 100.0%")
    assert hint.endswith("Larger communities, a window of nearer ranks or larger batches make them harder.")
    for options, advice in (
        ({"preset": "clusters"}, "Fewer batches_per_cluster or larger batches make them harder."),
        ({"preset": "walks", "num_candidates": 90}, "More candidates or larger batches make them harder."),
        ({"rank_window": (0, 20), "community_size": 40}, "Larger batches make them harder."),
    ):
        (hint,) = hints_of(compose(*near, **{"batch_size": 40, **options}), *near)
        assert hint.endswith(advice)
    for plan in (b3(*near, community_size=[1, 20], num_epochs=2), compose(*near, batch_size=40, preset="uniform")):
        (hint,) = hints_of(plan, *near)
        assert hint.startswith("In these uniform batches, the teacher scores the own document highest for 100.0%")


def test_batches_that_are_no_harder_than_uniform_ones(towers):
    random = torch.from_numpy(np.random.default_rng(0).integers(0, NUM_INSTANCES, (NUM_INSTANCES, 5)))
    plan = compose(towers[0], batch_size=40, community_size=20, graph=ProximityGraph(random.int()))
    (hint,) = hints_of(plan, towers[0])
    assert hint.startswith("The plan's batches are barely harder than uniform ones: the hardest other instance of a")
    curriculum = b3(towers[0], community_size=[1, 20], num_epochs=2)
    assert hints_of(curriculum, towers[0], epoch=0) == hints_of(curriculum, towers[0], epoch=1) == []


# --- the figure ------------------------------------------------------------------------------------------------------
def test_histogram():
    values = {"a": np.array([0.0, 0.0, 0.0, 1.0]), "bc": np.array([0.5, 0.55, np.nan])}
    assert histogram("Title", values) == (
        "Title\n"
        "  score       a                      bc\n"
        "  0.0 to 0.1   75% ############\n"
        "  0.1 to 0.2\n"
        "  0.2 to 0.3\n"
        "  0.3 to 0.4\n"
        "  0.4 to 0.5\n"
        "  0.5 to 0.6                         100% ################\n"
        "  0.6 to 0.7\n"
        "  0.7 to 0.8\n"
        "  0.8 to 0.9\n"
        "  0.9 to 1.0   25% ####"
    )
    assert histogram("Title", {"a": np.array([np.nan]), "b": np.empty(0)}) == ""


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 3.7, 1e9, 1e30])
@pytest.mark.parametrize("offset", [0.0, -3.0, 1e4])
def test_histograms_hold_all_values_at_any_scale(scale, offset):
    for values in (np.random.default_rng(0).standard_normal(1000), np.zeros(3), np.array([1.0])):
        text = histogram("Title", {"a": (scale * (values + offset)).astype("f8")})
        rows = text.splitlines()[2:]
        assert 1 <= len(rows) <= 13
        shares = [int(row.split("%")[0].split()[-1]) for row in rows if "%" in row]
        assert sum(shares) == pytest.approx(100, abs=len(shares) / 2)


def test_the_figure_has_the_scores_of_the_hardest_others(towers):
    plan = b3(*towers)
    queries, documents = (torch.nn.functional.normalize(torch.from_numpy(tower).double(), dim=1) for tower in towers)
    hardest, own = [], []
    for ids in plan.batches(0):
        scores = queries[ids] @ documents[ids].T
        own.append(scores.diagonal().clone())
        hardest.append(scores.fill_diagonal_(-2).max(1).values)
    found = measures.hardness(plan.batches(0), *towers, "cosine")
    assert np.allclose(found.hardest, torch.cat(hardest), atol=1e-6)
    assert np.allclose(found.own, torch.cat(own), atol=1e-6)
    figure = plan.report(*towers).figure
    assert figure.splitlines()[1].split() == ["score", "planned", "uniform", "own", "document"]
    assert b3(towers[0]).report(towers[0]).figure.splitlines()[1].split() == ["score", "planned", "uniform"]


# --- margins ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("margin", [{"relative_margin": 0.5}, {"margin": 0.4}])
def test_margins_that_leave_many_documents_out(towers, margin):
    plan = b3(*towers, batch_size=80, **margin)
    (hint,) = [hint for hint in hints_of(plan, *towers) if "The margin leaves" in hint]
    counts = [(~plan.negative_mask(ids)).sum(1).float().mean() - 1 for ids in plan.batches(0)]
    assert f"leaves {torch.stack(counts).mean():.1f} other documents" in hint
    assert not [hint for hint in hints_of(b3(*towers, relative_margin=0.01), *towers) if "margin leaves" in hint]
