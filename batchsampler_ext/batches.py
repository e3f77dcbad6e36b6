"""An epoch of mini-batches from a graph."""

from __future__ import annotations

from typing import Any

from ._engine import validate
from ._engine.graph_view import GraphView
from .graph import ProximityGraph
from .planners import Batches, BatchPlanner, PlanRequest, find_planner
from .walk import check_batch_size

__all__ = ["Batches", "sample_batches"]


def sample_batches(
    graph: Any,
    batch_size: int,
    *,
    planner: str | BatchPlanner = "partition",
    restart_prob: float = 0.2,
    drop_last: bool = False,
    seed: int = 0,
    epoch: int = 0,
    num_batches: int | None = None,
    num_threads: int | None = None,
) -> Batches:
    """The mini-batches of one epoch.

    Args:
        graph: :class:`ProximityGraph`, or int32 [N, K] neighbors.
        batch_size: B, at least 1.
        planner: "partition": each instance is in exactly one batch, the full batches in random order and the ragged one
            last. "walks": walks from random roots; batches may overlap. "cover_by_walks": the authors' epoch, whose
            roots are instances not yet drawn, until what is left is less than a batch and becomes the ragged one; its
            length varies and instances repeat. "uniform": a random permutation. Or an object with options, as
            ``PartitionPlanner(hardness="soft")``, or one of your own.
        restart_prob: alpha in [0, 1). A partition is about as hard as walks with this alpha.
        drop_last: no ragged batch. A partition leaves out N mod B instances drawn at random.
        seed, epoch: the epoch is a function of graph, arguments, seed and epoch.
        num_batches: stop after this many batches, at most as many as the epoch has; "walks" draws as many as are asked
            for. Default: the whole epoch (walks: as many batches as a partition would have).
        num_threads: default ``torch.get_num_threads()``. The result does not depend on it.

    Returns:
        :class:`Batches` on the graph's device, which is waited for: once by independent walks, a few dozen times by a
        partition, once for about 1000 batches by the authors' epoch. Its stats are "num_instances" (distinct instances
        drawn). Walks add totals of "steps", "restarts", "reroots" and "random_fills". A partition adds
        "random_fills", the instances assigned at random.

    Raises:
        TypeError, ValueError: a bad argument, named, with what was expected and got.

    Source: Yang et al., KDD 2023, sections 4.2 and 5.4.

    Example:
        >>> import torch
        >>> ring = torch.tensor([[1], [2], [3], [4], [0]], dtype=torch.int32)
        >>> batches = sample_batches(ring, 2)
        >>> len(batches), sorted(int(i) for batch in batches for i in batch)
        (3, [0, 1, 2, 3, 4])
    """
    found = find_planner(planner)
    validate.restart_threshold(restart_prob)
    request = PlanRequest(
        batch_size=check_batch_size(batch_size),
        drop_last=validate.flag(drop_last, "drop_last"),
        num_batches=None if num_batches is None else validate.integer(num_batches, "num_batches", 1),
        seed=validate.seed(seed),
        epoch=validate.epoch(epoch),
        restart_prob=restart_prob,
        num_threads=validate.num_threads(num_threads),
    )
    return found.plan(graph if isinstance(graph, ProximityGraph) else GraphView(graph).graph, request)
