"""Plans an epoch of mini-batches from a graph."""

from __future__ import annotations

from typing import Any

from ._engine import validate
from ._graph_view import GraphView
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
    """Returns the mini-batches of one epoch.

    Args:
        graph: :class:`ProximityGraph`, or an int32 [N, K] tensor of neighbors (-1 past the last of a row), on the CPU
            or a CUDA device.
        batch_size: B, 1 to 2**28.
        planner: a name, or an object with options such as ``PartitionPlanner(hardness="soft")``, or your own object.
            "partition": each instance is in exactly one batch; full batches in random order, then the ragged one.
            "walks": walks with restart from random roots; batches may overlap.
            "cover_by_walks": walks from instances not yet drawn (the authors' epoch). When less than a batch is left,
            the rest is the ragged batch. The number of batches varies, and instances repeat.
            "uniform": a random permutation, cut into batches.
        restart_prob: alpha in [0, 1), the probability of returning to the root before a step. A partition adjusts its
            hardness to walks with this alpha.
        drop_last: leave out the ragged batch. A partition then leaves out N mod B random instances.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**24 - 1.
        num_batches: number of batches to plan, at most those of the epoch; with "walks" at most 2**31 - 1. Default: the
            whole epoch, for "walks" as many batches as a partition has.
        num_threads: CPU threads, by default ``torch.get_num_threads()``.

    Returns:
        :class:`Batches` of int64 instance ids on the graph's device. The entry "num_instances" of ``stats`` is the
        number of distinct instances drawn. Planners that walk add totals of "steps", "restarts", "reroots" and
        "random_fills". "partition" adds "random_fills", the number of instances assigned at random.

    Raises:
        TypeError, ValueError: a bad argument, named; an id in ``graph`` that is out of range.

    Determinism: the epoch is a function of graph, arguments, seed and epoch. Threads and device do not change it.

    CUDA: the call waits for the device: once for "uniform", twice for "walks", a few dozen times for "partition", and
    for "cover_by_walks" once per round of up to 1024 walks and twice more.

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
        num_batches=None
        if num_batches is None
        else validate.integer(num_batches, "num_batches", 1, validate.MAX_NODES),
        seed=validate.seed(seed),
        epoch=validate.epoch(epoch),
        restart_prob=restart_prob,
        num_threads=validate.num_threads(num_threads),
    )
    return found.plan(graph if isinstance(graph, ProximityGraph) else GraphView(graph).graph, request)
