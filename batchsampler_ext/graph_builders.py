"""Builds proximity graphs and kNN graphs, and searches nearest neighbors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed

from ._engine import validate
from ._engine.arrays import Matrix, address, as_matrix, require_device
from ._engine.backend import engine
from ._engine.cuda import DeviceStatus
from ._engine.deferred_checks import DeferredChecks
from ._engine.requests import Edges, KnnRequest, ProximityGraphRequest, Resources, Selection
from ._engine.validate import Progress, ProgressBar
from ._shards import Arguments, Shards, digest_of_ids, digest_of_rows, shares
from .graph import ProximityGraph

__all__ = ["GraphConfig", "Neighbors", "knn", "knn_graph", "proximity_graph"]

METRICS = ("cosine", "ip", "l2")  # in the order of csrc/common/score.h
_COMPUTE_DTYPES = (torch.float32, torch.bfloat16)


class Neighbors(NamedTuple):
    """Result of :func:`knn`: descending scores float32 [Q, K], ids int32 [Q, K]; (-inf, -1) past the last neighbor."""

    scores: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True, eq=False)
class GraphConfig:
    """Options of a proximity graph, for :func:`proximity_graph` and samplers.

    Args:
        num_candidates: M, at least 1. A graph over R rows uses the smaller of this and R - 1.
        num_neighbors: K, at least 1. A graph uses the smaller of this and M.
        candidate_group_size: number of rows that share one random candidate set. None: 256, or the smaller of 256 and
            M / 16 for planners that walk.
        metric, labels, max_score, range_min, compute_dtype, sort, return_scores, num_threads, max_memory: as in
            :func:`proximity_graph`.

    Raises:
        TypeError, ValueError: bad ``num_candidates`` or ``num_neighbors``. The other options are checked when a graph
            is built.

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
        validate.integer(self.range_min, "range_min", 0, validate.MAX_NODES)

    def with_given(self, **keywords: Any) -> GraphConfig:
        """Returns a copy in which the keywords that are not None replace its values."""
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
    progress: Progress | ProgressBar | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
) -> ProximityGraph:
    """Returns the graph of the ``num_neighbors`` most similar of ``num_candidates`` random other instances.

    Args:
        features: [N, D] float32, bfloat16 or float16: a tensor on the CPU or a CUDA device, a NumPy array, a memmap
            (read in place), or an object with DLPack or the buffer protocol. If its rows are contiguous, it is
            read in place, otherwise it is copied. All tensor arguments must be on one device. ``rows`` and ``labels``
            may also be lists or NumPy arrays, which are copied to that device.
        num_neighbors: K, 1 to M. Default: ``min(100, M)``.
        num_candidates: M, 1 to R - 1 for R rows. Default: ``min(1000, R - 1)``. A larger M gives harder batches and
            more false negatives. M = K gives a random graph, M = N - 1 the exact kNN graph.
        config: the options as a :class:`GraphConfig`. Keywords that are not None replace its values. Defaults named
            here are those of ``GraphConfig()``.
        documents: [N, D] embeddings of a second tower. Edge i -> j then scores ``features[i]`` against
            ``documents[j]``.
        metric: "cosine" (default), "ip" (inner product) or "l2" (minus the squared Euclidean distance, never positive).
            A larger score is always a better neighbor. Squared distances are sums of squared differences, so they keep
            their digits far from the origin. Those below 2**-150 count as 0, and those above 3.4e38 rank last.
            With cosine, rows are zeros (their cosines are 0) or have a norm from 2**-63 to 2**63.
        candidate_group_size: rows that share one random candidate set, by default 256. With 1 each row draws its own.
            Larger groups are faster, and each row's candidates are still exactly uniform. But a share of about
            exp(-M / group size) of the instances is then in no group's draw, so they have no incoming edge. No walk
            reaches them along an edge: they are drawn only as roots or random fills. Partitions still place them, by
            their outgoing edges.
        rows: distinct int [R], instance ids: only these get a row and are candidates. Neighbors remain ids of
            ``features``. Default: all N.
        labels: int [N]; -1 is unknown. Instances with equal labels (known false negatives) get no edge. They can still
            meet in a batch through a neighbor that they share.
        max_score: candidates that score above it (suspected false negatives) get no edge. Compared as float32.
        range_min: skip the ``range_min`` best candidates of each row that ``labels`` and ``max_score`` allow, then keep
            K. Default: 0.
        compute_dtype: ``torch.float32`` (default), or ``torch.bfloat16``: each feature is first rounded to the nearest
            bfloat16, and exact scores are those of the rounded features. The score of unit vectors changes by at most
            about 2**-7.
        sort: list neighbors by descending score, ties by lower id. Default: in the order they were drawn.
        return_scores: store ``graph.scores``.
        seed: 0 to 2**64 - 1.
        num_threads: CPU threads, by default ``torch.get_num_threads()``.
        max_memory: limit of scratch memory beyond the result, in bytes. Without it, the CPU takes a few MiB per thread
            and 8 bytes per row. For cosine, most CPUs take about 2 D bytes per row more for rounded copies, up to 1 GiB
            in total and up to half of ``max_memory``. A CUDA device takes 32 MiB for scores and up to 12 bytes per row.
            For :func:`knn_graph` and :func:`knn`, it takes 16 K + 2,000 bytes per row for lists of candidates, up to
            1 GiB. If K is above 512, or the base has fewer than 1025 or 4 K rows, it takes up to 512 MiB for scores
            instead.
        progress: called as ``progress(num_done, num_rows)`` from the calling thread, from time to time and at the end,
            or a bar such as ``tqdm()``. With ``process_group``, it counts the rows that this rank builds.
        process_group: a torch.distributed group, for example ``torch.distributed.group.WORLD``, whose ranks build the
            graph together. All of its ranks must call with equal arguments. Each builds an equal share of the rows, and
            every rank returns the whole graph. Default: this process builds all rows by itself.

    Returns:
        :class:`ProximityGraph` with int32 [R, K] neighbors on the device of the features, and float32 [R, K] scores if
        asked for. A row has fewer than K neighbors (then -1) only if ``labels``, ``max_score``, ``range_min`` or NaN
        scores leave fewer candidates.

    Raises:
        TypeError, ValueError: a bad argument, named. Features that are not finite, and rows whose norm is too small or
            too large for cosine, are found before any work.
        RuntimeError: with ``process_group``, on all ranks: their arguments differ (the message says which), or a rank
            has raised an error. The rank with the error raises its own. If a rank has ended, the others raise, at the
            latest after the timeout of the group.

    Determinism: the graph is a function of features, arguments and seed. It is equal to the bit for all devices, thread
    counts, instruction sets and values of ``max_memory``. Candidates are selected by exact score, ties by draw order.
    The exact score is a chain of fused multiply-adds over ascending dimensions. Ctrl-C stops the call within 0.2 s.
    The graph does not depend on ``process_group`` either.

    Several processes: ranks compare all arguments and up to 1,024 rows of the features before they build. Candidates
    may be any rows, so every rank needs all features and computes the norms of all rows. Each rank then receives the
    rows that it did not build, by way of 24 MiB of buffers. A graph on a GPU is copied for this if the group's backend
    works on the CPU, and the other way round. Ctrl-C waits for other ranks only while rows are exchanged.

    CUDA: without ``process_group`` the call never waits for the device. Bad features and bad values of ``rows`` and
    ``labels`` raise when the host next reads the result, or in :meth:`ProximityGraph.check`. ``num_threads`` and
    ``progress`` have no effect.

    Source: Yang et al., KDD 2023, section 4.1.

    Example:
        >>> import torch
        >>> features = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
        >>> graph = proximity_graph(features, 10, num_candidates=100)
        >>> graph
        ProximityGraph(num_instances=500, num_neighbors=10)
    """

    def checked_call() -> _GraphCall:
        if config is not None and not isinstance(config, GraphConfig):
            raise TypeError(f"config: expected a GraphConfig or None, got {type(config).__name__}")
        given = (GraphConfig() if config is None else config).with_given(
            metric=metric, candidate_group_size=candidate_group_size, labels=labels, max_score=max_score,
            range_min=range_min, compute_dtype=compute_dtype, sort=sort, return_scores=return_scores,
            num_threads=num_threads, max_memory=max_memory,
        )  # fmt: skip
        return _GraphCall.check(features, documents, rows, given, num_candidates, num_neighbors, seed, progress)

    shards = None if process_group is None else Shards(process_group)
    if shards is not None and shards.num_ranks > 1:
        return _built_in_shards(shards, checked_call)
    call = checked_call()
    return call.graph(call.build(range(call.request.num_groups)))


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
    progress: Progress | ProgressBar | None = None,
) -> ProximityGraph:
    """Returns the exact k-nearest-neighbor graph: :func:`proximity_graph` with M = R - 1.

    There is no ``process_group``: this function scores each pair of rows once, and ranks with shares of the rows would
    score most pairs twice.

    Args:
        num_neighbors: K, 1 to R - 1.
        return_scores: store ``graph.scores``, by default True.
        features, documents, metric, rows, labels, max_score, range_min, compute_dtype, num_threads, max_memory,
            progress: as in :func:`proximity_graph`.

    Returns:
        :class:`ProximityGraph` as from :func:`proximity_graph`, with neighbors by descending score, ties by lower id.

    Raises, determinism: as :func:`proximity_graph`. Ties at the K-th score go to the lower id.

    Complexity: O(R**2 D) multiply-adds. Without ``documents``, and with ``rows`` ascending or None, each pair is
    scored once, with about 16 K bytes of scratch per row. If that exceeds 1 GiB or ``max_memory``, pairs are scored
    twice, with 12 bytes per row and a few MiB per thread. For cosine, AVX2 and AVX-512 VNNI prefilter with rows
    rounded to int16, and compute exact scores of close candidates only. Rounded rows take 2 D bytes each, up to 1 GiB
    in total.

    Example:
        >>> import torch
        >>> knn_graph(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1).neighbors.ravel().tolist()
        [1, 0, 1]
    """
    query, other = as_towers(features, documents)
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
    return graph_rows.graph(subset, query.num_rows, [*checks.statuses, status])


