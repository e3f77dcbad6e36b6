"""Which pairs count as negatives: the thresholds of margins, edges that join no negatives, and the mask of a batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .._engine import validate
from .._engine.arrays import Matrix, as_ids, on_host
from .._engine.cuda import to_device_async, to_host
from ..graph import ProximityGraph
from ..graph_builders import knn
from .keep_apart import Apart
from .tables import kept_first, order_of_kept

_ROWS_AT_ONCE = 1 << 15
_OWN_BLOCK = 64  # rows whose scores with one another are computed to get each row's score with itself
_FIRST_NEIGHBORS = 32


class Negatives(NamedTuple):
    """What the method ``negative_mask`` of plans and samplers reads, on the CPU.

    groups: int32 [C, N]; instances with equal numbers in a row are no negatives of each other, -1 is no number.
    offsets, documents: int64 [N + 1] and int32; documents[offsets[i] : offsets[i + 1]] are no negatives of query i.
    """

    groups: torch.Tensor
    offsets: torch.Tensor
    documents: torch.Tensor

    @classmethod
    def of(cls, num_instances: int, groups: torch.Tensor, pairs: Iterable[np.ndarray]) -> Negatives:
        """pairs: int [P, 2] arrays of (query, document). They may repeat."""
        found = PairSet(num_instances)
        found.add(pairs)
        return found.negatives(groups)

    @classmethod
    def none(cls, num_instances: int) -> Negatives:
        """Returns that all pairs of two instances are negatives. It takes no memory."""
        offsets = torch.zeros(1, dtype=torch.int64, device="cpu").expand(num_instances + 1)
        nothing = torch.empty(0, dtype=torch.int32, device="cpu")
        return cls(nothing.view(0, num_instances), offsets, nothing)

    @property
    def is_empty(self) -> bool:
        """Whether all pairs of two instances are negatives."""
        return len(self.groups) == 0 and len(self.documents) == 0

    def mask(self, indices: Any) -> torch.Tensor:
        """Returns bool [B, B], True where the document of the column is a negative of the query of the row.

        It is on the device of the indices.
        """
        if isinstance(indices, torch.Tensor) and indices.device.type not in ("cpu", "meta"):
            return to_device_async(self.mask(indices.cpu()), indices.device)
        ids = as_ids(indices, "indices", 0, self.groups.shape[1])
        ordered, order = ids.sort()
        if bool((ordered[1:] == ordered[:-1]).any()):
            distinct, inverse = ids.unique(return_inverse=True)
            return self.mask(distinct)[inverse][:, inverse]
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool, device="cpu").fill_diagonal_(False)
        for group in self.groups:
            numbers_of = group[ids]
            known = numbers_of[numbers_of >= 0]
            if len(known.unique()) < len(known):
                other = torch.where(numbers_of >= 0, numbers_of, -2)
                mask &= numbers_of[:, None] != other
        counts = self.offsets[ids + 1] - self.offsets[ids]
        num_pairs = int(counts.sum())
        if num_pairs:
            rows = torch.repeat_interleave(counts)
            firsts = self.offsets[ids] - (counts.cumsum(0) - counts)
            documents = self.documents[firsts[rows] + torch.arange(num_pairs, device="cpu")].long()
            place = torch.searchsorted(ordered, documents).clamp_(max=len(ids) - 1)
            is_here = ordered[place] == documents
            mask[rows[is_here], order[place[is_here]]] = False
        return mask


class PairSet:
    """Distinct pairs (query, document) of N instances, as ascending numbers query * N + document."""

    def __init__(self, num_instances: int) -> None:
        self._num_instances, self._keys = num_instances, np.empty(0, np.int64)

    def add(self, pairs: Iterable[np.ndarray]) -> None:
        """pairs: int [P, 2] arrays. O(P log P) time and 8 bytes per pair."""
        keys = [part[:, 0].astype(np.int64) * self._num_instances + part[:, 1] for part in pairs]
        added = np.concatenate([np.empty(0, np.int64), *keys])
        del keys
        added.sort()
        merged = np.concatenate([self._keys, added])
        merged.sort(kind="stable")  # merges two ascending runs
        is_first = np.ones(len(merged), dtype=bool)
        np.not_equal(merged[1:], merged[:-1], out=is_first[1:])
        self._keys = merged if is_first.all() else merged[is_first]

    def negatives(self, groups: torch.Tensor) -> Negatives:
        num_instances, keys = self._num_instances, self._keys
        offsets = np.searchsorted(keys, np.arange(num_instances + 1) * num_instances)
        documents = np.empty(len(keys), np.int32)
        np.remainder(keys, num_instances, out=documents, casting="unsafe")
        return Negatives(groups, torch.from_numpy(offsets), torch.from_numpy(documents))


def groups_of(ids: np.ndarray, labels: np.ndarray | None) -> torch.Tensor:
    """Returns :attr:`Negatives.groups` for columns of ids and for labels. Columns without repeated ids are left out.

    ids: int64 [N, C]. labels: int64 [N] or None.
    """
    groups = []
    for column in [*ids.T, *([] if labels is None else [labels])]:
        values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        is_kept = (counts > 1) & (values >= 0)
        if is_kept.any():
            numbers_of = np.where(is_kept, np.cumsum(is_kept) - 1, -1).astype(np.int32)
            groups.append(torch.from_numpy(numbers_of[inverse]))
    return torch.stack(groups) if groups else torch.empty(0, len(ids), dtype=torch.int32, device="cpu")


class MarginRule(NamedTuple):
    """Checked margins. At least one is given."""

    margin: float | None
    relative_margin: float | None

    @classmethod
    def check(cls, margin: Any, relative_margin: Any, *, has_documents: bool) -> MarginRule | None:
        """Returns None without margins. Raises errors that name them."""
        if margin is None and relative_margin is None:
            return None
        name = "margin" if margin is not None else "relative_margin"
        if not has_documents:
            raise ValueError(
                f"{name}: expected None without documents, because the score of an instance with itself says nothing "
                "about its positive; max_score limits scores"
            )
        return cls(
            None if margin is None else _number(margin, "margin", math.inf),
            None if relative_margin is None else _number(relative_margin, "relative_margin", 1.0),
        )

    def limits(
        self,
        queries: Matrix,
        documents: Matrix,
        metric: str,
        num_threads: int,
        compute_dtype: torch.dtype = torch.float32,
    ) -> Margins:
        own = _own_scores(queries, documents, metric, num_threads, compute_dtype)
        limits = torch.full_like(own, math.inf)
        if self.margin is not None:
            limits = torch.minimum(limits, own - self.margin)
        if self.relative_margin is not None:
            below, above = (1 + self.relative_margin) * own, (1 - self.relative_margin) * own
            limits = torch.minimum(limits, torch.where(own < 0, below, above))
        return Margins(queries, documents, metric, num_threads, limits, compute_dtype)


class Margins(NamedTuple):
    """Limits of scores: document j is no negative of query i if s(i, j) >= limit(i), compared as float64.

    limit(i) is the smaller of s(i, i) - margin and s(i, i) - relative_margin * abs(s(i, i)), of exact scores.
    """

    queries: Matrix
    documents: Matrix
    metric: str
    num_threads: int
    limits: torch.Tensor  # float64 [N], on the CPU
    compute_dtype: torch.dtype = torch.float32  # scores are those of features that are rounded to it

    @classmethod
    def check(
        cls,
        margin: Any,
        relative_margin: Any,
        queries: Matrix,
        documents: Matrix | None,
        metric: str,
        num_threads: int,
    ) -> Margins | None:
        """Returns None without margins. Raises errors that name them."""
        rule = MarginRule.check(margin, relative_margin, has_documents=documents is not None)
        if rule is None or documents is None:
            return None
        return rule.limits(queries, documents, metric, num_threads)

    def pairs(self, ids: torch.Tensor) -> np.ndarray:
        """Returns int32 [P, 2]: the pairs (i, j), i != j, of these instances with s(i, j) >= limit(i)."""
        ids = ids.long()
        short_ids = ids.to(torch.int32)
        found, rows, num_neighbors = [], torch.arange(len(ids), device="cpu"), min(_FIRST_NEIGHBORS, len(ids))
        documents = _take(self.documents, ids)
        while len(rows):  # the best documents of each row, and more for rows whose last one is still above the limit
            queries = _take(self.queries, ids[rows])
            result = knn(
                queries,
                documents,
                num_neighbors,
                metric=self.metric,
                compute_dtype=self.compute_dtype,
                num_threads=self.num_threads,
            )
            words = to_host(torch.stack([result.scores.view(torch.int32), result.ids]))
            is_above = words[0].view(torch.float32).double() >= self.limits[ids[rows], None]
            others = words[1].long()
            is_done = ~is_above[:, -1] | (num_neighbors == len(ids))
            is_pair = is_above & is_done[:, None] & (others != rows[:, None]) & (others >= 0)
            place = is_pair.nonzero()[:, 0]
            found.append(torch.stack([short_ids[rows[place]], short_ids[others[is_pair]]], 1))
            is_common = 2 * int(is_done.sum()) < len(rows)  # nearly all documents may be above the limit
            rows, num_neighbors = rows[~is_done], len(ids) if is_common else min(4 * num_neighbors, len(ids))
        return torch.cat(found).numpy()


class Demands(NamedTuple):
    """What may not meet, or is no negative where it meets. groups: as in :class:`Negatives`."""

    apart: Apart
    groups: torch.Tensor
    margins: Margins | None
    max_score: float | None


def without_positives(graph: ProximityGraph, demands: Demands) -> ProximityGraph:
    """Returns the graph without edges that join no negatives. Rows keep the order of their neighbors.

    Edges are dropped between equal numbers of ``groups``, either way between pairs of ``apart.positives``, and with
    scores at or above the limits of ``margins`` or above ``max_score``. O(R K + P (K + log R)) for R rows.

    Raises:
        ValueError: a limit is given, and the graph has no scores.
    """
    apart, groups, margins, max_score = demands
    if (margins is not None or max_score is not None) and graph.scores is None:
        raise ValueError("graph: expected a graph with scores for margin, relative_margin and max_score")
    if margins is None and max_score is None and not len(groups) and not len(apart.positives):
        return graph
    graph.degrees()  # checks the ids
    device, num_rows = graph.device, len(graph)
    groups = to_device_async(groups, device)
    limits = None if margins is None else to_device_async(margins.limits, device)
    ids = torch.arange(num_rows, device=device) if graph.ids is None else graph.ids
    rows, documents = _pairs_of_rows(apart.positives, graph)
    neighbors, scores = graph.neighbors.clone(), None if graph.scores is None else graph.scores.clone()
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        place, column = (graph.neighbors[rows[part]] == documents[part, None]).nonzero().T
        neighbors[rows[part][place], column] = -1
    for first in range(0, num_rows, _ROWS_AT_ONCE):
        part = slice(first, min(first + _ROWS_AT_ONCE, num_rows))
        others = neighbors[part].long()
        keeps = others >= 0
        for group in groups:
            own = group[ids[part]][:, None]
            keeps &= (own < 0) | (own != group[others])
        if graph.scores is not None and limits is not None:
            keeps &= ~(graph.scores[part].double() >= limits[ids[part], None])  # a limit may be NaN
        if graph.scores is not None and max_score is not None:
            keeps &= graph.scores[part] <= max_score
        order = order_of_kept(keeps)
        neighbors[part] = kept_first(neighbors[part], keeps, order, -1)
        if scores is not None:
            scores[part] = kept_first(scores[part], keeps, order, -torch.inf)
    return ProximityGraph._from_engine(neighbors, scores, graph.ids, graph.num_instances, [])


def _pairs_of_rows(pairs: np.ndarray, graph: ProximityGraph) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the pairs either way as rows of the graph and other instances, int64. pairs: int64 [P, 2]."""
    both = to_device_async(torch.from_numpy(np.concatenate([pairs, pairs[:, ::-1]])), graph.device)
    query, document = both.T
    if graph.ids is None or len(pairs) == 0:
        return query, document
    ordered, order = graph.ids.sort()
    place = torch.searchsorted(ordered, query.contiguous()).clamp_(max=len(ordered) - 1)
    is_here = ordered[place] == query
    return order[place[is_here]], document[is_here]


