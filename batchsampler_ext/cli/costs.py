"""Measures the time that bank and sampler add to a training step, through the public API, as in a training loop.

Embeddings are random noise. A step stores B embeddings and draws a batch. The batches of many steps are planned at
once: a whole epoch by a partition, ``refresh_every`` batches by planners that walk. With medians of cold calls,

    step = update + draw + refresh / steps per refresh
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch

from .._engine import validate
from .._engine.arrays import TORCH_DTYPES
from ..bank import FeatureBank
from ..graph_builders import GraphConfig
from ..planners import PLANNERS
from ..sampler import ProximityBatchSampler
from .memory import PrivateMemoryPeak
from .progress import Progress, Stage
from .timing import Timing, evict_caches, measure

__all__ = ["TARGET_SHARE", "Costs", "Settings", "measure_costs"]

DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in TORCH_DTYPES)
FILL_ROWS = 8192
MAX_CALLS, MAX_REFRESHES = 200, 5
MIN_RUNS = 3  # the median of fewer runs means little when another program interferes
BUDGET_SECONDS = 3.0  # of a measurement, which ends after the run that exceeds it
TARGET_SHARE = 0.01  # of a training step: below this share, cheaper options are not tried

Drawn = Iterator[list[int]]
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """Sizes to measure. ``refresh_every`` is None for planners that plan an epoch at once."""

    num_instances: int  # N
    dim: int
    batch_size: int  # B
    refresh_every: int | None
    num_candidates: int  # M
    num_neighbors: int  # K
    dtype: str
    planner: str

    def check(self) -> None:
        """Checks the sizes before any work.

        Raises:
            TypeError, ValueError: a bad argument, named; tables larger than the machine's memory.
        """
        num_instances = validate.integer(self.num_instances, "num_instances", 2, validate.MAX_NODES)
        validate.integer(self.dim, "dim", 1)
        validate.integer(self.batch_size, "batch_size", 1, num_instances, because=" (num_instances)")
        validate.integer(self.num_candidates, "num_candidates", 1, num_instances - 1, because=" (num_instances - 1)")
        validate.integer(self.num_neighbors, "num_neighbors", 1, self.num_candidates, because=" (num_candidates)")
        validate.choice(self.dtype, "dtype", DTYPES)
        validate.choice(self.planner, "planner", tuple(PLANNERS))
        if not PLANNERS[self.planner].covers_once:
            validate.integer(self.refresh_every, "refresh_every", 1)
        elif self.refresh_every is not None:
            raise ValueError(
                f"refresh_every: expected None with planner {self.planner!r}, which plans whole epochs, "
                f"got {self.refresh_every}"
            )
        row_bytes = self.dim * getattr(torch, self.dtype).itemsize + 4 * self.num_neighbors + 16  # bank, graph, ids
        needed, available = num_instances * row_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > available:
            raise ValueError(
                f"num_instances: expected bank and graph to fit into {available >> 20:,} MiB of memory, "
                f"got {num_instances:,} instances, which need {needed >> 20:,} MiB"
            )

    @property
    def num_batches(self) -> int:
        """Number of batches of a uniform epoch."""
        return -(-self.num_instances // self.batch_size)

    @property
    def steps_per_refresh(self) -> float:
        """Training steps per graph. Each epoch starts with a new graph, even if shorter than ``refresh_every``."""
        if self.refresh_every is None:
            return self.num_batches
        if PLANNERS[self.planner].length_varies:  # its epochs are several times as long as a uniform one
            return self.refresh_every
        return self.num_batches / -(-self.num_batches // self.refresh_every)


@dataclass(frozen=True)
class Costs:
    """Seconds of the calls in a training loop, measured with cold caches, and bytes of the tables."""

    settings: Settings
    update: Timing
    draw: Timing | None  # drawing a batch that is planned; None if a plan has only one batch
    refresh: Timing  # building a graph, planning its batches, and drawing the first of them
    memory: dict[str, int | None]  # bytes; None: unknown
    remedies: dict[str, Costs] = field(default_factory=dict)  # option -> costs with it (only ``refresh`` is measured)

    @property
    def call_seconds(self) -> float:
        """Seconds per step that do not depend on how often the graph is refreshed."""
        return self.update.median + (0.0 if self.draw is None else self.draw.median)

    @property
    def refresh_seconds_per_step(self) -> float:
        return self.refresh.median / self.settings.steps_per_refresh

    @property
    def step_seconds(self) -> float:
        return self.call_seconds + self.refresh_seconds_per_step

    def matters_to(self, step_seconds: float | None) -> bool:
        """Returns whether the costs exceed TARGET_SHARE of a training step; True if its time is unknown."""
        return step_seconds is None or self.step_seconds > TARGET_SHARE * step_seconds

    def summary(self) -> dict[str, Any]:
        """Returns the costs as plain numbers, for JSON."""
        return {
            "settings": asdict(self.settings),
            "update": self.update.summary(),
            "draw": None if self.draw is None else self.draw.summary(),
            "refresh": self.refresh.summary(),
            "step": {
                "update_and_draw_seconds": self.call_seconds,
                "refresh_seconds": self.refresh_seconds_per_step,
                "seconds": self.step_seconds,
                "steps_per_refresh": self.settings.steps_per_refresh,
            },
            "memory_bytes": self.memory,
            "remedies": {
                option: {"refresh": costs.refresh.summary(), "step_seconds": costs.step_seconds}
                for option, costs in self.remedies.items()
            },
        }


def measure_costs(settings: Settings, step_seconds: float | None, stage: Stage) -> Costs:
    """Returns the costs of a bank and a sampler with these settings.

    Args:
        step_seconds: time of a training step without them, or None. Cheaper options (remedies) are only measured if the
            costs exceed TARGET_SHARE of it.
        stage: announces the stages of the work.

    Raises:
        TypeError, ValueError: the errors of :meth:`Settings.check`.
    """
    settings.check()
    bank = FeatureBank(settings.num_instances, settings.dim, dtype=getattr(torch, settings.dtype))
    fill(bank, stage("filling the bank"))
    sampler = make_sampler(bank, settings, stage("refresh"))
    with PrivateMemoryPeak() as peak:
        refresh = refresh_timing(sampler)
    memory = {
        "bank": sum(part.nbytes for part in bank.state_dict().values() if isinstance(part, torch.Tensor)),
        "graph": 0 if sampler.graph is None else sampler.graph.neighbors.nbytes,
        "refresh_peak": peak.growth(),
    }
    costs = Costs(settings, update_timing(bank, settings), draw_timing(sampler, settings), refresh, memory)
    del sampler  # frees its graph
    if costs.matters_to(step_seconds):
        for option, cheaper in cheaper_settings(settings):
            refresh = refresh_timing(make_sampler(bank, cheaper, stage(f"refresh with {option}")))
            costs.remedies[option] = replace(costs, settings=cheaper, refresh=refresh, remedies={})
    return costs


def cheaper_settings(settings: Settings) -> list[tuple[str, Settings]]:
    """Returns settings with cheaper refreshes, each with the command line option that sets it."""
    found = []
    num_candidates = max(settings.num_neighbors, settings.num_candidates // 4)
    if num_candidates <= settings.num_candidates // 2:
        found.append((f"--num-candidates {num_candidates}", replace(settings, num_candidates=num_candidates)))
    if settings.refresh_every is not None:
        rarer = replace(settings, refresh_every=4 * settings.refresh_every)
        if rarer.steps_per_refresh > settings.steps_per_refresh:
            found.append((f"--refresh-every {rarer.refresh_every}", rarer))
    return found


def fill(bank: FeatureBank, progress: Progress) -> None:
    """Gives each instance a random embedding."""
    generator = torch.Generator().manual_seed(0)
    chunks = torch.arange(len(bank)).split(FILL_ROWS)
    bank.fill_from(lambda ids: (ids, torch.randn(len(ids), bank.dim, generator=generator)), chunks, progress=progress)


def make_sampler(bank: FeatureBank, settings: Settings, progress: Progress) -> ProximityBatchSampler:
    return ProximityBatchSampler(
        settings.num_instances,
        settings.batch_size,
        bank=bank,
        refresh_every=settings.refresh_every,
        graph=GraphConfig(num_candidates=settings.num_candidates, num_neighbors=settings.num_neighbors),
        planner=settings.planner,
        progress=progress,
    )


def new_epochs(sampler: ProximityBatchSampler) -> Iterator[Drawn]:
    """Yields an iterator for each of endless epochs. Drawing its first batch refreshes the graph."""
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield iter(sampler)


def refresh_timing(sampler: ProximityBatchSampler) -> Timing:
    runs = {"min_runs": MIN_RUNS, "max_runs": MAX_REFRESHES}
    return measure(next, new_epochs(sampler).__next__, **runs, budget_seconds=BUDGET_SECONDS)


def draw_timing(sampler: ProximityBatchSampler, settings: Settings) -> Timing | None:
    """Times the drawing of planned batches, without the refreshes that plan them. None if a plan has one batch."""
    num_planned = min(settings.num_batches, settings.refresh_every or settings.num_batches) - 1
    if num_planned == 0:
        return None

    def planned() -> Iterator[Drawn]:
        for drawn in new_epochs(sampler):
            next(drawn)
            yield from itertools.repeat(drawn, num_planned)

    return cold_timing(next, planned())


def update_timing(bank: FeatureBank, settings: Settings) -> Timing:
    rows = torch.randn(settings.batch_size, settings.dim)
    ids = torch.randperm(len(bank))[: len(bank) // settings.batch_size * settings.batch_size]
    return cold_timing(lambda batch: bank.update(batch, rows), itertools.cycle(ids.split(settings.batch_size)))


def cold_timing(work: Callable[[T], object], arguments: Iterator[T]) -> Timing:
    """Times ``work`` on one argument after the other. Before each call, other data is loaded into the caches."""
    evict = evict_caches()

    def prepare() -> T:
        argument = next(arguments)
        evict()
        return argument

    return measure(work, prepare, min_runs=MIN_RUNS, max_runs=MAX_CALLS, budget_seconds=BUDGET_SECONDS)
