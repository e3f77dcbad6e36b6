"""Rank windows by an approximate search: a library lists candidates, and the engine selects among them.

For a window (p, q), the library lists the nearest rows by its own scores, more than q. The engine keeps those of rank
p + 1 to q by exact score, as the exact search does: without the row itself and what labels and max_score exclude, ties
by lower id. So edges have exact scores. A neighbor that the library misses moves later ranks forward. Rows whose list
holds too few that are allowed are searched exactly.

Recall is the share of the exact best q that are found, over rows that the seed draws. The effort of the library is
raised until these rows reach RECALL_GOAL. Then all rows are searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .._engine import validate
from .._engine.arrays import Matrix, address, as_ids
from .._engine.backend import core
from .._engine.random import Stream, derived_seed, permutation
from .._engine.requests import Edges, KnnRequest, Resources, Selection
from .._engine.validate import NO_MEMORY_LIMIT, Progress
from .._engine.warn import warn
from ..graph import ProximityGraph
from ..graph_builders import METRICS
from .libraries import INDEXES, Index, Rows, require_library
from .recipes import Recipe
from .sources import Part

NEIGHBORS = ("exact", *INDEXES)
RECALL_GOAL = 0.95
FEW_ROWS = 100_000  # fewer are searched exactly, which is faster then
_NUM_SAMPLED = 1000
_MAX_STARVED = 0.01  # share of sampled rows whose lists are too short and would grow with more effort
_MAX_EXACT = 0.1  # largest share of sampled rows to search exactly
_LISTED_AT_ONCE = 1 << 24


class ApproximateSearch(NamedTuple):
    """The search of one call of :func:`compose`, by a library. found: one dict for each source that was searched."""

    library: str
    queries: Matrix
    documents: Matrix | None
    metric: str
    labels: torch.Tensor | None  # int64 [N]
    max_score: float | None
    num_threads: int
    found: list[dict[str, Any]]

    @classmethod
    def check(
        cls,
        library: Any,
        recipe: Recipe,
        parts: Sequence[Part],
        queries: Matrix,
        documents: Matrix | None,
        *,
        metric: str,
        labels: Any,
        max_score: float | None,
        max_memory: int | None,
        num_threads: int,
    ) -> ApproximateSearch | None:
        """Returns None for "exact". Raises errors that name ``neighbors``, before any work."""
        validate.choice(library, "neighbors", NEIGHBORS)
        if library == "exact":
            return None
        if all(recipe.window_of(part.source) is None for part in parts):
            raise ValueError(f"neighbors: expected 'exact' without a window of ranks, got {library!r}")
        if queries.device.type != "cpu":
            raise ValueError(
                f"neighbors: expected 'exact' for embeddings on {str(queries.device)!r}, got {library!r}, which "
                "searches on the CPU"
            )
        if max_memory is not None:
            raise ValueError(
                f"max_memory: expected None with neighbors={library!r}, which cannot limit its memory, got {max_memory}"
            )
        kind = INDEXES[library]
        if metric not in kind.METRICS:
            raise ValueError(f"neighbors: expected 'exact' or 'faiss' with metric={metric!r}, got {library!r}")
        require_library(library)
        labels = None if labels is None else as_ids(labels, "labels", -1, 2**63)
        return cls(library, queries, documents, metric, labels, max_score, num_threads, [])

    def takes(self, rows: torch.Tensor) -> bool:
        """Returns whether the rows of a source are searched by the library."""
        return len(rows) >= FEW_ROWS

    def graph(
        self,
        ids: torch.Tensor,
        window: tuple[int, int],
        *,
        source: int | None,
        seed: int,
        return_scores: bool,
        index_progress: Progress | None,
        progress: Progress | None,
    ) -> ProximityGraph:
        """Returns the graph of a window over instances. ids: int64 [R], ascending. source: None if they are all.

        index_progress, progress: called as ``progress(rows done, R)`` while rows are indexed, then searched.
        """
        (first, last), num_rows = window, len(ids)
        index, size, found = self._fitted(ids, last, seed, index_progress)
        neighbors = torch.empty(num_rows, last - first, dtype=torch.int32)
        scores = torch.empty(neighbors.shape) if return_scores else None
        num_done, short = 0, []
        for numbers in index.order().split(max(1, _LISTED_AT_ONCE // size)):
            neighbors[numbers], own_scores = self._best(ids, numbers, index.search(numbers, size), window)
            if scores is not None:
                scores[numbers] = own_scores
            short.append(numbers[neighbors[numbers, -1] < 0])
            num_done += len(numbers) - len(short[-1])
            if progress is not None:
                progress(num_done, num_rows)
        rest = torch.cat(short).sort().values
        neighbors[rest], own_scores = self._best(ids, rest, None, window)
        if progress is not None and len(rest):
            progress(num_rows, num_rows)
        if scores is not None:
            scores[rest] = own_scores
        self.found.append({"source": source, "num_rows": num_rows, **found, "num_exact": len(rest)})
        return ProximityGraph._from_engine(
            neighbors, scores, None if source is None else ids, self.queries.num_rows, []
        )

    def _fitted(
        self, ids: torch.Tensor, last: int, seed: int, progress: Progress | None
    ) -> tuple[Index, int, dict[str, Any]]:
        """Returns an index with the effort that the goal needs, the rows to list, and what to tell of both."""
        documents = self.queries if self.documents is None else self.documents
        rows, num_equal = Rows(ids, self.queries, documents, self.metric), min(_most_equal(self.labels, ids), last)
        index = INDEXES[self.library](rows, last, num_equal, seed, self.num_threads, progress)
        sampled = permutation(len(ids), derived_seed(seed, Stream.SAMPLE, 3), 0)[:_NUM_SAMPLED].sort().values
        expected = self._best(ids, sampled, None, (0, last))[0]
        size = index.fitted_size(sampled, _numbers_of(expected, ids))
        while True:
            lists = index.search(sampled, size)
            listed = self._best(ids, sampled, lists, (0, last))[0]
            is_short = listed[:, -1] < 0
            num_starved = int((is_short & (lists[:, -1] < 0) & (expected[:, -1] >= 0)).sum())
            listed[is_short] = expected[is_short]
            recall = _recall(listed, expected)
            is_reached = recall >= RECALL_GOAL and num_starved <= _MAX_STARVED * len(sampled)
            if is_reached or not index.raise_effort():
                break
        num_short = int(is_short.sum())
        if num_short > _MAX_EXACT * len(sampled):
            raise ValueError(
                f"neighbors: expected 'exact', because {num_short} of {len(sampled)} sampled instances have fewer than "
                f"{last} neighbors that labels, unique and max_score allow among the {size} that are listed, got "
                f"{self.library!r}"
            )
        return index, size, {"num_sampled": len(sampled), "num_listed": size, "recall": recall, **index.settings()}

    def description(self) -> dict[str, Any]:
        """Returns what plans tell of the search, as JSON has it. Warns of sources whose recall is below the goal."""
        num_rows = sum(found["num_rows"] for found in self.found)
        recall = sum(found["num_rows"] * found["recall"] for found in self.found) / num_rows if num_rows else 1.0
        for found in self.found:
            if found["recall"] < RECALL_GOAL:
                of_source = "" if found["source"] is None else f" of source {found['source']}"
                warn(
                    f"compose: {self.library} found {found['recall']:.1%} of the nearest neighbors of sampled instances"
                    f"{of_source}, below the goal of {RECALL_GOAL:.0%}. neighbors='exact' finds all"
                )
        return {
            "version": require_library(self.library).__version__,
            "num_rows": num_rows,
            "recall": recall,
            "sources": self.found,
        }

    def _best(
        self, ids: torch.Tensor, numbers: torch.Tensor, lists: torch.Tensor | None, window: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the window of ranks among candidates, int32 and float32 [len(numbers), q - p].

        lists: int32 [len(numbers), C] of numbers, -1 is none; None: all rows are candidates.
        """
        shape, query_ids = (len(numbers), window[1] - window[0]), ids[numbers]
        neighbors, scores = torch.empty(shape, dtype=torch.int32), torch.empty(shape)
        call = self._request(query_ids, ids, window), Edges(address(neighbors), address(scores)), self._resources()
        if lists is not None:
            lists = lists.contiguous()
            core.knn_of_lists(*call, lists=address(lists), list_size=lists.shape[1])
        elif len(numbers):
            core.knn(*call)
        return neighbors, scores

    def _request(self, query_ids: torch.Tensor, base_ids: torch.Tensor, window: tuple[int, int]) -> KnnRequest:
        """Valid while the ids live."""
        first, last = window
        compute_dtype = torch.float32
        return KnnRequest(
            queries=self.queries.describe(compute_dtype),
            base=None if self.documents is None else self.documents.describe(compute_dtype),
            query_ids=address(query_ids),
            num_queries=len(query_ids),
            base_ids=address(base_ids),
            num_base=len(base_ids),
            exclude_self=True,
            selection=Selection(
                METRICS.index(self.metric), last - first, first, address(self.labels), self.max_score, True
            ),
        )

    def _resources(self) -> Resources:
        return Resources(self.num_threads, NO_MEMORY_LIMIT, None)


