"""What the user of a plan should know: a sentence for each measure that is out of its range."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .measures import Hardness

B3_WINDOW = (30, 130)  # that of the preset, for all sizes of data (arXiv 2505.11293)
SOLVED = 0.99  # fewer than one query in a hundred has a negative that is harder than its document
TIMES_CHANCE = 2.0
MIN_EFFECT = 0.2  # standard deviations; Cohen (1988) calls 0.2 a small effect
MAX_MASKED = 0.025
"""Share of the other documents of a batch that a margin may leave out of the loss.

In docs/study/PRETRAINED.md, batches of 256 of "b3" have 2.1% (docstrings), 3.0% (captions) and 11% (glosses) within 5%
of the own document's score. Where the teacher got a new head, that margin changed MRR@10 by +0.1, -0.4 and -1.3 points
over uniform batches with InfoNCE, and on glosses by as much in batches of 32. Where a weaker model was trained (static
embeddings), it was +0.4, +0.5 and 0.0, and "b3" without margin had +0.4, -1.4 and -1.1.
"""


class Measured(NamedTuple):
    """What hints are about. Scores are those of the teacher."""

    planned: Hardness
    uniform: Hardness
    own_rank: float | None  # median rank of a query's own document, None without documents


def hints(
    info: dict[str, Any], num_instances: int, batch_size: int, num_epochs: int, epoch: int, measured: Measured
) -> list[str]:
    """Returns sentences, at most four. info: of the plan.

    Hardness is left out if the teacher cannot tell positives from negatives, because it then means little.
    """
    teacher = teacher_hint(info, num_instances, epoch, measured)
    hardness = None if teacher else hardness_hint(info, num_instances, batch_size, epoch, measured)
    margin = None if teacher else margin_hint(info, batch_size, measured)  # the former says so, too
    found = (window_hint(info, num_instances), sizes_hint(info, num_epochs), teacher, margin, hardness)
    return [hint for hint in found if hint is not None]


def sizes_hint(info: dict[str, Any], num_epochs: int) -> str | None:
    """Says if there are fewer epochs than sizes of communities."""
    sizes = info.get("community_size") or []
    if len(sizes) <= num_epochs:
        return None
    unused = ", ".join(map(str, sizes[num_epochs:]))
    verb, ending = "is" if len(sizes) == num_epochs + 1 else "are", "" if num_epochs == 1 else "s"
    return (
        f"Each epoch has one size of communities, and the plan has {len(sizes)} sizes for {num_epochs} epoch{ending}, "
        f"so {unused} {verb} not used. Set num_epochs={len(sizes)}, or fewer sizes with community_size."
    )


def window_hint(info: dict[str, Any], num_instances: int) -> str | None:
    """Says if random candidates miss the window of B3: if even the best is farther, in expectation.

    The k-th best of M random candidates among N has rank k N / M in expectation.
    """
    num_candidates, num_neighbors = info.get("num_candidates"), info.get("num_neighbors")
    if num_candidates is None or num_neighbors is None:
        return None
    source, size = None, num_instances
    if info.get("sources"):
        source, size = max(info["sources"], key=lambda pair: pair[1])
    nearest = size / min(num_candidates, max(size - 1, 1))
    if nearest <= B3_WINDOW[1]:
        return None
    wanted, kept = math.ceil(size / B3_WINDOW[0]), B3_WINDOW[1] // B3_WINDOW[0]
    rows = f"{size:,} instances" if source is None else f"the {size:,} instances of source {source}"
    return (
        f"The {num_neighbors:,} best of {num_candidates:,} random candidates among {rows} have ranks from about "
        f"{nearest:,.0f} to {num_neighbors * nearest:,.0f}, so nearer ones are rarely found. Set "
        f"rank_window={B3_WINDOW}, which is searched exactly, or num_candidates={wanted} and num_neighbors={kept}, "
        "which reach these ranks in expectation."
    )


def teacher_hint(info: dict[str, Any], num_instances: int, epoch: int, measured: Measured) -> str | None:
    """Says if the teacher cannot tell a query's own document from hard negatives."""
    farthest, rank = _farthest_rank(info, num_instances), measured.own_rank
    if rank is not None and farthest is not None and rank > farthest:
        return (
            f"The teacher ranks the own document of half of the queries at {rank:,.0f} or worse, below all of their "
            f"hard negatives (ranks up to {farthest:,.0f}). So it cannot tell these from positives, and margins would "
            "exclude most of them. Use a better teacher, or check that queries and documents are in the same order."
        )
    accuracy, size = measured.planned.means.get("in_batch_accuracy"), community_size(info, epoch)
    if accuracy is None or size < 2 * TIMES_CHANCE or not accuracy < TIMES_CHANCE / size:
        return None
    return (
        f"In the plan's batches, the teacher scores the own document highest for {accuracy:.1%} of the queries, where "
        f"guessing among {size} hard negatives has {1 / size:.1%}. Many of them may be false. Use margin= or a window "
        "of farther ranks."
    )


