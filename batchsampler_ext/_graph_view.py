"""A graph as the walk kernels see it, in rows. Translates between instance ids and rows."""

from __future__ import annotations

from typing import Any

import torch

from ._engine.arrays import address
from ._engine.backend import engine
from ._engine.cuda import DeviceStatus
from ._engine.deferred_checks import DeferredChecks
from ._engine.requests import GraphLayout
from .graph import ProximityGraph

_FEW_IDS = 2**16  # so few ids are checked in some microseconds


class GraphView:
    """Borrowed description of a :class:`ProximityGraph` or int32 [N, K] table.

    The ids of a graph are checked once for each state of it. If the engine can check ids where walks meet them, it
    does so for a large table, and all its ids are checked before anything else reads it.
    """

    def __init__(self, graph: Any) -> None:
        self._is_table = not isinstance(graph, ProximityGraph)
        if not isinstance(graph, ProximityGraph):
            if not isinstance(graph, torch.Tensor):
                raise TypeError(f"graph: expected a ProximityGraph or an int32 tensor, got {type(graph).__name__}")
            try:
                graph = ProximityGraph(graph)
            except (TypeError, ValueError) as error:
                raise type(error)(str(error).replace("neighbors:", "graph:", 1)) from None
        self.graph: ProximityGraph = graph
        self.num_rows = len(graph)
        is_large = graph.neighbors.numel() > _FEW_IDS
        can_wait = self._is_table and is_large and engine(graph.device).finds_degrees
        self._degrees = None if can_wait else graph._short_degrees()
        self._has_degrees = not can_wait
        ids = graph.ids
        if ids is not None and DeferredChecks(graph.device).are_all(ids, graph.num_instances):
            ids = None
        self._ids = ids  # of the rows; None if row i is instance i
        self._row_of = None if ids is None else graph._row_of_instances()

    @property
    def layout(self) -> GraphLayout:
        """The layout for work that reads the whole graph. All ids have been checked."""
        if not self._has_degrees:
            self._degrees = self.graph._short_degrees()
            self._has_degrees = True
        return self.unchecked_layout

    @property
    def finds_degrees(self) -> bool:
        """Whether ``walk_batches`` has to find where rows end, as their ids are unchecked."""
        return not self._has_degrees

    @property
    def unchecked_layout(self) -> GraphLayout:
        """The layout for an engine's ``walk_batches``. Ids of a table may still be unchecked."""
        graph = self.graph
        return GraphLayout(
            address(graph.neighbors), self.num_rows, graph.num_neighbors, address(self._degrees), address(self._row_of),
            graph.num_instances,
        )  # fmt: skip

    def require_checked(self) -> None:
        """Raises ``ValueError`` for the first bad row of a table whose ids were not all checked.

        The bad row that a walk meets first depends on the threads, but the first bad row of the table does not.
        """
        if not self._has_degrees:
            self.graph._short_degrees(num_threads=1)

    def add_status(self, status: DeviceStatus | None) -> None:
        """Adds a status for ``graph.check()`` to read. For a table, waits and raises its errors at once."""
        self.graph._add_status(status)
        if self._is_table:
            self.graph.check()

    def rows(self, ids: Any, name: str) -> torch.Tensor:
        """Returns the rows (int64) of instances. On a device, a wrong id gets some row or -1, and check() raises."""
        checks = DeferredChecks(self.graph.device)
        ids = checks.ids(ids, name, 0, self.graph.num_instances)
        rows = ids
        if self._row_of is not None:
            rows = self._row_of[ids].long()
            checks.require_rows(rows, ids, name)
        for status in checks.statuses:
            self.graph._add_status(status)
        return rows

    def ids(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the instances (int32) of rows; -1 stays -1."""
        if self._ids is None:
            return rows
        ids = self._ids.to(torch.int32)[rows.clamp(min=0).long()]
        return torch.where(rows < 0, rows, ids)
