"""Times a call once, or many times without the preparation between runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from .._engine import validate

__all__ = ["EVICTED_BYTES", "Timing", "duration", "evict_caches", "measure", "timed", "torch_threads"]

EVICTED_BYTES = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of each run."""

    seconds: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p90(self) -> float:
        return float(np.quantile(self.seconds, 0.9))

    def summary(self) -> dict[str, float]:
        return {"median_seconds": self.median, "p90_seconds": self.p90, "runs": len(self.seconds)}


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def measure(
    work: Callable[[T], object], prepare: Callable[[], T], *, min_runs: int, max_runs: int, budget_seconds: float
) -> Timing:
    """Times ``work(prepare())`` without prepare, max_runs times or until the budget is spent after min_runs."""
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < max_runs and (len(seconds) < min_runs or time.perf_counter() - start < budget_seconds):
        prepared = prepare()
        before = time.perf_counter()
        work(prepared)
        seconds.append(time.perf_counter() - before)
    return Timing(np.array(seconds))


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Sets torch's number of threads, as training code does, until the block ends. None: it stays."""
    before = torch.get_num_threads()
    torch.set_num_threads(validate.num_threads(num_threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evict_caches() -> Callable[[], object]:
    """Returns a function that copies EVICTED_BYTES, which evicts other data from the caches."""
    source, target = (torch.ones(EVICTED_BYTES, dtype=torch.uint8) for _ in range(2))  # zeros could share one page
    return lambda: target.copy_(source)


def duration(seconds: float) -> str:
    """Returns the time with three digits and a unit."""
    unit, scale = next(
        (unit, scale)
        for unit, scale in (("us", 1e6), ("ms", 1e3), ("s", 1.0))
        if seconds * scale < 999.5 or unit == "s"
    )
    value = seconds * scale
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