def margin_hint(info: dict[str, Any], batch_size: int, measured: Measured) -> str | None:
    """Says if margins leave many documents out."""
    num_masked = measured.planned.near_own
    share = share_of_others(num_masked, batch_size)
    has_margin = any(info.get(name) is not None for name in ("margin", "relative_margin"))
    if not has_margin or not share > MAX_MASKED:
        return None
    return (
        f"The margin leaves {num_masked:.1f} other documents per query out of the loss, {share:.1%} of a batch of "
        f"{batch_size}. In the study (docs/study/PRETRAINED.md), heads on the teacher were 0.4 and 1.3 points worse "
        "where it left out 3% and 11%, and models weaker than the teacher were not. If you train the teacher itself or "
        "a head, set a smaller one, or none."
    )


def share_of_others(number: float, batch_size: int) -> float:
    """Returns which share of the other documents of a batch a number of them is."""
    return number / max(batch_size - 1, 1)


def hardness_hint(
    info: dict[str, Any], num_instances: int, batch_size: int, epoch: int, measured: Measured
) -> str | None:
    """Says if batches are solved, or no harder than uniform ones."""
    planned, uniform = measured.planned, measured.uniform
    if batch_size >= num_instances or not len(planned.hardest) or not len(uniform.hardest):
        return None
    is_uniform = community_size(info, epoch) == 1
    accuracy = planned.means.get("in_batch_accuracy", 0.0)
    if accuracy >= SOLVED:
        solved = f"scores the own document highest for {accuracy:.1%} of the queries, so they teach little"
        if is_uniform:
            return f"In these uniform batches, the teacher {solved}. A preset with hard negatives teaches more."
        return f"In the plan's batches, the teacher {solved}. {_harder(info, num_instances, batch_size, epoch)}"
    gain = float(planned.hardest.mean() - uniform.hardest.mean())
    if is_uniform or not gain < MIN_EFFECT * float(uniform.hardest.std()):
        return None
    return (
        f"The plan's batches are barely harder than uniform ones: the hardest other instance of a query scores "
        f"{planned.hardest.mean():.3f} on average, against {uniform.hardest.mean():.3f}. "
        + _harder(info, num_instances, batch_size, epoch)
    )


def _harder(info: dict[str, Any], num_instances: int, batch_size: int, epoch: int) -> str:
    """Returns a sentence about what makes the batches of this plan harder."""
    ways, window, num_candidates = [], info.get("rank_window"), info.get("num_candidates")
    if info.get("batches_per_cluster") is not None:
        ways.append("fewer batches_per_cluster")
    elif community_size(info, epoch) < batch_size // info.get("sources_per_batch", 1):
        ways.append("larger communities")
    if window is not None and window[0] > 0:
        ways.append("a window of nearer ranks")
    if num_candidates is not None and num_candidates < num_instances - 1:
        ways.append("more candidates")
    text = " or ".join(filter(None, [", ".join(ways), "larger batches"]))
    return f"{text[0].upper()}{text[1:]} make them harder."


def community_size(info: dict[str, Any], epoch: int) -> int:
    """Returns the number of instances of a batch that are near each other; 1 in a uniform epoch."""
    sizes = info.get("community_size") or [1]
    names = ("rank_window", "windows", "num_candidates", "batches_per_cluster")
    has_hard = info.get("has_given_graph", False) or any(info.get(name) is not None for name in names)
    return int(sizes[min(epoch, len(sizes) - 1)]) if has_hard else 1


def _farthest_rank(info: dict[str, Any], num_instances: int) -> float | None:
    """Returns the last rank of hard negatives, in expectation; None if it is unknown or depends on the source."""
    if info.get("sources"):
        return None
    if info.get("rank_window") is not None:
        return float(info["rank_window"][1])
    if info.get("num_candidates") is None or info.get("num_neighbors") is None:
        return None
    return float(num_instances * info["num_neighbors"] / info["num_candidates"])
