"""What is measured on: a GPU, or the emulated CUDA engine in its place, which shows that the benchmark works."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Work = Callable[[], Any]


class Gpu:
    """The current CUDA device."""

    is_emulated = False

    def __init__(self) -> None:
        self.place = torch.device("cuda", torch.cuda.current_device())
        self._flush: torch.Tensor | None = None

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Tensors of ``place`` are computed on by the CUDA engine within this block."""
        yield

    def describe(self) -> dict[str, Any]:
        capability = ".".join(map(str, torch.cuda.get_device_capability(self.place)))
        return {
            "gpu": torch.cuda.get_device_name(self.place),
            "compute_capability": capability,
            "driver": query("driver_version"),
            "cuda": torch.version.cuda,
        }

    def clocks(self) -> str:
        return query("clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,pstate")

    def milliseconds(self, work: Work) -> float:
        """Returns the time of work that is queued on the current stream, after overwriting the caches."""
        if self._flush is None:
            self._flush = torch.empty(256 << 20, dtype=torch.uint8, device=self.place)
        self._flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.place)

    def free_memory(self) -> None:
        self._flush = None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.place)

    def peak_bytes(self, work: Work) -> int:
        """Returns the most memory of torch's allocator during the work, beyond what was allocated before."""
        torch.cuda.reset_peak_memory_stats(self.place)
        before = torch.cuda.memory_allocated(self.place)
        work()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self.place) - before

    def captured(self, work: Work) -> Work:
        """Returns a replay of the work as one CUDA graph, without launch overhead."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> Any:
            graph.replay()
            return result

        return replay

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False)

    def kernel_times(self, work: Work) -> list[dict[str, Any]]:
        """Returns name, number of launches and total microseconds of each kernel, longest first."""
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            work()
            self.synchronize()
        return longest_first(profiler, "self_device_time_total")


class EmulatedGpu(Gpu):
    """The CPU with the emulated CUDA engine in the place of the CPU engine, and the clock of the host."""

    is_emulated = True

    def __init__(self) -> None:
        self.place = torch.device("cpu")

    @contextmanager
    def engine(self) -> Iterator[None]:
        from batchsampler_ext import _cuda_emulated
        from batchsampler_ext._engine import backend
        from batchsampler_ext._engine.cuda import CudaEngine

        before = backend._engines["cpu"]
        backend._engines["cpu"] = lambda device: CudaEngine(_cuda_emulated, device)
        try:
            yield
        finally:
            backend._engines["cpu"] = before

    def describe(self) -> dict[str, Any]:
        return {"gpu": "emulator", "compute_capability": "none", "driver": "none", "cuda": torch.version.cuda}

    def clocks(self) -> str:
        return "none"

    def milliseconds(self, work: Work) -> float:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)

    def synchronize(self) -> None:
        pass

    def free_memory(self) -> None:
        pass

    def peak_bytes(self, work: Work) -> int:
        work()
        return 0

    def captured(self, work: Work) -> Work:
        return work

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def kernel_times(self, work: Work) -> list[dict[str, Any]]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            work()
        return longest_first(profiler, "self_cpu_time_total")


def longest_first(profiler: torch.profiler.profile, attribute: str) -> list[dict[str, Any]]:
    averages = [(event.key, event.count, float(getattr(event, attribute))) for event in profiler.key_averages()]
    kernels = [
        {"kernel": name, "launches": count, "total_us": round(total, 1)} for name, count, total in averages if total > 0
    ]
    return sorted(kernels, key=lambda kernel: -kernel["total_us"])


def query(fields: str) -> str:
    """Returns what nvidia-smi says of the first GPU; changes nothing."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
