"""From what was measured to the cost of a training step.

A step stores B embeddings and draws a batch; an epoch of E batches refreshes ceil(E / T) times.

In a partition the refresh before batch w T works on the u = N - w T B instances not yet drawn. Its time c(u) is
measured at a few u and taken as linear between them, and as constant below the least, which is an upper bound:
    step = update + draw + sum over w of c(N - w T B) / E
In the other epoch modes every refresh builds the graph of all instances, in time g, and walks the batches it needs:
    step = update + draw + ceil(E / T) g / E + walk     independent
    step = update + draw + g / T + walk                 paper: its epochs are several times as long as E, by how much
                                                        only an epoch can tell
"""

from __future__ import annotations

import bisect
import os
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from .. import __version__, _validate
from .._arrays import TORCH_DTYPES
from .._backend import core
from .._timing import Timing
from .._window_maker import count_batches
from ..batches import EPOCH_MODES

DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in TORCH_DTYPES)


@dataclass(frozen=True)
class Settings:
    num_samples: int  # N
    dim: int
    batch_size: int  # B
    refresh_every: int  # T
    num_candidates: int
    num_neighbors: int
    dtype: str
    epoch_mode: str

    def check(self) -> None:
        """Finds what the work would complain of before it is begun.

        Raises:
            TypeError, ValueError: a bad argument, named; tables larger than the machine's memory.
        """
        num_samples = _validate.integer(self.num_samples, "num_samples", 2, _validate.MAX_NODES)
        _validate.integer(self.dim, "dim", 1)
        _validate.integer(self.batch_size, "batch_size", 1, num_samples, because=" (num_samples)")
        _validate.integer(self.refresh_every, "refresh_every", 1)
        _validate.integer(self.num_candidates, "num_candidates", 1, num_samples - 1, because=" (num_samples - 1)")
        _validate.integer(self.num_neighbors, "num_neighbors", 1, self.num_candidates, because=" (num_candidates)")
        _validate.choice(self.dtype, "dtype", DTYPES)
        _validate.choice(self.epoch_mode, "epoch_mode", EPOCH_MODES)
        row_bytes = self.dim * getattr(torch, self.dtype).itemsize + 4 * self.num_neighbors + 16  # bank, graph, ids
        needed, available = num_samples * row_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > available:
            raise ValueError(
                f"num_samples: expected bank and graph to fit into {available >> 20:,} MiB of memory, "
                f"got {num_samples:,} instances, which need {needed >> 20:,} MiB"
            )

    @property
    def num_batches(self) -> int:
        """E."""
        return count_batches(self.num_samples, self.batch_size, drop_last=False)

    def undrawn(self, refresh_every: int) -> np.ndarray:
        """Instances not yet drawn at each refresh of a partition."""
        return self.num_samples - self.batch_size * np.arange(0, self.num_batches, refresh_every)


@dataclass(frozen=True)
class CallCost:
    """Of a call in the training loop: back to back, and after the caches were filled with something else."""

    warm: Timing
    cold: Timing


@dataclass(frozen=True)
class RefreshCost:
    """Of drawing the batch that begins a window."""

    num_left: int  # instances that the graph is built over
    num_batches: int  # of the window
    is_first: bool  # of its epoch
    timing: Timing
    graph_share: float  # of the time, in the last run; the rest is the partition or the walks


@dataclass(frozen=True)
class Costs:
    settings: Settings
    calls: dict[str, CallCost]  # "update", "state_dict", and "draw" if a window has more than one batch
    refreshes: list[RefreshCost]
    memory: dict[str, int | None]  # bytes; None: unknown
    num_threads: int = field(default_factory=torch.get_num_threads)

    def call_seconds(self) -> float:
        """What each step pays whatever refresh_every is."""
        return sum(self.calls[name].cold.median for name in ("update", "draw") if name in self.calls)

    def refresh_seconds(self, refresh_every: int) -> float:
        """All refreshes of an epoch, a step's share."""
        settings = self.settings
        if settings.epoch_mode == "partition":
            sizes, seconds = zip(*sorted((cost.num_left, cost.timing.median) for cost in self.refreshes), strict=True)
            return float(np.interp(settings.undrawn(refresh_every), sizes, seconds).sum()) / settings.num_batches
        (cost,) = self.refreshes
        graph_seconds = cost.graph_share * cost.timing.median
        walk_seconds = (cost.timing.median - graph_seconds) / cost.num_batches
        if settings.epoch_mode == "paper":
            return graph_seconds / refresh_every + walk_seconds
        return -(-settings.num_batches // refresh_every) * graph_seconds / settings.num_batches + walk_seconds

    def step_seconds(self, refresh_every: int) -> float:
        return self.call_seconds() + self.refresh_seconds(refresh_every)

    def least_refresh_every(self, limit_seconds: float) -> int | None:
        """The shortest interval whose cost a step is within the limit, if one up to a uniform epoch's length is.

        The cost falls as the interval grows: refreshes become fewer, and each later one has less left."""
        intervals = range(1, self.settings.num_batches + 1)
        found = bisect.bisect_left(intervals, True, key=lambda every: self.step_seconds(every) <= limit_seconds)
        return None if found == len(intervals) else intervals[found]

    def summary(self) -> dict[str, Any]:
        """The same as plain numbers, for JSON."""
        refresh_every = self.settings.refresh_every
        return {
            "version": __version__,
            "isa": core.isa(),
            "torch": torch.__version__,
            "num_threads": self.num_threads,
            "settings": asdict(self.settings),
            "calls": {
                name: {"warm": cost.warm.summary(), "cold": cost.cold.summary()} for name, cost in self.calls.items()
            },
            "refreshes": [
                {
                    "num_left": cost.num_left,
                    "num_batches": cost.num_batches,
                    "is_first": cost.is_first,
                    **cost.timing.summary(),
                    "graph_share": cost.graph_share,
                }
                for cost in self.refreshes
            ],
            "memory_bytes": self.memory,
            "step": {
                "call_seconds": self.call_seconds(),
                "refresh_seconds": self.refresh_seconds(refresh_every),
                "seconds": self.step_seconds(refresh_every),
            },
        }
