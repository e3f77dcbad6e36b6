"""The rule of ``advise``: which setting it recommends for which measures, and the reasons that it gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchsampler_ext._plan.advice import (
    COMMUNITY_SIZES,
    Advice,
    Outcome,
    recommend,
    sizes_for,
    times_uniform,
    windows_for,
)
from batchsampler_ext._plan.recipes import PRESETS

B3, NEAREST = (30, 130), (0, 100)
UNIFORM = Outcome(None, 1, similarity=0.07, hardest=0.4, accuracy=0.9, near_own=0.3)
HINT = "In the plan's batches, the teacher scores the own document highest for 2.5% of the queries. Use margin=."


def advice(
    *, b3: dict[int, float], nearest: dict[int, float] | None = None, uniform: Outcome = UNIFORM, **changes
) -> Advice:
    """Returns the advice for similarities by size of communities. changes: fields of the outcomes of ``b3``."""
    outcomes = [Outcome(B3, size, similarity, 0.5, 0.6, 0.8) for size, similarity in b3.items()]
    outcomes = [replace(outcome, **changes) for outcome in outcomes]
    outcomes += [Outcome(NEAREST, size, similarity, 0.6, 0.5, 2.0) for size, similarity in (nearest or {}).items()]
    return recommend(outcomes, uniform, num_instances=5000, batch_size=256, metric="cosine")


@pytest.mark.parametrize(
    ("similarities", "arguments"),
    [
        ({8: 0.08, 32: 0.10, 256: 0.30}, {"preset": "b3"}),
        ({8: 0.08, 32: 0.13, 256: 0.13}, {"preset": "b3"}),  # larger communities are not an improvement
        ({8: 0.08, 32: 0.22, 256: 0.30}, {"preset": "b3", "community_size": 8}),
        ({8: 0.22, 32: 0.23, 256: 0.30}, {"preset": "uniform"}),
    ],
)
def test_too_similar_batches_are_not_recommended(similarities, arguments):
    found = advice(b3=similarities, nearest=dict.fromkeys(similarities, 0.08))
    assert found.arguments == arguments
    is_mentioned = any("ore than 3 times" in reason for reason in found.reasons)
    assert is_mentioned == (max(similarities.values()) > 0.21)


def test_similarity_is_not_judged_where_uniform_batches_have_none():
    around_zero = replace(UNIFORM, similarity=0.001)
    found = advice(b3={8: 0.02, 32: 0.1, 256: 0.4}, uniform=around_zero)
    assert found.arguments == {"preset": "b3"}
    assert any("is not known" in reason for reason in found.reasons)
    assert times_uniform(UNIFORM, UNIFORM, "cosine") == 1
    assert times_uniform(UNIFORM, UNIFORM, "l2") is None


@pytest.mark.parametrize(("near_own", "text"), [(6.4, "set no relative margin"), (6.3, "margin changes little")])
def test_a_margin_is_advised_by_what_it_would_remove(near_own, text):
    found = advice(b3={8: 0.08, 32: 0.1, 256: 0.3}, near_own=near_own)
    (reason,) = [reason for reason in found.reasons if reason.startswith(f"{near_own} other documents")]
    assert f"If you train the teacher itself further, {text}" in reason or f"further, a relative {text}" in reason
    assert "weaker than the teacher with InfoNCE, set relative_margin=0.05" in reason


def test_without_documents_nothing_is_said_about_margins_and_accuracy():
    text = " ".join(
        advice(
            b3={8: 0.08, 32: 0.1, 256: 0.3},
            near_own=None,
            accuracy=None,
            uniform=replace(UNIFORM, accuracy=None, near_own=None),
        ).reasons
    )
    assert "margin" not in text
    assert "own document" not in text


def test_uniform_batches_if_the_teacher_cannot_tell():
    found = advice(b3={8: 0.08, 32: 0.1, 256: 0.3}, teacher_hint=HINT)
    assert found.arguments == {"preset": "uniform"}
    assert found.outcome is UNIFORM
    assert found.reasons[0].endswith("scores the own document highest for 2.5% of the queries.")
    assert "margin" not in " ".join(found.reasons)


def test_labels_count_false_negatives():
    uniform = replace(UNIFORM, false_negatives=0.01)
    found = advice(b3={8: 0.08, 32: 0.1, 256: 0.3}, false_negatives=0.04, uniform=uniform)
    assert any("4.0% have equal labels" in reason and "1.0% in uniform" in reason for reason in found.reasons)
    assert found.arguments == {"preset": "b3"}


def test_uniform_batches_if_many_negatives_are_false():
    found = advice(b3={8: 0.08, 32: 0.1, 256: 0.3}, false_negatives=0.2, uniform=replace(UNIFORM, false_negatives=0.1))
    assert found.arguments == {"preset": "uniform"}
    assert "20.0% have equal labels" in found.reasons[0]


@pytest.mark.parametrize(
    ("num_instances", "windows", "num_skipped"),
    [
        (520, [(0, 100), (10, 110), (30, 130), (100, 200)], 0),
        (519, [(32, 129), (0, 100), (10, 110), (30, 130), (100, 200)], 0),
        (131, [(8, 32), (0, 100), (10, 110), (30, 130)], 1),
        (130, [(8, 32), (0, 100), (10, 110)], 2),
        (40, [(2, 10)], 4),
        (4, [(0, 1)], 4),
    ],
)
def test_windows_that_fit(num_instances, windows, num_skipped):
    found, skipped = windows_for(num_instances)
    assert found == windows
    assert len(skipped) == num_skipped


def test_few_instances_have_a_nearer_window():
    outcomes = [Outcome((2, 10), size, 0.08, 0.5) for size in (2, 4)]
    found = recommend(outcomes, UNIFORM, num_instances=40, batch_size=4, metric="cosine")
    assert found.arguments == {"preset": "b3", "rank_window": (2, 10)}
    assert "Ranks 3 to 10" in found.reasons[0]


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(256, [8, 32, 256]), (100, [5, 25, 100]), (32, [8, 32]), (8, [8]), (2, [2]), (34, [2, 17, 34])],
)
def test_sizes_divide_the_batch_size(batch_size, sizes):
    assert sizes_for(batch_size) == sizes


def test_the_last_size_is_that_of_the_preset():
    assert PRESETS["b3"].community_size == COMMUNITY_SIZES[-1]


def test_a_batch_size_without_communities_is_refused():
    with pytest.raises(ValueError, match="batch_size: expected a number with a divisor from 2 to 32, .*got 127"):
        sizes_for(127)
