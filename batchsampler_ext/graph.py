"""The proximity graph: the neighbors of each instance, to which a random walk may move."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from ._engine import validate
from ._engine.arrays import (
    address,
    aligned,
    as_integers,
    contiguous,
    dense,
    require_countable,
    require_device,
    require_unmasked,
)
from ._engine.backend import as_device, engine, require_engine
from ._engine.cuda import DeviceStatus, StreamOrder
from ._engine.deferred_checks import DeferredChecks
from ._engine.files import as_input, atomic_write, npy_content, stored_members
from ._engine.requests import Edges, GraphLayout, MutualEdgesRequest

__all__ = ["GraphStats", "ProximityGraph"]

_FORMAT = 1  # version of saved files
_MOST_PENDING = 64
_MIN_EDGES_AT_ONCE = 1 << 20  # of stats()
_UNCHECKED = -1  # no version of a tensor


class GraphStats(NamedTuple):
    """Numbers about a :class:`ProximityGraph`."""

    num_rows: int
    num_edges: int
    mean_degree: float
    min_degree: int
    isolated_rows: int
    """Rows without outgoing edges."""
    max_in_degree: int
    unreached_rows: int
    """Rows without incoming edges. No walk reaches them along an edge: they are drawn only as roots or random fills."""
    mean_score: float
    """Mean score of the edges; nan without scores."""


class ProximityGraph:
    """Outgoing edges of each row, as built by :func:`proximity_graph` or :func:`knn_graph`.

    Args:
        neighbors: int32 [R, K] tensor on the CPU or a CUDA device, or a NumPy array. Each row lists instance ids, then
            -1 where it has fewer than K neighbors.
        scores: float32 [R, K] on the same device, in the same order (-inf past the last neighbor), or None.
        ids: distinct int [R], the instance id of each row. None: row i is instance i.
        num_instances: N, at least R and above every instance id. Default: R, or the largest of ``ids`` plus one.

    Attributes:
        neighbors: as above. No attribute can be assigned. The tensors are new views of the graph's memory: their
            elements may be changed in place, their shapes stay those of the graph.
        scores: as above.
        ids: as above, int64.
        num_instances: as above.
        num_neighbors: K.
        device: device of the tensors.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device; ``ids`` repeated or out of range (on a CUDA device raised
            by :meth:`check`). Neighbor ids are checked when the graph is first walked. They and ``ids`` are checked
            again after an in-place change that torch counts. It does not count changes through ``.data`` or NumPy: call
            :meth:`degrees` after them, or walks raise for the bad ids that they meet, and take rows to be as long as
            before.

    Example:
        >>> import torch
        >>> graph = ProximityGraph(torch.tensor([[1, 2], [0, -1], [-1, -1]], dtype=torch.int32))
        >>> graph.num_instances, graph.num_neighbors, graph.stats().num_edges
        (3, 2, 3)
    """

    def __init__(
        self,
        neighbors: torch.Tensor,
        scores: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
        num_instances: int | None = None,
    ) -> None:
        table = _checked_table(neighbors, "neighbors", torch.int32)
        if scores is not None:
            scores = _checked_table(scores, "scores", torch.float32)
            require_device(scores.device, "scores", table.device)
            if scores.shape != table.shape:
                raise ValueError(
                    f"scores: expected the shape of neighbors, {list(table.shape)}, got {list(scores.shape)}"
                )
        num_rows = len(table)
        if ids is not None:
            ids = as_integers(ids, "ids", table.device)
            if len(ids) != num_rows:
                raise ValueError(f"ids: expected one for each of {num_rows} rows, got {len(ids)}")
        if num_instances is None:
            num_instances = num_rows if ids is None else max(num_rows, int(ids.max()) + 1)
        num_instances = validate.integer(num_instances, "num_instances", num_rows, validate.MAX_NODES)
        if ids is None and num_instances != num_rows:
            raise ValueError(f"ids: expected the instance ids of {num_rows} rows out of {num_instances}, got None")
        checks = DeferredChecks(table.device)
        if ids is not None:
            ids = _checked_ids(checks, ids, num_instances)
        self._set(table, scores, ids, num_instances)
        for status in checks.statuses:
            self._add_status(status)

    def _set(
        self, neighbors: torch.Tensor, scores: torch.Tensor | None, ids: torch.Tensor | None, num_instances: int
    ) -> None:
        self._neighbors, self._scores, self._ids, self._num_instances = neighbors, scores, ids, num_instances
        # (version of neighbors, degrees, order of the work that computes and reads them)
        self._checked: tuple[int, torch.Tensor | None, StreamOrder] | None = None
        self._ids_version = _version(ids)  # of the ids when they were checked, or _UNCHECKED
        self._pending: list[DeviceStatus] = []  # results of kernels that built, checked or walked the graph
        self._row_table: torch.Tensor | None = None  # row_of_instances, if it is known. No graph of a user has it.

    def _check_ids(self) -> None:
        """Raises the errors of wrong instance ids. Waits for a device, whose kernels use them as indices next."""
        if self._ids is None:
            return
        self.check()  # raises errors of the ids that were given
        checks = DeferredChecks(self.device)
        _checked_ids(checks, self._ids, self.num_instances)
        DeviceStatus.check_all(checks.statuses)

    def _check_changed_ids(self) -> None:
        version = _version(self._ids)
        if version != self._ids_version:
            self._row_table = None
            self._check_ids()
            self._ids_version = version

    @classmethod
    def _from_engine(
        cls,
        neighbors: torch.Tensor,
        scores: torch.Tensor | None,
        ids: torch.Tensor | None,
        num_instances: int,
        statuses: Iterable[DeviceStatus | None],
    ) -> ProximityGraph:
        """Returns a graph of arrays that an engine has filled or will fill. ``statuses`` report errors of that work."""
        graph = cls.__new__(cls)
        graph._set(neighbors, scores, ids, num_instances)
        for status in statuses:
            graph._add_status(status)
        return graph

    def check(self) -> None:
        """Waits for queued work of a CUDA device on the graph, and raises the errors that its kernels found.

        :meth:`stats`, :meth:`save`, :meth:`to` and ``sample_batches`` call this. On the CPU, errors were raised before.

        Raises:
            ValueError: the graph was built from features that are not finite, or walked with ids out of range.
        """
        DeviceStatus.check_all(self._pending)

    def __getstate__(self) -> dict[str, Any]:
        """Raises the errors of :meth:`check`. Copies have no queued work, and check all ids again."""
        self.check()
        return {**self.__dict__, "_checked": None, "_ids_version": _UNCHECKED, "_pending": []}

    def _add_status(self, status: DeviceStatus | None) -> None:
        """Adds a status that :meth:`check` reads."""
        if status is None:
            return
        if len(self._pending) == _MOST_PENDING:  # bounds the list for callers that never check
            self._pending[0].check()
            del self._pending[0]
        self._pending.append(status)

    # The tensors are new views: set_(), resize_() and assignments to .data change the view, but not the graph.
    @property
    def neighbors(self) -> torch.Tensor:
        return self._neighbors.detach()

    @property
    def scores(self) -> torch.Tensor | None:
        return None if self._scores is None else self._scores.detach()

    @property
    def ids(self) -> torch.Tensor | None:
        return None if self._ids is None else self._ids.detach()

    @property
    def num_instances(self) -> int:
        return self._num_instances

    @property
    def device(self) -> torch.device:
        return self._neighbors.device

    @property
    def num_neighbors(self) -> int:
        return self._neighbors.shape[1]

    def __len__(self) -> int:
        return len(self._neighbors)

    def __repr__(self) -> str:
        extra = "" if self._ids is None else f", rows={len(self)}"
        return f"ProximityGraph(num_instances={self.num_instances}, num_neighbors={self.num_neighbors}{extra})"

    def degrees(self) -> torch.Tensor:
        """Returns the number of neighbors of each row, int32 [R] on the graph's device. Each call checks all ids anew.

        Raises:
            ValueError: an id is out of range, or a -1 stands before an id; the errors of :meth:`check`.
        """
        self._checked = None
        checks = DeferredChecks(self.device)
        if self._ids is not None:
            _checked_ids(checks, self._ids, self.num_instances)
        degrees = self._short_degrees()
        DeviceStatus.check_all([*self._pending, *checks.statuses])  # in one wait
        self._pending.clear()
        if degrees is not None:
            return degrees.clone()
        return torch.full((len(self),), self.num_neighbors, dtype=torch.int32, device=self.device)

    def _short_degrees(self, num_threads: int | None = None) -> torch.Tensor | None:
        """Returns :meth:`degrees`, or None if all rows are known to have K neighbors.

        The result is cached until ``neighbors`` changes in place. On a CUDA device, :meth:`check` raises errors in ids.
        On the CPU, a single thread reports the first bad row, several threads report any bad row.
        """
        self._check_changed_ids()
        version = _version(self._neighbors)
        if self._checked is not None and version is not None and self._checked[0] == version:
            self._checked[2].enter()
            return self._checked[1]
        degrees = torch.empty(len(self), dtype=torch.int32, device=self.device)
        status = engine(self.device).row_degrees(
            self._layout(), num_threads=validate.num_threads(num_threads), degrees=address(degrees)
        )
        self._add_status(status)
        # Finding out whether all rows are full would wait for a device, so it is done on the CPU only.
        result = None if status is None and int(degrees.min()) == self.num_neighbors else degrees
        if version is not None:
            self._checked = (version, result, StreamOrder(self.device))
        return result

    def _layout(self, row_of: torch.Tensor | None = None) -> GraphLayout:
        """Returns the layout for work that does not read degrees."""
        return GraphLayout(
            address(self._neighbors), len(self), self.num_neighbors, 0, address(row_of), self.num_instances
        )

    def to(self, device: torch.device | str) -> ProximityGraph:
        """Returns the graph with its tensors on ``device``, or itself. Raises the errors of :meth:`check`."""
        device = as_device(device)
        require_engine(device, "device")
        self._check_changed_ids()
        self.check()
        neighbors = self._neighbors.to(device)
        if neighbors is self._neighbors:
            return self
        scores, ids = (None if part is None else part.to(device) for part in (self._scores, self._ids))
        return self._from_engine(neighbors, scores, ids, self.num_instances, [])

    def mutual(self, num_threads: int | None = None) -> ProximityGraph:
        """Returns the graph of the edges that go both ways: i -> j is kept if row j lists i.

        Rows keep the order of their neighbors, then -1 (scores -inf). K, ``ids`` and the device stay the same. An edge
        to an instance without a row goes one way only. A self-loop is kept. The result does not depend on the threads.

        Args:
            num_threads: threads on the CPU. Default: all that this process may use.

        Raises:
            ValueError: the errors of :meth:`degrees`; on a CUDA device, :meth:`check` of the result raises them.
        """
        num_threads = validate.num_threads(num_threads)
        self._short_degrees(num_threads)  # checks the ids
        row_of = self._row_of_instances()
        neighbors = torch.empty_like(self._neighbors)
        scores = None if self._scores is None else torch.empty_like(self._scores)
        degrees = torch.empty(len(self), dtype=torch.int32, device=self.device)
        status = engine(self.device).mutual_edges(
            MutualEdgesRequest(self._layout(row_of), address(self._ids), address(self._scores)),
            Edges(address(neighbors), address(scores)),
            num_threads=num_threads,
            degrees=address(degrees),
        )
        graph = self._from_engine(neighbors, scores, self._ids, self.num_instances, [*self._pending, status])
        version = _version(neighbors)
        if version is not None:
            graph._checked = (version, degrees, StreamOrder(self.device))
        graph._row_table = self._row_table
        return graph

    def _row_of_instances(self) -> torch.Tensor | None:
        """Returns the row of each instance, int32 [N]. None without ids, when they are the same."""
        table = self._row_table  # once, since another thread may forget it
        if self._ids is None or table is not None:
            return table
        return row_of_instances(self._ids, self.num_instances)

    def stats(self) -> GraphStats:
        """Returns :class:`GraphStats`. Reads the whole graph, and raises the errors of :meth:`degrees`."""
        degrees = self.degrees()
        in_degrees, score_sum = self._totals()
        if self._ids is not None:
            in_degrees = in_degrees[self._ids]
        counts = [degrees.sum(), degrees.min(), (degrees == 0).sum(), in_degrees.max(), (in_degrees == 0).sum()]
        num_edges, min_degree, num_isolated, max_in_degree, num_unreached = torch.stack(
            [c.long() for c in counts]
        ).tolist()
        mean_score = float("nan")
        if self._scores is not None and num_edges:
            mean_score = float(score_sum) / num_edges
        return GraphStats(
            num_rows=len(self),
            num_edges=num_edges,
            mean_degree=num_edges / len(self),
            min_degree=min_degree,
            isolated_rows=num_isolated,
            max_in_degree=max_in_degree,
            unreached_rows=num_unreached,
            mean_score=mean_score,
        )

    def _totals(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns int64 [N], the number of edges to each instance, and the sum of all scores, without waiting.

        It reads an eighth of the edges at a time, so it takes less than two bytes per edge.
        """
        counts = torch.zeros(self.num_instances + 1, dtype=torch.int64, device=self.device)  # counts[0]: of -1
        score_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        waits_to_count = not engine(self.device).is_queued  # bincount, which is faster on the CPU
        rows_at_once = max(-(-len(self) // 8), _MIN_EDGES_AT_ONCE // max(1, self.num_neighbors))
        for first in range(0, len(self), rows_at_once):
            part = self._neighbors[first : first + rows_at_once]
            ids = part.reshape(-1) + 1
            if waits_to_count:
                counts += torch.bincount(ids, minlength=len(counts))
            else:
                counts.index_add_(0, ids, counts.new_ones(()).expand(len(ids)))
            if self._scores is not None:
                scores = self._scores[first : first + rows_at_once]
                score_sum += torch.where(part >= 0, scores, 0).sum(dtype=torch.float64)
        return counts[1:], score_sum

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz`` archive without pickles at exactly ``path``. The file appears complete or not at all."""
        self.check()
        arrays = {
            "format": np.int64(_FORMAT),
            "num_instances": np.int64(self.num_instances),
            "neighbors": self._neighbors.cpu().numpy(),
        }
        if self._scores is not None:
            arrays["scores"] = self._scores.cpu().numpy()
        if self._ids is not None:
            arrays["ids"] = self._ids.cpu().numpy()
        with atomic_write(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProximityGraph:
        """Returns a graph on the CPU, read from a file that :meth:`save` has written. Every value is checked.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is truncated, corrupt or was not written by :meth:`save`.
        """
        path = as_input(path)
        with open(path, "rb") as file:
            try:
                _require_sizes(file)
                with np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
                return cls._from_arrays(arrays)
            except Exception as error:  # the zip and npy readers raise a dozen types on corrupt input
                raise ValueError(
                    f"path: expected an intact graph written by ProximityGraph.save, got {path!r} "
                    f"({type(error).__name__}: {error})"
                ) from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> ProximityGraph:
        unexpected = arrays.keys() - {"format", "num_instances", "neighbors", "scores", "ids"}
        if unexpected or int(arrays["format"]) != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, got {arrays.get('format')} with members {sorted(arrays)}")
        tensors: dict[str, Any] = {
            name: torch.from_numpy(arrays[name]) for name in ("neighbors", "scores", "ids") if name in arrays
        }
        graph = cls(**tensors, num_instances=int(arrays["num_instances"]))
        graph.degrees()
        return graph


def _require_sizes(file: BinaryIO) -> None:
    """Raises an error if an archive claims more than the file has, before anything is allocated."""
    with zipfile.ZipFile(file) as archive:
        for member in stored_members(archive, os.fstat(file.fileno()).st_size):
            with archive.open(member) as content:
                npy_content(content, member.file_size)
    file.seek(0)


def row_of_instances(ids: torch.Tensor, num_instances: int) -> torch.Tensor:
    """Returns the row of each instance, int32 [num_instances]; -1 for an instance without a row."""
    row_of = torch.full((num_instances,), -1, dtype=torch.int32, device=ids.device)
    row_of[ids] = torch.arange(len(ids), dtype=torch.int32, device=ids.device)
    return row_of


def _version(tensor: torch.Tensor | None) -> int | None:
    """Returns the number of in-place changes that torch has counted. None if it does not count them."""
    return None if tensor is None or tensor.is_inference() else tensor._version


def _checked_ids(checks: DeferredChecks, ids: torch.Tensor, num_instances: int) -> torch.Tensor:
    """Returns distinct instance ids. On a device, a copy with values in range; ``checks`` has the errors."""
    ids = checks.ids(ids, "ids", 0, num_instances)
    checks.require_distinct(ids, "ids")
    return ids


def _checked_table(value: Any, name: str, dtype: torch.dtype) -> torch.Tensor:
    """Returns a contiguous tensor, if possible a view of ``value``."""
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{name}: expected a tensor or NumPy array, got {type(value).__name__}")
    if str(value.dtype).removeprefix("torch.") != str(dtype).removeprefix("torch."):
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    if isinstance(value, torch.Tensor):
        require_engine(value.device, name)
        value = dense(value, name)
    if value.ndim != 2 or len(value) == 0:
        raise ValueError(f"{name}: expected shape [R, K] with R >= 1, got {list(value.shape)}")
    require_countable(value, name)
    require_unmasked(value, name)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(contiguous(value))
    return aligned(value.contiguous())
