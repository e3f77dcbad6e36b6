"""Balanced clusters: k-means centers of a sample, and an assignment of all instances with exact sizes."""

from __future__ import annotations

import numpy as np
import torch

from .._engine.arrays import Matrix
from .._engine.random import Stream, derived_seed, permutation
from .._engine.validate import Progress
from ..graph_builders import knn
from .float_rows import float_rows

_ROWS_AT_ONCE = 1 << 16  # a float32 copy of so many rows
_ROWS_PER_CENTER, _FEW_ROWS = 64, 1 << 16  # of the sample
_WISHES = 16  # nearest centers that are looked up at once
_PASSES = 10  # over the sample


def balanced_clusters(
    towers: list[Matrix],
    rows: torch.Tensor,
    batches_per_cluster: int,
    batch_size: int,
    *,
    metric: str,
    seed: int,
    num_threads: int,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Returns the cluster of each row, int64 [len(rows)].

    Every cluster holds a multiple of batch_size, but the last, which also holds the remainder of the rows. An instance
    is its towers side by side, of unit length for cosine. Centers are by scikit-learn's MiniBatchKMeans from a sample.
    Sizes are those of the clusters of nearest centers, at most about twice their mean, rounded. Instances are then
    assigned by deferred acceptance: no instance and cluster prefer each other to what they have.

    towers: on any device. rows: int64, distinct. progress: called as ``progress(rows done, rows)``.
    """
    num_batches = len(rows) // batch_size
    num_clusters = num_batches // batches_per_cluster
    if num_clusters <= 1:
        return torch.zeros(len(rows), dtype=torch.int64)
    centers = torch.from_numpy(_centers(towers, rows, num_clusters, metric, seed))
    wishes, scores = _nearest(towers, rows, centers, metric, num_threads)
    sizes = np.bincount(wishes[:, 0], minlength=num_clusters)
    capacities = batch_size * rounded_counts(sizes, num_batches)
    ragged = int((sizes - capacities).argmax())
    capacities[ragged] += len(rows) - batch_size * num_batches
    clusters = np.full(len(rows), -1, dtype=np.int64)
    waiting, has_room = np.arange(len(rows)), np.arange(num_clusters)
    while True:
        free = capacities[has_room] - np.bincount(clusters[clusters >= 0], minlength=num_clusters)[has_room]
        placed = stable_assignment(wishes, scores, free)
        clusters[waiting[placed >= 0]] = has_room[placed[placed >= 0]]
        waiting = waiting[placed < 0]  # no center of their list has room: they look among all that have
        if progress is not None:
            progress(len(rows) - len(waiting), len(rows))
        if not len(waiting):
            break
        has_room = np.flatnonzero(capacities > np.bincount(clusters[clusters >= 0], minlength=num_clusters))
        wishes, scores = _nearest(
            towers, rows[torch.from_numpy(waiting)], centers[torch.from_numpy(has_room)], metric, num_threads
        )
    order = np.arange(num_clusters)
    order[ragged], order[-1] = num_clusters - 1, ragged
    return torch.from_numpy(order[clusters])


def rounded_counts(sizes: np.ndarray, total: int) -> np.ndarray:
    """Returns integers in proportion to sizes, cut at twice their mean, that sum to total. Ties: lower index."""
    wanted = np.minimum(sizes, -(-2 * int(sizes.sum()) // len(sizes))).astype(np.int64) * total
    whole = int(wanted.sum()) // total
    counts = wanted // whole
    remainders = wanted - counts * whole
    counts[(-remainders).argsort(kind="stable")[: total - int(counts.sum())]] += 1
    return counts


def stable_assignment(wishes: np.ndarray, scores: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """Returns the cluster of each row by deferred acceptance (Gale and Shapley 1962); -1 if no wish accepts the row.

    The result does not depend on the order of proposals.

    wishes: [R, m], distinct clusters for each row, the best first. scores: float32 [R, m]. A cluster prefers larger
    scores, ties by lower row. capacities: int [num_clusters].
    """
    num_rows, num_wishes = wishes.shape
    clusters = np.full(num_rows, -1, dtype=np.int64)
    proposals = np.zeros(num_rows, dtype=np.int64)  # wish that a row proposes to or holds
    waiting = np.arange(num_rows)
    while len(waiting):
        clusters[waiting] = wishes[waiting, proposals[waiting]]
        touched = np.zeros(len(capacities), dtype=bool)
        touched[clusters[waiting]] = True
        touched &= np.bincount(clusters[clusters >= 0], minlength=len(capacities)) > capacities
        members = np.flatnonzero((clusters >= 0) & touched[clusters])
        own, own_scores = clusters[members], scores[members, proposals[members]]
        order = np.lexsort((members, -own_scores, own))
        members, own = members[order], own[order]
        places = np.arange(len(own)) - np.searchsorted(own, own, side="left")
        rejected = members[places >= capacities[own]]
        clusters[rejected] = -1
        proposals[rejected] += 1
        waiting = rejected[proposals[rejected] < num_wishes]
    return clusters


def _centers(towers: list[Matrix], rows: torch.Tensor, num_clusters: int, metric: str, seed: int) -> np.ndarray:
    try:
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits  # a dependency of scikit-learn
    except ImportError as error:
        raise ImportError("preset: 'clusters' needs scikit-learn; pip install 'batchsampler_ext[clusters]'") from error
    num_sampled = min(len(rows), max(_ROWS_PER_CENTER * num_clusters, _FEW_ROWS))
    sample = rows[permutation(len(rows), derived_seed(seed, Stream.SAMPLE), 0)[:num_sampled].sort().values]
    points = np.concatenate([_points(towers, part, metric) for part in sample.split(_ROWS_AT_ONCE)])
    size = max(4096, num_clusters)
    with threadpool_limits(1):  # sums in another order have other last bits
        kmeans = MiniBatchKMeans(
            num_clusters,
            init="random",
            n_init=1,
            batch_size=size,
            max_iter=_PASSES,
            random_state=derived_seed(seed, Stream.SAMPLE) % 2**32,
        ).fit(points)
    return np.ascontiguousarray(kmeans.cluster_centers_, dtype=np.float32)


def _nearest(
    towers: list[Matrix], rows: torch.Tensor, centers: torch.Tensor, metric: str, num_threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest centers of each row, int64 [R, m], and minus the squared distances, float32 [R, m]."""
    wishes, scores = [], []
    for part in rows.split(_ROWS_AT_ONCE):
        points = torch.from_numpy(_points(towers, part, metric))
        found = knn(points, centers, min(_WISHES, len(centers)), metric="l2", num_threads=num_threads)
        wishes.append(found.ids.numpy())
        scores.append(found.scores.numpy())
    return np.concatenate(wishes), np.concatenate(scores)


def _points(towers: list[Matrix], rows: torch.Tensor, metric: str) -> np.ndarray:
    """Returns a float32 copy of rows, [len(rows), D * number of towers]."""
    parts = [float_rows(tower, rows, metric) for tower in towers]
    return np.ascontiguousarray(np.concatenate(parts, axis=1)) if len(parts) > 1 else parts[0]
