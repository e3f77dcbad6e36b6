"""What is compared: each case is some work, how we do it, and how others do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

import batchsampler_ext as bse
from batchsampler_ext import reference

from . import peers

Contestants = dict[str, Callable[[], object]]


@dataclass
class Case:
    """Contestants for the same work; the first is ours."""

    title: str
    contestants: Contestants
    work: float = 0.0  # of one run, in units of the peak: FLOP, or random reads
    peak: str | None = None  # of machine.measure_peaks, all threads if nothing else is said
    scaled: dict[str, float] = field(default_factory=dict)  # contestants that did only this share of the work
    notes: list[str] = field(default_factory=list)


def random_features(num_rows: int, dim: int) -> torch.Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0))


def check_graphs() -> None:
    """Our results equal the oracle's, before anything is timed."""
    x = random_features(700, 24)
    graph = bse.proximity_graph(x, 20, num_candidates=200, seed=1)
    expected = reference.proximity_graph(x.numpy(), 20, num_candidates=200, seed=1)[0]
    assert np.array_equal(graph.neighbors.numpy(), expected)
    expected = reference.knn_graph(x.numpy(), 20)[0]
    assert np.array_equal(bse.knn_graph(x, 20).neighbors.numpy(), expected)


def graph_case(dtype: torch.dtype, num_rows: int = 20_000, dim: int = 128, m: int = 1000, k: int = 100) -> Callable:
    def make(_: int) -> Case:
        check_graphs()
        x = random_features(num_rows, dim).to(dtype)
        units = torch.nn.functional.normalize(x.float(), dim=1).to(dtype)
        contestants: Contestants = {
            "batchsampler_ext": lambda: bse.proximity_graph(x, k, num_candidates=m),
            "torch, shared draws": peers.TorchSharedDraws(units, m, k),
        }
        if dtype == torch.float32:
            contestants["authors: gather + bmm + topk"] = peers.AuthorsGraph(units, m, k)
        name = str(dtype).removeprefix("torch.")
        title = f"proximity graph, N={num_rows:,} d={dim} M={m} K={k}, {name} features"
        return Case(title, contestants, 2.0 * num_rows * m * dim, "fma" if dtype == torch.float32 else "bf16")

    return make


def own_draws_case(_: int) -> Case:
    num_rows, dim, m, k = 20_000, 128, 1000, 100
    x = random_features(num_rows, dim)
    units = torch.nn.functional.normalize(x, dim=1)
    contestants: Contestants = {
        "batchsampler_ext, rows_per_draw=1": lambda: bse.proximity_graph(x, k, num_candidates=m, rows_per_draw=1),
        "authors: gather + bmm + topk": peers.AuthorsGraph(units, m, k),
    }
    title = f"proximity graph, one draw a row, N={num_rows:,} d={dim} M={m} K={k}"
    return Case(title, contestants, 2.0 * num_rows * m * dim, "fma")


def knn_case(num_threads: int) -> Case:
    num_rows, dim, k = 20_000, 128, 100
    x = random_features(num_rows, dim)
    units = torch.nn.functional.normalize(x, dim=1)
    rows = units.numpy()
    ours = bse.knn_graph(x, k).neighbors
    contestants: Contestants = {
        "batchsampler_ext": lambda: bse.knn_graph(x, k),
        "torch": lambda: peers.torch_knn(units, k),
    }
    notes = [f"recall of our neighbours in torch's: {recall(ours.numpy(), peers.torch_knn(units, k).numpy()):.6f}"]
    if absent := peers.missing("faiss"):
        notes.append(f"not installed: {absent}")
    else:
        import faiss

        faiss.omp_set_num_threads(num_threads)
        contestants["faiss IndexFlatIP"] = lambda: peers.faiss_knn(rows, k)
        notes.append(f"recall of our neighbours in faiss's: {recall(ours.numpy(), peers.faiss_knn(rows, k)):.6f}")
    optional: Contestants = {
        "sklearn": lambda: peers.sklearn_knn(rows, k),
        "usearch": lambda: peers.usearch_knn(rows, k),
        "pynndescent": lambda: peers.pynndescent_knn(rows, k, num_threads),
    }
    for package, work in optional.items():
        if peers.missing(package):
            notes.append(f"not installed: {package}")
        else:
            contestants[f"{package}{'' if package == 'pynndescent' else ', exact'}"] = work
    if not peers.missing("pynndescent"):
        notes.append(f"recall of pynndescent: {recall(peers.pynndescent_knn(rows, k, num_threads), ours.numpy()):.4f}")
    title = f"exact kNN graph, N={num_rows:,} d={dim} K={k}"
    return Case(title, contestants, 2.0 * num_rows**2 * dim, "fma", notes=notes)


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of a row of `found` that is in the same row of `wanted`."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(found, wanted, strict=True)]))


