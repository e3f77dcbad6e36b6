"""Random walk with restart: collects one mini-batch from each root."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ._engine import validate
from ._engine.arrays import address
from ._engine.backend import engine
from ._engine.requests import WalkRequest
from ._graph_view import GraphView

__all__ = ["Walks", "random_walk_with_restart"]

_MAX_BATCH_SIZE = 2**28
# csrc/common/strategy.h; "rw" is the walk without restart.
_STRATEGY_CODES = {"rwr": 0, "rw": 0, "bfs": 1, "dfs": 2, "knn": 3, "uniform": 4}


class Walks(NamedTuple):
    """Mini-batches and counts of R walks, on the graph's device.

    Attributes:
        nodes: int32 [R, B], distinct instance ids of each walk, the root first, in the order the walk met them. The
            last ones are -1 if the graph has fewer than B rows.
        steps: int64 [R], moves along edges.
        restarts: int64 [R], restarts that were drawn.
        reroots: int64 [R], new random roots after an exhausted neighborhood.
        random_fills: int64 [R], instances that random fills added to the batch.
    """

    nodes: torch.Tensor
    steps: torch.Tensor
    restarts: torch.Tensor
    reroots: torch.Tensor
    random_fills: torch.Tensor


def random_walk_with_restart(
    graph: Any,
    roots: Any,
    batch_size: int,
    *,
    restart_prob: float = 0.2,
    seed: int = 0,
    epoch: int = 0,
    first_walk: int = 0,
    num_threads: int | None = None,
) -> Walks:
    """Returns the first ``batch_size`` distinct instances of a random walk with restart from each root.

    Args:
        graph: :class:`ProximityGraph`, or an int32 [N, K] tensor of neighbors: each row lists ids, then -1.
        roots: int [R], ids of instances that have a row in the graph. A tensor must be on the graph's device.
        batch_size: B, 1 to 2**28.
        restart_prob: alpha in [0, 1), the probability of returning to the root before a step.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**24 - 1.
        first_walk: walk w of this call is walk ``first_walk + w`` of the epoch, below 2**32. So an epoch may be
            computed in parts.
        num_threads: CPU threads, by default ``torch.get_num_threads()``.

    Returns:
        :class:`Walks` on the graph's device. Every walk ends: if the neighborhood of a root is exhausted, a random row
        becomes the root (reroot). A segment is the part of a walk between two returns to the root. After max_segments
        segments, which csrc/common/walk.h computes, random rows fill the batch (random fills).

    Raises:
        TypeError, ValueError: a bad argument, named; an id out of range; a -1 before an id in ``graph``. In a plain
            tensor of more than 65,536 ids on the CPU, only the ids that walks read are checked.

    Determinism: a walk is a function of graph, root, batch_size, restart_prob, seed, epoch and its number.

    CUDA: the call does not wait, and :meth:`ProximityGraph.check` raises errors in values. For a plain tensor of
    neighbors it waits and raises them at once.

    Source: Yang et al., KDD 2023, section 4.2. The limits that end each walk are in csrc/common/walk.h.

    Example:
        >>> import torch
        >>> ring = torch.tensor([[1], [2], [3], [0]], dtype=torch.int32)
        >>> random_walk_with_restart(ring, [2], 3, restart_prob=0.0).nodes.tolist()
        [[2, 3, 0]]
    """
    view = GraphView(graph)
    rows = view.rows(roots, "roots")
    first_walk = validate.integer(first_walk, "first_walk", 0, 2**32 - 1 - len(rows))
    return run_walks(
        view,
        rows,
        torch.arange(first_walk, first_walk + len(rows), device=rows.device),
        check_batch_size(batch_size),
        threshold=validate.restart_threshold(restart_prob),
        strategy="rwr",
        seed=validate.seed(seed),
        epoch=validate.epoch(epoch),
        num_threads=validate.num_threads(num_threads),
    )


def check_batch_size(batch_size: Any) -> int:
    return validate.integer(batch_size, "batch_size", 1, _MAX_BATCH_SIZE)


def run_walks(view: GraphView, root_rows: torch.Tensor, walk_ids: torch.Tensor, batch_size: int, **how: Any) -> Walks:
    """Returns the result of run_row_walks with instance ids instead of rows."""
    walks = run_row_walks(view, root_rows, walk_ids, batch_size, **how)
    return walks._replace(nodes=view.ids(walks.nodes))


def run_row_walks(
    view: GraphView,
    root_rows: torch.Tensor,
    walk_ids: torch.Tensor,
    batch_size: int,
    *,
    threshold: int,
    strategy: str,
    seed: int,
    epoch: int,
    num_threads: int,
) -> Walks:
    """Returns walks whose nodes are rows of the graph, int32 [R, B]. root_rows, walk_ids: int64 [R], checked."""
    num_walks = len(root_rows)
    device = view.graph.device
    nodes = torch.empty((num_walks, batch_size), dtype=torch.int32, device=device)
    counts = torch.zeros((4, num_walks), dtype=torch.int64, device=device)
    try:
        request = WalkRequest(
            graph=view.unchecked_layout,
            strategy=_STRATEGY_CODES[strategy],
            roots=address(root_rows),
            walk_ids=address(walk_ids),
            num_walks=num_walks,
            batch_size=batch_size,
            restart_threshold=0 if strategy == "rw" else threshold,
            seed=seed,
            epoch=epoch,
            finds_degrees=view.finds_degrees,
        )
        status = engine(device).walk_batches(
            request, num_threads=num_threads, nodes=address(nodes), counts=address(counts)
        )
    except ValueError:
        view.require_checked()
        raise
    view.add_status(status)
    return Walks(nodes, *counts)
