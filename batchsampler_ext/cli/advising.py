"""Measures windows and sizes of communities, for ``advise``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from .._engine.random import permutation
from .._negatives.keep_apart import Apart, as_ids_of_columns, as_pairs
from .._negatives.negatives import as_labels, labels_of
from .._plan.advice import FIRST_SKIPPED, Advice, Outcome, recommend, sizes_for, windows_for
from .._plan.hints import Measured, hints, teacher_hint
from .._plan.measures import Hardness, false_negative_share, hardness, median_rank_of_own, scores_of_pairs
from ..compose import compose
from ..graph import ProximityGraph
from ..graph_builders import knn_graph
from ..plan import Plan
from .compose import StagedProgress
from .inputs import EmbeddingMatrix
from .timing import timed

NUM_SEARCHED = 200  # ranks
NUM_SHOWN, RANKS_PER_WINDOW = 5, 3  # sample rows, and neighbors of each window that are shown


@dataclass(frozen=True)
class Neighbor:
    """A neighbor of a sample row. is_above: it scores above the row's own document."""

    rank: int
    instance: int
    score: float
    is_above: bool


@dataclass(frozen=True)
class Row:
    """A sample row. own_score: of its query and its own document, None without documents."""

    instance: int
    own_score: float | None
    neighbors: list[Neighbor]


@dataclass(frozen=True)
class Findings:
    """All that ``advise`` shows. hardness: name of a kind of batches -> scores in them."""

    settings: dict[str, Any]
    uniform: Outcome
    outcomes: list[Outcome]
    advice: Advice
    hardness: dict[str, Hardness]
    costs: dict[str, float]
    skipped: list[tuple[int, int]]  # windows that need more instances
    own_rank: float | None
    rows: list[Row]

    def summary(self) -> dict[str, Any]:
        """Returns the numbers and sentences for JSON."""
        return {
            "version": __version__,
            "settings": self.settings,
            "costs": self.costs,
            "own_rank": self.own_rank,
            "uniform": asdict(self.uniform),
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
            "windows_skipped": self.skipped,
            "advice": {
                "window": self.advice.outcome.window,
                "community_size": self.advice.outcome.community_size,
                "arguments": self.advice.arguments,
                "summary": self.advice.summary,
                "reasons": self.advice.reasons,
                "hints": self.advice.outcome.hints,
            },
            "rows": [asdict(row) for row in self.rows],
        }


def findings_of(
    queries: EmbeddingMatrix,
    documents: EmbeddingMatrix | None,
    *,
    batch_size: int,
    metric: str,
    apart: dict[str, Any],
    seed: int,
    num_threads: int | None,
    progress: StagedProgress,
) -> Findings:
    """Searches neighbors once, composes an epoch for each setting, and measures its batches.

    apart: ``unique``, ``positives`` and ``labels`` of :func:`compose`. The other arguments are those of
    :func:`compose`, too.
    """
    num_instances = len(queries)
    if num_instances < 4:
        raise ValueError(f"queries: expected at least 4 rows, two batches of two, got {num_instances}")
    if not 2 <= batch_size <= num_instances // 2:
        raise ValueError(
            f"batch_size: expected 2 to {num_instances // 2}, so that an epoch of {num_instances} instances has at "
            f"least two batches, got {batch_size}"
        )
    sizes = sizes_for(batch_size)
    windows, skipped = windows_for(num_instances)
    common = {"batch_size": batch_size, "metric": metric, "seed": seed, "num_threads": num_threads, **apart}
    uniform_plan = compose(queries, documents, preset="uniform", **common)  # the first, as it checks all arguments
    plan_bytes = _size_of(uniform_plan)  # nearly that of the others, too
    labels = as_labels(apart["labels"], num_instances)
    equal = _labels_of_graph(apart, labels, num_instances)
    graph, search_seconds = timed(
        lambda: knn_graph(
            queries,
            min(NUM_SEARCHED, num_instances - 1),
            documents=documents,
            metric=metric,
            labels=equal,
            return_scores=False,  # as large as the neighbors, and few are shown
            num_threads=num_threads,
            progress=progress.stage("search of neighbors"),
        )
    )
    own_rank = None
    if documents is not None:
        own_rank = median_rank_of_own(queries, documents, metric, progress.stage("ranks of own documents"))
    measured = progress.stage("settings composed and measured")
    total = 1 + len(windows) * len(sizes)
    of_uniform = hardness(uniform_plan.batches(0), queries, documents, metric)
    report = _Reports(of_uniform, own_rank, None if labels is None else torch.from_numpy(labels))
    # With a graph, only the number of embeddings matters. Checking all of their values takes longer than composing.
    placeholder = torch.zeros(num_instances, 1)
    outcomes, scores_of = [], [of_uniform]
    uniform = report.outcome(uniform_plan, None, of_uniform)
    for first, last in windows:
        window = ProximityGraph(graph.neighbors[:, first:last].contiguous())
        for size in sizes:
            plan = compose(placeholder, graph=window, mutual=True, community_size=size, **common)
            scores = hardness(plan.batches(0), queries, documents, metric)
            outcomes.append(report.outcome(plan, (first, last), scores))
            scores_of.append(scores)
            del plan  # its graph is large
            measured(1 + len(outcomes), total)
    advice = recommend(outcomes, uniform, num_instances=num_instances, batch_size=batch_size, metric=metric)
    place = next(i for i, outcome in enumerate([uniform, *outcomes]) if outcome is advice.outcome)
    kinds = {"uniform": of_uniform} | ({"recommended": scores_of[place]} if place else {})
    return Findings(
        settings={
            "num_instances": num_instances,
            "dim": queries.shape[1],
            "has_documents": documents is not None,
            "batch_size": batch_size,
            "metric": metric,
            "seed": seed,
            "excluded_by": [name for name, value in apart.items() if value is not None],
            "not_ranked": None if equal is None else "labels" if labels is not None else "unique",
        },
        uniform=uniform,
        outcomes=outcomes,
        advice=advice,
        hardness=kinds,
        costs={
            "search_seconds": search_seconds,
            "compose_seconds": advice.outcome.seconds,
            "plan_bytes": plan_bytes,
        },
        skipped=skipped,
        own_rank=own_rank,
        rows=_sample_rows(graph, queries, documents, windows, metric, seed),
    )


