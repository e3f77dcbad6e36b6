"""Which settings of :func:`compose` to use for a data set, and why. The command ``advise`` measures and prints it.

"The study" is that in docs/study/PRETRAINED.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .hints import B3_WINDOW, MAX_MASKED, share_of_others
from .measures import NEAR_OWN
from .recipes import fitted_sizes, nearer_window

FIRST_SKIPPED = (0, 10, B3_WINDOW[0], 100)  # p of the windows, those that the study compares
WIDTH = B3_WINDOW[1] - B3_WINDOW[0]
COMMUNITY_SIZES = (8, 32)  # beside the batch size, those that the study compares. The last one is that of "b3"

MAX_TIMES_UNIFORM = 3.0
"""In-batch similarity above this many times that of uniform batches is advised against, by the teacher's scores.

In the study, batches that are whole regions ("walks", "clusters") have 3.3 times the similarity of uniform ones on
captions, and lost 0.3 to 0.6 points there in heads. With 1.3 to 2.4 times, on docstrings and glosses, heads lost at
most 0.2.
"""
MIN_UNIFORM = 0.03
"""Mean cosine in uniform batches below which MAX_TIMES_UNIFORM does not apply: the study has 0.07 to 0.08. A ratio to a
number near zero, as after subtraction of the mean, says nothing."""
MAX_FALSE_NEGATIVES = 0.05
"""Share of pairs with equal labels, above which hard batches are advised against: on images of ten classes, where it is
0.1, docs/study/STUDY.md found no gain."""
NUM_PER_RANK = 4  # the window of "b3" has to lie in the nearest quarter of the data: farther rows are not near


@dataclass(frozen=True)
class Outcome:
    """What was measured of one setting. Scores are those of the teacher, and None stands for what the data lack.

    Attributes:
        window: (p, q) for neighbors of rank p + 1 to q. None: batches are uniform.
        community_size: number of instances that are close to each other, 1 in uniform batches.
        similarity: mean score of a query and another instance's document.
        hardest: mean over queries, the best score of another instance's document in the batch.
        accuracy: share of queries whose own document scores highest in the batch.
        near_own: other documents in the batch, per query, within NEAR_OWN of the own document's score.
        false_negatives: share of pairs with equal labels.
        seconds: time of composing an epoch, without the search.
        teacher_hint: says that the teacher cannot tell, see :func:`teacher_hint`. None: it can.
        hints: those of the plan's report.
    """

    window: tuple[int, int] | None
    community_size: int
    similarity: float
    hardest: float
    accuracy: float | None = None
    near_own: float | None = None
    false_negatives: float | None = None
    seconds: float = 0.0
    teacher_hint: str | None = None
    hints: tuple[str, ...] = ()


class Advice(NamedTuple):
    """The setting to use.

    arguments: of :func:`compose`, beside data and batch size. summary: what the setting is. reasons: sentences.
    """

    outcome: Outcome
    arguments: dict[str, Any]
    summary: str
    reasons: list[str]


def windows_for(num_instances: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns windows to measure, and those that need more instances.

    Where the window of "b3" is not near, a nearer one comes first.
    """
    all_windows = [(first, first + WIDTH) for first in FIRST_SKIPPED]
    fitting = [window for window in all_windows if window[1] < num_instances]
    skipped = all_windows[len(fitting) :]
    preferred = preferred_window(num_instances)
    return fitting if preferred in fitting else [preferred, *fitting], skipped


def preferred_window(num_instances: int) -> tuple[int, int]:
    """Returns the window of preset "b3", or a nearer one if there are few instances."""
    return B3_WINDOW if num_instances >= NUM_PER_RANK * B3_WINDOW[1] else nearer_window(num_instances)


def sizes_for(batch_size: int) -> list[int]:
    """Returns sizes of communities to measure, ascending: divisors of the batch size, as presets choose them.

    Raises:
        ValueError: "b3" has no size for this batch size.
    """
    try:
        fitted = fitted_sizes(COMMUNITY_SIZES, batch_size, "batch_size", "b3")
    except ValueError:
        raise ValueError(
            f"batch_size: expected a number with a divisor from 2 to {COMMUNITY_SIZES[-1]}, the largest size of "
            f"communities of preset b3, got {batch_size}"
        ) from None
    return sorted({*fitted, batch_size} - {1})


