"""Interleaved timing: all contestants take turns, round by round, so that a slow minute of the machine hits them alike.

Their order changes from round to round, and each begins after a pause: OpenMP's threads spin for a while after their
work is done, and would slow down whoever always came next.
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
    """Of one contestant: seconds of each round it took part in, and its share of ours, round by round."""

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
    """:func:`round_robin`, with ratios to one of the contestants."""
    seconds = round_robin(contestants, num_rounds=num_rounds, budget_seconds=budget_seconds)
    return {name: Timing(times, times / seconds[ours][: len(times)]) for name, times in seconds.items()}


def round_robin(
    contestants: dict[str, Callable[[], object]], *, num_rounds: int, budget_seconds: float
) -> dict[str, np.ndarray]:
    """Seconds of each counted round: one to warm up, then num_rounds; who has used up the budget sits out the rest,
    after one counted round."""
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
