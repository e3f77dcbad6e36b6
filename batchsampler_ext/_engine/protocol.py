"""The interface of an engine: the compiled calls on one kind of device.

Arrays are passed as addresses on the engine's device; 0 stands for an absent optional array. Shapes and dtypes are in
the docstrings of ``_core``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .. import _core
from .cuda import DeviceStatus

# address, dtype code, number of rows, dim, row stride in elements, round to bf16
MatrixDescription = tuple[int, int, int, int, int, bool]
# neighbors, number of rows, number of neighbors, degrees, row_of, number of nodes
GraphDescription = tuple[int, int, int, int, int, int]
Progress = Callable[[int, int], object]


class Engine(Protocol):
    """Calls either have their results ready, or have queued the work and return a status that tells of bad values."""

    @property
    def is_queued(self) -> bool:
        """Whether work is queued, so that bad values are found after a call has returned."""

    @property
    def finds_degrees(self) -> bool:
        """Whether ``walk_batches`` takes a graph without degrees and with unchecked ids, and checks what it reads."""

    def proximity_graph(
        self,
        *,
        features: MatrixDescription,
        documents: MatrixDescription | None,
        rows: int,
        num_rows: int,
        num_neighbors: int,
        num_candidates: int,
        candidate_group_size: int,
        metric: int,
        labels: int,
        max_score: float | None,
        range_min: int,
        sort: bool,
        seed: int,
        num_threads: int,
        max_memory: int,
        progress: Progress | None,
        neighbors: int,
        scores: int,
    ) -> DeviceStatus | None: ...

    def knn(
        self,
        *,
        queries: MatrixDescription,
        base: MatrixDescription | None,
        query_ids: int,
        num_queries: int,
        base_ids: int,
        num_base: int,
        exclude_self: bool,
        num_neighbors: int,
        metric: int,
        labels: int,
        max_score: float | None,
        range_min: int,
        num_threads: int,
        max_memory: int,
        progress: Progress | None,
        neighbors: int,
        scores: int,
    ) -> DeviceStatus | None: ...

    def row_degrees(self, *, graph: GraphDescription, num_threads: int, degrees: int) -> DeviceStatus | None: ...

    def walk_batches(
        self,
        *,
        graph: GraphDescription,
        finds_degrees: bool,
        strategy: int,
        roots: int,
        walk_ids: int,
        num_walks: int,
        batch_size: int,
        restart_threshold: int,
        seed: int,
        epoch: int,
        num_threads: int,
        nodes: int,
        counts: int,
    ) -> DeviceStatus | None: ...

    def partition_epoch(
        self,
        *,
        graph: GraphDescription,
        batch_size: int,
        restart_threshold: int,
        drop_last: bool,
        hardness: int,
        seed: int,
        epoch: int,
        num_threads: int,
        nodes: int,
    ) -> int:
        """Never queued. Returns the number of rows that were filled in at random."""

    def root_order(self, *, n: int, seed: int, epoch: int, out: int) -> None: ...

    def independent_roots(self, *, n: int, num_walks: int, seed: int, epoch: int, out: int) -> None: ...


class CpuEngine:
    """The calls of ``_core``, which return when the work is done and raise what is wrong."""

    is_queued = False
    finds_degrees = True

    proximity_graph = staticmethod(_core.proximity_graph)
    knn = staticmethod(_core.knn)
    row_degrees = staticmethod(_core.row_degrees)
    walk_batches = staticmethod(_core.walk_batches)
    partition_epoch = staticmethod(_core.partition_epoch)
    root_order = staticmethod(_core.root_order)
    independent_roots = staticmethod(_core.independent_roots)
