"""The interface of an engine: the compiled calls on one kind of device.

Results are written to addresses on the engine's device; 0 stands for an absent optional array. Shapes and dtypes are
in the docstrings of ``_core``.
"""

from __future__ import annotations

from typing import Protocol

from .. import _core
from . import requests
from .cuda import DeviceStatus


class Engine(Protocol):
    """Each call waits for its results, or it queues the work and returns a status that reports bad values."""

    @property
    def is_queued(self) -> bool:
        """Whether work is queued, so that bad values are found after a call has returned."""

    @property
    def finds_degrees(self) -> bool:
        """Whether ``walk_batches`` takes a graph without degrees and with unchecked ids, and checks what it reads."""

    def proximity_graph(
        self, request: requests.ProximityGraphRequest, edges: requests.Edges, resources: requests.Resources
    ) -> DeviceStatus | None: ...

    def knn(
        self, request: requests.KnnRequest, edges: requests.Edges, resources: requests.Resources
    ) -> DeviceStatus | None: ...

    def mutual_edges(
        self, request: requests.MutualEdgesRequest, edges: requests.Edges, *, num_threads: int, degrees: int
    ) -> DeviceStatus | None: ...

    def row_degrees(self, graph: requests.GraphLayout, *, num_threads: int, degrees: int) -> DeviceStatus | None: ...

    def walk_batches(
        self, request: requests.WalkRequest, *, num_threads: int, nodes: int, counts: int
    ) -> DeviceStatus | None: ...

    def partition_epoch(self, request: requests.PartitionRequest, *, num_threads: int, nodes: int) -> int:
        """Returns the number of random fills. This call is never queued."""

    def root_order(self, *, n: int, seed: int, epoch: int, out: int) -> None: ...

    def group_order(self, *, n: int, seed: int, out: int) -> None: ...

    def independent_roots(self, *, n: int, num_walks: int, seed: int, epoch: int, out: int) -> None: ...


class CpuEngine:
    """The calls of ``_core``. They return when the work is done, and raise errors at once."""

    is_queued = False
    finds_degrees = True

    proximity_graph = staticmethod(_core.proximity_graph)
    knn = staticmethod(_core.knn)
    mutual_edges = staticmethod(_core.mutual_edges)
    row_degrees = staticmethod(_core.row_degrees)
    walk_batches = staticmethod(_core.walk_batches)
    partition_epoch = staticmethod(_core.partition_epoch)
    root_order = staticmethod(_core.root_order)
    group_order = staticmethod(_core.group_order)
    independent_roots = staticmethod(_core.independent_roots)
