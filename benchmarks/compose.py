"""Measures communities of compose() against METIS, orderings and greedy chains, on the same graphs of mutual edges.

python -m benchmarks.compose [--queries q.npy [--documents d.npy]] [--generated N ...] [--sizes 8 32 ...] [--out FILE]

Prints for each size:

- the share of the edges that stay inside communities
- the smallest and the largest community, but for the last. Ours have exactly the size asked for, METIS's vary
- seconds, the median of the rounds, and that relative to ours
- MiB that the contestant needs beyond the graph

Graphs are the windows (30, 130) of compose(), reduced to mutual edges. They come from embeddings in files, or from
generated ones: points in 32 dimensions around the centers of three nested levels of clusters, which hold about 45,000,
1,500 and 50 rows each.

Each contestant runs in a process of its own, in turns, so a slow minute of the machine affects all alike. After
--max-seconds, a process is stopped, and its contestant is left out at the other sizes. METIS is included if pymetis is
installed. Orderings (reverse Cuthill-McKee, cut into runs of `size` rows) and greedy chains (each row is followed by
its nearest neighbor that is in no chain yet, as in GRIT, arXiv 2208.04060) run up to 200,000 rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

import batchsampler_ext as bse
from batchsampler_ext._engine.text_tables import table
from batchsampler_ext._plan.communities import communities_of

from . import machine, peers

WINDOW, NUM_NEIGHBORS = 30, 100
SIZES = [8, 16, 32, 64, 128, 256, 512, 1024]
MAX_ORDERED_ROWS = 200_000
DIM, NUM_CHILDREN, NUM_LEAF_ROWS = 32, 30, 50  # of generated embeddings
SPREADS = (1.0, 0.7, 0.5, 0.6)  # of the centers of each level, then of rows
COLUMNS = ["size", "", "edges inside", "sizes", "seconds", "/ ours", "MiB"]

Cut = Callable[[bse.ProximityGraph, int, int], np.ndarray]


# --- contestants: the community of each row --------------------------------------------------------------------------
def ours(graph: bse.ProximityGraph, size: int, num_threads: int) -> np.ndarray:
    full, tail = communities_of(graph, size, seed=0, epoch=0, num_threads=num_threads)
    return runs_of(torch.cat([full.reshape(-1), tail]).numpy(), size)


def hard_partition(graph: bse.ProximityGraph, size: int, num_threads: int) -> np.ndarray:
    planner = bse.PartitionPlanner("hard")
    batches = bse.sample_batches(graph, size, planner=planner, num_threads=num_threads)
    return runs_of(torch.cat([batches.indices.reshape(-1), batches.tail]).numpy(), size)


def metis(graph: bse.ProximityGraph, size: int, num_threads: int) -> np.ndarray:
    import pymetis

    edges = adjacency(graph)
    parts = pymetis.part_graph(-(-len(graph) // size), xadj=edges.indptr, adjncy=edges.indices)[1]
    return np.asarray(parts)


def rcm(graph: bse.ProximityGraph, size: int, num_threads: int) -> np.ndarray:
    return runs_of(scipy.sparse.csgraph.reverse_cuthill_mckee(adjacency(graph), symmetric_mode=True), size)


def greedy_chains(graph: bse.ProximityGraph, size: int, num_threads: int) -> np.ndarray:
    neighbors, is_free = graph.neighbors.tolist(), [True] * len(graph)
    order = []
    for start in np.random.default_rng(0).permutation(len(graph)).tolist():
        row = start if is_free[start] else None
        while row is not None:
            is_free[row] = False
            order.append(row)
            row = next((j for j in neighbors[row] if j >= 0 and is_free[j]), None)
    return runs_of(np.array(order), size)


CONTESTANTS: dict[str, Cut] = {
    "ours": ours, "hard partition": hard_partition, "METIS": metis, "RCM": rcm, "greedy chains": greedy_chains,
}  # fmt: skip


def runs_of(order: np.ndarray, size: int) -> np.ndarray:
    """Returns the community of each row if the order is cut into runs of `size` rows."""
    owner = np.empty(len(order), dtype=np.int64)
    owner[order] = np.arange(len(order)) // size
    return owner


def adjacency(graph: bse.ProximityGraph) -> scipy.sparse.csr_matrix:
    neighbors = graph.neighbors.numpy()
    is_edge = neighbors >= 0
    starts = np.concatenate([[0], np.cumsum(is_edge.sum(1))]).astype(np.int32)
    targets = neighbors[is_edge]
    return scipy.sparse.csr_matrix((np.ones(len(targets), np.int8), targets, starts), shape=(len(graph), len(graph)))


# --- measuring -------------------------------------------------------------------------------------------------------
def edge_share(neighbors: np.ndarray, owner: np.ndarray) -> float:
    inside = total = 0
    for begin in range(0, len(neighbors), 2**16):
        rows = neighbors[begin : begin + 2**16]
        is_edge = rows >= 0
        inside += int(((owner[rows] == owner[begin : begin + len(rows), None]) & is_edge).sum())
        total += int(is_edge.sum())
    return inside / max(1, total)


def run_contestant(name: str, path: str, size: int, num_threads: int, connection: Any) -> None:
    """Runs in a process of its own."""
    neighbors = np.load(path)
    graph = bse.ProximityGraph(neighbors)
    graph.degrees()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak; Linux only
    before = resident_mib("VmRSS")
    start = time.perf_counter()
    owner = CONTESTANTS[name](graph, size, num_threads)
    seconds = time.perf_counter() - start
    peak = resident_mib("VmHWM") - before
    sizes = np.bincount(owner)[:-1] if owner.max() > 0 else np.bincount(owner)
    connection.send(
        {"seconds": seconds, "share": edge_share(neighbors, owner), "mib": peak,
         "smallest": int(sizes.min()), "largest": int(sizes.max())}
    )  # fmt: skip


def resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def result_of(name: str, path: str, size: int, num_threads: int, max_seconds: float) -> dict[str, Any] | None:
    """Returns what run_contestant() sends, or None if it takes too long or fails."""
    context = multiprocessing.get_context("forkserver")  # its server has no threads, and imports torch only once
    context.set_forkserver_preload(["benchmarks.compose"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_contestant, args=(name, path, size, num_threads, sender))
    process.start()
    sender.close()
    result = None
    try:
        if receiver.poll(max_seconds):
            result = receiver.recv()
    except EOFError:
        pass
    process.kill()
    process.join()
    return result


def measure(neighbors: np.ndarray, sizes: list[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a dict for each size and contestant."""
    names = ["ours", "hard partition"] + ([] if peers.missing("pymetis") else ["METIS"])
    if len(neighbors) <= MAX_ORDERED_ROWS:
        names += ["RCM", "greedy chains"]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "neighbors.npy")
        np.save(path, neighbors)
        for size in sizes:
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for turn in range(options.rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    if results[name] and results[name][-1]["seconds"] > options.max_seconds / options.rounds:
                        continue
                    result = result_of(name, path, size, options.num_threads, options.max_seconds)
                    if result is not None:
                        results[name].append(result)
            for name in list(names):
                if not results[name]:
                    print(f"{name}: stopped after {options.max_seconds} seconds at size {size}", flush=True)
                    names.remove(name)
            medians = {name: float(np.median([r["seconds"] for r in results[name]])) for name in names}
            for name in names:
                row = {"size": size, "name": name, **results[name][0], "seconds": medians[name]}
                found.append({**row, "times_ours": medians[name] / medians.get("ours", np.nan)})
    return found


# --- graphs ----------------------------------------------------------------------------------------------------------
def generated(num_rows: int, num_threads: int) -> bse.ProximityGraph:
    """Returns the mutual graph of embeddings around the centers of three nested levels of clusters.

    Ranks are counted within the outermost clusters, so that a million rows do not take an hour.
    """
    random = torch.Generator().manual_seed(0)
    num_leaves = max(1, num_rows // NUM_LEAF_ROWS)
    leaf = torch.randint(num_leaves, (num_rows,), generator=random)
    rows = torch.randn(num_rows, DIM, generator=random) * SPREADS[3]
    for spread, ratio in zip(SPREADS[:3], (NUM_CHILDREN**2, NUM_CHILDREN, 1), strict=True):
        centers = torch.randn(num_leaves // ratio + 1, DIM, generator=random)
        rows += spread * centers[leaf // ratio]
    outer = leaf // NUM_CHILDREN**2
    neighbors = torch.full((num_rows, NUM_NEIGHBORS), -1, dtype=torch.int32)
    for cluster in range(int(outer.max()) + 1):
        ids = torch.nonzero(outer == cluster)[:, 0]
        if len(ids) > WINDOW + 1:
            found = mutual_graph(rows[ids], None, num_threads).neighbors
            found = torch.where(found < 0, found, ids[found.clamp(min=0).long()].to(torch.int32))
            neighbors[ids, : found.shape[1]] = found
    return bse.ProximityGraph(neighbors)


def mutual_graph(queries: torch.Tensor, documents: torch.Tensor | None, num_threads: int) -> bse.ProximityGraph:
    count = min(NUM_NEIGHBORS, len(queries) - 1 - WINDOW)
    graph = bse.knn_graph(
        queries, count, range_min=WINDOW, documents=documents, num_threads=num_threads, return_scores=False
    )
    return graph.mutual(num_threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=Path, help=".npy, float32 [N, D]")
    parser.add_argument("--documents", type=Path, help=".npy, float32 [N, D]")
    parser.add_argument("--generated", type=int, nargs="*", default=[], help="numbers of rows of generated embeddings")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=600)
    parser.add_argument("--num-threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/compose.json"))
    options = parser.parse_args()
    sources: list[tuple[str, Callable[[], bse.ProximityGraph]]] = []
    if options.queries is not None:
        paths = (options.queries, options.documents)
        arrays = [None if path is None else torch.from_numpy(np.load(path)) for path in paths]
        sources.append((options.queries.stem, lambda: mutual_graph(arrays[0], arrays[1], options.num_threads)))
    sources += [(f"generated, N = {n}", lambda n=n: generated(n, options.num_threads)) for n in options.generated]
    if not sources:
        parser.error("expected --queries or --generated")

    content: dict[str, Any] = {"machine": machine.describe(options.num_threads), "graphs": []}
    print(content["machine"], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for title, build in sources:
        start = time.perf_counter()
        graph = build()
        seconds, degree = time.perf_counter() - start, graph.stats().mean_degree
        heading = f"{title}: {len(graph)} rows, {degree:.1f} mutual edges per row, graph built in {seconds:.1f} s"
        rows = measure(graph.neighbors.numpy(), options.sizes, options)
        content["graphs"].append(
            {"title": title, "num_rows": len(graph), "mean_degree": degree, "build_s": seconds, "rows": rows}
        )
        print(table(f"\n{heading}", COLUMNS, [shown(row) for row in rows]), flush=True)
        options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {options.out}")


def shown(row: dict[str, Any]) -> list[str]:
    sizes = f"{row['smallest']}" if row["smallest"] == row["largest"] else f"{row['smallest']}-{row['largest']}"
    return [
        f"{row['size']}", row["name"], f"{row['share']:.4f}", sizes, f"{row['seconds']:.2f}",
        f"{row['times_ours']:.1f}", f"{row['mib']:.0f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
