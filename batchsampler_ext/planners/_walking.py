"""Shared code of the planners that walk: arguments of walks, and options of the graph that walks need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from .._engine import validate
from .._engine.arrays import address
from .._engine.backend import engine
from .._graph_view import GraphView
from ..graph_builders import GraphConfig
from ..walk import Walks
from .base import BatchPlanner, PlanRequest

ORDERS = ("rwr", "rw", "bfs", "dfs", "knn", "uniform")
COUNTS = Walks._fields[1:]


@dataclass(frozen=True)
class WalkingPlanner(BatchPlanner):
    """Base of the planners that collect each batch from a root.

    Args:
        order: how a batch is collected from its root. "rwr" (default) walks with restart. The others serve for
            comparison, as in the paper. "rw" walks without restart. "bfs" and "dfs" visit the graph breadth first and
            depth first. "knn" takes the root and its first B - 1 neighbors. It needs K >= B - 1 and neighbors sorted by
            score. "uniform" takes the root and random rows.
        restart_prob: alpha in [0, 1). None: the value of the call or the sampler.

    Raises:
        TypeError, ValueError: a bad option, named.

    Source: Yang et al., KDD 2023, sections 4.2 (walks) and 5.4 (other orders).
    """

    order: str = "rwr"
    restart_prob: float | None = None

    def __post_init__(self) -> None:
        validate.choice(self.order, "order", ORDERS)
        if self.restart_prob is not None:
            validate.restart_threshold(self.restart_prob)

    def graph_config(self, config: GraphConfig, batch_size: int, num_instances: int) -> GraphConfig | None:
        if self.order == "uniform":
            return None
        if config.candidate_group_size is None:
            # A share of about exp(-M / candidate_group_size) of the instances is in no group's draw. They have no
            # incoming edge, so no walk reaches them along an edge.
            config = replace(config, candidate_group_size=max(1, min(256, config.num_candidates // 16)))
        if self.order != "knn":
            return config
        for name in ("num_candidates", "num_neighbors"):
            count = getattr(config, name)
            if count < batch_size - 1:
                raise ValueError(
                    f"{name}: expected batch_size - 1, {batch_size - 1}, or more for order 'knn', got {count}"
                )
        return replace(config, sort=True) if num_instances >= batch_size else None

    def walk_arguments(self, view: GraphView, request: PlanRequest) -> dict[str, Any]:
        """Returns keyword arguments of run_row_walks."""
        order = self.order
        needed = min(request.batch_size, view.num_rows) - 1
        num_neighbors = view.graph.num_neighbors
        if order == "knn" and num_neighbors < needed:
            if num_neighbors:
                raise ValueError(
                    f"order: expected a graph with at least {needed} neighbors per row for 'knn' batches of "
                    f"{request.batch_size}, got {num_neighbors}"
                )
            order = "uniform"  # the graph has no edges
        return {
            "threshold": request.restart_threshold(self.restart_prob),
            "strategy": order,
            "seed": request.seed,
            "epoch": request.epoch,
            "num_threads": request.num_threads,
        }


def root_order(view: GraphView, request: PlanRequest) -> torch.Tensor:
    """Returns a random permutation of the rows, int64 on the graph's device."""
    device = view.graph.device
    order = torch.empty(view.num_rows, dtype=torch.int64, device=device)
    engine(device).root_order(n=view.num_rows, seed=request.seed, epoch=request.epoch, out=address(order))
    return order
