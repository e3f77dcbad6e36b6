"""The default planner: batches of rows that are linked to each other, each row in exactly one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .._engine import validate
from .._engine.arrays import address
from .._engine.backend import engine
from .._engine.graph_view import GraphView
from .._engine.requests import PartitionRequest
from ..graph import ProximityGraph
from .base import Batches, BatchPlanner, PlanRequest, batches_in_order

HARDNESSES = ("soft", "default", "hard")


@dataclass(frozen=True)
class PartitionPlanner(BatchPlanner):
    """Full batches in random order, then the ragged one. Each row is in exactly one batch.

    Args:
        hardness: "default": batches are about as linked as those of independent walks, if the graph allows it. "soft":
            half as linked. "hard": as linked as a partition makes them. In-batch cosine beyond random, as a share of
            the walks' (B = 256; soft, default, hard): .5, .8, .9 for sentences and .7, .8, .9 for centered images on a
            graph with M = 1000, K = 100; .6, 1.0, 1.8 and .7, .8, .8 on their exact graphs with K = 100, where some
            partitions cannot become harder.
        restart_prob: alpha of the walks that it is to be as hard as. None: that of the call or the sampler.

    The algorithm is described in csrc/common/partition_schedule.h.
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
