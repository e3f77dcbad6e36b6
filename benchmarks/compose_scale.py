"""Time and memory of composing at scale: the preset "walks" for a million rows in a file, and exact windows of ranks.

python -m benchmarks.compose_scale [--num-instances 1000000] [--num-window 100000] [--rounds 3] [--out FILE.json]

1. walks: rows of bfloat16 in a safetensors file, mapped into memory. Memory is the peak of the process without mapped
   pages, beyond what it held before (the imports), minus the results: the graph and the plan.
2. window: neighbors of rank 31 to 130 of fewer rows, against FAISS's flat search for the 131 best of each row, which
   include the row itself. Both take turns. FAISS is included if it is installed. The ids are compared first.

Rows are noisy copies of random centers, ten rows per center: near neighbors exist, as they do for texts.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import batchsampler_ext as bse
from batchsampler_ext._engine.text_tables import table
from batchsampler_ext.cli.inputs import load_matrix
from batchsampler_ext.cli.memory import PrivateMemoryPeak

from . import machine, peers
from .timing import interleave

DIM, BATCH_SIZE, FIRST, LAST = 384, 1024, 30, 130


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-instances", type=int, default=1_000_000)
    parser.add_argument("--num-window", type=int, default=100_000)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/compose_scale"), help="for the file of rows")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/compose_scale.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    content: dict[str, Any] = {"machine": machine.describe(options.num_threads)}
    content["walks"] = measure_walks(options)
    content["window"] = measure_window(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {options.out}")


def made_rows(num_rows: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(max(1, num_rows // 10), DIM, generator=generator)
    result = torch.empty(num_rows, DIM, dtype=dtype)
    for rows in torch.arange(num_rows).split(1 << 16):
        noisy = centers[rows % len(centers)] + torch.randn(len(rows), DIM, generator=generator)
        result[rows] = torch.nn.functional.normalize(noisy, dim=1).to(dtype)
    return result


def measure_walks(options: argparse.Namespace) -> dict[str, Any]:
    path = options.folder / f"rows_{options.num_instances}_bfloat16.safetensors"
    if not path.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        save_file({"rows": made_rows(options.num_instances, torch.bfloat16)}, path)
    rows = load_matrix(str(path), "rows")
    with PrivateMemoryPeak() as memory:
        start = time.perf_counter()
        plan = bse.compose(rows, batch_size=BATCH_SIZE, preset="walks", num_threads=options.num_threads)
        seconds = time.perf_counter() - start
    ids = torch.cat([batch for batch in plan.batches(0)])
    assert bool((ids.sort().values == torch.arange(options.num_instances)).all()), "every instance once"
    assert plan.graph is not None
    results = plan.graph.neighbors.nbytes + 4 * len(ids)
    growth = memory.growth()
    result = {
        "num_instances": options.num_instances,
        "seconds": seconds,
        **{f"{name}_s": value for name, value in plan.seconds.items()},
        "results_mib": results / 2**20,
        "peak_beyond_results_mib": None if growth is None else (growth - results) / 2**20,
    }
    print(table("walks", list(result), [[f"{value:.6g}" for value in result.values()]]), flush=True)
    return result


def measure_window(options: argparse.Namespace) -> dict[str, Any]:
    rows = made_rows(options.num_window, torch.float32)
    half = rows.to(torch.bfloat16)

    def ours(features: torch.Tensor) -> np.ndarray:
        graph = bse.knn_graph(features, LAST - FIRST, range_min=FIRST, num_threads=options.num_threads)
        return graph.neighbors.numpy()

    contestants: dict[str, Callable[[], Any]] = {"ours": lambda: ours(rows), "ours, bfloat16": lambda: ours(half)}
    result: dict[str, Any] = {"num_instances": options.num_window, "window": [FIRST, LAST]}
    if not peers.missing("faiss"):
        index = flat_index(rows.numpy(), options.num_threads)
        contestants["faiss"] = lambda: index.search(rows.numpy(), LAST + 1)
        pairs = zip(ours(rows)[:1000], index.search(rows.numpy()[:1000], LAST + 1)[1], strict=True)
        result["ids_as_faiss"] = float(np.mean([np.isin(own, theirs[FIRST + 1 :]).mean() for own, theirs in pairs]))
    times = interleave(contestants, "ours", num_rounds=options.rounds, budget_seconds=3600)
    lines = []
    for name, timing in times.items():
        ratios = np.percentile(timing.ratios, [10, 50, 90]).tolist()
        result[name] = {"median_s": timing.median, "ratio_to_ours_p10_median_p90": ratios}
        lines.append([name, f"{timing.median:.2f}", "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratios)])
    title = f"window, ids as FAISS: {result.get('ids_as_faiss', math.nan):.5f}"
    print(table(title, ["", "median [s]", "relative to ours"], lines), flush=True)
    return result


def flat_index(units: np.ndarray, num_threads: int) -> Any:
    import faiss

    faiss.omp_set_num_threads(num_threads)
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units)
    return index


if __name__ == "__main__":
    main()
