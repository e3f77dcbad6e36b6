"""Measures what bank and sampler cost, through the public API and in the order of a training loop.

Embeddings are random noise. The only calls that no training loop makes are those that go back to a saved state, so that
a window can be drawn or ended again; they are not timed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import SubsetRandomSampler

from .._memory import PrivateMemoryPeak
from .._timing import evict_caches, measure
from ..bank import FeatureBank
from ..build import Progress
from ..inspection import Stage
from ..sampler import ProximityBatchSampler
from .model import CallCost, Costs, RefreshCost, Settings

LATER_REFRESHES = (2, 8)  # in a partition: a half and an eighth of the instances are undrawn
FILL_ROWS = 8192
MAX_WINDOW = 100  # batches drawn before a later refresh: they are not timed
MAX_CALLS, MAX_REFRESHES = 200, 5
MIN_RUNS = 3  # the median of fewer is at the mercy of a moment when the machine does something else
BUDGET_SECONDS = 3.0  # of a measurement; a run begun is finished

Drawn = Iterator[list[int]]
T = TypeVar("T")


def measure_costs(settings: Settings, stage: Stage) -> Costs:
    """See :class:`Costs`. Raises what :meth:`Settings.check` does."""
    settings.check()
    num_samples, batch_size = settings.num_samples, settings.batch_size
    bank = FeatureBank(num_samples, settings.dim, dtype=getattr(torch, settings.dtype))
    fill(bank, stage("filling the bank"))

    sampler = make_sampler(bank, num_samples, settings.refresh_every, settings, stage("first window of an epoch"))
    with PrivateMemoryPeak() as memory:
        refreshes = [first_window(sampler)]
    tables = table_bytes(bank, sampler)
    calls: dict[str, CallCost] = {}
    if refreshes[0].num_batches > 1:
        calls["draw"] = call_cost(next, rewound(sampler, refreshes[0].num_batches - 1), stage("draw"))
    calls["state_dict"] = call_cost(lambda _: sampler.state_dict(), itertools.repeat(None), stage("state_dict"))
    sampler.graph = None  # not two at a time

    if settings.epoch_mode == "partition":
        for part in LATER_REFRESHES:
            refreshes += later_refresh(bank, num_samples // part, settings, stage)

    rows = torch.randn(batch_size, settings.dim)
    order = torch.randperm(num_samples)[: num_samples // batch_size * batch_size]
    calls["update"] = call_cost(
        lambda ids: bank.update(ids, rows), itertools.cycle(order.split(batch_size)), stage("update")
    )
    return Costs(settings, calls, refreshes, {**tables, "sampler_peak": memory.growth()})


def fill(bank: FeatureBank, progress: Progress) -> None:
    generator = torch.Generator().manual_seed(0)
    chunks = torch.arange(len(bank)).split(FILL_ROWS)
    bank.fill_from(lambda ids: (ids, torch.randn(len(ids), bank.dim, generator=generator)), chunks, progress=progress)


def make_sampler(
    bank: FeatureBank,
    instances: int | SubsetRandomSampler,
    refresh_every: int,
    settings: Settings,
    progress: Progress,
) -> ProximityBatchSampler:
    return ProximityBatchSampler(
        instances,
        settings.batch_size,
        bank=bank,
        refresh_every=refresh_every,
        num_candidates=settings.num_candidates,
        num_neighbors=settings.num_neighbors,
        epoch_mode=settings.epoch_mode,
        progress=progress,
    )


def first_window(sampler: ProximityBatchSampler) -> RefreshCost:
    epochs = itertools.count()

    def begin() -> Drawn:
        sampler.set_epoch(next(epochs))
        return iter(sampler)

    return refresh_cost(sampler, begin, len(sampler.bank), is_first=True)


def later_refresh(bank: FeatureBank, num_left: int, settings: Settings, stage: Stage) -> list[RefreshCost]:
    """Of an epoch with num_left instances undrawn, after a window; the sampler draws from these two alone, which leaves
    what a refresh does as it is. Nothing if no full batch precedes it."""
    num_batches = min(settings.refresh_every, MAX_WINDOW, (len(bank) - num_left) // settings.batch_size)
    if num_left == 0 or num_batches == 0:
        return []
    instances = torch.randperm(len(bank))[: num_left + num_batches * settings.batch_size].tolist()
    progress = stage(f"refresh, {num_left:,} undrawn")
    sampler = make_sampler(bank, SubsetRandomSampler(instances), num_batches, settings, progress)
    for _ in itertools.islice(sampler, num_batches):
        pass
    state = sampler.state_dict()
    return [refresh_cost(sampler, lambda: resumed(sampler, state), num_left, is_first=False)]


def refresh_cost(
    sampler: ProximityBatchSampler, begin: Callable[[], Drawn], num_left: int, *, is_first: bool
) -> RefreshCost:
    timing = measure(next, begin, min_runs=MIN_RUNS, max_runs=MAX_REFRESHES, budget_seconds=BUDGET_SECONDS)
    graph_share = sampler.stats()["refresh_ms"] / (1e3 * timing.seconds[-1])
    window = sampler.state_dict()["windows"][-1]
    num_batches = len(window["indices"]) + (len(window["tail"]) > 0)
    return RefreshCost(num_left, num_batches, is_first, timing, float(graph_share))


def resumed(sampler: ProximityBatchSampler, state: dict[str, Any]) -> Drawn:
    sampler.load_state_dict(state)
    return iter(sampler)


def rewound(sampler: ProximityBatchSampler, num_batches: int) -> Iterator[Drawn]:
    """What the sampler is about to draw, num_batches of it again and again: each iterator is to be advanced once."""
    state = sampler.state_dict()
    while True:
        yield from itertools.repeat(resumed(sampler, state), num_batches)


def call_cost(work: Callable[[T], object], arguments: Iterator[T], progress: Progress) -> CallCost:
    evict = evict_caches()

    def prepare_cold() -> T:
        argument = next(arguments)
        evict()
        return argument

    next_argument = arguments.__next__
    runs = {"min_runs": MIN_RUNS, "max_runs": MAX_CALLS}
    warm = measure(work, next_argument, **runs, budget_seconds=BUDGET_SECONDS)
    progress(1, 2)
    cold = measure(work, prepare_cold, **runs, budget_seconds=BUDGET_SECONDS)
    progress(2, 2)
    return CallCost(warm, cold)


def table_bytes(bank: FeatureBank, sampler: ProximityBatchSampler) -> dict[str, int | None]:
    assert sampler.graph is not None
    window = sampler.state_dict()["windows"][-1]
    tables = {
        "bank": bank.state_dict().values(),
        "graph": (sampler.graph.neighbors, sampler.graph.ids),
        "window": window.values(),
    }
    return {
        name: sum(table.nbytes for table in part if isinstance(table, torch.Tensor)) for name, part in tables.items()
    }