def split_positives(apart: Apart, parts: Sequence[torch.Tensor]) -> list[Apart]:
    """Returns what may not meet within each part: the pairs of two instances of the part. parts: disjoint instances."""
    if len(parts) == 1 or not len(apart.positives):
        return [apart] * len(parts)
    part_of = np.full(len(apart.ids), -1, np.int32)
    for number, rows in enumerate(parts):
        part_of[rows.numpy()] = number
    own = part_of[apart.positives[:, 0]]
    own[own != part_of[apart.positives[:, 1]]] = -1
    order = np.argsort(own, kind="stable")
    starts = np.searchsorted(own[order], np.arange(len(parts) + 1))
    pairs = apart.positives[order]
    return [apart._replace(positives=pairs[a:b]) for a, b in itertools.pairwise(starts.tolist())]


def _own_scores(
    queries: Matrix, documents: Matrix, metric: str, num_threads: int, compute_dtype: torch.dtype
) -> torch.Tensor:
    """Returns s(i, i) as float64 [N] on the CPU; NaN where the score is NaN. Waits for a device once per block."""
    own = []
    for first in range(0, queries.num_rows, _OWN_BLOCK):
        part = slice(first, min(first + _OWN_BLOCK, queries.num_rows))
        size = part.stop - part.start
        result = knn(
            queries.owner[part],
            documents.owner[part],
            size,
            metric=metric,
            compute_dtype=compute_dtype,
            num_threads=num_threads,
        )
        is_own = result.ids == torch.arange(size, device=result.ids.device)[:, None]
        score = torch.where(is_own, result.scores, -math.inf).amax(1)
        own.append(torch.where(is_own.any(1), score, math.nan))
    return to_host(torch.cat(own)).double()


