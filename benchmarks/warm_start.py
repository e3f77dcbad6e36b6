"""How the recall of exact nearest neighbours grows over refreshes that start from the graph before.

python -m benchmarks.warm_start [--features FILE.npy] [--num-neighbors 100] [--num-refreshes 8] [--drift 0.1]

Embeddings drift between refreshes as those of a model in training would: by a random step of --drift times a row's
length. A warm start has a draw a row: it costs what a cold graph with rows_per_draw = 1 does, M for M.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from batchsampler_ext import ProximityGraph, knn_graph, proximity_graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", metavar="FILE.npy", help="float [N, D]; default: 20,000 x 128 random")
    parser.add_argument("--num-neighbors", type=int, default=100, metavar="K")
    parser.add_argument("--num-refreshes", type=int, default=8)
    parser.add_argument("--drift", type=float, default=0.1)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    if options.features is None:
        features = rng.standard_normal((20_000, 128), dtype=np.float32)
    else:
        features = np.load(options.features).astype(np.float32)
    Console().print(table(features, options.num_neighbors, options.num_refreshes, options.drift, rng))


def table(
    features: np.ndarray, num_neighbors: int, num_refreshes: int, drift: float, rng: np.random.Generator
) -> Table:
    most = min(1000, len(features) - 1)
    arms: dict[str, dict[str, int]] = {
        "cold, shared draws": {"num_candidates": most},
        "cold, own draws": {"num_candidates": most, "rows_per_draw": 1},
        "warm": {"num_candidates": most},
        "warm, M / 4": {"num_candidates": max(num_neighbors, most // 4)},
    }
    result = Table(
        title=f"{len(features):,} x {features.shape[1]}, K = {num_neighbors}, drift {drift}: M = {most}: recall (ms)"
    )
    result.add_column("refresh", justify="right")
    for name in arms:
        result.add_column(name, justify="right")
    graphs: dict[str, ProximityGraph] = {}
    for refresh in range(num_refreshes + 1):
        exact = knn_graph(features, num_neighbors, return_scores=False)
        cells = []
        for name, arm in arms.items():
            start = graphs.get(name) if name.startswith("warm") else None
            seconds, graphs[name] = timed(features, num_neighbors, seed=refresh, warm_start=start, **arm)
            cells.append(f"{recall(graphs[name], exact):.3f} ({1e3 * seconds:.0f})")
        result.add_row(str(refresh), *cells)
        step = rng.standard_normal(features.shape, dtype=np.float32)
        step *= np.linalg.norm(features, axis=1, keepdims=True) / np.linalg.norm(step, axis=1, keepdims=True)
        features = features + np.float32(drift) * step
    return result


def timed(features: np.ndarray, num_neighbors: int, **options) -> tuple[float, ProximityGraph]:
    begin = time.perf_counter()
    graph = proximity_graph(features, num_neighbors, **options)
    return time.perf_counter() - begin, graph


def recall(graph: ProximityGraph, exact: ProximityGraph) -> float:
    """Share of the exact neighbours that the graph has."""
    offset = torch.arange(len(exact))[:, None] * exact.num_nodes
    found, wanted = (table.neighbors + offset for table in (graph, exact))
    return float(torch.isin(wanted[exact.neighbors >= 0], found[graph.neighbors >= 0]).float().mean())


if __name__ == "__main__":
    main()
