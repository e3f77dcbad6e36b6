"""What bank and sampler cost a training step on this CPU.

python benchmarks/sampler_costs.py [--num-samples 1280000] [--dim 128] [--batch-size 256]

Times are medians (90th percentile) in microseconds. "warm": back to back. "cold": after 64 MiB were copied, as a
training step would leave the caches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from batchsampler_ext import FeatureBank, ProximityBatchSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-samples", type=int, default=1_280_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    num_samples, dim, batch_size = options.num_samples, options.dim, options.batch_size

    generator = torch.Generator().manual_seed(0)
    bank = FeatureBank(num_samples, dim)
    for first in range(0, num_samples, 65_536):
        ids = torch.arange(first, min(first + 65_536, num_samples))
        bank.update(ids, torch.randn(len(ids), dim, generator=generator))
    rows = torch.randn(batch_size, dim, generator=generator)
    batches = iter(torch.randperm(num_samples, generator=generator).split(batch_size)[:-1])
    show("bank.update", lambda: bank.update(next(batches), rows))

    sampler = ProximityBatchSampler(num_samples, batch_size, bank=bank, refresh_every=num_samples // batch_size)
    drawn = iter(sampler)
    start = time.perf_counter()
    next(drawn)
    print(f"first batch of an epoch (graph and partition of all): {time.perf_counter() - start:.2f} s")
    show("draw within a window", lambda: next(drawn))
    show("state_dict", sampler.state_dict)


def show(name: str, work: Callable[[], object], num_calls: int = 300) -> None:
    junk = torch.zeros(2**24)
    results = []
    for evict in (False, True):
        times = []
        for _ in range(num_calls):
            if evict:
                junk.clone()
            start = time.perf_counter()
            work()
            times.append(1e6 * (time.perf_counter() - start))
        results.append(f"{np.median(times):.1f} ({np.quantile(times, 0.9):.1f})")
    print(f"{name}: warm {results[0]}, cold {results[1]} us")


if __name__ == "__main__":
    main()