def recommend(
    outcomes: Sequence[Outcome], uniform: Outcome, *, num_instances: int, batch_size: int, metric: str
) -> Advice:
    """Returns the setting to use: preset "b3", unless the measures speak against it.

    The preset's window and size of communities are the first choice, or a nearer window if there are few instances.
    Batches are uniform if the teacher cannot tell documents apart, or if many negatives are false by their labels. If
    batches are too similar by MAX_TIMES_UNIFORM, communities are smaller, and batches are uniform if none is small
    enough.

    Args:
        outcomes: of all windows of :func:`windows_for` and sizes of :func:`sizes_for`.
        uniform: of uniform batches.
        num_instances, batch_size, metric: of :func:`compose`.
    """
    window = preferred_window(num_instances)
    size = fitted_sizes(COMMUNITY_SIZES[-1], batch_size, "batch_size", "b3")[0]
    by_size = {outcome.community_size: outcome for outcome in outcomes if outcome.window == window}
    first = by_size[size]
    if first.teacher_hint is not None:
        return _uniform(uniform, [*_weak_teacher(first, batch_size), _LOSS])
    if (first.false_negatives or 0.0) > MAX_FALSE_NEGATIVES:
        return _uniform(uniform, [*_labels(first, uniform, batch_size), _FALSE, _LOSS])
    allowed = {own for own, outcome in by_size.items() if not is_too_similar(outcome, uniform, metric)}
    smaller = [own for own in allowed if own <= size]
    if not smaller:
        times = times_uniform(by_size[min(by_size)], uniform, metric)
        reason = (
            f"Even communities of {min(by_size)} make batches {times:.1f} times as similar as uniform ones, and more "
            f"than {MAX_TIMES_UNIFORM:g} times is advised against: {_LOST}"
        )
        return _uniform(uniform, [reason, _LOSS])
    chosen = by_size[max(smaller)]
    is_preset = chosen is first and window == B3_WINDOW
    arguments: dict[str, Any] = {"preset": "b3"}
    if window != B3_WINDOW:
        arguments["rank_window"] = window
    if chosen is not first:
        arguments["community_size"] = chosen.community_size
    reasons = [
        *_window(window, num_instances, has_documents=chosen.accuracy is not None),
        *_similarity(chosen, uniform, metric),
        *_size(by_size, chosen, first, uniform, metric, batch_size),
        *_labels(chosen, uniform, batch_size),
        _LOSS,
        *([_GAIN] if chosen.accuracy is not None else []),  # the study has pairs
        *_margin(chosen, batch_size),
    ]
    name = "Preset b3" if is_preset else "Preset b3, changed"
    return Advice(chosen, arguments, f"{name}: {described(chosen, batch_size)}", reasons)


def times_uniform(outcome: Outcome, uniform: Outcome, metric: str) -> float | None:
    """Returns how many times as similar batches are as uniform ones. None: the ratio says nothing."""
    if metric != "cosine" or not uniform.similarity >= MIN_UNIFORM:
        return None
    return outcome.similarity / uniform.similarity


def is_too_similar(outcome: Outcome, uniform: Outcome, metric: str) -> bool:
    times = times_uniform(outcome, uniform, metric)
    return times is not None and times > MAX_TIMES_UNIFORM


def described(outcome: Outcome, batch_size: int) -> str:
    """Returns a setting in words."""
    if outcome.window is None:
        return "uniform batches"
    size = outcome.community_size
    what = "each batch is one community" if size == batch_size else f"communities of {size}"
    return f"{ranks(outcome.window)}, {what}"


def ranks(window: tuple[int, int]) -> str:
    return f"ranks {window[0] + 1} to {window[1]}"


# Tiers "head" (B = 256, 20 seeds), "static" (256, 5 to 8) and "encoder" (32, 5), with the parameters of InfoNCE.
_LOSS = (
    "Train with a loss that gives hard negatives more weight, such as hardness_mode of sentence-transformers, and keep "
    "the learning rate and the temperature that you use for InfoNCE. In the study, uniform batches with it gained 0.35 "
    "to 0.54 points of MRR@10 (mean reciprocal rank of the right document, in percent) where the teacher got a new "
    "head, 0.5 and 0.8 where all of it was trained, and 0.7 to 1.1 in static embeddings."
)
_GAIN = (
    "In the study, b3 with such a loss was 0.1 points worse to 0.4 better than uniform batches with it, where the "
    "teacher got a new head, and 0.3 (-0.2 to +0.7) and 1.0 (-0.2 to +2.2) better where all of it was trained. If you "
    "train a model that is weaker than the teacher, use uniform batches with that loss: in static embeddings, b3 was "
    "up to 1.9 points worse."
)
_LOST = (
    "on one of the study's data sets, batches 3.3 times as similar as uniform ones were 0.3 to 0.6 points worse, with "
    "a head on the teacher."
)
_FALSE = (
    f"With more than {MAX_FALSE_NEGATIVES:.0%}, hard batches are advised against: where it was 10%, the first study "
    "(docs/study/STUDY.md) found no gain. With compose(labels=...), instances with equal labels are not joined."
)


def _uniform(uniform: Outcome, reasons: list[str]) -> Advice:
    return Advice(uniform, {"preset": "uniform"}, "Preset uniform: random batches", reasons)


