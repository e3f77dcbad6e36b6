"""Times graphs that ranks build together against one process. Wants as many free cores as ranks times threads.

python -m benchmarks.shards [--ranks 2] [--num-threads 1] [--rounds 7] [--out shards.json]

Rank 0 also builds each graph alone, while the other ranks wait: with its own threads, and with those of all ranks. The
latter has no exchange, so it is a bound for what the machine can give. All take turns, each twice in a row, and the
second time counts: a core that was idle may be slower at first. Ranks are processes on this machine, in a gloo group.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing

from batchsampler_ext import ProximityGraph, proximity_graph
from batchsampler_ext._engine.hashes import checksum, hash_rows
from batchsampler_ext._engine.text_tables import table

from . import machine
from .timing import PAUSE_SECONDS

DIM = 128
CASES = [  # dtype, M, K
    (torch.float32, 1000, 100), (torch.bfloat16, 1000, 100), (torch.bfloat16, 1000, 32), (torch.bfloat16, 4000, 100),
]  # fmt: skip
COLUMNS = ["", "alone [s]", "all threads [s]", "together [s]", "alone / together (p10 to p90)", "build [s]", "exchange"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--num-threads", type=int, default=1, help="of each rank")
    parser.add_argument("--num-instances", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/shards.json"))
    options = parser.parse_args()
    content: dict[str, Any] = {"machine": machine.describe(options.num_threads), "ranks": options.ranks}
    print({**content["machine"], "ranks": options.ranks}, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run_rank, (options, folder), nprocs=options.ranks)
        content["cases"] = json.loads((Path(folder) / "cases.json").read_text())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {options.out}")


def run_rank(rank: int, options: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(options.num_threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=options.ranks)
    rows = torch.randn(options.num_instances, DIM, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows, dim=1)
    cases = []
    for dtype, num_candidates, num_neighbors in CASES:
        num_candidates = min(num_candidates, options.num_instances - 1)
        case = measure(rows.to(dtype), num_candidates, num_neighbors, options.rounds)
        size = f"N = {options.num_instances}, d = {DIM}, M = {num_candidates}, K = {num_neighbors}"
        title = f"{size}, {str(dtype).removeprefix('torch.')}"
        cases.append({"title": title, **case})
        if rank == 0:
            low, middle, high = case["speedup_p10_median_p90"]
            figures = [f"{case[name]:.3f}" for name in ("alone_s", "threads_s", "together_s", "build_s", "exchange_s")]
            figures.insert(3, f"{middle:.2f} ({low:.2f} to {high:.2f})")
            print(table(title, COLUMNS, [[f"{options.ranks} ranks", *figures]]), flush=True)
    if rank == 0:
        (Path(folder) / "cases.json").write_text(json.dumps(cases))
    dist.barrier()
    dist.destroy_process_group()


def measure(features: torch.Tensor, num_candidates: int, num_neighbors: int, num_rounds: int) -> dict[str, Any]:
    """Returns medians of the seconds of rank 0, after checking that both graphs are equal."""
    times: dict[str, list[float]] = {"alone": [], "threads": [], "together": [], "build": []}
    built_at = 0.0

    def progress(num_done: int, num_rows: int) -> None:
        nonlocal built_at
        built_at = time.perf_counter()

    def build(**options: Any) -> ProximityGraph:
        return proximity_graph(features, num_neighbors, num_candidates=num_candidates, **options)

    def alone(name: str = "alone", num_threads: int = torch.get_num_threads()) -> int:
        if dist.get_rank() > 0:
            return 0
        start = time.perf_counter()
        graph = build(num_threads=num_threads)
        times[name].append(time.perf_counter() - start)
        return digest(graph.neighbors)

    def with_all_threads() -> int:
        return alone("threads", torch.get_num_threads() * dist.get_world_size())

    def together() -> int:
        start = time.perf_counter()
        graph = build(progress=progress, process_group=dist.group.WORLD)
        times["together"].append(time.perf_counter() - start)
        times["build"].append(built_at - start)
        return digest(graph.neighbors)

    def digest(neighbors: torch.Tensor) -> int:
        return 0 if times["alone"][1:] or times["together"][1:] else checksum(hash_rows(neighbors))

    expected, found = alone(), together()
    with_all_threads()
    if dist.get_rank() == 0 and expected != found:
        raise RuntimeError("the graph that ranks build together is not that of one process")
    shuffle, turns = random.Random(0).shuffle, [alone, with_all_threads, together]  # in the same order on all ranks
    for _ in range(num_rounds):
        shuffle(turns)
        for turn in turns:
            time.sleep(PAUSE_SECONDS)
            for _ in range(2):
                dist.barrier()
                turn()
    if dist.get_rank() > 0:
        return {}
    seconds = {name: np.array(values[2::2]) for name, values in times.items()}
    return {
        "alone_s": float(np.median(seconds["alone"])),
        "threads_s": float(np.median(seconds["threads"])),
        "together_s": float(np.median(seconds["together"])),
        "speedup_p10_median_p90": np.quantile(seconds["alone"] / seconds["together"], [0.1, 0.5, 0.9]).tolist(),
        "build_s": float(np.median(seconds["build"])),
        "exchange_s": float(np.median(seconds["together"] - seconds["build"])),
        "num_rounds": num_rounds,
    }


if __name__ == "__main__":
    main()