def walk_case(_: int) -> Case:
    num_nodes, degree, batch_size, alpha, num_walks, num_python = 1_000_000, 32, 256, 0.2, 2000, 4
    generator = torch.Generator().manual_seed(0)
    neighbors = torch.randint(num_nodes, (num_nodes, degree), dtype=torch.int32, generator=generator)
    roots = torch.randint(num_nodes, (num_walks,), generator=generator)
    graph = bse.ProximityGraph(neighbors)
    walks = bse.random_walk_with_restart(graph, roots, batch_size, restart_prob=alpha, num_threads=1)
    num_steps = int(walks.steps.sum())
    contestants: Contestants = {
        "batchsampler_ext": lambda: bse.random_walk_with_restart(
            graph, roots, batch_size, restart_prob=alpha, num_threads=1
        ),
        "C++, one walk at a time": lambda: peers.plain_walks(neighbors, roots, batch_size, alpha),
        "Python loop": lambda: peers.python_walks(neighbors, roots[:num_python].tolist(), batch_size, alpha),
    }
    title = f"random walks, N={num_nodes:,} K={degree} B={batch_size} alpha={alpha}, {num_walks} walks, one thread"
    notes = [f"{num_steps:,} steps in our walks"]
    return Case(
        title, contestants, float(num_steps), "random_reads, one thread", {"Python loop": num_python / num_walks}, notes
    )


def partition_case(num_threads: int) -> Case:
    """Clusters of unequal size in noise; labels are the clusters."""
    num_rows, dim, batch_size = 50_000, 64, 256
    generator = torch.Generator().manual_seed(0)
    labels = (2000 * torch.rand(num_rows, generator=generator) ** 2).long()
    x = torch.randn(2000, dim, generator=generator)[labels] + random_features(num_rows, dim)
    graph = bse.proximity_graph(x, 100, num_candidates=1000)
    knn = bse.knn_graph(x, 32)
    contestants: Contestants = {
        "partition, M=1000 graph": lambda: bse.sample_batches(graph, batch_size, num_threads=num_threads),
        "partition, kNN-32 graph": lambda: bse.sample_batches(knn, batch_size, num_threads=num_threads),
        "independent walks, M=1000 graph": lambda: bse.sample_batches(graph, batch_size, epoch_mode="independent"),
        "independent walks, kNN-32 graph": lambda: bse.sample_batches(knn, batch_size, epoch_mode="independent"),
    }
    units = torch.nn.functional.normalize(x, dim=1).numpy()
    if not peers.missing("pymetis"):
        contestants["METIS, kNN-32 graph"] = lambda: peers.metis_partition(knn.neighbors, batch_size)
    if not peers.missing("k_means_constrained"):
        small = units[:2560]
        contestants["balanced k-means (2,560 rows only)"] = lambda: peers.balanced_kmeans_partition(small, batch_size)
    notes = [f"not installed: {name}" for name in peers.missing("pymetis", "k_means_constrained")]
    for name, work in contestants.items():
        batches = list(work())
        stats = bse.batch_stats(batches, x, labels=labels)
        sizes = np.array([len(batch) for batch in batches])
        notes.append(
            f"{name}: similarity {stats['in_batch_similarity']:.4f}, "
            f"p10 {np.nanquantile(stats['in_batch_similarity_per_batch'], 0.1):.4f}, "
            f"false negatives {stats['false_negative_share']:.2%}, sizes {sizes.min()} to {sizes.max()}"
        )
    return Case(f"epochs, N={num_rows:,} d={dim} B={batch_size}", contestants, notes=notes)


def large_partition_case(num_threads: int) -> Case:
    num_rows = 1_000_000
    graph = bse.proximity_graph(random_features(num_rows, 32), 100)
    contestants: Contestants = {
        "partition": lambda: bse.sample_batches(graph, 256, num_threads=num_threads),
        "independent walks": lambda: bse.sample_batches(graph, 256, epoch_mode="independent", num_threads=num_threads),
    }
    return Case(f"epochs, N={num_rows:,} M=1000 K=100 B=256", contestants)


CASES: dict[str, list[Callable[[int], Case]]] = {
    "graph": [
        graph_case(torch.float32),
        graph_case(torch.bfloat16),
        graph_case(torch.float32, dim=64),
        graph_case(torch.float32, dim=768),
        graph_case(torch.float32, k=10),
        graph_case(torch.float32, k=500),
        graph_case(torch.float32, num_rows=100_000),
        own_draws_case,
    ],
    "knn": [knn_case],
    "walk": [walk_case],
    "partition": [partition_case, large_partition_case],
}
