"""The proximity graph: for each instance, the neighbors that a random walk may go to next."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from ._engine import validate
from ._engine.arrays import address, require_device
from ._engine.backend import engine, require_engine
from ._engine.cuda import DeviceStatus, StreamOrder
from ._engine.deferred_checks import DeferredChecks
from ._engine.files import atomic_write
from ._engine.requests import GraphLayout

__all__ = ["GraphStats", "ProximityGraph"]

_FORMAT = 1  # of saved files
_MOST_PENDING = 64


class GraphStats(NamedTuple):
    """Numbers about a :class:`ProximityGraph`."""

    num_rows: int
    num_edges: int
    mean_degree: float
    min_degree: int
    isolated_rows: int
    """Rows without an edge."""
    max_in_degree: int
    unreached_rows: int
    """Rows that no row has an edge to: a walk visits them only as its root."""
    mean_score: float
    """Of the edges; nan without scores."""


class ProximityGraph:
    """Out-neighbors of every instance, as built by :func:`proximity_graph` or :func:`knn_graph`.

    Attributes:
        neighbors: int32 [R, K]; each row holds instance ids, then -1 where it has fewer than K neighbors.
        scores: float32 [R, K] in the same order (-inf past the end), or None.
        ids: int64 [R], the instance of each row, or None: row i is instance i.
        num_instances: number of instances N; ids are below it.
        num_neighbors: K.
        device: where the tensors are.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device. Neighbor ids are checked when the graph is first walked
            (``ValueError``), and again after an in-place change; ``ids`` at once, or on a CUDA device then too.

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
        self.neighbors = _checked_table(neighbors, "neighbors", torch.int32)
        self.scores = None if scores is None else _checked_table(scores, "scores", torch.float32)
        if self.scores is not None:
            require_device(self.scores.device, "scores", self.device)
        if self.scores is not None and self.scores.shape != self.neighbors.shape:
            raise ValueError(
                f"scores: expected the shape of neighbors, {list(self.neighbors.shape)}, got {list(self.scores.shape)}"
            )
        num_rows = len(self.neighbors)
        if num_instances is None:
            num_instances = num_rows if ids is None else int(torch.as_tensor(ids, device=self.device).max()) + 1
        self.num_instances = validate.integer(num_instances, "num_instances", num_rows, validate.MAX_NODES)
        self.ids = None
        checks = DeferredChecks(self.device)
        if ids is None:
            if self.num_instances != num_rows:
                raise ValueError(
                    f"ids: expected the instance of each of {num_rows} rows out of {num_instances}, got None"
                )
        else:
            self.ids = checks.ids(ids, "ids", 0, self.num_instances)
            if len(self.ids) != num_rows:
                raise ValueError(f"ids: expected one for each of {num_rows} rows, got {len(self.ids)}")
            checks.require_distinct(self.ids, "ids")
        # (version of neighbors, degrees, the order of the work that makes and uses them)
        self._checked: tuple[int, torch.Tensor | None, StreamOrder] | None = None
        self._pending = checks.statuses  # what kernels that built, checked or walked it may have found

    @classmethod
    def _from_engine(
        cls,
        neighbors: torch.Tensor,
        scores: torch.Tensor | None,
        ids: torch.Tensor | None,
        num_instances: int,
        statuses: Iterable[DeviceStatus | None],
    ) -> ProximityGraph:
        """A graph of arrays that an engine has filled. ``statuses`` tell whether its work succeeded."""
        graph = cls.__new__(cls)
        graph.neighbors, graph.scores, graph.ids, graph.num_instances = neighbors, scores, ids, num_instances
        graph._checked, graph._pending = None, []
        for status in statuses:
            graph._add_status(status)
        return graph

    def check(self) -> None:
        """Waits for what a CUDA device has been asked to do with the graph; raises what its kernels found.

        That is a ``ValueError`` if the features that it was built from were not finite, or if its ids were no ids when
        it was walked; on the CPU it has been raised already. :meth:`stats`, :meth:`save`, :meth:`to` and
        ``sample_batches`` call this.
        """
        while self._pending:
            self._pending[0].check()
            del self._pending[0]

    def _statuses(self) -> tuple[DeviceStatus, ...]:
        """What :meth:`check` would look at, for graphs that are built from this one."""
        return tuple(self._pending)

    def _add_status(self, status: DeviceStatus | None) -> None:
        """Has :meth:`check` look at ``status``, too."""
        if status is None:
            return
        if len(self._pending) == _MOST_PENDING:  # a caller that never asks must not collect them without end
            self._pending[0].check()
            del self._pending[0]
        self._pending.append(status)

    @property
    def device(self) -> torch.device:
        return self.neighbors.device

    @property
    def num_neighbors(self) -> int:
        return self.neighbors.shape[1]

    def __len__(self) -> int:
        return len(self.neighbors)

    def __repr__(self) -> str:
        extra = "" if self.ids is None else f", rows={len(self)}"
        return f"ProximityGraph(num_instances={self.num_instances}, num_neighbors={self.num_neighbors}{extra})"

    def degrees(self) -> torch.Tensor:
        """Number of neighbors of each row, int32 [R]. Checks every id: ``ValueError`` if one is out of range."""
        degrees = self._short_degrees()
        self.check()
        if degrees is not None:
            return degrees.clone()
        return torch.full((len(self),), self.num_neighbors, dtype=torch.int32, device=self.device)

    def _short_degrees(self, num_threads: int | None = None) -> torch.Tensor | None:
        """As degrees(), but unchecked on a device, and None if every row is known to be full. Computed once for each
        state of ``neighbors``. One thread reports the first bad row, several report any."""
        version = None if self.neighbors.is_inference() else self.neighbors._version
        if self._checked is not None and version is not None and self._checked[0] == version:
            self._checked[2].enter()
            return self._checked[1]
        degrees = torch.empty(len(self), dtype=torch.int32, device=self.device)
        layout = GraphLayout(address(self.neighbors), len(self), self.num_neighbors, 0, 0, self.num_instances)
        status = engine(self.device).row_degrees(
            layout, num_threads=validate.num_threads(num_threads), degrees=address(degrees)
        )
        self._add_status(status)
        # Whether all rows are full is worth knowing, but not worth waiting for a device.
        result = None if status is None and int(degrees.min()) == self.num_neighbors else degrees
        if version is not None:
            self._checked = (version, result, StreamOrder(self.device))
        return result

    def to(self, device: torch.device | str) -> ProximityGraph:
        """The graph with its tensors on ``device`` (itself if it is there already)."""
        device = torch.device(device)
        require_engine(device, "device")
        self.check()
        neighbors = self.neighbors.to(device)
        if neighbors is self.neighbors:
            return self
        scores, ids = (None if part is None else part.to(device) for part in (self.scores, self.ids))
        return self._from_engine(neighbors, scores, ids, self.num_instances, [])

    def stats(self) -> GraphStats:
        """Degrees and scores, summed up. Reads the whole graph; raises what :meth:`check` would."""
        degrees = self.degrees()
        targets = self.neighbors[self.neighbors >= 0].long()
        in_degrees = torch.bincount(targets, minlength=self.num_instances)
        if self.ids is not None:
            in_degrees = in_degrees[self.ids]
        scores = None if self.scores is None else self.scores[self.neighbors >= 0]
        return GraphStats(
            num_rows=len(self),
            num_edges=len(targets),
            mean_degree=float(degrees.float().mean()),
            min_degree=int(degrees.min()),
            isolated_rows=int((degrees == 0).sum()),
            max_in_degree=int(in_degrees.max()),
            unreached_rows=int((in_degrees == 0).sum()),
            mean_score=float("nan") if scores is None or len(scores) == 0 else float(scores.double().mean()),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz`` archive (no pickle) at exactly ``path``; the file appears complete or not at all."""
        self.check()
        arrays = {
            "format": np.int64(_FORMAT),
            "num_instances": np.int64(self.num_instances),
            "neighbors": self.neighbors.cpu().numpy(),
        }
        if self.scores is not None:
            arrays["scores"] = self.scores.cpu().numpy()
        if self.ids is not None:
            arrays["ids"] = self.ids.cpu().numpy()
        with atomic_write(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProximityGraph:
        """Reads a graph written by :meth:`save`; every value is checked.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is not such a file, or is truncated or corrupt (``path: ...``).
        """
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
                return cls._from_arrays(arrays)
            except Exception as error:  # the zip and npy readers raise a dozen types on corrupt input
                raise ValueError(
                    f"path: expected an intact graph written by ProximityGraph.save, got {os.fspath(path)!r} "
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


def _checked_table(value: Any, name: str, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    require_engine(value.device, name)
    if value.ndim != 2 or len(value) == 0:
        raise ValueError(f"{name}: expected shape [R, K] with R >= 1, got {list(value.shape)}")
    return value.contiguous()
