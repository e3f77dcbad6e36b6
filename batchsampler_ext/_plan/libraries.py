"""Libraries that search neighbors approximately, behind one interface. Each is imported when it is asked for.

The rows of an index have numbers 0 to R - 1, in the order in which they were given. Queries are named by the same
numbers. An index lists rows by its own approximate scores, so the engine selects among them (:mod:`.approximate`).
"""

from __future__ import annotations

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


class Rows(NamedTuple):
    """The instances to search, by number.

    ids: int64 [R], their instances. queries, documents: [N, D] on the CPU; the same matrix without a second tower.
    """

    ids: torch.Tensor
    queries: Matrix
    documents: Matrix
    metric: str

    def query_rows(self, numbers: torch.Tensor) -> np.ndarray:
        return float_rows(self.queries, self.ids[numbers], self.metric)

    def document_rows(self, numbers: torch.Tensor) -> np.ndarray:
        return float_rows(self.documents, self.ids[numbers], self.metric)

    @property
    def has_two_towers(self) -> bool:
        return self.queries is not self.documents


class Index(Protocol):
    """An index of documents.

    METRICS: those it has. list_size: how many rows to list for the best ``last``, if ``most_equal`` other ones have a
    row's label. most_equal: the most of them that it can skip, with lists of at most ``most_listed``.
    """

    METRICS: ClassVar[tuple[str, ...]]

    def __init__(
        self, rows: Rows, list_size: int, seed: int, num_threads: int, progress: Progress | None = None
    ) -> None: ...

    @staticmethod
    def list_size(last: int, most_equal: int) -> int: ...

    @staticmethod
    def most_equal(last: int, most_listed: int) -> int: ...

    def order(self) -> torch.Tensor:
        """Returns all numbers, int64 [R], in an order that keeps near queries together, so that they share caches."""

    def search(self, numbers: torch.Tensor, size: int) -> torch.Tensor:
        """Returns the nearest documents of queries, int32 [len(numbers), size] or fewer columns. -1 is none."""

    def raise_effort(self) -> bool:
        """Makes the next search find more, at a higher cost. Returns False if it cannot."""

    def settings(self) -> dict[str, Any]:
        """Returns what was built, and the effort, as JSON has them."""


class FaissIndex:
    """Inverted lists around k-means centers, with rows as 4-bit codes of pairs of dimensions (IVF, PQ fast scan).

    It takes D / 4 + 8 bytes per row. The effort is the number of lists that a query scans.

    Source: Jegou et al., "Product quantization for nearest neighbor search", 2011; Andre et al., "Cache locality is not
    enough", 2015 (fast scan).
    """

    _ROWS_PER_LIST, _TRAINED_PER_LIST, _LEAST_TRAINED = 500, 64, 1 << 14
    _PASSES = 10  # of k-means
    _EFFORT_STEP = 1.25

    METRICS: ClassVar[tuple[str, ...]] = ("cosine", "ip", "l2")

    def __init__(
        self, rows: Rows, list_size: int, seed: int, num_threads: int, progress: Progress | None = None
    ) -> None:
        self._faiss, self._rows, self._num_threads = require_library("faiss"), rows, num_threads
        faiss, num_rows = self._faiss, len(rows.ids)
        dim = rows.documents.dim + rows.documents.dim % 2
        num_lists = max(1, num_rows // self._ROWS_PER_LIST)
        measure = faiss.METRIC_L2 if rows.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self._centers = faiss.IndexFlat(dim, measure)  # the index borrows it
        self._index = faiss.IndexIVFPQFastScan(self._centers, dim, num_lists, dim // 2, 4, measure)
        self._index.cp.niter = self._PASSES
        self._index.cp.seed = self._index.pq.cp.seed = derived_seed(seed, Stream.SAMPLE, 1) % 2**31
        self._index.nprobe = max(1, num_lists // 64)
        num_trained = min(num_rows, max(self._TRAINED_PER_LIST * num_lists, self._LEAST_TRAINED))
        trained = permutation(num_rows, derived_seed(seed, Stream.SAMPLE, 2), 0)[:num_trained].sort().values
        with self._threads():
            self._index.train(self._padded(rows.document_rows(trained)))
            for numbers in torch.arange(num_rows).split(_ROWS_AT_ONCE):
                self._index.add(self._padded(rows.document_rows(numbers)))
                if progress is not None:
                    progress(int(numbers[-1]) + 1, num_rows)

    @staticmethod
    def list_size(last: int, most_equal: int) -> int:
        return 3 * last  # codes of 4 bits are coarse

    @staticmethod
    def most_equal(last: int, most_listed: int) -> int:
        return most_listed - last

    def order(self) -> torch.Tensor:
        nearest = torch.empty(len(self._rows.ids), dtype=torch.int64)
        with self._threads():
            for numbers in torch.arange(len(nearest)).split(_ROWS_AT_ONCE):
                queries = self._padded(self._rows.query_rows(numbers))
                nearest[numbers] = torch.from_numpy(self._centers.search(queries, 1)[1][:, 0])
        return nearest.argsort(stable=True)

    def search(self, numbers: torch.Tensor, size: int) -> torch.Tensor:
        found = torch.empty(len(numbers), size, dtype=torch.int32)
        with self._threads():
            for part in torch.arange(len(numbers)).split(_ROWS_AT_ONCE):
                rows = self._padded(self._rows.query_rows(numbers[part]))
                found[part] = torch.from_numpy(self._index.search(rows, size)[1]).to(torch.int32)
        return found

    def raise_effort(self) -> bool:
        before, most = self._index.nprobe, self._index.nlist
        self._index.nprobe = min(most, int(self._EFFORT_STEP * before) + 1)
        return bool(before < most)

    def settings(self) -> dict[str, Any]:
        return {"num_lists": self._index.nlist, "num_probed": self._index.nprobe}

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows with an even number of columns."""
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
        self, rows: Rows, list_size: int, seed: int, num_threads: int, progress: Progress | None = None
    ) -> None:
        self._rows, self._list_size, self._num_threads = rows, list_size, num_threads
        self._descent = require_library("pynndescent").NNDescent
        self._seed, self._num_built, self._epsilon = derived_seed(seed, Stream.SAMPLE, 1) % 2**31, 0, self._EPSILON
        numbers = torch.arange(len(rows.ids))
        self._points = np.empty((len(numbers), rows.documents.dim), np.float32)
        for part in numbers.split(_ROWS_AT_ONCE):
            self._points[part.numpy()] = rows.document_rows(part)
            if progress is not None:
                progress(int(part[-1]) + 1, len(numbers))
        self._build()

    @staticmethod
    def list_size(last: int, most_equal: int) -> int:
        return last + 1 + most_equal  # itself included

    @staticmethod
    def most_equal(last: int, most_listed: int) -> int:
        return last  # the graph has as many columns more

    def _build(self) -> None:
        times, max_candidates = self._BUILDS[self._num_built]
        self._num_built += 1
        wanted = self._NUM_WALKED if self._rows.has_two_towers else int(times * self._list_size)
        self._graph: Any = None  # the last one goes before the next is built
        self._graph = self._descent(
            self._points,
            metric="euclidean" if self._rows.metric == "l2" else "dot",
            n_neighbors=min(wanted, len(self._points) - 1),
            max_candidates=max_candidates,
            random_state=self._seed,
            n_jobs=self._num_threads,
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
            return import_module(name)
    except ImportError as error:
        raise ImportError(f"neighbors: {name!r} needs {name}; pip install 'batchsampler_ext[{name}]'") from error
