"""Independent walks from random roots. Batches overlap, and some instances are never drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .._engine import validate
from .._engine.arrays import address
from .._engine.backend import engine
from .._engine.cuda import to_host
from .._graph_view import GraphView
from ..graph import ProximityGraph
from ..walk import Walks, run_walks
from ._walking import COUNTS, WalkingPlanner
from .base import Batches, PlanRequest


@dataclass(frozen=True)
class WalkPlanner(WalkingPlanner):
    """Plans one batch per walk, each from a random root. Batches may overlap.

    Args:
        order: "rwr", "rw", "bfs", "dfs", "knn" or "uniform", see :class:`WalkingPlanner`.
        restart_prob: alpha in [0, 1). None: the value of the call or the sampler.

    Source: Yang et al., KDD 2023, section 4.2.
    """

    name: ClassVar[str] = "walks"
    covers_once: ClassVar[bool] = False

    def plan(self, graph: ProximityGraph, request: PlanRequest) -> Batches:
        view = GraphView(graph)
        batch_size, num_rows = request.batch_size, view.num_rows
        arguments = self.walk_arguments(view, request)
        num_full, tail_size = request.sizes(num_rows)
        num_batches = num_full + (tail_size > 0) if request.num_batches is None else request.num_batches
        is_small = num_rows < batch_size  # the only batch holds all rows
        if is_small and request.num_batches is not None:
            because = f" (batch_size exceeds the {num_rows} rows)"
            validate.integer(num_batches, "num_batches", 1, int(not request.drop_last), because=because)
        roots = torch.empty(num_batches, dtype=torch.int64, device=graph.device)
        engine(graph.device).independent_roots(
            n=num_rows, num_walks=num_batches, seed=request.seed, epoch=request.epoch, out=address(roots)
        )
        walks = run_walks(view, roots, torch.arange(num_batches, device=graph.device), batch_size, **arguments)
        nodes, tail = walks.nodes, walks.nodes[:0, 0]
        if is_small:
            tail = nodes.reshape(-1)[: num_rows if num_batches else 0]
            nodes = nodes[:0]
        elif request.num_batches is None and tail_size:
            nodes, tail = nodes[:-1], nodes[-1, :tail_size]
        return Batches(nodes, tail, _stats(view, walks, torch.cat([nodes.reshape(-1), tail])))


def _stats(view: GraphView, walks: Walks, instances: torch.Tensor) -> dict[str, float]:
    """Returns the totals of the walks and the number of distinct instances. Waits for the device."""
    graph = view.graph
    graph.check()
    is_member = torch.zeros(graph.num_instances, dtype=torch.bool, device=graph.device)
    is_member[instances.long()] = True
    totals = to_host(torch.stack([is_member.sum(), *(counts.sum() for counts in walks[1:])])).tolist()
    return dict(zip(("num_instances", *COUNTS), totals, strict=True))