def _labels_of_graph(apart: dict[str, Any], labels: np.ndarray | None, num_instances: int) -> torch.Tensor | None:
    """Returns what windows skip, as :func:`compose` decides it: equal labels, or equal ids of a single column."""
    if labels is not None:
        return torch.from_numpy(labels)
    return labels_of(Apart(as_ids_of_columns(apart["unique"], num_instances), 1, as_pairs(None, num_instances)))


class _Reports:
    """Makes outcomes of plans. uniform, own_rank: what :func:`hints` compare with."""

    def __init__(self, uniform: Hardness, own_rank: float | None, labels: torch.Tensor | None) -> None:
        self._uniform, self._own_rank, self._labels = uniform, own_rank, labels

    def outcome(self, plan: Plan, window: tuple[int, int] | None, scores: Hardness) -> Outcome:
        info = plan.info if window is None else {**plan.info, "has_given_graph": False, "rank_window": list(window)}
        measured = Measured(scores, self._uniform, self._own_rank)
        found = hints(info, plan.num_instances, plan.batch_size, 1, 0, measured)
        has_documents = "in_batch_accuracy" in scores.means
        return Outcome(
            window=window,
            community_size=1 if window is None else plan.info["community_size"][0],
            similarity=scores.means["in_batch_similarity"],
            hardest=float(scores.hardest.mean(dtype=np.float64)),
            accuracy=scores.means.get("in_batch_accuracy"),
            near_own=scores.near_own if has_documents else None,
            false_negatives=self._false_negatives(plan),
            seconds=plan.seconds["graph"] + plan.seconds["epochs"],
            teacher_hint=teacher_hint(info, plan.num_instances, 0, measured),
            hints=() if window is None else tuple(found),  # those of uniform batches say how to make them harder
        )

    def _false_negatives(self, plan: Plan) -> float | None:
        """Returns None if all labels are unknown, too."""
        share = float("nan") if self._labels is None else false_negative_share(plan.batches(0), self._labels)
        return share if share == share else None


def _size_of(plan: Plan) -> int:
    """Returns the bytes of a plan of one epoch as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.bse")
        plan.save(path)
        return os.path.getsize(path)


def _sample_rows(
    graph: ProximityGraph,
    queries: EmbeddingMatrix,
    documents: EmbeddingMatrix | None,
    windows: Sequence[tuple[int, int]],
    metric: str,
    seed: int,
) -> list[Row]:
    """Returns random rows, one from each fifth of the data, with the nearest neighbors and the first of each window."""
    num_instances = len(graph)
    order = permutation(num_instances, seed, 0)
    count = min(NUM_SHOWN, num_instances)
    parts = order * count // num_instances
    chosen = torch.stack([order[parts == part][0] for part in range(count)])
    own = None if documents is None else scores_of_pairs(queries, documents, chosen, chosen, metric)
    firsts = {*FIRST_SKIPPED, *(first for first, _ in windows)}
    ranks = sorted({first + place for first in firsts for place in range(RANKS_PER_WINDOW)})
    ranks = [rank for rank in ranks if rank < graph.num_neighbors]
    result = []
    for number, row in enumerate(chosen.tolist()):
        limit = None if own is None else float(own[number] + 1e-5 * own[number].abs())  # equal texts differ by rounding
        ids = graph.neighbors[row, ranks].long()
        ids = ids[ids >= 0]
        scores = scores_of_pairs(queries, documents, torch.full_like(ids, row), ids, metric).tolist()
        found = [
            Neighbor(rank + 1, instance, score, limit is not None and score > limit)
            for rank, instance, score in zip(ranks, ids.tolist(), scores, strict=False)  # missing ones are the last
        ]
        result.append(Row(row, None if own is None else float(own[number]), found))
    return result


def instances_of(rows: Sequence[Row]) -> set[int]:
    """Returns all instances that are shown."""
    return {row.instance for row in rows} | {neighbor.instance for row in rows for neighbor in row.neighbors}