def knn(
    queries: Any,
    base: Any,
    num_neighbors: int,
    *,
    metric: str = "cosine",
    compute_dtype: torch.dtype = torch.float32,
    num_threads: int | None = None,
    max_memory: int | None = None,
    progress: Progress | ProgressBar | None = None,
) -> Neighbors:
    """Returns the ``num_neighbors`` most similar rows of ``base`` for each row of ``queries``, exactly.

    Args:
        queries: [Q, D], as ``features`` of :func:`proximity_graph`. A query that is also a row of the base finds
            itself.
        base: [N, D], likewise, on the same device.
        num_neighbors: K, 1 to N.
        metric, compute_dtype, num_threads, max_memory, progress: as in :func:`proximity_graph`.

    Returns:
        :class:`Neighbors` on the device of the queries: descending scores float32 [Q, K], ids int32 [Q, K] of rows of
        the base, ties by lower id.

    Raises, determinism: as :func:`proximity_graph`. On a CUDA device the call waits for the search and raises errors at
    once, because a tuple cannot raise them later.

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


@dataclass(frozen=True)
class _GraphCall:
    """A call of :func:`proximity_graph`: its checked arguments, and memory for the result."""

    query: Matrix
    other: Matrix | None
    subset: torch.Tensor | None
    config: GraphConfig
    filters: _Filters
    checks: DeferredChecks
    request: ProximityGraphRequest  # of the whole graph
    resources: Resources
    result: _Rows

    @classmethod
    def check(
        cls,
        features: Any,
        documents: Any,
        rows: Any,
        config: GraphConfig,
        num_candidates: int | None,
        num_neighbors: int | None,
        seed: int,
        progress: Progress | ProgressBar | None,
    ) -> _GraphCall:
        query, other = as_towers(features, documents)
        checks = DeferredChecks(query.device)
        subset, num_rows = _subset(rows, query, checks)
        num_candidates, num_neighbors = _graph_sizes(config, num_candidates, num_neighbors, num_rows)
        group_size = 256 if config.candidate_group_size is None else config.candidate_group_size
        group_size = min(validate.integer(group_size, "candidate_group_size", 1), validate.MAX_NODES)
        filters = _Filters.check(
            config.metric, config.compute_dtype, config.labels, config.max_score, config.range_min, query, checks
        )
        request = ProximityGraphRequest(
            features=query.describe(config.compute_dtype),
            documents=None if other is None else other.describe(config.compute_dtype),
            rows=address(subset),
            num_rows=num_rows,
            num_candidates=num_candidates,
            candidate_group_size=group_size,
            first_group=0,
            num_groups=-(-num_rows // min(group_size, num_rows)),
            selection=filters.selection(num_neighbors, sort=validate.flag(config.sort, "sort")),
            seed=validate.seed(seed),
        )
        with_scores = validate.flag(config.return_scores, "return_scores")
        resources = _resources(config.num_threads, config.max_memory, progress)
        result = _Rows(num_rows, num_neighbors, with_scores, query.device)
        return cls(query, other, subset, config, filters, checks, request, resources, result)

    def build(self, groups: range) -> list[DeviceStatus | None]:
        """Writes the rows of these groups to the result. The statuses are those of :meth:`ProximityGraph.check`."""
        status = None
        if self.request.num_candidates > 0 and len(groups) > 0:
            request = self.request._replace(first_group=groups.start, num_groups=len(groups))
            status = engine(self.query.device).proximity_graph(request, self.result.edges(), self.resources)
        return [*self.checks.statuses, status]

    def graph(self, statuses: list[DeviceStatus | None]) -> ProximityGraph:
        return self.result.graph(self.subset, self.query.num_rows, statuses)

    def order(self) -> torch.Tensor | None:
        """Returns the row at each position (csrc/common/requests.h), int32 [R]. None: the position itself."""
        if self.request.candidate_group_size == 1:
            return None
        order = torch.empty(self.request.num_rows, dtype=torch.int32, device=self.query.device)
        engine(self.query.device).group_order(n=len(order), seed=self.request.seed, out=address(order))
        return order

    def positions(self, groups: range) -> range:
        """Returns the positions of the rows of these groups."""
        rows_per_group = min(self.request.candidate_group_size, self.request.num_rows)
        first, end = (min(group * rows_per_group, self.request.num_rows) for group in (groups.start, groups.stop))
        return range(first, end)

    def compared(self) -> Arguments:
        """Returns what must be equal on all ranks that build the graph together."""
        request, selection = self.request, self.request.selection
        max_score = torch.tensor(math.nan if selection.max_score is None else selection.max_score)
        return Arguments(
            num_instances=self.query.num_rows,
            dim=self.query.dim,
            num_rows=request.num_rows,
            num_candidates=request.num_candidates,
            num_neighbors=selection.num_neighbors,
            candidate_group_size=request.candidate_group_size,
            range_min=selection.range_min,
            seed=request.seed,
            sort=selection.sort,
            return_scores=self.result.scores is not None,
            metric=selection.metric,
            compute_dtype=_COMPUTE_DTYPES.index(self.config.compute_dtype),
            max_score=int(max_score.view(torch.int32)),
            rows=digest_of_ids(self.subset),
            labels=digest_of_ids(self.filters.labels),
            features=digest_of_rows(self.query, self.subset),
            documents=-1 if self.other is None else digest_of_rows(self.other, self.subset),
        )


def _built_in_shards(shards: Shards, checked_call: Callable[[], _GraphCall]) -> ProximityGraph:
    """Returns the graph that all ranks build together."""
    with shards.announced_failure():
        call = checked_call()
        compared = call.compared()
    shards.require_equal(compared)
    with shards.announced_failure():
        groups = shares(call.request.num_groups, shards.num_ranks)
        for status in call.build(groups[shards.rank]):
            if status is not None:
                status.check()
        order = call.order()
    shards.require_built()
    positions = [call.positions(share) for share in groups]
    for table in (call.result.neighbors, call.result.scores):
        if table is not None and table.numel() > 0:
            shards.gather(table, positions, order)
    return call.graph([])


class _Rows:
    """Memory for a result, which an engine fills."""

    def __init__(self, num_rows: int, num_neighbors: int, with_scores: bool, device: torch.device) -> None:
        shape = (num_rows, num_neighbors)
        self.neighbors = torch.empty(shape, dtype=torch.int32, device=device)
        self.scores = torch.empty(shape, dtype=torch.float32, device=device) if with_scores else None

    def graph(
        self, ids: torch.Tensor | None, num_instances: int, statuses: list[DeviceStatus | None]
    ) -> ProximityGraph:
        return ProximityGraph._from_engine(self.neighbors, self.scores, ids, num_instances, statuses)

    def edges(self) -> Edges:
        return Edges(address(self.neighbors), address(self.scores))


def _resources(num_threads: Any, max_memory: Any, progress: Any) -> Resources:
    return Resources(validate.num_threads(num_threads), validate.max_memory(max_memory), validate.progress(progress))


class CheckedLabels(NamedTuple):
    """Labels of all instances for graphs over few rows each, so that not every call checks all of them.

    values: int64 [N] on the device of the features, at least -1.
    """

    values: torch.Tensor


@dataclass(frozen=True)
class _Filters:
    """The checked arguments that say which candidates may become neighbors. All builders take them."""

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
        if isinstance(labels, CheckedLabels):
            labels = labels.values
        elif labels is not None:
            labels = checks.ids(labels, "labels", -1, 2**63)
        if labels is not None and len(labels) != instances.num_rows:
            raise ValueError(f"labels: expected one for each of {instances.num_rows} instances, got {len(labels)}")
        return cls(
            METRICS.index(validate.choice(metric, "metric", METRICS)),
            labels,
            validate.max_score(max_score),
            validate.integer(range_min, "range_min", 0, validate.MAX_NODES),
        )

    def selection(self, num_neighbors: int, *, sort: bool) -> Selection:
        """Valid while this object lives: it owns the labels."""
        return Selection(self.metric, num_neighbors, self.range_min, address(self.labels), self.max_score, sort)


def as_towers(first: Any, documents: Any, name: str = "features") -> tuple[Matrix, Matrix | None]:
    """Returns the embeddings of both towers, or of the only one. name: of the argument ``first``."""
    query = as_matrix(first, name)
    if documents is None:
        return query, None
    other = as_matrix(documents, "documents")
    require_device(other.device, "documents", query.device)
    if (other.num_rows, other.dim) != (query.num_rows, query.dim):
        raise ValueError(
            f"documents: expected the shape of {name}, [{query.num_rows}, {query.dim}], "
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
    """Returns ids in ascending order: the same tensor if it is known to be ascending without waiting for a device.

    From equal addresses of query ids and base ids the engine knows that both are the same rows.
    """
    return subset if not checks.is_deferred and bool((subset[1:] > subset[:-1]).all()) else subset.sort().values


def _graph_sizes(
    config: GraphConfig, num_candidates: int | None, num_neighbors: int | None, num_rows: int
) -> tuple[int, int]:
    """Returns (M, K), both 0 for a graph of one row without explicit sizes."""
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