def _take(matrix: Matrix, ids: torch.Tensor) -> Any:
    if isinstance(matrix.owner, torch.Tensor):
        return matrix.owner.index_select(0, to_device_async(ids, matrix.device))
    return np.ascontiguousarray(matrix.owner[ids.numpy()])


def _number(value: Any, name: str, most: float) -> float:
    number = validate.number(value, name, "a float or None")
    if not 0 <= number <= most or math.isinf(number):
        bounds = "that is not negative" if math.isinf(most) else f"from 0 to {most:g}"
        raise ValueError(f"{name}: expected a finite number {bounds}, got {value!r}")
    return number


def as_labels(value: Any, num_instances: int) -> np.ndarray | None:
    """Returns ``labels=`` as int64 [N]. Raises errors that name it."""
    if value is None:
        return None
    labels = as_ids(on_host(value, "labels"), "labels", -1, 2**63)
    if len(labels) != num_instances:
        raise ValueError(f"labels: expected one for each of {num_instances} instances, got {len(labels)}")
    return labels.numpy()


def labels_of(apart: Apart) -> torch.Tensor | None:
    """Returns a single column of ids as labels of the graph, so that windows skip equal ids. None for other numbers."""
    return torch.from_numpy(apart.ids[:, 0].copy()) if apart.ids.shape[1] == 1 else None


def neighbors_of_instances(graphs: Sequence[ProximityGraph], num_instances: int) -> torch.Tensor | None:
    """Returns int32 [N, K] on the CPU: the neighbors of each instance in the graph that has a row for it, then -1.

    graphs: over distinct instances, for example of one source each. None without graphs.
    """
    if not graphs:
        return None
    for graph in graphs:
        graph.degrees()  # checks the ids
    if len(graphs) == 1 and graphs[0].ids is None:
        return graphs[0].neighbors.cpu()
    table = torch.full(
        (num_instances, max(graph.num_neighbors for graph in graphs)), -1, dtype=torch.int32, device="cpu"
    )
    for graph in graphs:
        rows = torch.arange(len(graph), device="cpu") if graph.ids is None else graph.ids.cpu()
        table[rows, : graph.num_neighbors] = graph.neighbors.cpu()
    return table


def checked_max_score(value: Any) -> float | None:
    """Returns the limit rounded to float32, as scores are compared with it."""
    limit = validate.max_score(value)
    return None if limit is None else float(np.float32(limit))
