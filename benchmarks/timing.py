"""Interleaved timing: contestants take turns, round by round, so that a slow minute of the machine affects all alike.

Their order changes from round to round, and each run starts after a pause. OpenMP's threads spin for a while after
their work is done, which would slow down the next contestant.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant in each of its rounds, and ratios to ours in the same rounds."""

    seconds: np.ndarray
    ratios: np.ndarray  # its seconds / ours of the same round

    @property
    def best(self) -> float:
        return float(self.seconds.min())

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def interleave(
    contestants: dict[str, Callable[[], object]], ours: str, *, num_rounds: int, budget_seconds: float
) -> dict[str, Timing]:
    """Returns the times of :func:`round_robin`, with ratios to the contestant ``ours``."""
    seconds = round_robin(contestants, num_rounds=num_rounds, budget_seconds=budget_seconds)
    return {name: Timing(times, times / seconds[ours][: len(times)]) for name, times in seconds.items()}


def round_robin(
    contestants: dict[str, Callable[[], object]], *, num_rounds: int, budget_seconds: float
) -> dict[str, np.ndarray]:
    """Returns the seconds of each counted round, for each contestant.

    One round to warm up is not counted, then num_rounds follow. A contestant that would exceed the budget skips the
    remaining rounds after its first counted one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    first = {name: timed(work) for name, work in contestants.items()}
    order, shuffle = list(contestants), random.Random(0).shuffle
    gc.disable()
    try:
        for _ in range(num_rounds):
            shuffle(order)
            for name in order:
                if sum(seconds[name]) + first[name] <= budget_seconds or not seconds[name]:
                    time.sleep(PAUSE_SECONDS)
                    seconds[name].append(timed(contestants[name]))
    finally:
        gc.enable()
    return {name: np.array(times) for name, times in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
