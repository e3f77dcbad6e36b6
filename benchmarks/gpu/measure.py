"""Times the contestants of a case in turns. A contestant that fails is a row, and the others go on."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .cases import OURS, Case, Contestant
from .contestants import NotComparableError
from .devices import Gpu, Work
from .equality import describe

SECONDS_PER_CONTESTANT = 4.0  # after its warm-up


@dataclass
class Row:
    """Times are of one run. Shares are of the peaks measured in the same run."""

    work: str
    contestant: str
    status: str = "not run"  # "ok", "not installed", "not comparable: ..." or "error: ..."
    check: str = ""
    warm_up_s: float | None = None  # the first run, with what it compiles and allocates
    peak_mib: float | None = None  # of torch's allocator, in the second run
    num_rounds: int = 0
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    slower_than_ours: float | None = None
    share_of_matrix_peak: float | None = None  # at 2 FLOP per multiply-add, of the peak of bfloat16 products
    share_of_copy: float | None = None  # of the bytes that have to be read and written at least
    gigascores_per_s: float | None = None


@dataclass
class Entrant:
    """A contestant that has run once."""

    contestant: Contestant
    row: Row
    work: Work
    times: dict[int, float] = field(default_factory=dict)  # milliseconds by round, for its share of the rows

    def has_time_left(self) -> bool:
        return (sum(self.times.values()) + max(self.times.values())) / 1e3 < SECONDS_PER_CONTESTANT


def measure(
    gpu: Gpu, case: Case, peaks: dict[str, float], num_rounds: int, rows: list[Row], save: Callable[[], None]
) -> list[dict[str, Any]]:
    """Appends a row per contestant to rows and saves after each step. Returns times of kernels if the case has them."""
    new = [Row(case.work, contestant.name) for contestant in case.contestants]
    rows += new
    entrants: list[Entrant] = []
    ours: Any = None
    for contestant, row in zip(case.contestants, new, strict=True):
        save()
        try:
            work = contestant.make()
            start = time.perf_counter()
            result = work()
            gpu.synchronize()
            row.warm_up_s = time.perf_counter() - start
            if contestant.check is not None and ours is not None:
                row.check = contestant.check(ours, result)
            if contestant.name == OURS:
                ours = result
                row.peak_mib = gpu.peak_bytes(work) / 2**20
            row.status = "ok"
            entrants.append(Entrant(contestant, row, work))
        except ModuleNotFoundError as error:
            row.status = "not installed"
            row.check = str(error)
        except NotComparableError as error:
            row.status = f"not comparable: {error}"
        except Exception as error:
            row.status = describe(error)
        result = work = None
    gc.collect()
    order, shuffle = list(entrants), random.Random(0).shuffle
    for i in range(num_rounds):
        shuffle(order)
        for entrant in order:
            if entrant.row.status != "ok" or (entrant.times and not entrant.has_time_left()):
                continue
            try:
                entrant.times[i] = gpu.milliseconds(entrant.work)
            except Exception as error:
                entrant.row.status = describe(error)
        fill(entrants, case, peaks)
        save()
    if not case.has_kernel_times or new[0].status != "ok":
        return []
    return gpu.kernel_times(entrants[0].work)


def fill(entrants: list[Entrant], case: Case, peaks: dict[str, float]) -> None:
    ours = next((entrant.times for entrant in entrants if entrant.contestant.name == OURS), {})
    for entrant in entrants:
        row = entrant.row
        times = {i: milliseconds / entrant.contestant.share for i, milliseconds in entrant.times.items()}
        if not times:
            continue
        row.num_rounds = len(times)
        row.p10_ms, median, row.p90_ms = map(float, np.quantile(list(times.values()), [0.1, 0.5, 0.9]))
        row.median_ms = median
        ratios = [times[i] / ours[i] for i in times if i in ours]
        if ratios:
            row.slower_than_ours = float(np.median(ratios))
        if case.num_scores:
            row.gigascores_per_s = case.num_scores / (1e6 * median)
            if peaks:
                row.share_of_matrix_peak = 2 * case.num_scores * case.dim / (1e-3 * median) / peaks["matrix"]
        if case.num_bytes and peaks:
            row.share_of_copy = case.num_bytes / (1e-3 * median) / peaks["copy"]


def measure_peaks(gpu: Gpu) -> dict[str, float]:
    """Returns FLOP/s of a bfloat16 product, and bytes/s of a copy (read and written)."""
    size = 256 if gpu.is_emulated else 8192
    a = torch.randn(size, size, device=gpu.place).bfloat16()
    source = torch.randn(size**2 * 4, device=gpu.place)
    target = torch.empty_like(source)
    product = min(gpu.milliseconds(lambda: a @ a) for _ in range(10))
    copy = min(gpu.milliseconds(lambda: target.copy_(source)) for _ in range(10))
    return {"matrix": 2 * float(size) ** 3 / (1e-3 * product), "copy": 2.0 * source.nbytes / (1e-3 * copy)}
