"""How a window of batches is made: a graph over the instances that may still be drawn, then batches from it.

A pure function of a bank's tables, the sampler's settings and the place in the epoch, on any thread and stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from . import _validate
from ._backend import core
from ._bank_files import Tables
from ._cuda_engine import moved, on_host
from ._epoch_state import Window
from ._graph_view import GraphView
from .batches import Batches, EpochSampler, sample_batches
from .build import proximity_graph
from .graph import ProximityGraph

_WINDOW_STREAM = 255 << 24  # of Philox: no purpose of csrc/common/random_stream.h

Progress = Callable[[int, int], object]


class WindowRequest(NamedTuple):
    """Which window, and what may differ from one to the next."""

    epoch: int
    first: int  # number of batches of the epoch before it
    drawn: torch.Tensor  # bool [num_instances], drawn in the epoch before it
    alpha: float
    graph_options: dict[str, Any]  # tensors are on the device of the tables
    num_threads: int


class MadeWindow(NamedTuple):
    window: Window
    graph: ProximityGraph | None = None  # that the batches are from, if one was built
    stats: dict[str, float] = {}  # noqa: RUF012  (a NamedTuple's default, never changed)


def count_batches(num_instances: int, batch_size: int, drop_last: bool) -> int:
    return num_instances // batch_size + (not drop_last and num_instances % batch_size > 0)


def default_refresh_every(epoch_mode: str, num_batches: int) -> int:
    """num_batches: of an epoch. Later graphs of a partition would know nothing newer: the undrawn are as they were."""
    return max(1, num_batches) if epoch_mode == "partition" else 100


@dataclass(frozen=True)
class WindowMaker:
    """Checked settings of a sampler."""

    instances: torch.Tensor  # int64, ascending
    batch_size: int
    drop_last: bool
    refresh_every: int
    num_candidates: int
    num_neighbors: int
    epoch_mode: str
    strategy: str
    hardness: str
    seed: int

    def num_batches(self, num_instances: int) -> int:
        """That so many instances make."""
        return count_batches(num_instances, self.batch_size, self.drop_last)

    def left_out(self, epoch: int) -> torch.Tensor:
        """bool [num_instances]: those that take no part in the epoch."""
        size = len(self.instances)
        result = torch.zeros(size, dtype=torch.bool, device="cpu")
        count = size % self.batch_size if self.drop_last else 0
        if count and self.epoch_mode == "partition":
            order = torch.empty(size, dtype=torch.int64, device="cpu")
            core.root_order(n=size, seed=self._window_seed(epoch, 2**32 - 1), epoch=epoch, out=order.data_ptr())
            result[order[size - count :]] = True
        return result

    def make(self, request: WindowRequest, tables: Tables, progress: Progress | None) -> MadeWindow:
        ids = self.instances if self.epoch_mode != "partition" else self.instances[~request.drawn]
        start = time.perf_counter()
        graph, num_uncovered = self._build_graph(ids, request, tables, progress)
        built = time.perf_counter()
        batches = self._sample(graph, request)
        indices, tail = _apart_on_host(batches)
        stats = {
            "walk_us": 1e6 * (time.perf_counter() - built) / max(1, len(batches)),
            "fallback_share": batches.stats["fills"] / max(1, batches.stats["num_instances"]),
            "uncovered_share": num_uncovered / len(ids),
        }
        window = Window(request.first, request.drawn, indices, tail)
        if graph.num_neighbors == 0:
            return MadeWindow(window, None, stats)
        return MadeWindow(window, graph, {**stats, "refresh_ms": 1e3 * (built - start)})

    def _build_graph(
        self, ids: torch.Tensor, request: WindowRequest, tables: Tables, progress: Progress | None
    ) -> tuple[ProximityGraph, int]:
        """A graph with a row for each id; instances without an embedding have no neighbours."""
        data, keys, last_update = tables
        ids = moved(ids, data.device)
        covered = last_update[ids] >= 0
        num_covered = int(covered.sum())
        if num_covered < 2 or self.strategy == "uniform":
            empty = torch.empty((len(ids), 0), dtype=torch.int32, device=data.device)
            return ProximityGraph(empty, ids=ids, num_nodes=len(data)), len(ids) - num_covered
        num_candidates = min(self.num_candidates, num_covered - 1)
        graph = proximity_graph(
            data,
            min(self.num_neighbors, num_candidates),
            num_candidates=num_candidates,
            keys=keys,
            rows=ids[covered],
            seed=self._window_seed(request.epoch, request.first),
            progress=progress,
            **{"num_threads": request.num_threads, **request.graph_options},
        )
        graph.check()
        if num_covered < len(ids):
            neighbors = torch.full((len(ids), graph.num_neighbors), -1, dtype=torch.int32, device=data.device)
            neighbors[covered] = graph.neighbors
            graph = ProximityGraph(neighbors, ids=ids, num_nodes=len(data))
        return graph, len(ids) - num_covered

    def _sample(self, graph: ProximityGraph, request: WindowRequest) -> Batches:
        arguments: dict[str, Any] = {
            "drop_last": self.drop_last,
            "seed": self._window_seed(request.epoch, request.first),
            "epoch": request.epoch,
            "num_threads": request.num_threads,
        }
        too_few_known = self.strategy == "knn" and graph.num_neighbors < self.batch_size - 1
        strategy = "uniform" if too_few_known else self.strategy
        if self.epoch_mode == "paper":
            sampler = EpochSampler(
                GraphView(graph),
                self.batch_size,
                strategy,
                _validate.restart_threshold(request.alpha),
                self.hardness,
                num_batches=self.refresh_every,
                **arguments,
            )
            return sampler.paper(request.drawn)
        remaining = self.num_batches(len(graph))
        if self.epoch_mode == "independent":
            remaining -= request.first
        return sample_batches(
            graph,
            self.batch_size,
            epoch_mode=self.epoch_mode,
            strategy=strategy,
            restart_prob=request.alpha,
            hardness="default" if strategy == "uniform" else self.hardness,
            num_batches=min(self.refresh_every, remaining),
            **arguments,
        )

    def _window_seed(self, epoch: int, first: int) -> int:
        """An unrelated seed for each window of each epoch."""
        low, high, _, _ = core.philox4x32(self.seed, _WINDOW_STREAM, epoch, first, 0)
        return high << 32 | low


def _apart_on_host(batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and tail in host memory of their own, copied from a device at once. Views would keep all batches of the
    epoch alive, and write them into every saved state."""
    shape, size = batches.indices.shape, batches.indices.numel()
    ids = on_host(torch.cat([batches.indices.reshape(-1), batches.tail]))
    return ids[:size].view(shape).clone(), ids[size:].clone()
