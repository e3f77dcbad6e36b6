"""Random walk with restart: one mini-batch from each root."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ._engine import validate
from ._engine.arrays import address
from ._engine.backend import engine
from ._engine.graph_view import GraphView
from ._engine.requests import WalkRequest

__all__ = ["Walks", "random_walk_with_restart"]

_MAX_BATCH_SIZE = 2**28
# csrc/common/strategy.h; "rw" is the walk without restart.
_STRATEGY_CODES = {"rwr": 0, "rw": 0, "bfs": 1, "dfs": 2, "knn": 3, "uniform": 4}


class Walks(NamedTuple):
    """Mini-batches and what they cost, one row a walk.

    nodes int32 [R, B]: distinct instances, the root first, in the order they were met; -1 at the end only if the graph
    has fewer than B rows. steps, restarts, reroots, random_fills int64 [R]: moves along edges; segments ended by a
    drawn restart; new roots after an exhausted neighborhood; nodes filled in at random.
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
    """Collects the first ``batch_size`` distinct nodes of a random walk with restart from each root.

    Args:
        graph: :class:`ProximityGraph`, or int32 [N, K] neighbors (per row a valid prefix, then -1).
        roots: int [R], instance ids that have a row in the graph; on its device.
        batch_size: B, at least 1.
        restart_prob: alpha in [0, 1), the probability of returning to the root before a step.
        seed, epoch, first_walk: walk w of this call is walk ``first_walk + w`` of the epoch: an epoch may be computed
            in pieces. epoch < 2**24, walks < 2**32.
        num_threads: default ``torch.get_num_threads()``. The result does not depend on it.

    Returns:
        :class:`Walks` on the graph's device. Every walk ends: a root whose neighborhood is exhausted is replaced by a
        random node (teleport), and after a bounded number of segments the rest of the batch is filled at random.

    Raises:
        TypeError, ValueError: a bad argument, named; an id out of range; a -1 before a neighbor. Of a plain table of
            more than 65,536 ids on the CPU, only what the walks read is checked. On a CUDA device all values are
            checked there, and :meth:`ProximityGraph.check` raises; a plain table has none, and is waited for.

    Source: Yang et al., KDD 2023, section 4.2; the caps that end each walk are in csrc/common/walk.h.

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
    """As run_row_walks, with instance ids for nodes."""
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
    """Checked arguments in, walks in rows of the graph out. root_rows, walk_ids: int64 [R]."""
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
        )
        status = engine(device).walk_batches(
            request, num_threads=num_threads, nodes=address(nodes), counts=address(counts)
        )
    except ValueError:
        view.require_checked()
        raise
    view.add_status(status)
    return Walks(nodes, *counts)
