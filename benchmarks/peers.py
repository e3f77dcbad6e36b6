"""The peers, each in its fastest form. Optional packages that are missing are reported."""

from __future__ import annotations

import ctypes
import importlib.util
import random

import numpy as np
import torch

from .native import library

CHUNK = 256  # rows that share a draw
AUTHORS_CHUNK = 16  # rows whose candidates are gathered at a time; 8 to 64 are equally fast, others are slower


def missing(*packages: str) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


# --- proximity graphs ------------------------------------------------------------------------------------------------
class TorchGroupedCandidates:
    """Scores chunks of rows against one draw of candidates each: matrix product and top-k, in preallocated buffers."""

    def __init__(self, units: torch.Tensor, num_candidates: int, num_neighbors: int) -> None:
        self.units, self.num_neighbors = units, num_neighbors
        self.rows = torch.randperm(len(units)).split(CHUNK)
        self.draws = [
            torch.randperm(len(units))[:num_candidates] for _ in self.rows
        ]  # the time of drawing is not counted
        self.scores = torch.empty(CHUNK, num_candidates, dtype=units.dtype)
        self.neighbors = torch.empty(len(units), num_neighbors, dtype=torch.int64)

    def __call__(self) -> torch.Tensor:
        for rows, draw in zip(self.rows, self.draws, strict=True):
            scores = torch.mm(self.units[rows], self.units[draw].T, out=self.scores[: len(rows)])
            self.neighbors[rows] = draw[scores.topk(self.num_neighbors, sorted=False).indices]
        return self.neighbors


class AuthorsGraph:
    """The authors' formulation for num_rows rows: each gathers its own candidates; batched products, top-k."""

    def __init__(self, units: torch.Tensor, num_candidates: int, num_neighbors: int, num_rows: int) -> None:
        self.units, self.num_candidates, self.num_neighbors = units, num_candidates, num_neighbors
        self.num_rows = num_rows

    def __call__(self) -> torch.Tensor:
        parts = []
        for rows in torch.arange(self.num_rows).split(AUTHORS_CHUNK):
            candidates = torch.randint(len(self.units), (len(rows), self.num_candidates))
            scores = torch.bmm(self.units[candidates], self.units[rows][:, :, None])[:, :, 0]
            parts.append(candidates.gather(1, scores.topk(self.num_neighbors, sorted=False).indices))
        return torch.cat(parts)


# --- exact nearest neighbors ----------------------------------------------------------------------------------------
def torch_knn(units: torch.Tensor, num_neighbors: int) -> torch.Tensor:
    parts = []
    for rows in torch.arange(len(units)).split(1024):
        scores = units[rows] @ units.T
        scores[torch.arange(len(rows)), rows] = -torch.inf
        parts.append(scores.topk(num_neighbors, sorted=False).indices)
    return torch.cat(parts)


def faiss_knn(units: np.ndarray, num_neighbors: int, num_threads: int) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(num_threads)
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units)
    return index.search(units, num_neighbors + 1)[1]  # itself included


def sklearn_knn(units: np.ndarray, num_neighbors: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=num_neighbors, algorithm="brute", n_jobs=-1).fit(units)
    return search.kneighbors(return_distance=False)


def usearch_knn(units: np.ndarray, num_neighbors: int, num_threads: int) -> np.ndarray:
    from usearch.index import MetricKind, search

    return search(units, units, num_neighbors + 1, MetricKind.IP, exact=True, threads=num_threads).keys


def pynndescent_knn(units: np.ndarray, num_neighbors: int, num_threads: int) -> np.ndarray:
    """Returns approximate neighbors."""
    from pynndescent import NNDescent

    index = NNDescent(units, metric="cosine", n_neighbors=num_neighbors + 1, n_jobs=num_threads, random_state=0)
    return index.neighbor_graph[0]


# --- walks -----------------------------------------------------------------------------------------------------------
def python_walks(neighbors: torch.Tensor, roots: list[int], batch_size: int, restart_prob: float) -> list[list[int]]:
    """Returns walks of a loop in the style of the authors' code."""
    batches = []
    degree = neighbors.shape[1]
    for root in roots:
        batch, members, node = [root], {root}, root
        while len(batch) < batch_size:
            if torch.rand(1).item() < restart_prob:
                node = root
            node = int(neighbors[node, random.randrange(degree)])
            if node not in members:
                members.add(node)
                batch.append(node)
        batches.append(batch)
    return batches


def plain_walks(neighbors: torch.Tensor, roots: torch.Tensor, batch_size: int, restart_prob: float) -> torch.Tensor:
    """Returns walks of plain C++ with the standard library, one walk at a time (native/plain_walk.cpp)."""
    nodes = torch.empty((len(roots), batch_size), dtype=torch.int32)
    library().plain_walks(
        ctypes.c_void_p(neighbors.data_ptr()),
        ctypes.c_int64(neighbors.shape[1]),
        ctypes.c_void_p(roots.data_ptr()),
        ctypes.c_int64(len(roots)),
        ctypes.c_int64(batch_size),
        ctypes.c_double(restart_prob),
        ctypes.c_void_p(nodes.data_ptr()),
    )
    return nodes


class TorchClusterSteps:
    """torch_cluster's random walks of a fixed length, on one thread. Its graph is built before the timing."""

    def __init__(self, neighbors: torch.Tensor, roots: torch.Tensor, num_steps: int) -> None:
        num_instances, degree = neighbors.shape
        self.starts = torch.arange(num_instances + 1) * degree
        self.targets, self.roots, self.num_steps = neighbors.flatten().long(), roots, num_steps

    def __call__(self) -> torch.Tensor:
        import torch_cluster  # noqa: F401 (registers the operator)

        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            walk = torch.ops.torch_cluster.random_walk
            return walk(self.starts, self.targets, self.roots, self.num_steps, 1.0, 1.0)[0]
        finally:
            torch.set_num_threads(num_threads)


# --- partitions ------------------------------------------------------------------------------------------------------
def metis_partition(neighbors: torch.Tensor, batch_size: int) -> list[np.ndarray]:
    """Returns METIS's partition of the symmetrized graph. Its parts vary in size, so they are not ready as batches."""
    import pymetis

    num_instances, degree = neighbors.shape
    source = np.repeat(np.arange(num_instances), degree)
    target = neighbors.numpy().ravel().astype(np.int64)
    pairs = np.unique(np.concatenate([source * num_instances + target, target * num_instances + source]))
    starts = np.searchsorted(pairs // num_instances, np.arange(num_instances + 1))
    parts = pymetis.part_graph(-(-num_instances // batch_size), xadj=starts, adjncy=pairs % num_instances)[1]
    order = np.argsort(parts, kind="stable")
    return np.split(order, np.cumsum(np.bincount(parts))[:-1])


def balanced_kmeans_partition(units: np.ndarray, batch_size: int, num_threads: int) -> list[np.ndarray]:
    from k_means_constrained import KMeansConstrained

    num_batches = -(-len(units) // batch_size)
    model = KMeansConstrained(
        num_batches, size_max=batch_size, n_init=1, max_iter=10, random_state=0, n_jobs=num_threads
    )
    labels = model.fit_predict(units)
    return [np.flatnonzero(labels == part) for part in range(num_batches)]
