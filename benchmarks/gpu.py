"""Times the CUDA engine against torch on the same GPU and during training, and the CPU engine by threads.

python -m benchmarks.gpu [--quick] [--out FILE.json]

First, graphs and walks are compared with those of the CPU engine, to the bit. Contestants take turns. A run is timed by
events on the stream, after a warm-up and with overwritten caches. Each row has the median time and its spread, the
contestant's time over ours, shares of the peaks of matrix units and memory (measured in the same run), and scores/s.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import batchsampler_ext as bse

from . import machine, refresh_cost
from .timing import round_robin

M, K, CANDIDATE_GROUP_SIZE, BATCH_SIZE = 1000, 100, 256, 256
GROUPS_AT_ONCE = 64  # groups that torch scores at a time: about as many scores as a cache holds


@dataclass
class Row:
    work: str
    contestant: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    slower_than_ours: float
    share_of_matrix_peak: float | None = None  # at 2 FLOP per multiply-add, of the peak of bfloat16 products
    share_of_copy: float | None = None  # of the bytes that have to be read and written at least
    gigascores_per_s: float | None = None


@dataclass
class Case:
    work: str
    contestants: dict[str, Callable[[], object]]  # the first is ours
    num_scores: float = 0.0
    dim: int = 0
    num_bytes: float = 0.0
    rows: list[Row] = field(default_factory=list)


class Timer:
    """Returns the milliseconds of work that is queued on the current stream, after overwriting the caches."""

    def __init__(self, device: torch.device) -> None:
        self.flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)

    def __call__(self, work: Callable[[], object]) -> float:
        self.flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def torch_grouped_candidates(units: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Returns a run that scores groups of rows against one draw each: gather, batched product, top-k.

    The time of drawing is not counted.
    """
    num_rows = len(units)
    num_groups = num_rows // CANDIDATE_GROUP_SIZE
    rows = torch.randperm(num_rows, device=units.device)[: num_groups * CANDIDATE_GROUP_SIZE].view(num_groups, -1)
    draws = torch.randint(num_rows, (num_groups, M), device=units.device)
    neighbors = torch.empty((num_groups, CANDIDATE_GROUP_SIZE, K), dtype=torch.int64, device=units.device)

    def run() -> torch.Tensor:
        for first in range(0, num_groups, GROUPS_AT_ONCE):
            chosen = slice(first, first + GROUPS_AT_ONCE)
            scores = torch.bmm(units[rows[chosen]], units[draws[chosen]].transpose(1, 2))
            places = scores.topk(K, sorted=False).indices
            drawn = draws[chosen, None, :].expand(-1, CANDIDATE_GROUP_SIZE, -1)
            torch.gather(drawn, 2, places, out=neighbors[chosen])
        return neighbors

    return run


