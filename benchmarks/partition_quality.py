"""Measures hardness, false negatives and repetition in the epochs of a graph, on your own embeddings.

python -m benchmarks.partition_quality features.npy [--labels labels.npy] [-k 100] [--num-candidates 1000 | --knn]

Prints one line for each way to make an epoch:

- mean and 10th percentile (p10) over batches of the in-batch cosine
- keeps: the gain of each over uniform batches, relative to the gain of independent walks
- the share of pairs with equal labels
- the share of pairs of a batch that are in the same batch again in the next epoch
- the time of the fastest epoch

METIS is included if pymetis is installed, balanced k-means if k-means-constrained is installed and there are at most
5000 rows. Both make the same epoch every time.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
import torch

import batchsampler_ext as bse
from batchsampler_ext.planners.partition import HARDNESSES

from . import peers

MAX_KMEANS_ROWS = 5000

Epoch = Sequence[torch.Tensor] | Sequence[np.ndarray]


def repeated_mates(first: Epoch, second: Epoch, num_instances: int) -> float:
    """Returns the share of pairs within batches of `second` that are also within a batch of `first`.

    A pair counts once for each batch of `first` that contains it.
    """
    overlaps = (_membership(first, num_instances) @ _membership(second, num_instances).T).data
    sizes = np.array([len(batch) for batch in second], dtype=np.float64)
    return float((overlaps * (overlaps - 1)).sum() / (sizes * (sizes - 1)).sum())


def _membership(epoch: Epoch, num_instances: int) -> scipy.sparse.csr_matrix:
    starts = np.cumsum([0] + [len(batch) for batch in epoch])
    nodes = np.concatenate([np.asarray(batch) for batch in epoch])
    return scipy.sparse.csr_matrix((np.ones(len(nodes)), nodes, starts), shape=(len(epoch), num_instances))


def measure(make_epoch: Callable[[int], Epoch], features: torch.Tensor, labels: np.ndarray | None, num_epochs: int):
    """Returns means over epochs, {column: value}. make_epoch: returns the batches of an epoch."""
    seconds, epochs = [], []
    for epoch in range(num_epochs + 1):
        start = time.perf_counter()
        epochs.append(make_epoch(epoch))
        seconds.append(time.perf_counter() - start)
    stats = [bse.batch_stats(batches, features, labels=labels) for batches in epochs[:num_epochs]]
    pairs = itertools.pairwise(epochs)
    return {
        "mean": np.mean([s["in_batch_similarity"] for s in stats]),
        "p10": np.mean([np.nanquantile(s["in_batch_similarity_per_batch"], 0.1) for s in stats]),
        "false_negatives": np.mean([s.get("false_negative_share", np.nan) for s in stats]),
        "repeated": np.mean([repeated_mates(first, second, len(features)) for first, second in pairs]),
        "ms": 1e3 * min(seconds),
    }


def epoch_makers(graph: bse.ProximityGraph, features: torch.Tensor, batch_size: int) -> dict[str, Callable]:
    def ours(**arguments) -> Callable[[int], Epoch]:
        return lambda epoch: bse.sample_batches(graph, batch_size, epoch=epoch, drop_last=True, **arguments)

    def same_ever_again(batches: Callable[[], list[np.ndarray]]) -> Callable[[int], Epoch]:
        return lambda _: [batch for batch in batches() if len(batch) > 1]

    makers = {"uniform": ours(planner="uniform"), "independent walks": ours(planner="walks")}
    makers |= {f"partition, {hardness}": ours(planner=bse.PartitionPlanner(hardness)) for hardness in HARDNESSES}
    if not peers.missing("pymetis"):
        makers["METIS"] = same_ever_again(lambda: peers.metis_partition(graph.neighbors, batch_size))
    if not peers.missing("k_means_constrained") and len(features) <= MAX_KMEANS_ROWS:
        units = torch.nn.functional.normalize(features, dim=1).numpy()
        makers["balanced k-means"] = same_ever_again(
            lambda: peers.balanced_kmeans_partition(units, batch_size, torch.get_num_threads())
        )
    return makers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help=".npy, float32 [N, D]")
    parser.add_argument("--labels", type=Path, help=".npy, int [N]")
    parser.add_argument("-k", "--num-neighbors", type=int, default=100)
    parser.add_argument("--num-candidates", type=int, default=1000)
    parser.add_argument("--knn", action="store_true", help="uses the exact kNN graph")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2, help="number of epochs to average over, default 2")
    options = parser.parse_args()

    features = torch.from_numpy(np.load(options.features))
    labels = None if options.labels is None else np.load(options.labels)
    if options.knn:
        graph = bse.knn_graph(features, options.num_neighbors)
    else:
        graph = bse.proximity_graph(features, options.num_neighbors, num_candidates=options.num_candidates)
    uniform = walks = None
    print(f"{'':20}{'mean':>8}{'keeps':>7}{'p10':>8}{'keeps':>7}{'false neg.':>12}{'repeated':>10}{'ms':>9}")
    for name, make_epoch in epoch_makers(graph, features, options.batch_size).items():
        row = measure(make_epoch, features, labels, options.epochs)
        uniform, walks = uniform or row, row if name == "independent walks" else walks
        keeps = {
            column: (row[column] - uniform[column]) / (walks[column] - uniform[column]) if walks else 0.0
            for column in ("mean", "p10")
        }
        print(
            f"{name:20}{row['mean']:8.4f}{keeps['mean']:7.2f}{row['p10']:8.4f}{keeps['p10']:7.2f}"
            f"{row['false_negatives']:12.4%}{row['repeated']:10.4f}{row['ms']:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
