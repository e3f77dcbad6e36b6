"""How hard the batches of a plan are for the teacher, by whose embeddings they were composed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .._engine.arrays import Matrix, as_matrix
from .._engine.validate import Progress
from ..graph import ProximityGraph
from ..metrics import equal_label_share, unit_rows
from ..planners import Batches

MAX_MEASURED = 200  # batches of an epoch, spread evenly over it
NUM_RANKED_QUERIES, MAX_RANKED_DOCUMENTS = 256, 1 << 17  # likewise, for ranks among all documents
NEAR_OWN = 0.05  # relative margin, the one that the study measured (docs/study/PRETRAINED.md)
_ROWS_AT_ONCE = 1 << 16


class Hardness(NamedTuple):
    """Scores in batches of at least two instances."""

    means: dict[str, float]
    hardest: np.ndarray  # float32, of each query the best score of another instance
    own: np.ndarray  # float32, of each query the score of its own document; empty without documents
    near_own: float = float("nan")  # mean number of other documents per query that the margin excludes


def hardness(
    batches: Batches,
    queries: Any,
    documents: Any,
    metric: str,
    progress: Progress | None = None,
    *,
    margin: float | None = None,
    relative_margin: float | None = None,
) -> Hardness:
    """Returns scores in batches of at least two instances, of which at most MAX_MEASURED are measured.

    Of ``means`` over batches, "in_batch_similarity" is the mean score of a query and another instance's document (its
    query if documents is None). With documents, "in_batch_accuracy" is the share of queries that score no document
    higher than their own.

    Scores are computed in float32 with the rows of a batch on the CPU, by the metric of :func:`proximity_graph`.

    margin, relative_margin: of :func:`compose`, for ``near_own``. NEAR_OWN is the relative margin if both are None.
    """
    if margin is None and relative_margin is None:
        relative_margin = NEAR_OWN
    first = as_matrix(queries, "queries")
    second = None if documents is None else as_matrix(documents, "documents")
    similarity, accuracy, num_near = [], [], []
    all_hardest, all_own = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    positions = _spread(len(batches), MAX_MEASURED).tolist()
    for done, position in enumerate(positions, start=1):
        ids = batches[position]
        if len(ids) > 1:
            rows = _rows(first, ids)
            scores = _scores(rows, rows if second is None else _rows(second, ids), metric)
            own = scores.diagonal().clone()
            similarity.append(float((scores.double().sum() - own.double().sum()) / (len(ids) * (len(ids) - 1))))
            hardest = scores.fill_diagonal_(-torch.inf).max(1).values
            accuracy.append(float((own >= hardest).double().mean()))
            absolute = torch.full_like(own, min(margin or 0.0, torch.finfo(own.dtype).max))
            below = torch.maximum(absolute, (relative_margin or 0.0) * own.abs())
            num_near.append(float((scores >= (own - below)[:, None]).double().sum(1).mean()))
            all_hardest.append(hardest.numpy())
            all_own += [] if second is None else [own.numpy()]
        if progress is not None:
            progress(done, len(positions))
    means = {"in_batch_similarity": _mean(similarity)}
    if second is not None:
        means["in_batch_accuracy"] = _mean(accuracy)
    near_own = float("nan") if second is None else _mean(num_near)
    return Hardness(means, np.concatenate(all_hardest), np.concatenate(all_own), near_own)


def false_negative_share(batches: Batches, labels: torch.Tensor) -> float:
    """Returns the mean share of pairs with equal labels, in the batches that :func:`hardness` measures.

    labels: int64 [N], -1 is unknown.
    """
    shares = [float(equal_label_share(labels[batches[i]])) for i in _spread(len(batches), MAX_MEASURED).tolist()]
    return _mean([share for share in shares if share == share])


def scores_of_pairs(
    queries: Any, documents: Any, first: torch.Tensor, second: torch.Tensor, metric: str
) -> torch.Tensor:
    """Returns the score of each pair, float32 on the CPU.

    Args:
        documents: None: pairs are of queries.
        first, second: instance ids of the queries, and of the documents.
    """
    tower = as_matrix(queries, "queries")
    rows, others = _rows(tower, first), _rows(tower if documents is None else as_matrix(documents, "documents"), second)
    scores = [_scores(rows[i : i + 1], others[i : i + 1], metric)[0] for i in range(len(rows))]
    return torch.cat([torch.empty(0, device="cpu"), *scores])


def median_rank_of_own(queries: Any, documents: Any, metric: str, progress: Progress | None = None) -> float:
    """Returns the median rank of a query's own document among all documents, 1 if it scores highest.

    The ranks are those of NUM_RANKED_QUERIES queries, spread evenly. Beyond MAX_RANKED_DOCUMENTS documents, they are
    scaled from a sample of this size. Scores that differ by rounding only count as equal.
    """
    first, second = as_matrix(queries, "queries"), as_matrix(documents, "documents")
    chosen = torch.from_numpy(_spread(first.num_rows, NUM_RANKED_QUERIES))
    others = torch.from_numpy(_spread(second.num_rows, MAX_RANKED_DOCUMENTS))
    rows = _rows(first, chosen)
    own = scores_of_pairs(queries, documents, chosen, chosen, metric)
    num_better, done = torch.zeros(len(chosen), dtype=torch.int64, device="cpu"), 0
    for part in others.split(_ROWS_AT_ONCE >> 2):
        scores = _scores(rows, _rows(second, part), metric)
        # Errors of distances are relative to themselves, those of dot products to the largest.
        largest = own if metric == "l2" else scores.abs().max(1).values
        limit = own + 1e-5 * torch.maximum(own.abs(), largest)
        num_better += (scores > limit[:, None]).sum(1)
        done += len(part)
        if progress is not None:
            progress(done, len(others))
    return 1 + float(np.median(num_better.numpy())) * second.num_rows / len(others)


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


def _spread(size: int, most: int) -> np.ndarray:
    """Returns numbers below size, int64: all, or ``most`` of them spread evenly."""
    return np.linspace(0, size - 1, min(size, most)).astype(np.int64)


def _rows(matrix: Matrix, ids: torch.Tensor) -> torch.Tensor:
    """Returns rows of embeddings, float32 on the CPU."""
    if isinstance(matrix.owner, torch.Tensor):
        return matrix.owner[ids.to(matrix.device)].float().cpu()
    return torch.from_numpy(matrix.owner[ids.numpy()].astype(np.float32))


def _scores(rows: torch.Tensor, others: torch.Tensor, metric: str) -> torch.Tensor:
    if metric == "cosine":
        rows, others = unit_rows(rows).float(), unit_rows(others).float()
    if metric == "l2":
        # By default, torch multiplies large matrices, which loses the digits of distances far from the origin.
        return -torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").square()
    return rows @ others.T


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
