"""The batches of one epoch: communities of the graph, and unions of them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .._engine.backend import core
from ..graph import ProximityGraph
from ..planners import PartitionPlanner, PlanRequest

_UNION_STREAM = 254 << 24  # a Philox stream that is none of the purposes in csrc/common/random_stream.h


class EpochRequest(NamedTuple):
    """Which batches to make. All values have been checked."""

    batch_size: int
    community_size: int  # divides batch_size
    drop_last: bool
    seed: int
    epoch: int
    num_threads: int


def plan_epoch(graph: ProximityGraph | None, num_instances: int, request: EpochRequest) -> torch.Tensor:
    """Returns the instances of an epoch, int32 [L], one batch after the other, the ragged one last.

    graph: over all instances, on the CPU or a CUDA device. None: batches are uniform.
    """
    ids = uniform_epoch(num_instances, request.seed, request.epoch) if graph is None else _unions(graph, request)
    num_dropped = num_instances % request.batch_size if request.drop_last else 0
    return ids[: num_instances - num_dropped]


def uniform_epoch(num_instances: int, seed: int, epoch: int) -> torch.Tensor:
    """Returns all instances in random order, int32."""
    return _permutation(num_instances, seed, epoch).to(torch.int32)


def _unions(graph: ProximityGraph, request: EpochRequest) -> torch.Tensor:
    partition = PartitionPlanner("hard").plan(
        graph,
        PlanRequest(request.community_size, seed=request.seed, epoch=request.epoch, num_threads=request.num_threads),
    )
    communities, tail = partition.indices.cpu().to(torch.int32), partition.tail.cpu().to(torch.int32)
    if request.community_size < request.batch_size:
        communities = communities[_permutation(len(communities), _union_seed(request.seed), request.epoch)]
    return torch.cat([communities.reshape(-1), tail])


def _permutation(size: int, seed: int, epoch: int) -> torch.Tensor:
    """Returns a random order of ``range(size)``, int64."""
    order = torch.empty(size, dtype=torch.int64, device="cpu")
    if size:
        core.root_order(n=size, seed=seed, epoch=epoch, out=order.data_ptr())
    return order


def _union_seed(seed: int) -> int:
    low, high, _, _ = core.philox4x32(seed, _UNION_STREAM, 0, 0, 0)
    return high << 32 | low
