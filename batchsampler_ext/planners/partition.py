"""The default planner: each row is in exactly one batch, together with neighbors where possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .._engine import validate
from .._engine.arrays import address
from .._engine.backend import engine
from .._engine.requests import PartitionRequest
from .._graph_view import GraphView
from ..graph import ProximityGraph
from .base import Batches, BatchPlanner, PlanRequest, batches_in_order

HARDNESSES = ("soft", "default", "hard")


@dataclass(frozen=True)
class PartitionPlanner(BatchPlanner):
    """Plans a partition: each row is in exactly one batch. Full batches come in random order, then the ragged one.

    Args:
        hardness: sets the goal for the excess edge share: the share of the members' edges that stay inside their batch,
            minus that share in random batches. "default": 3/4 of the excess edge share of independent walks, plus 1/50.
            "soft": half of this goal. "hard": 1, so batches are hardened as far as possible. docs/partition.md compares
            the in-batch cosine of the three.
        restart_prob: alpha in [0, 1) of the walks to compare with. None: the value of the call or the sampler.

    Raises:
        TypeError, ValueError: a bad option, named.

    Source: ours. docs/partition.md and csrc/common/partition_schedule.h describe the algorithm.
    """

    hardness: str = "default"
    restart_prob: float | None = None
    name: ClassVar[str] = "partition"
    covers_once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        validate.choice(self.hardness, "hardness", HARDNESSES)
        if self.restart_prob is not None:
            validate.restart_threshold(self.restart_prob)

    def plan(self, graph: ProximityGraph, request: PlanRequest) -> Batches:
        view = GraphView(graph)
        graph.check()
        num_full, tail_size = request.sizes(view.num_rows)
        rows = torch.empty(num_full * request.batch_size + tail_size, dtype=torch.int32, device=graph.device)
        partition = PartitionRequest(
            graph=view.layout,
            batch_size=request.batch_size,
            restart_threshold=request.restart_threshold(self.restart_prob),
            drop_last=request.drop_last,
            hardness=HARDNESSES.index(self.hardness),
            seed=request.seed,
            epoch=request.epoch,
        )
        num_random = engine(graph.device).partition_epoch(
            partition, num_threads=request.num_threads, nodes=address(rows)
        )
        return batches_in_order(view, rows, request, num_random)
