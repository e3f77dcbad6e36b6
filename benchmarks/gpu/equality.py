"""Results of the CUDA engine compared with those of the CPU engine, to the bit: one row per call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import batchsampler_ext as bse

from .devices import Gpu


@dataclass
class EqualityRow:
    call: str
    result: str  # "equal", or how it differs, or the error
    cpu_seconds: float = 0.0
    device_seconds: float = 0.0  # with the first use of kernels and memory


Parts = list[torch.Tensor | None]
Compute = Callable[[torch.device], Parts]


def calls(num_rows: int, num_candidates: int, num_neighbors: int, batch_size: int) -> Iterator[tuple[str, Compute]]:
    """Yields calls that compute the same on any device. Their inputs are made on the CPU and moved."""
    rows = torch.randn(num_rows, 128, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(num_rows) % 50
    shape = {"num_neighbors": num_neighbors, "num_candidates": num_candidates}

    def graph(dtype: torch.dtype, **options: object) -> Compute:
        return lambda place: parts_of(bse.proximity_graph(rows.to(place, dtype), **shape, **options))

    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        yield f"proximity_graph {name}", graph(dtype)
        yield f"proximity_graph {name}, with scores", graph(dtype, return_scores=True)
        yield f"proximity_graph {name}, per-row candidates", graph(dtype, candidate_group_size=1)
        yield (
            f"knn_graph {name}",
            lambda place, dtype=dtype: parts_of(bse.knn_graph(rows.to(place, dtype), num_neighbors)),
        )
    yield (
        "proximity_graph bfloat16, l2, labels, range_min",
        lambda place: parts_of(
            bse.proximity_graph(
                rows.to(place, torch.bfloat16), **shape, metric="l2", labels=labels.to(place), range_min=5
            )
        ),
    )
    yield "knn bfloat16", lambda place: list(bse.knn(rows[:999].to(place).bfloat16(), rows.to(place).bfloat16(), 10))

    made = bse.proximity_graph(rows, **shape)  # on the CPU, so that later calls do not depend on earlier ones
    roots = torch.arange(0, num_rows, 100)
    yield "mutual", lambda place: parts_of(made.to(place).mutual())
    yield (
        "random_walk_with_restart",
        lambda place: list(bse.random_walk_with_restart(made.to(place), roots.to(place), batch_size)),
    )
    for planner in ("partition", "walks", "cover_by_walks", "uniform"):

        def plan(place: torch.device, planner: str = planner) -> Parts:
            batches = bse.sample_batches(made.to(place), batch_size, planner=planner)
            return [batches.indices, batches.tail]

        yield f"sample_batches {planner}", plan

    def update(place: torch.device) -> Parts:
        bank = bse.FeatureBank(num_rows, 128, device=place, momentum=0.5)
        for _ in range(2):
            bank.update(torch.arange(num_rows).flip(0), rows.to(place))
        return [bank.data, bank.last_update]

    yield "FeatureBank.update", update


def parts_of(graph: bse.ProximityGraph) -> Parts:
    graph.check()
    return [graph.neighbors, graph.scores]


def difference(expected: Parts, found: Parts, place: torch.device) -> str:
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if a is None and b is None:
            continue
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            return f"output {i} has another shape or dtype"
        if a.device.type != "cpu" or b.device.type != place.type:
            return f"output {i} is on {a.device} and {b.device}"
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
        is_different = a.view(bits) != b.cpu().view(bits)
        if is_different.any():
            first = is_different.nonzero()[0].tolist()
            return f"output {i} differs in {int(is_different.sum())} of {a.numel()} values, first at {first}"
    return "equal"


def compare(gpu: Gpu, *, is_small: bool) -> Iterator[EqualityRow]:
    """Yields a row per call. An error is a row too, and the other calls follow."""
    sizes = (900, 100, 20, 32) if is_small else (20_000, 1000, 100, 256)
    for name, compute in calls(*sizes):
        row = EqualityRow(name, "")
        try:
            start = time.perf_counter()
            expected = compute(torch.device("cpu"))
            row.cpu_seconds = round(time.perf_counter() - start, 4)
            start = time.perf_counter()
            with gpu.engine():
                found = compute(gpu.place)
                gpu.synchronize()
                row.device_seconds = round(time.perf_counter() - start, 4)
                row.result = difference(expected, found, gpu.place)
        except Exception as error:
            row.result = describe(error)
        yield row


def describe(error: Exception) -> str:
    first_line = str(error).strip().split("\n")[0]
    return f"error: {type(error).__name__}: {first_line}"[:300]
