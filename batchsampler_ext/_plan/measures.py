"""How hard the batches of a plan are for the teacher, by whose embeddings they were composed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .._engine.arrays import Matrix, as_matrix
from ..graph import ProximityGraph
from ..graph_builders import Progress
from ..planners import Batches

MAX_MEASURED = 200  # batches of an epoch, spread evenly over it
_ROWS_AT_ONCE = 1 << 16


def hardness(
    batches: Batches, queries: Any, documents: Any, metric: str, progress: Progress | None = None
) -> dict[str, float]:
    """Returns means over batches of at least two instances, of which at most MAX_MEASURED are measured.

    "in_batch_similarity" is the mean score of a query and another instance's document (its query if documents is None).
    With documents, "in_batch_accuracy" is the share of queries that score no document higher than their own.

    Scores are computed in float32 with the rows of a batch on the CPU, by the metric of :func:`proximity_graph`.
    """
    first = as_matrix(queries, "queries")
    second = None if documents is None else as_matrix(documents, "documents")
    positions = np.linspace(0, len(batches) - 1, min(len(batches), MAX_MEASURED)).astype(int).tolist()
    similarity, accuracy = [], []
    for done, position in enumerate(positions, start=1):
        ids = batches[position]
        if len(ids) > 1:
            rows = _rows(first, ids)
            scores = _scores(rows, rows if second is None else _rows(second, ids), metric)
            own = scores.diagonal()
            similarity.append(float((scores.double().sum() - own.double().sum()) / (len(ids) * (len(ids) - 1))))
            accuracy.append(float((own >= scores.max(1).values).double().mean()))
        if progress is not None:
            progress(done, len(positions))
    result = {"in_batch_similarity": _mean(similarity)}
    return result if second is None else {**result, "in_batch_accuracy": _mean(accuracy)}


def edges_inside(batches: Batches, graph: ProximityGraph) -> float:
    """Returns the share of the graph's edges that join two instances of one batch. graph: over all instances."""
    graph = graph.to("cpu")
    batch_of = torch.full((graph.num_instances,), -1, dtype=torch.int32, device="cpu")
    for number, ids in enumerate(batches):
        batch_of[ids] = number
    num_inside = num_edges = 0
    for first in range(0, len(graph), _ROWS_AT_ONCE):
        neighbors = graph.neighbors[first : first + _ROWS_AT_ONCE]
        is_edge = neighbors >= 0
        own = batch_of[first : first + len(neighbors), None]
        is_inside = is_edge & (batch_of[neighbors.clamp(min=0).long()] == own) & (own >= 0)
        num_inside, num_edges = num_inside + int(is_inside.sum()), num_edges + int(is_edge.sum())
    return num_inside / num_edges if num_edges else float("nan")


def _rows(matrix: Matrix, ids: torch.Tensor) -> torch.Tensor:
    """Returns rows of embeddings, float32 on the CPU."""
    if isinstance(matrix.owner, torch.Tensor):
        return matrix.owner[ids.to(matrix.device)].float().cpu()
    return torch.from_numpy(matrix.owner[ids.numpy()].astype(np.float32))


def _scores(rows: torch.Tensor, others: torch.Tensor, metric: str) -> torch.Tensor:
    if metric == "cosine":
        rows, others = (torch.nn.functional.normalize(part, dim=1) for part in (rows, others))
    if metric == "l2":
        return -torch.cdist(rows, others).square()
    return rows @ others.T


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
