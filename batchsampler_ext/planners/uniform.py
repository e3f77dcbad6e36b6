"""The baseline: random batches, each row in exactly one. It needs no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .._graph_view import GraphView
from ..graph import ProximityGraph
from ..graph_builders import GraphConfig
from ._walking import root_order
from .base import Batches, BatchPlanner, PlanRequest, batches_in_order


@dataclass(frozen=True)
class UniformPlanner(BatchPlanner):
    """Plans a random permutation of the rows, cut into batches. The ragged one comes last."""

    name: ClassVar[str] = "uniform"
    covers_once: ClassVar[bool] = True

    def graph_config(self, config: GraphConfig, batch_size: int, num_instances: int) -> None:
        return None

    def plan(self, graph: ProximityGraph, request: PlanRequest) -> Batches:
        view = GraphView(graph)
        graph.check()
        num_full, tail_size = request.sizes(view.num_rows)
        order = root_order(view, request)[: num_full * request.batch_size + tail_size]
        return batches_in_order(view, order.to(torch.int32), request, 0)
