"""Building graphs and searching neighbors: the fused similarity and top-k kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ._engine import validate
from ._engine.arrays import Matrix, address, as_matrix, require_device
from ._engine.backend import engine
from ._engine.deferred_checks import DeferredChecks
from ._engine.requests import Edges, KnnRequest, ProximityGraphRequest, Resources, Selection
from .graph import ProximityGraph

__all__ = ["GraphConfig", "Neighbors", "knn", "knn_graph", "proximity_graph"]

_METRICS = ("cosine", "ip", "l2")  # in the order of csrc/common/score.h
_COMPUTE_DTYPES = (torch.float32, torch.bfloat16)

Progress = Callable[[int, int], object]


class Neighbors(NamedTuple):
    """Result of :func:`knn`: scores float32 [Q, K] descending, ids int32 [Q, K]; (-inf, -1) past the last."""

    scores: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True, eq=False)
class GraphConfig:
    """Options of a proximity graph, for :func:`proximity_graph` and samplers. See there for what each means.

    ``num_candidates`` (M) and ``num_neighbors`` (K) are upper limits here: a graph over fewer rows has fewer of both.
    ``candidate_group_size=None`` means 256, and for samplers that walk at most M / 16.

    Example:
        >>> GraphConfig(metric="ip").num_candidates
        1000
    """

    num_candidates: int = 1000
    num_neighbors: int = 100
    metric: str = "cosine"
    candidate_group_size: int | None = None
    labels: Any = None
    max_score: float | None = None
    range_min: int = 0
    compute_dtype: torch.dtype = torch.float32
    sort: bool = False
    return_scores: bool = False
    num_threads: int | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        validate.integer(self.num_candidates, "num_candidates", 1)
        validate.integer(self.num_neighbors, "num_neighbors", 1)

    def with_given(self, **keywords: Any) -> GraphConfig:
        """With those keywords that are not None instead of its own values."""
        given = {name: value for name, value in keywords.items() if value is not None}
        return replace(self, **given) if given else self


def proximity_graph(
    features: Any,
    num_neighbors: int | None = None,
    *,
    num_candidates: int | None = None,
    config: GraphConfig | None = None,
    documents: Any = None,
    metric: str | None = None,
    candidate_group_size: int | None = None,
    rows: Any = None,
    labels: Any = None,
    max_score: float | None = None,
    range_min: int | None = None,
    compute_dtype: torch.dtype | None = None,
    sort: bool | None = None,
    return_scores: bool | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> ProximityGraph:
    """For each instance, the ``num_neighbors`` most similar of ``num_candidates`` random others.

    Args:
        features: [N, D] float32, bfloat16 or float16: a tensor on the CPU or a CUDA device, NumPy array, memmap (read
            in place) or anything with DLPack or the buffer protocol. No copy if rows are contiguous. Other tensors have
            to be on the same device; lists and NumPy arrays are brought there.
        config: the options, :class:`GraphConfig`. Keywords that are given replace its values. The defaults below are
            those of ``GraphConfig()``.
        num_neighbors: K, 1 to M. Default ``min(100, M)``.
        num_candidates: M, K to (number of rows) - 1. Default ``min(1000, number of rows - 1)``. Larger M gives harder
            batches and more false negatives: M = K is a uniform graph, M = N - 1 the exact kNN graph.
        documents: [N, D] of a second tower. Edge i -> j then compares ``features[i]`` and ``documents[j]``.
        metric: "cosine", "ip" (inner product) or "l2" (minus the squared Euclidean distance, never positive). A larger
            score is always a better neighbor.
        candidate_group_size: rows that share one random candidate set, by default 256. 1: each row draws its own.
            Larger groups are faster and leave each row's distribution exactly uniform, but about exp(-M / group size)
            of the instances then have no incoming edge. Partitions still place them, using their outgoing edges. Walks
            never visit them.
        rows: distinct int64 [R]: only these instances get a row and are candidates. Neighbors remain ids of
            ``features``. Default: all.
        labels: int64 [N]: equal labels are never linked (known false negatives); -1 is unknown. Two instances of one
            label can still meet in a batch through a neighbor they share.
        max_score: candidates scoring above it are never linked (suspected false negatives). Compared as float32.
        range_min: skip each row's best ``range_min`` candidates (after ``labels`` and ``max_score``), then keep K.
        compute_dtype: ``torch.float32``: scores are defined to the bit (below). ``torch.bfloat16``: every
            feature is first rounded to the nearest bfloat16, then the definition is the same. A score of unit
            vectors moves by at most about 2**-7.
        sort: list neighbors by score, ties by lower id; otherwise in the order they were drawn.
        return_scores: keep ``graph.scores``.
        seed: 0 to 2**64 - 1; the graph is a function of features, arguments and seed.
        num_threads: default ``torch.get_num_threads()``. The result does not depend on it.
        max_memory: bytes of scratch beyond the result. Default: a few MiB a thread and 8 bytes a row; with
            ``candidate_group_size=1``, where the CPU multiplies bfloat16 fast, also 2 D bytes a row, up to 1 GiB in
            all. On a CUDA device: 32 MiB of scores at a time, and up to 12 bytes a row. There :func:`knn_graph` and
            :func:`knn` take up to 1 GiB, 16 K + 2,000 bytes a row, or 512 MiB of scores.
        progress: called as ``progress(done, total)`` in rows, from the calling thread, now and then and at the end.

    Returns:
        :class:`ProximityGraph` with int32 [R, K] neighbors on the device of the features. Rows are shorter
        (-1) only where ``labels``, ``max_score``, ``range_min`` or NaN scores leave fewer than K candidates.

    Raises:
        TypeError, ValueError: a bad argument, named, with what was expected and got. Non-finite features are found
            before any work (``ValueError``); on a CUDA device they, and bad values of ``rows`` and ``labels``, when the
            result is next read on the host, or by :meth:`ProximityGraph.check`: the call itself never waits. There
            ``num_threads`` and ``progress`` have no effect.

    Determinism: equal to the bit over devices, thread counts, instruction sets and ``max_memory``. A score is the chain
    of fused multiply-adds over ascending k; selection is by score, then draw position. Ctrl-C is answered within 0.2 s.

    Source: Yang et al., KDD 2023, section 4.1.

    Example:
        >>> import torch
        >>> features = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
        >>> graph = proximity_graph(features, 10, num_candidates=100)
        >>> graph
        ProximityGraph(num_instances=500, num_neighbors=10)
    """
    config = (GraphConfig() if config is None else config).with_given(
        metric=metric, candidate_group_size=candidate_group_size, labels=labels, max_score=max_score,
        range_min=range_min, compute_dtype=compute_dtype, sort=sort, return_scores=return_scores,
        num_threads=num_threads, max_memory=max_memory,
    )  # fmt: skip
    query, other = _towers(features, documents)
    checks = DeferredChecks(query.device)
    subset, num_rows = _subset(rows, query, checks)
    num_candidates, num_neighbors = _graph_sizes(config, num_candidates, num_neighbors, num_rows)
    candidate_group_size = 256 if config.candidate_group_size is None else config.candidate_group_size
    candidate_group_size = validate.integer(candidate_group_size, "candidate_group_size", 1)
    filters = _Filters.check(
        config.metric, config.compute_dtype, config.labels, config.max_score, config.range_min, query, checks
    )
    request = ProximityGraphRequest(
        features=query.describe(config.compute_dtype),
        documents=None if other is None else other.describe(config.compute_dtype),
        rows=address(subset),
        num_rows=num_rows,
        num_candidates=num_candidates,
        candidate_group_size=candidate_group_size,
        selection=filters.selection(num_neighbors, sort=validate.flag(config.sort, "sort")),
        seed=validate.seed(seed),
    )
    with_scores = validate.flag(config.return_scores, "return_scores")
    graph_rows = _Rows(num_rows, num_neighbors, with_scores, query.device)
    resources = _resources(config.num_threads, config.max_memory, progress)
    status = None
    if num_candidates > 0:
        status = engine(query.device).proximity_graph(request, graph_rows.edges(), resources)
    return ProximityGraph._from_engine(
        graph_rows.neighbors, graph_rows.scores, subset, query.num_rows, [*checks.statuses, status]
    )


def knn_graph(
    features: Any,
    num_neighbors: int,
    *,
    documents: Any = None,
    metric: str = "cosine",
    rows: Any = None,
    labels: Any = None,
    max_score: float | None = None,
    range_min: int = 0,
    compute_dtype: torch.dtype = torch.float32,
    return_scores: bool = True,
    num_threads: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> ProximityGraph:
    """The exact k-nearest-neighbor graph: the limit M = N - 1 of :func:`proximity_graph`.

    Arguments, results, errors and determinism are those of :func:`proximity_graph`, except that every other row is a
    candidate, neighbors are sorted by score, and ties go to the lower id. O(R**2 D) multiply-adds.

    Where queries and base are the same rows (no ``documents``; ``rows`` ascending, if given), each pair is scored once.
    That takes scratch for the candidates of every row, about 16 K bytes each. Beyond 1 GiB of it, or ``max_memory``,
    pairs are scored twice, in 12 bytes per row and a few MiB per thread. Where the CPU multiplies bfloat16 fast, rows
    rounded to it find the likely neighbors of cosine searches, and only close candidates are scored exactly. Rounded
    rows take 2 D bytes each, up to 1 GiB in all.

    Example:
        >>> import torch
        >>> knn_graph(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1).neighbors.ravel().tolist()
        [1, 0, 1]
    """
    query, other = _towers(features, documents)
    checks = DeferredChecks(query.device)
    subset, num_rows = _subset(rows, query, checks)
    num_neighbors = validate.integer(
        num_neighbors, "num_neighbors", 1, num_rows - 1, because=f" ({num_rows} rows, itself excluded)"
    )
    filters = _Filters.check(metric, compute_dtype, labels, max_score, range_min, query, checks)
    graph_rows = _Rows(num_rows, num_neighbors, validate.flag(return_scores, "return_scores"), query.device)
    base_ids = None if subset is None else _ascending(subset, checks)  # ties go to the lower id
    request = KnnRequest(
        queries=query.describe(compute_dtype),
        base=None if other is None else other.describe(compute_dtype),
        query_ids=address(subset),
        num_queries=num_rows,
        base_ids=address(base_ids),
        num_base=num_rows,
        exclude_self=True,
        selection=filters.selection(num_neighbors, sort=True),
    )
    resources = _resources(num_threads, max_memory, progress)
    status = engine(query.device).knn(request, graph_rows.edges(), resources)
    return ProximityGraph._from_engine(
        graph_rows.neighbors, graph_rows.scores, subset, query.num_rows, [*checks.statuses, status]
    )


def knn(
    queries: Any,
    base: Any,
    num_neighbors: int,
    *,
    metric: str = "cosine",
    compute_dtype: torch.dtype = torch.float32,
    num_threads: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> Neighbors:
    """The exact ``num_neighbors`` most similar rows of ``base`` for each row of ``queries``.

    Args:
        queries: [Q, D]; base: [N, D]; both as ``features`` of :func:`proximity_graph`. A query that is also a row of
            the base finds itself.
        num_neighbors: K, 1 to N.
        metric, compute_dtype, num_threads, max_memory, progress: see :func:`proximity_graph`.

    Returns:
        :class:`Neighbors`: scores float32 [Q, K] descending, ids int32 [Q, K], ties by lower id, on the device of the
        queries.

    Raises, determinism: see :func:`proximity_graph`. On a CUDA device it waits for the search: a plain tuple cannot
    raise later.

    Example:
        >>> import torch
        >>> scores, ids = knn(torch.tensor([[1.0, 0.0]]), torch.eye(2), 2, metric="ip")
        >>> scores.tolist(), ids.tolist()
        ([[1.0, 0.0]], [[0, 1]])
    """
    query, other = as_matrix(queries, "queries"), as_matrix(base, "base")
    if query.dim != other.dim:
        raise ValueError(f"base: expected {query.dim} columns as queries has, got {other.dim}")
    require_device(other.device, "base", query.device)
    num_neighbors = validate.integer(
        num_neighbors, "num_neighbors", 1, other.num_rows, because=f" (base has {other.num_rows} rows)"
    )
    filters = _Filters.check(metric, compute_dtype, None, None, 0, other, DeferredChecks(other.device))
    found = _Rows(query.num_rows, num_neighbors, True, query.device)
    request = KnnRequest(
        queries=query.describe(compute_dtype),
        base=other.describe(compute_dtype),
        query_ids=0,
        num_queries=query.num_rows,
        base_ids=0,
        num_base=other.num_rows,
        exclude_self=False,
        selection=filters.selection(num_neighbors, sort=True),
    )
    resources = _resources(num_threads, max_memory, progress)
    status = engine(query.device).knn(request, found.edges(), resources)
    assert found.scores is not None
    if status is not None:
        status.check()
    return Neighbors(found.scores, found.neighbors)


class _Rows:
    """Storage of a result, as the engines fill it."""

    def __init__(self, num_rows: int, num_neighbors: int, with_scores: bool, device: torch.device) -> None:
        shape = (num_rows, num_neighbors)
        self.neighbors = torch.empty(shape, dtype=torch.int32, device=device)
        self.scores = torch.empty(shape, dtype=torch.float32, device=device) if with_scores else None

    def edges(self) -> Edges:
        return Edges(address(self.neighbors), address(self.scores))


def _resources(num_threads: Any, max_memory: Any, progress: Any) -> Resources:
    return Resources(validate.num_threads(num_threads), validate.max_memory(max_memory), validate.progress(progress))


@dataclass(frozen=True)
class _Filters:
    """Which candidates may be linked: the checked arguments common to all builders."""

    metric: int
    labels: torch.Tensor | None
    max_score: float | None
    range_min: int

    @classmethod
    def check(
        cls,
        metric: str,
        compute_dtype: torch.dtype,
        labels: Any,
        max_score: float | None,
        range_min: int,
        instances: Matrix,
        checks: DeferredChecks,
    ) -> _Filters:
        validate.choice(compute_dtype, "compute_dtype", _COMPUTE_DTYPES)
        if labels is not None:
            labels = checks.ids(labels, "labels", -1, 2**63 - 1)
            if len(labels) != instances.num_rows:
                raise ValueError(f"labels: expected one for each of {instances.num_rows} instances, got {len(labels)}")
        return cls(
            _METRICS.index(validate.choice(metric, "metric", _METRICS)),
            labels,
            validate.max_score(max_score),
            validate.integer(range_min, "range_min", 0, validate.MAX_NODES),
        )

    def selection(self, num_neighbors: int, *, sort: bool) -> Selection:
        """Valid while this object lives: it owns the labels."""
        return Selection(self.metric, num_neighbors, self.range_min, address(self.labels), self.max_score, sort)


def _towers(features: Any, documents: Any) -> tuple[Matrix, Matrix | None]:
    query = as_matrix(features, "features")
    if documents is None:
        return query, None
    other = as_matrix(documents, "documents")
    require_device(other.device, "documents", query.device)
    if (other.num_rows, other.dim) != (query.num_rows, query.dim):
        raise ValueError(
            f"documents: expected the shape of features, [{query.num_rows}, {query.dim}], "
            f"got [{other.num_rows}, {other.dim}]"
        )
    return query, other


def _subset(rows: Any, instances: Matrix, checks: DeferredChecks) -> tuple[torch.Tensor | None, int]:
    if rows is None:
        return None, instances.num_rows
    subset = checks.ids(rows, "rows", 0, instances.num_rows)
    if len(subset) == 0:
        raise ValueError("rows: expected at least one instance, got none")
    if checks.are_all(subset, instances.num_rows):
        return None, instances.num_rows
    checks.require_distinct(subset, "rows")
    return subset, len(subset)


def _ascending(subset: torch.Tensor, checks: DeferredChecks) -> torch.Tensor:
    """The same tensor if it is sorted already, and no device has to be asked: the engine then knows that queries and
    base are the same rows."""
    return subset if not checks.is_deferred and bool((subset[1:] > subset[:-1]).all()) else subset.sort().values


def _graph_sizes(
    config: GraphConfig, num_candidates: int | None, num_neighbors: int | None, num_rows: int
) -> tuple[int, int]:
    """(M, K). A single row has nobody to link to: without explicit sizes its graph has no columns."""
    if num_candidates is None:
        num_candidates = min(config.num_candidates, num_rows - 1)
        because = f" (num_candidates defaults to {num_candidates} for {num_rows} rows)"
    else:
        num_candidates = validate.integer(
            num_candidates, "num_candidates", 1, num_rows - 1, because=f" ({num_rows} rows, itself excluded)"
        )
        because = " (num_candidates)"
    if num_neighbors is None:
        return num_candidates, min(config.num_neighbors, num_candidates)
    return num_candidates, validate.integer(num_neighbors, "num_neighbors", 1, num_candidates, because=because)
