"""Trains for a long time on a small bank, and fails if memory, files or threads grow: ``python -m tests.tools.soak``.

A round has epochs of a partition and of walks, both with new graphs in the middle, a graph that another thread builds
while the bank is updated, states that are saved and loaded, and a plan that is opened and drawn. After a warm-up,
each round is measured: memory that only this process has (USS), bytes that malloc has given out, Python objects, open
files and threads. The least of the last quarter of rounds is compared with the median of the first quarter, so that
noise does not count.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from batchsampler_ext import (
    FeatureBank,
    GraphConfig,
    Plan,
    PlannedBatchSampler,
    ProximityBatchSampler,
    ProximityGraph,
    compose,
    proximity_graph,
)

N, D, B = 2000, 32, 100
NUM_WARM_UP = 10  # rounds
MAX_GROWTH = {"uss": 4 << 20, "malloc": 256 << 10, "objects": 100, "files": 0, "threads": 0}


class Sample(NamedTuple):
    """uss, malloc: bytes."""

    uss: int
    malloc: int
    objects: int
    files: int
    threads: int


class _MallocInfo(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names.split())


def sample(num_before: int) -> Sample:
    """num_before: number of earlier samples, which are objects, too."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    uss = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) * 1024
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallocInfo
    info = mallinfo()
    num_threads = len(os.listdir("/proc/self/task"))
    num_objects = len(gc.get_objects()) - num_before
    return Sample(uss, info.uordblks + info.hblkhd, num_objects, len(os.listdir("/proc/self/fd")), num_threads)


def growth(samples: list[Sample]) -> dict[str, int]:
    """Returns by how much the least of the last quarter exceeds the median of the first one."""
    quarter = max(1, len(samples) // 4)
    first, last = samples[:quarter], samples[-quarter:]
    return {
        name: min(getattr(part, name) for part in last) - statistics.median_low(getattr(part, name) for part in first)
        for name in Sample._fields
    }


class Training:
    """What lives as long as a training run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.step, self.num_refreshes = folder, 0, 0
        torch.manual_seed(0)
        self.embeddings = torch.randn(N, D)
        self.bank = FeatureBank(N, D, two_towers=True)
        self.bank.update(range(N), self.embeddings, self.embeddings.flip(1))
        self.bank_in_files = FeatureBank(N, D, path=folder / "bank")
        config = GraphConfig(num_candidates=200, num_neighbors=20)
        self.samplers = [
            ProximityBatchSampler(N, B, bank=self.bank, graph=config, margin=0.1, unique=[*range(N - 2), 7, 7]),
            ProximityBatchSampler(N, B, bank=self.bank, graph=config, planner="walks", refresh_every=7),
        ]
        plan = compose(self.embeddings, batch_size=B, rank_window=(5, 20), num_hard_negatives=2, margin=0.1,
                       documents=self.embeddings.roll(1, 1), community_size=20)  # fmt: skip
        plan.save(folder / "plan")

    def round(self) -> None:
        for sampler in self.samplers:
            before = sampler.refreshes
            for number, batch in enumerate(sampler):
                rows = self.embeddings[batch] + 0.01 * self.step
                self.bank.update(batch, rows, rows.flip(1))
                self.bank_in_files.update(batch, rows)
                self.step += 1
                if number == 9:
                    sampler.refresh()
                    sampler.negative_mask(batch)
            sampler.stats()
            self.num_refreshes += sampler.refreshes - before
        self.refresh_in_another_thread()
        self.save_and_load()
        self.draw_a_plan()

    def refresh_in_another_thread(self) -> None:
        rows = self.bank.rows_for_graph()
        features = rows.features.clone()
        thread = threading.Thread(target=lambda: proximity_graph(features, 20, num_candidates=200).stats())
        thread.start()
        for first in range(0, N, B):
            ids = range(first, first + B)
            self.bank.update(ids, self.embeddings[first : first + B], self.embeddings[first : first + B])
        thread.join()
        self.num_refreshes += 1

    def save_and_load(self) -> None:
        for sampler in self.samplers:
            sampler.load_state_dict(sampler.state_dict())
        self.bank.save(self.folder / "bank.pt")
        self.bank.load(self.folder / "bank.pt")
        graph = self.samplers[0].graph
        assert graph is not None
        graph.save(self.folder / "graph.npz")
        ProximityGraph.load(self.folder / "graph.npz").mutual()
        del self.bank_in_files
        self.bank_in_files = FeatureBank(N, D, path=self.folder / "bank")

    def draw_a_plan(self) -> None:
        plan = Plan.load(self.folder / "plan")
        for batch in plan.batches(0):
            plan.negative_mask(batch)
        plan.hard_negatives()
        planned = PlannedBatchSampler(plan, rank=0, num_replicas=2)
        planned.load_state_dict(planned.state_dict())
        assert sum(map(len, planned)) == N // 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        training, start = Training(Path(folder)), time.monotonic()
        num_rounds = 0
        while time.monotonic() < start + 60 * given.minutes or len(samples) < 8:
            training.round()
            num_rounds += 1
            if num_rounds > NUM_WARM_UP:
                samples.append(sample(len(samples)))
    found = growth(samples)
    too_much = {name: found[name] for name, most in MAX_GROWTH.items() if found[name] > most}
    print(
        f"{training.num_refreshes} refreshes and {training.step} updates in {num_rounds} rounds and "
        f"{(time.monotonic() - start) / 60:.1f} minutes"
    )
    for name in Sample._fields:
        values = [getattr(part, name) for part in samples]
        ends = f"{values[0]:,} at first, {values[-1]:,} at last, {min(values):,} to {max(values):,}"
        print(f"{name}: {ends}, growth {found[name]:,}")
    print(f"FAILED: {too_much}" if too_much else "no growth")
    return len(too_much) > 0


if __name__ == "__main__":
    sys.exit(main())
