"""Time, recall and memory of the searches of windows of ranks that compose() has, for rows of a file.

python -m benchmarks.compose_neighbors ROWS.npy [--num-instances 200000] [--neighbors exact faiss]
                                       [--rank-window 30 130] [--num-threads 2] [--out FILE.json]

Recall is that of the plan: the share of the exact best q that are found, for 1,000 rows. "Edges" is the share of the
edges of 1,000 rows that are edges of the exact graph: ranks that the search misses move other ranks into the window.
Memory is how far the process grows until the graph is built, without mapped pages and the graph. pynndescent
compiles at its first search, so it searches 100,000 rows before it is timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import batchsampler_ext as bse
from batchsampler_ext._engine.text_tables import table
from batchsampler_ext._plan.approximate import FEW_ROWS
from batchsampler_ext.cli.inputs import load_matrix
from batchsampler_ext.cli.memory import PrivateMemoryPeak

from . import machine

NUM_SAMPLED, BATCH_SIZE, WARM_UP = 1000, 1024, FEW_ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--num-instances", type=int)
    parser.add_argument("--neighbors", nargs="+", default=["exact", "faiss", "pynndescent"])
    parser.add_argument("--rank-window", nargs=2, type=int, default=[30, 130])
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/compose_neighbors.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    rows = load_matrix(str(options.rows), "rows")[: options.num_instances]
    content = {"machine": machine.describe(options.num_threads), "num_instances": len(rows), "dim": rows.shape[1]}
    content["searches"] = [measure(rows, name, tuple(options.rank_window)) for name in options.neighbors]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {options.out}")


def measure(rows: Any, neighbors: str, window: tuple[int, int]) -> dict[str, Any]:
    if neighbors == "pynndescent":
        bse.compose(rows[:WARM_UP], batch_size=BATCH_SIZE, rank_window=window, neighbors=neighbors)
    with PrivateMemoryPeak() as memory:
        peak = PeakOfGraph(memory)
        plan = bse.compose(
            rows, batch_size=BATCH_SIZE, rank_window=window, mutual=False, neighbors=neighbors, progress=peak
        )
    assert plan.graph is not None
    growth, search = peak.growth, plan.info["neighbor_search"]
    result = {
        "neighbors": neighbors,
        "graph_s": plan.seconds["graph"],
        "recall": 1.0 if search is None else search["recall"],
        "edges": share_of_exact_edges(rows, plan.graph.neighbors.numpy(), window),
        "peak_beyond_graph_mib": None if growth is None else (growth - plan.graph.neighbors.nbytes) / 2**20,
    }
    print(table(f"{len(rows):,} rows", list(result), [[str(value) for value in result.values()]]), flush=True)
    return result | {"search": search}


class PeakOfGraph:
    """A progress that notes the peak of memory before the epochs are composed."""

    def __init__(self, memory: PrivateMemoryPeak) -> None:
        self._memory, self.growth = memory, memory.growth()

    def stage(self, name: str) -> PeakOfGraph:
        if name == "epochs":
            self.growth = self._memory.growth()
        return self

    def __call__(self, done: int, total: int) -> None:
        """Nothing is shown."""


def share_of_exact_edges(rows: Any, neighbors: np.ndarray, window: tuple[int, int]) -> float:
    sampled = np.linspace(0, len(rows) - 1, NUM_SAMPLED).astype(np.int64)
    first, last = window
    nearest = bse.knn(np.ascontiguousarray(rows[sampled]), rows, last + 1).ids.numpy()
    pairs = zip(sampled, nearest, strict=True)
    return float(np.mean([np.isin(neighbors[row], ids[ids != row][first:last]).mean() for row, ids in pairs]))


if __name__ == "__main__":
    main()
