"""Libraries that search neighbors approximately, behind one interface. Each is imported when it is asked for.

The rows of an index have numbers 0 to R - 1, in the order in which they were given. Queries are named by the same
numbers. An index lists rows by its own approximate scores, so the engine selects among them (:mod:`.approximate`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch

from .._engine.arrays import Matrix
from .._engine.random import Stream, derived_seed, permutation
from .._engine.validate import Progress
from .float_rows import float_rows

_ROWS_AT_ONCE = 1 << 13  # a float32 copy of so many rows
_LARGEST = 1e15  # magnitude whose squares still add up in float32


class Rows(NamedTuple):
    """The instances to search, by number.

    ids: int64 [R], their instances. queries, documents: [N, D] on the CPU; the same matrix without a second tower.
    """

    ids: torch.Tensor
    queries: Matrix
    documents: Matrix
    metric: str

    def query_rows(self, numbers: torch.Tensor) -> np.ndarray:
        return self._checked(float_rows(self.queries, self.ids[numbers], self.metric))

    def document_rows(self, numbers: torch.Tensor) -> np.ndarray:
        return self._checked(float_rows(self.documents, self.ids[numbers], self.metric))

    @property
    def has_two_towers(self) -> bool:
        return self.queries is not self.documents

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        """Raises for rows whose products the libraries cannot hold in float32."""
        if self.metric == "cosine" or rows.size == 0:
            return rows
        largest = max(float(rows.max()), -float(rows.min()))
        if largest > _LARGEST:
            raise ValueError(f"neighbors: expected 'exact' for values above {_LARGEST:g}, got {largest:g}")
        return rows


class Index(Protocol):
    """An index of documents, for the best ``last`` of each query, if up to ``num_equal`` others have its label.

    METRICS: those it has.
    """

    METRICS: ClassVar[tuple[str, ...]]

    def __init__(
        self, rows: Rows, last: int, num_equal: int, seed: int, num_threads: int, progress: Progress | None = None
    ) -> None: ...

    def fitted_size(self, numbers: torch.Tensor, expected: torch.Tensor) -> int:
        """Returns how many rows to list. expected: int64 [len(numbers), last], the exact best of queries, then -1."""

    def order(self) -> torch.Tensor:
        """Returns all numbers, int64 [R], in an order that keeps near queries together, so that they share caches."""

    def search(self, numbers: torch.Tensor, size: int) -> torch.Tensor:
        """Returns the nearest documents of queries, int32 [len(numbers), size] or fewer columns. -1 is none."""

    def raise_effort(self) -> bool:
        """Makes the next search find more, at a higher cost. Returns False, and changes nothing, if it cannot."""

    def settings(self) -> dict[str, Any]:
        """Returns what was built, and the effort, as JSON has them."""


class FaissIndex:
    """Inverted lists around k-means centers, with 4-bit codes of each one or two dimensions (IVF, PQ fast scan).

    It takes D / 4 + 8 bytes per row, or D / 2 + 8 up to D = 128. The effort is the number of inverted lists that are
    scanned for a query. As codes are coarse, it lists more rows than are wanted.

    Source: Jegou et al., "Product quantization for nearest neighbor search", 2011; Andre et al., "Cache locality is not
    enough", 2015 (fast scan).
    """

    METRICS: ClassVar[tuple[str, ...]] = ("cosine", "ip", "l2")
    _ROWS_PER_LIST, _TRAINED_PER_LIST, _LEAST_TRAINED = 500, 64, 1 << 14
    _PASSES = 10  # of k-means
    _FINE_DIM = 128  # up to which each dimension has a code
    _EFFORT_STEP = 1.25
    _LISTED, _MAX_LISTED = 0.995, 8  # share of the best that lists hold if all is scanned; their length, times last

    def __init__(
        self, rows: Rows, last: int, num_equal: int, seed: int, num_threads: int, progress: Progress | None = None
    ) -> None:
        self._faiss, self._rows, self._num_threads = require_library("faiss"), rows, num_threads
        self._last, faiss, num_rows = last, self._faiss, len(rows.ids)
        dim = rows.documents.dim + rows.documents.dim % 2
        num_lists = max(1, min(num_rows // self._ROWS_PER_LIST, 2 * math.isqrt(num_rows)))
        num_codes = dim if dim <= self._FINE_DIM else dim // 2
        measure = faiss.METRIC_L2 if rows.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self._centers = faiss.IndexFlat(dim, measure)  # the index borrows it
        self._index = faiss.IndexIVFPQFastScan(self._centers, dim, num_lists, num_codes, 4, measure)
        self._index.cp.niter = self._PASSES
        self._index.cp.seed = self._index.pq.cp.seed = derived_seed(seed, Stream.SAMPLE, 1) % 2**31
        num_trained = min(num_rows, max(self._TRAINED_PER_LIST * num_lists, self._LEAST_TRAINED))
        trained = permutation(num_rows, derived_seed(seed, Stream.SAMPLE, 2), 0)[:num_trained].sort().values
        points, self._origin = rows.document_rows(trained), np.zeros(rows.documents.dim, np.float32)
        if rows.metric == "l2":  # float32 keeps more digits of differences near the origin
            self._origin = points.mean(axis=0, dtype=np.float64).astype(np.float32)
        with self._threads():
            self._index.train(self._moved(points))
            for numbers in torch.arange(num_rows).split(_ROWS_AT_ONCE):
                self._index.add(self._moved(rows.document_rows(numbers)))
                if progress is not None:
                    progress(int(numbers[-1]) + 1, num_rows)

    def fitted_size(self, numbers: torch.Tensor, expected: torch.Tensor) -> int:
        self._index.nprobe = self._index.nlist
        listed = self.search(numbers, min(len(self._rows.ids), self._MAX_LISTED * self._last)).long()
        self._index.nprobe = max(1, self._index.nlist // 64)
        rows = torch.arange(len(numbers))[:, None] << 32
        is_best = torch.isin(rows + listed, (rows + expected)[expected >= 0])
        num_found = is_best.sum(0).cumsum(0)
        wanted = math.ceil(self._LISTED * int((expected >= 0).sum()))
        return min(int((num_found < wanted).sum()) + 1, listed.shape[1])

    def order(self) -> torch.Tensor:
        nearest = torch.empty(len(self._rows.ids), dtype=torch.int64)
        with self._threads():
            for numbers in torch.arange(len(nearest)).split(_ROWS_AT_ONCE):
                queries = self._moved(self._rows.query_rows(numbers))
                nearest[numbers] = torch.from_numpy(self._centers.search(queries, 1)[1][:, 0])
        return nearest.argsort(stable=True)

    def search(self, numbers: torch.Tensor, size: int) -> torch.Tensor:
        found = torch.empty(len(numbers), size, dtype=torch.int32)
        with self._threads():
            for part in torch.arange(len(numbers)).split(_ROWS_AT_ONCE):
                rows = self._moved(self._rows.query_rows(numbers[part]))
                found[part] = torch.from_numpy(self._index.search(rows, size)[1]).to(torch.int32)
        return found

    def raise_effort(self) -> bool:
        num_probed, most = self._index.nprobe, self._index.nlist
        if num_probed == most:
            return False
        self._index.nprobe = min(most, int(self._EFFORT_STEP * num_probed) + 1)
        return True

    def settings(self) -> dict[str, Any]:
        return {"num_lists": self._index.nlist, "num_probed": self._index.nprobe}

    def _moved(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows relative to the origin, with an even number of columns."""
        rows -= self._origin
        return rows if rows.shape[1] == self._index.d else np.pad(rows, ((0, 0), (0, 1)))

    @contextmanager
    def _threads(self) -> Iterator[None]:
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(self._num_threads)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)


