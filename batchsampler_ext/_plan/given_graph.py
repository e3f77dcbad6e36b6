"""The graph that a user gives: a ProximityGraph, or neighbors from another library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .._engine.arrays import dense, require_unmasked
from .._negatives.tables import kept_first, order_of_kept
from ..graph import ProximityGraph

_ROWS_AT_ONCE = 1 << 15
_MISSING_UINT32 = 2**32 - 1  # -1 in the ids of libraries that have unsigned ones. int64 has -1 in the bits of uint64's.


def checked_graph(value: Any, num_instances: int) -> ProximityGraph | None:
    """Returns ``graph=`` of :func:`compose` without self-loops, or None. Raises errors that name it.

    value: a graph of num_instances rows, or an integer array or tensor [N, K] of neighbors; -1 is none, anywhere.
    """
    if value is None:
        return None
    if isinstance(value, ProximityGraph):
        if len(value) != num_instances or value.num_instances != num_instances:
            raise ValueError(
                f"graph: expected a graph of {num_instances} instances with a row for each, as queries has, got "
                f"{len(value)} rows of {value.num_instances} instances"
            )
        return _without_self_loops(value)
    return ProximityGraph(_as_neighbors(value, num_instances))


def _as_neighbors(value: Any, num_instances: int) -> torch.Tensor:
    """Returns int32 [N, K] on the device of the array: ids without self-loops, then -1."""
    is_array = isinstance(value, np.ndarray)
    if not is_array and not isinstance(value, torch.Tensor):
        raise TypeError(
            f"graph: expected a ProximityGraph, or an array or tensor of neighbors [{num_instances}, K], got "
            f"{type(value).__name__}"
        )
    require_unmasked(value, "graph")
    value = value if is_array else dense(value, "graph")
    kind = str(value.dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint")):
        raise TypeError(f"graph: expected integers as neighbors, got {value.dtype}")
    if value.ndim != 2 or len(value) != num_instances or value.shape[1] == 0:
        raise ValueError(
            f"graph: expected neighbors of shape [{num_instances}, K] with K >= 1, as queries has {num_instances} "
            f"rows, got {list(value.shape)}"
        )
    device = torch.device("cpu") if is_array else value.device
    result = torch.empty(tuple(value.shape), dtype=torch.int32, device=device)
    for first in range(0, num_instances, _ROWS_AT_ONCE):
        part = value[first : first + _ROWS_AT_ONCE]
        ids = torch.from_numpy(part.astype(np.int64)) if is_array else part.to(torch.int64)
        if kind == "uint32":
            ids = torch.where(ids == _MISSING_UINT32, -1, ids)
        low, high = torch.stack(torch.aminmax(ids)).tolist()
        if low < -1 or high >= num_instances:
            wrong = low if low < -1 else high
            row = first + int((ids == wrong).any(1).nonzero()[0])
            wrong += 2**64 if kind == "uint64" and wrong < 0 else 0  # of which int64 has the bits
            raise ValueError(f"graph: expected neighbors in [-1, {num_instances}), got {wrong} in row {row}")
        own = torch.arange(first, first + len(ids), device=device)[:, None]
        keeps = (ids >= 0) & (ids != own)
        result[first : first + len(ids)] = kept_first(ids, keeps, order_of_kept(keeps), -1)
    return result


def _without_self_loops(graph: ProximityGraph) -> ProximityGraph:
    """Returns the graph, or one without the edges that join an instance to itself."""
    graph.degrees()  # checks the ids
    own_ids = torch.arange(len(graph), device=graph.device) if graph.ids is None else graph.ids
    neighbors, scores = None, None
    for first in range(0, len(graph), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        is_loop = graph.neighbors[part] == own_ids[part, None]
        if not bool(is_loop.any()):
            continue
        if neighbors is None:
            neighbors = graph.neighbors.clone()
            scores = None if graph.scores is None else graph.scores.clone()
        keeps = ~is_loop & (neighbors[part] >= 0)
        order = order_of_kept(keeps)
        neighbors[part] = kept_first(neighbors[part], keeps, order, -1)
        if scores is not None:
            scores[part] = kept_first(scores[part], keeps, order, -torch.inf)
    if neighbors is None:
        return graph
    return ProximityGraph._from_engine(neighbors, scores, graph.ids, graph.num_instances, [])