def _numbers_of(instances: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Returns the places of instances in ids, which are ascending. int64, -1 stays."""
    return torch.where(instances >= 0, torch.searchsorted(ids, instances.long()), -1)


def _most_equal(labels: torch.Tensor | None, ids: torch.Tensor) -> int:
    """Returns the largest number of other instances that share an instance's label."""
    if labels is None:
        return 0
    known = labels[ids]
    known = known[known >= 0]
    return int(known.unique(return_counts=True)[1].max()) - 1 if len(known) else 0


def _recall(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the share of expected ids that are in the same row of found. Both: int32 [R, K], then -1."""
    rows = torch.arange(len(expected))[:, None] << 32
    wanted = (rows + expected)[expected >= 0]
    return float(torch.isin(wanted, rows + found).double().mean()) if len(wanted) else 1.0


def described(neighbors: str, search: Mapping[str, Any]) -> str:
    """Returns sentences about a search for the report of a plan. search: :meth:`ApproximateSearch.description`."""
    if not search["num_rows"]:
        return f"Neighbors are exact, because no source has the {FEW_ROWS:,} instances that {neighbors} would search."
    num_sampled = sum(found["num_sampled"] for found in search["sources"])
    return (
        f"{neighbors} {search['version']} found {search['recall']:.1%} of the nearest neighbors up to the last rank of "
        f"the window, compared with the exact ones of {num_sampled:,} sampled instances."
    )