class PynndescentIndex:
    """A graph of neighbors by NN-descent. Without a second tower it is the result, else queries walk on it.

    It takes a float32 copy of the documents and, without a second tower, 9 bytes per listed row. The effort is that
    of building the graph, or how far a walk looks behind its best.

    Source: Dong et al., "Efficient k-nearest neighbor graph construction for generic similarity measures", 2011.
    """

    _NUM_WALKED, _EPSILON, _LAST_EPSILON = 40, 0.05, 0.4  # neighbors per row of a graph for walks; (1 + epsilon) best
    _BUILDS = ((1.0, 30), (1.5, 60), (2.0, 60))  # (neighbors per listed one, max_candidates), one after the other

    METRICS: ClassVar[tuple[str, ...]] = ("cosine", "l2")

    def __init__(
        self, rows: Rows, last: int, num_equal: int, seed: int, num_threads: int, progress: Progress | None = None
    ) -> None:
        self._rows, self._num_threads = rows, num_threads
        self._size = min(last + 1 + num_equal, len(rows.ids))  # itself included
        self._descent = require_library("pynndescent").NNDescent
        self._seed, self._num_built, self._epsilon = derived_seed(seed, Stream.SAMPLE, 1) % 2**31, 0, self._EPSILON
        num_rows = len(rows.ids)
        if progress is not None:
            progress(0, num_rows)
        self._points = np.empty((num_rows, rows.documents.dim), np.float32)
        for part in torch.arange(num_rows).split(_ROWS_AT_ONCE):
            self._points[part.numpy()] = rows.document_rows(part)
        self._build()
        if progress is not None:
            progress(num_rows, num_rows)

    def fitted_size(self, numbers: torch.Tensor, expected: torch.Tensor) -> int:
        return self._size

    def _build(self) -> None:
        times, max_candidates = self._BUILDS[self._num_built]
        self._num_built += 1
        wanted = self._NUM_WALKED if self._rows.has_two_towers else int(times * self._size)
        self._graph: Any = None  # the last one goes before the next is built
        self._graph = self._descent(
            self._points,
            metric="euclidean",  # for cosine, rows have length one
            n_neighbors=min(wanted, len(self._points) - 1),
            max_candidates=max_candidates,
            random_state=self._seed,
            n_jobs=min(self._num_threads, import_module("numba").config.NUMBA_NUM_THREADS),
        )

    def order(self) -> torch.Tensor:
        return torch.arange(len(self._points))

    def search(self, numbers: torch.Tensor, size: int) -> torch.Tensor:
        if not self._rows.has_two_towers:
            return torch.from_numpy(self._graph.neighbor_graph[0][numbers.numpy()]).to(torch.int32)
        size = min(size, len(self._points))
        found = torch.empty(len(numbers), size, dtype=torch.int32)
        for part in torch.arange(len(numbers)).split(_ROWS_AT_ONCE):
            rows = self._rows.query_rows(numbers[part])
            found[part] = torch.from_numpy(self._graph.query(rows, k=size, epsilon=self._epsilon)[0]).to(torch.int32)
        return found

    def raise_effort(self) -> bool:
        if self._rows.has_two_towers:
            can_rise = self._epsilon < self._LAST_EPSILON
            self._epsilon = min(2 * self._epsilon, self._LAST_EPSILON)
            return can_rise
        if self._num_built == len(self._BUILDS):
            return False
        self._build()
        return True

    def settings(self) -> dict[str, Any]:
        effort = {"epsilon": self._epsilon} if self._rows.has_two_towers else {}
        return {
            "num_neighbors": self._graph.n_neighbors,
            "max_candidates": self._BUILDS[self._num_built - 1][1],
            **effort,
        }


INDEXES: dict[str, type[Index]] = {"faiss": FaissIndex, "pynndescent": PynndescentIndex}


def require_library(name: str) -> Any:
    """Returns the module. Raises an ``ImportError`` that says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the import itself, such as those of SWIG
            module = import_module(name)
        if module.__spec__ is not None and module.__spec__.origin is None:
            raise ImportError(f"{name!r} is a folder without a module")
        return module
    except ImportError as error:
        package = "faiss-cpu" if name == "faiss" else name
        raise ImportError(
            f"neighbors: {name!r} needs the package {package}; pip install 'batchsampler_ext[{name}]'"
        ) from error
