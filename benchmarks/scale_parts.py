"""Compares the graph and the partition of all rows with those of random parts of the rows (docs/scale.md).

Prints for the whole, for the whole with another seed, and for the parts: the Kolmogorov-Smirnov distance of the K-th
best scores of the rows to those of the whole, and the in-batch cosine of partitions.
Run ``python -m benchmarks.scale_parts`` (half a minute on one thread). Rows are clusters with noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from batchsampler_ext import batch_stats, proximity_graph, sample_batches

CASES = [(1_000_000, 8, 64, 16), (64_000, 8, 250, 32), (400_000, 8, 1000, 100)]  # rows, parts, M, K


def clusters(num_rows: int, dim: int = 32, num_clusters: int = 2000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_clusters, dim, generator=generator)
    labels = (num_clusters * torch.rand(num_rows, generator=generator) ** 2).long()
    return normalize(centers[labels] + torch.randn(num_rows, dim, generator=generator), dim=1)


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest difference of the two empirical distribution functions."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max())


def measure(parts: list[torch.Tensor], num_candidates: int, num_neighbors: int, seed: int) -> tuple[np.ndarray, float]:
    """Returns the K-th best scores of all rows, and the in-batch cosine of partitions of the parts."""
    scores, similarities = [], []
    for part in parts:
        graph = proximity_graph(part, num_neighbors, num_candidates=num_candidates, return_scores=True, seed=seed)
        assert graph.scores is not None
        scores.append(graph.scores.min(1).values.numpy())
        batches = sample_batches(graph, 256, drop_last=True, seed=seed)
        similarities.append(batch_stats(batches, part)["in_batch_similarity"])
    return np.concatenate(scores), float(np.mean(similarities))


def main() -> None:
    for num_rows, num_parts, num_candidates, num_neighbors in CASES:
        rows = clusters(num_rows)
        parts = list(rows[torch.randperm(num_rows, generator=torch.Generator().manual_seed(1))].chunk(num_parts))
        expected, similarity = measure([rows], num_candidates, num_neighbors, 0)
        overlaps = [num_candidates**2 / size for size in (num_rows, num_rows / num_parts)]
        print(f"N={num_rows:,} M={num_candidates} K={num_neighbors} B=256, {num_parts} parts; M^2/n {overlaps}")
        print(f"  whole              in-batch cosine {similarity:.4f}")
        for name, found in (("whole, other seed", [rows]), ("parts", parts)):
            scores, similarity = measure(found, num_candidates, num_neighbors, 1)
            print(f"  {name:<18} in-batch cosine {similarity:.4f}, KS {ks_distance(expected, scores):.4f}", flush=True)


if __name__ == "__main__":
    main()
