"""Statistics of paired runs."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats

ALPHA, POWER = 0.05, 0.8


def paired_differences(values: dict[str, float], others: dict[str, float]) -> np.ndarray:
    """Returns the differences for the seeds that both have. values, others: by seed."""
    return np.array([values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())])


def half_width(differences: np.ndarray) -> float:
    """Returns half the width of the 95% interval of the mean (Student's t); NaN for fewer than two differences."""
    count = len(differences)
    if count < 2:
        return math.nan
    return float(scipy.stats.t.ppf(1 - ALPHA / 2, count - 1) * differences.std(ddof=1) / math.sqrt(count))


def interval(differences: np.ndarray) -> str:
    """Returns the mean and its 95% interval as text."""
    if len(differences) < 2:
        return ""
    center, half = float(differences.mean()), half_width(differences)
    return f"{center:+.2f} ({center - half:+.2f} to {center + half:+.2f})"


def seeds_needed(effect: float, deviation: float) -> int:
    """Returns how many pairs a two-sided paired t-test at ALPHA needs to find `effect` with probability POWER."""
    for count in range(2, 10_000):
        noncentrality = effect / deviation * math.sqrt(count)
        critical = scipy.stats.t.ppf(1 - ALPHA / 2, count - 1)
        if scipy.stats.nct.sf(critical, count - 1, noncentrality) >= POWER:
            return count
    return 10_000
