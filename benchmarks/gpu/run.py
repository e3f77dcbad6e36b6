"""Runs the steps of the benchmark within a time limit."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import batchsampler_ext as bse

from .. import machine, refresh_cost
from ..timing import round_robin
from . import cases, equality, summary
from .devices import EmulatedGpu, Gpu
from .measure import measure, measure_peaks
from .results import Results

Step = tuple[str, float, Callable[[], None]]  # name, estimated seconds, what to do


class NoDeviceError(RuntimeError):
    pass


def run(options: argparse.Namespace) -> None:
    end = time.monotonic() + options.seconds
    if not options.emulated and not torch.cuda.is_available():
        raise NoDeviceError("torch finds no CUDA device")
    gpu = EmulatedGpu() if options.emulated else Gpu()
    about = {**gpu.describe(), **machine.describe(torch.get_num_threads())}
    name = f"{about['gpu'].lower().replace(' ', '-')}-{about['commit']}.json"
    out = options.out or Path(__file__).parents[1] / "results" / name
    results = Results(out, machine=about)
    for step, seconds, work in steps(gpu, results, options):
        left = end - time.monotonic()
        if left < seconds and not gpu.is_emulated:
            print(f"{step}: left out, as it takes {seconds:.0f} s of {left:.0f} s", flush=True)
            results.left_out.append(step)
            continue
        results.running, results.clocks[step] = step, gpu.clocks()
        results.save()
        start = time.monotonic()
        try:
            work()
        except Exception as error:
            results.errors[step] = equality.describe(error)
        gc.collect()
        gpu.free_memory()
        results.seconds[step] = round(time.monotonic() - start, 1)
        results.running = None
        results.save()
        print(f"{step}: {results.seconds[step]} s {results.errors.get(step, '')}", flush=True)
    results.clocks["end"] = gpu.clocks()
    results.save()
    print(f"wrote {out}", summary.of_results(out), sep="\n")


def steps(gpu: Gpu, results: Results, options: argparse.Namespace) -> Iterator[Step]:
    is_small = options.quick or options.emulated
    sizes = cases.TINY if options.emulated else cases.QUICK if options.quick else cases.FULL

    def compare() -> None:
        for row in equality.compare(gpu, is_small=is_small):
            results.equality.append(row)
            results.save()

    def measure_case(make: Callable[[], cases.Case]) -> None:
        with gpu.engine():
            case = make()
            kernels = measure(gpu, case, results.peaks, options.rounds, results.rows, results.save)
            if kernels:
                results.kernel_times[case.work] = kernels

    def beside_training() -> None:
        with gpu.engine():
            results.beside_training = asdict(
                refresh_cost.measure(gpu.place, num_instances=2000, dim=16, batch_size=8, image_size=32, width=4,
                                     refresh_every=4, num_blocks=2)
                if is_small
                else refresh_cost.measure(gpu.place, refresh_every=20, num_blocks=2)
            )  # fmt: skip

    def scaling() -> None:
        results.cpu_ms_by_threads = cpu_scaling(2000 if is_small else 100_000)

    yield "equality", 15, compare
    yield "peaks", 3, lambda: results.peaks.update(measure_peaks(gpu))
    for name, seconds, make in cases.all_cases(gpu, sizes):
        yield name, seconds, lambda make=make: measure_case(make)
    yield "beside training", 15, beside_training
    yield "CPU threads", 15, scaling
    yield "torch.compile", 30, lambda: measure_case(lambda: cases.compiled_graph(gpu, sizes))


def cpu_scaling(num_rows: int) -> dict[str, float]:
    """Returns milliseconds of a graph over [num_rows, 128] features on the CPU, by number of threads."""
    x = torch.randn(num_rows, 128)
    most = torch.get_num_threads()
    counts = sorted({count for count in (1, 2, 4, 8, 16, 32, 64) if count < most} | {most})
    work = {
        str(count): lambda count=count: bse.proximity_graph(x, 100, num_candidates=1000, num_threads=count)
        for count in counts
    }
    times = round_robin(work, num_rounds=3, budget_seconds=2)
    return {name: 1e3 * float(np.median(seconds)) for name, seconds in times.items()}