def torch_own_draws(units: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Returns a run of the authors' formulation: each row gathers its own candidates."""

    def run() -> torch.Tensor:
        parts = []
        for rows in torch.arange(len(units), device=units.device).split(1024):
            draws = torch.randint(len(units), (len(rows), M), device=units.device)
            scores = torch.bmm(units[draws], units[rows][:, :, None])[:, :, 0]
            parts.append(draws.gather(1, scores.topk(K, sorted=False).indices))
        return torch.cat(parts)

    return run


def torch_knn(units: torch.Tensor) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        parts = []
        for rows in units.split(2048):
            parts.append((rows @ units.T).topk(K + 1, sorted=False).indices)
        return torch.cat(parts)

    return run


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """Returns a replay of the work as one CUDA graph, without launch overhead."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def cases(device: torch.device, scale: int) -> list[Case]:
    def noise(num_rows: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
        rows = torch.randn(num_rows // scale, dim, device=device)
        return torch.nn.functional.normalize(rows, dim=1).to(dtype)

    result = []
    for dtype in (torch.bfloat16, torch.float32):
        x = noise(1_280_000, 128, dtype)
        name = f"proximity_graph N={len(x):,} d=128 M={M} K={K} {str(dtype).removeprefix('torch.')}"
        case = Case(name, {"batchsampler_ext": lambda x=x: bse.proximity_graph(x, K, num_candidates=M)})
        case.contestants["torch, grouped candidates, CUDA graph"] = captured(torch_grouped_candidates(x))
        case.num_scores, case.dim = float(len(x)) * M, 128
        case.num_bytes = x.nbytes + 4.0 * len(x) * K
        result.append(case)
    x = noise(128_000, 128, torch.bfloat16)
    case = Case(
        f"per-row candidates, N={len(x):,} d=128 bfloat16",
        {
            "batchsampler_ext": lambda x=x: bse.proximity_graph(x, K, num_candidates=M, candidate_group_size=1),
            "authors: gather + bmm + topk": torch_own_draws(x),
        },
        float(len(x)) * M, 128, float(len(x)) * M * 256,
    )  # fmt: skip
    result.append(case)
    x = noise(200_000, 128, torch.bfloat16)
    result.append(
        Case(
            f"knn_graph N={len(x):,} d=128 K={K} bfloat16",
            {
                "batchsampler_ext": lambda x=x: bse.knn_graph(x, K, return_scores=False),
                "torch, product + topk": torch_knn(x),
            },
            float(len(x)) ** 2,
            128,
            x.nbytes + 4.0 * len(x) * K,
        )
    )
    table = torch.randint(1_280_000 // scale, (1_280_000 // scale, K), dtype=torch.int32, device=device)
    graph = bse.ProximityGraph(table)
    graph.degrees()
    roots = torch.randint(len(table), (len(table) // BATCH_SIZE,), device=device)
    result.append(
        Case(
            f"independent walks of an epoch, N={len(table):,} K={K} B={BATCH_SIZE}",
            {"batchsampler_ext": lambda: bse.random_walk_with_restart(graph, roots, BATCH_SIZE)},
        )
    )
    result.append(
        Case(
            f"partition of an epoch, N={len(table):,} K={K} B={BATCH_SIZE}",
            {"batchsampler_ext": lambda: bse.sample_batches(graph, BATCH_SIZE)},
        )
    )
    return result


def check_equality(device: torch.device) -> None:
    """Checks that graphs, walks and epochs on the device equal those of the CPU engine, to the bit."""
    x = torch.randn(20_000, 128)
    for dtype in (torch.bfloat16, torch.float32):
        rows = x.to(dtype)
        for options in ({}, {"candidate_group_size": 1}):
            expected = bse.proximity_graph(rows, K, num_candidates=M, **options)
            found = bse.proximity_graph(rows.to(device), K, num_candidates=M, **options).to("cpu")
            assert torch.equal(expected.neighbors, found.neighbors), f"proximity_graph {dtype} {options} differs"
        expected, found = bse.knn_graph(rows, K), bse.knn_graph(rows.to(device), K).to("cpu")
        assert torch.equal(expected.neighbors, found.neighbors), f"knn_graph {dtype} differs"
        assert torch.equal(expected.scores, found.scores), f"scores of knn_graph {dtype} differ"
    roots = torch.arange(0, 20_000, 100)
    walks = zip(
        bse.random_walk_with_restart(expected, roots, BATCH_SIZE),
        bse.random_walk_with_restart(expected.to(device), roots.to(device), BATCH_SIZE),
        strict=True,
    )
    assert all(torch.equal(a, b.cpu()) for a, b in walks), "walks differ"
    for planner in ("partition", "walks", "cover_by_walks"):
        pairs = zip(*(bse.sample_batches(g, BATCH_SIZE, planner=planner) for g in (expected, found)), strict=True)
        assert all(torch.equal(a, b.cpu()) for a, b in pairs), f"epoch of {planner} differs"


def peaks(timer: Timer, device: torch.device) -> dict[str, float]:
    """Returns FLOP/s of a bfloat16 product, and bytes/s of a copy (read and written)."""
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device=device)
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    product = min(timer(lambda: a @ a) for _ in range(10))
    copy = min(timer(lambda: target.copy_(source)) for _ in range(10))
    return {"matrix": 2 * 8192.0**3 / (1e-3 * product), "copy": 2.0 * source.nbytes / (1e-3 * copy)}


def measure(case: Case, timer: Timer, peak: dict[str, float], num_rounds: int) -> list[Row]:
    order, shuffle = list(case.contestants), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in order}
    for work in case.contestants.values():
        work()
    torch.cuda.synchronize()
    for _ in range(num_rounds):
        shuffle(order)
        for name in order:
            times[name].append(timer(case.contestants[name]))
    ours = np.array(times[next(iter(case.contestants))])
    rows = []
    for name, measured in times.items():
        median = float(np.median(measured))
        row = Row(
            case.work, name, median, *map(float, np.quantile(measured, [0.1, 0.9])),
            float(np.median(np.array(measured) / ours)),
        )  # fmt: skip
        if case.num_scores:
            row.share_of_matrix_peak = 2 * case.num_scores * case.dim / (1e-3 * median) / peak["matrix"]
            row.gigascores_per_s = case.num_scores / (1e6 * median)
        if case.num_bytes:
            row.share_of_copy = case.num_bytes / (1e-3 * median) / peak["copy"]
        rows.append(row)
    return rows


def cpu_scaling(scale: int) -> dict[str, float]:
    """Returns milliseconds of a graph over 100,000 x 128 features on the CPU, by number of threads."""
    x = torch.randn(100_000 // scale, 128)
    most = torch.get_num_threads()
    counts = sorted({count for count in (1, 2, 4, 8, 16, 32, 64) if count < most} | {most})
    work = {
        str(count): lambda count=count: bse.proximity_graph(x, K, num_candidates=min(M, len(x) - 1), num_threads=count)
        for count in counts
    }
    return {
        name: 1e3 * float(np.median(seconds))
        for name, seconds in round_robin(work, num_rounds=3, budget_seconds=30).items()
    }


def table(rows: list[Row], peak: dict[str, float], scaling: dict[str, float]) -> str:
    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    lines = [f"peaks: {peak['matrix'] / 1e12:.0f} TFLOP/s bfloat16, copy {peak['copy'] / 1e12:.2f} TB/s"]
    lines += ["CPU threads: " + ", ".join(f"{count}: {ms:.0f} ms" for count, ms in scaling.items())]
    work = ""
    for row in rows:
        if row.work != work:
            work = row.work
            lines.append(work)
        lines.append(
            f"  {row.contestant:34}{row.median_ms:9.3f} ms [{row.p10_ms:.3f}, {row.p90_ms:.3f}]"
            f" x{row.slower_than_ours:6.2f}  matrix {share(row.share_of_matrix_peak):>6}"
            f"  copy {share(row.share_of_copy):>6}  {row.gigascores_per_s or 0:8.1f} Gscore/s"
        )
    return "\n".join(lines)


def beside_training(cost: refresh_cost.RefreshCost) -> str:
    low, high = cost.overhead_p10_p90
    return (
        f"beside a ResNet-50 step of {cost.step_ms:.1f} ms: sampling and bank cost {cost.overhead:+.2%} of it "
        f"[{low:+.2%}, {high:+.2%}]; the last graph took {cost.graph_ms:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that everything works")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<gpu>-<commit>.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    device = torch.device("cuda")
    scale = 20 if options.quick else 1
    check_equality(device)
    timer = Timer(device)
    peak = peaks(timer, device)
    rows = [row for case in cases(device, scale) for row in measure(case, timer, peak, options.rounds)]
    del timer  # frees memory for training
    beside = refresh_cost.measure(device, num_instances=1_280_000 // scale, refresh_every=100 // scale, num_blocks=2)
    scaling = cpu_scaling(scale)
    gpu = torch.cuda.get_device_name(device)
    described = {"gpu": gpu, "cuda": torch.version.cuda, **machine.describe(torch.get_num_threads())}
    name = f"{gpu.lower().replace(' ', '-')}-{described['commit']}.json"
    out = options.out or Path(__file__).parent / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": described, "peaks": peak, "cpu_ms_by_threads": scaling, "beside_training": asdict(beside),
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {out}\n{described}\n{table(rows, peak, scaling)}\n{beside_training(beside)}")


if __name__ == "__main__":
    main()