def _weak_teacher(first: Outcome, batch_size: int) -> list[str]:
    """The first sentence of the hint says what was measured. Others are about hard batches."""
    found = (first.teacher_hint or "").split(". ")[0].rstrip(".")
    return [
        f"Measured with {described(first, batch_size)}: {found}.",
        "So the teacher cannot tell documents apart that are near a query. On two such data sets, hard batches gained "
        "nothing over uniform ones in the study, where the teacher got a new head and the loss gives hard negatives "
        "more weight: 0.02 points (-0.16 to +0.19) and -0.09 (-0.17 to 0.00).",
        "Check first that queries and documents are in the same order. Run this command again with a better teacher.",
    ]


def _window(window: tuple[int, int], num_instances: int, *, has_documents: bool) -> list[str]:
    if window != B3_WINDOW:
        return [
            f"Preset b3 joins neighbors of {ranks(B3_WINDOW)}, and of {num_instances:,} instances these are not near. "
            f"{ranks(window).capitalize()} have similar proportions within the nearest quarter of the data."
        ]
    why = "may answer the query, too" if has_documents else "may be alike, so they would be false negatives"
    return [
        f"Neighbors of {ranks(window)} are hard negatives. The {window[0]} nearest are skipped, because some of them "
        f"{why}. These ranks are those of B3 (arXiv 2505.11293), for data sets of all sizes."
    ]


def _similarity(chosen: Outcome, uniform: Outcome, metric: str) -> list[str]:
    times = times_uniform(chosen, uniform, metric)
    more = f"{times:.1f} times that of uniform batches ({uniform.similarity:.3f})" if times is not None else (
        f"in uniform batches {uniform.similarity:.3f}"
    )  # fmt: skip
    result = [f"In these batches, the mean score of a query and a negative is {chosen.similarity:.3f}, {more}."]
    if times is None:
        result.append(
            f"Whether that is too similar is not known: the limit of {MAX_TIMES_UNIFORM:g} times is from data where "
            f"uniform batches have a mean cosine of at least {MIN_UNIFORM}."
        )
    if chosen.accuracy is not None and uniform.accuracy is not None:
        result.append(
            f"The teacher scores the own document highest in the batch for {chosen.accuracy:.1%} of the queries, and "
            f"for {uniform.accuracy:.1%} in uniform batches."
        )
    return result


def _size(
    by_size: dict[int, Outcome], chosen: Outcome, first: Outcome, uniform: Outcome, metric: str, batch_size: int
) -> list[str]:
    """Says which communities are too large, and whether that of the preset is among them."""
    too_large = {
        size: times_uniform(outcome, uniform, metric)
        for size, outcome in sorted(by_size.items())
        if size > chosen.community_size and is_too_similar(outcome, uniform, metric)
    }
    if not too_large:
        return []
    sizes = " and ".join(map(str, too_large))
    factors = " and ".join(f"{times:.1f}" for times in too_large.values())
    whole = ", the whole batch," if batch_size in too_large else ""
    but = (
        ""
        if chosen is first
        else f" So communities have {chosen.community_size} instances here, not {first.community_size}."
    )
    return [
        f"Communities of {sizes}{whole} would make batches {factors} times as similar as uniform ones. More than "
        f"{MAX_TIMES_UNIFORM:g} times is advised against: {_LOST}{but}"
    ]


def _labels(outcome: Outcome, uniform: Outcome, batch_size: int) -> list[str]:
    if outcome.false_negatives is None or uniform.false_negatives is None:
        return []
    return [
        f"Of the pairs in batches with {described(outcome, batch_size)}, {outcome.false_negatives:.1%} have equal "
        f"labels, so they are false negatives ({uniform.false_negatives:.1%} in uniform batches). Leave them out of "
        "the loss with the plan's negative_mask."
    ]


def _margin(chosen: Outcome, batch_size: int) -> list[str]:
    if chosen.near_own is None:
        return []
    share = share_of_others(chosen.near_own, batch_size)
    near = (
        f"{chosen.near_own:.1f} other documents per query in a batch ({share:.1%}) score within {NEAR_OWN:.0%} of its "
        "own document, or above it"
    )
    if_teacher = (
        "set no relative margin: it would remove these negatives, and heads were 0.4 and 1.3 points worse where these "
        "were 3% and 11%"
        if share > MAX_MASKED
        else "a relative margin changes little: in heads it made b3 at most 0.2 points worse where it removed 2%"
    )
    return [
        f"{near}. If you train the teacher itself further, {if_teacher}. If you train a model that is weaker than the "
        "teacher with InfoNCE, set relative_margin=0.05: with it, b3 was 0.0 to 0.5 points better than uniform batches "
        "in static embeddings, and without it from 1.4 worse to 0.4 better."
    ]
