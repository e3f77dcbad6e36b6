"""Cases of whole epochs: time and batches of partitions, walks, METIS and balanced k-means."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.nn.functional import normalize

import batchsampler_ext as bse

from . import peers
from .cases import Case, Inputs, Maker, Work, described
from .embeddings import Embeddings

KNN_NEIGHBORS = 32


def clusters(inputs: Inputs) -> Embeddings:
    """Returns clusters of unequal size with noise. Labels are the clusters."""
    data = inputs.noise(50_000, 64)
    num_clusters = inputs.size(2000)
    labels = (num_clusters * torch.rand(len(data.features)) ** 2).long()
    return Embeddings("clusters", data.features + torch.randn(num_clusters, 64)[labels], labels)


def text(inputs: Inputs) -> Embeddings:
    return inputs.text


def digits(inputs: Inputs) -> Embeddings:
    return inputs.digits


def epoch_case(make_data: Callable[[Inputs], Embeddings], batch_size: int, *, has_kmeans: bool = False) -> Maker:
    """has_kmeans: adds balanced k-means, which takes minutes beyond a few thousand instances."""

    def make(inputs: Inputs) -> Case:
        data = make_data(inputs)
        x, num_threads = data.features, inputs.num_threads
        graphs = {
            "proximity": bse.proximity_graph(x),
            f"kNN-{KNN_NEIGHBORS}": bse.knn_graph(x, KNN_NEIGHBORS),
        }
        case = Case(f"epochs of {described(data, x.dtype)}, B={batch_size}", {})
        for name, graph in graphs.items():
            add_ours(case, name, graph, batch_size, num_threads)
        name, graph = list(graphs.items())[-1]
        if case.add_optional("pymetis", f"METIS, {name}", lambda: peers.metis_partition(graph.neighbors, batch_size)):
            case.own_work[f"METIS, {name}"] = Work(graph.neighbors.nbytes, "copy")
        if has_kmeans:
            units = normalize(x, dim=1).numpy()
            name = "balanced k-means"
            if case.add_optional(
                "k_means_constrained", name, lambda: peers.balanced_kmeans_partition(units, batch_size, num_threads)
            ):
                case.own_work[name] = Work(units.nbytes, "copy")
        case.contestants["uniform"] = lambda: torch.randperm(len(x)).split(batch_size)
        case.qualities = {name: quality(run(), data) for name, run in case.contestants.items()}
        return case

    return make


def large_case(inputs: Inputs) -> Case:
    data = inputs.noise(1_000_000, 32)
    case = Case(f"epochs of {described(data, data.features.dtype)}, B=256", {})
    add_ours(case, "proximity", bse.proximity_graph(data.features), 256, inputs.num_threads)
    return case


def add_ours(case: Case, name: str, graph: bse.ProximityGraph, batch_size: int, num_threads: int) -> None:
    def partition() -> bse.Batches:
        return bse.sample_batches(graph, batch_size, num_threads=num_threads)

    def walks() -> bse.Batches:
        return bse.sample_batches(graph, batch_size, planner="walks", num_threads=num_threads)

    case.contestants |= {f"partition, {name} graph": partition, f"independent walks, {name} graph": walks}
    case.own_work |= {
        f"partition, {name} graph": Work(graph.neighbors.nbytes, "copy"),
        f"independent walks, {name} graph": Work(walks().stats["steps"], "random_reads"),
    }


def quality(batches: Iterable[torch.Tensor | np.ndarray], data: Embeddings) -> dict[str, float]:
    """Returns in-batch similarity and its 10th percentile, the share of false negatives, and the sizes of batches."""
    chosen = [torch.as_tensor(batch) for batch in batches]
    stats = bse.batch_stats(chosen, data.features, labels=data.labels)
    sizes = [len(batch) for batch in chosen]
    result = {
        "similarity": float(stats["in_batch_similarity"]),
        "its p10": float(np.nanquantile(stats["in_batch_similarity_per_batch"], 0.1)),
    }
    if data.labels is not None:
        result["false negatives"] = float(stats["false_negative_share"])
    return {**result, "least size": min(sizes), "largest": max(sizes)}
