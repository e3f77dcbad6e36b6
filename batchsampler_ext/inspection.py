"""Measures what a sampler would do to a data set: the work behind ``python -m batchsampler_ext inspect``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import __version__, _validate
from ._backend import core
from ._memory import PrivateMemoryPeak
from .batches import Batches, sample_batches
from .build import knn, proximity_graph
from .metrics import batch_stats

NUM_KNN_ROOTS = 64
MEASURES = ("in_batch_similarity", "false_negative_share")


@dataclass(frozen=True)
class Inspection:
    """What was measured. ``kinds``: name of a kind of batch -> result of :func:`batch_stats`."""

    batches: Batches
    kinds: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    costs: dict[str, float | None]
    graph: dict[str, float]
    advice: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The same as plain numbers, for JSON: mean, 10th and 90th percentile over batches of each measure."""
        kinds = {
            kind: {name: spread(stats[f"{name}_per_batch"]) for name in MEASURES if name in stats}
            for kind, stats in self.kinds.items()
        }
        return {
            "version": __version__,
            "isa": core.isa(),
            "settings": self.settings,
            "costs": self.costs,
            "graph": self.graph,
            "kinds": kinds,
            "advice": self.advice,
        }


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean and percentiles over the batches that have a value."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return {"mean": float("nan"), "p10": float("nan"), "p90": float("nan")}
    low, high = np.quantile(known, [0.1, 0.9])
    return {"mean": float(known.mean()), "p10": float(low), "p90": float(high)}


def load_features(path: str) -> np.ndarray:
    """Opens a float32 or float16 matrix read-only, in place."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"FEATURES: expected a .npy matrix, got {path!r} ({error})") from None
    if not isinstance(features, np.ndarray):
        raise ValueError(f"FEATURES: expected one array in a .npy file, got an archive: {path!r}")
    if features.ndim > 2:
        raise ValueError(
            f"FEATURES: expected a matrix [N, D], got shape {list(features.shape)}; "
            "save array.reshape(len(array), -1) instead"
        )
    if features.dtype == np.float64:
        raise TypeError("FEATURES: expected float32 or float16, got float64; save array.astype(numpy.float32) instead")
    return features


def load_labels(path: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"labels: expected a .npy array of integers, got {path!r} ({error})") from None


def inspect_features(
    features: np.ndarray,
    batch_size: int,
    *,
    labels: np.ndarray | None = None,
    graph_arguments: dict[str, Any],
    epoch_arguments: dict[str, Any],
    progress: Callable[[int, int], object] | None = None,
) -> Inspection:
    """Builds the graph, samples an epoch, and compares its batches with uniform and with kNN batches.

    graph_arguments go to :func:`proximity_graph`, epoch_arguments to :func:`sample_batches`. kNN batches
    are a root and its nearest others, from a random sample of roots: they cannot cover a data set.
    """
    with PrivateMemoryPeak() as memory:
        graph, graph_seconds = timed(
            lambda: proximity_graph(features, return_scores=True, progress=progress, **graph_arguments)
        )
        batches, walk_seconds = timed(lambda: sample_batches(graph, batch_size, **epoch_arguments))
        uniform_arguments = {**epoch_arguments, "epoch_mode": "partition", "strategy": "uniform"}
        candidates: dict[str, Iterable[Any]] = {
            "uniform": sample_batches(graph, batch_size, **uniform_arguments),
            "proximity": batches,
            "kNN": knn_batches(features, batch_size, graph_arguments),
        }
        kinds = {kind: batch_stats(members, features, labels=labels) for kind, members in candidates.items()}
    num_rows = len(features)
    return Inspection(
        batches=batches,
        kinds=kinds,
        settings={
            "num_samples": num_rows,
            "dim": features.shape[1],
            "dtype": str(features.dtype),
            "batch_size": batch_size,
            "num_batches": len(batches),
            "num_candidates": graph_arguments.get("num_candidates") or min(1000, num_rows - 1),
            "num_neighbors": graph.num_neighbors,
            "metric": graph_arguments.get("metric", "cosine"),
            **epoch_arguments,
            "num_threads": _validate.num_threads(graph_arguments.get("num_threads")),
        },
        costs={
            "graph_seconds": graph_seconds,
            "walk_seconds": walk_seconds,
            "peak_memory_bytes": memory.growth(),
            "filled_share": batches.stats["fills"] / max(1, batches.stats["num_instances"]),
        },
        graph=graph.stats(),
        advice=advice(kinds),
    )


def knn_batches(features: np.ndarray, batch_size: int, graph_arguments: dict[str, Any]) -> list[list[int]]:
    """A root and its nearest others, for a random sample of roots."""
    num_rows = len(features)
    generator = torch.Generator().manual_seed(graph_arguments.get("seed", 0) % 2**63)
    roots = torch.randperm(num_rows, generator=generator)[:NUM_KNN_ROOTS].sort().values.numpy()
    shared = {name: graph_arguments[name] for name in ("metric", "precision", "num_threads") if name in graph_arguments}
    nearest = knn(np.ascontiguousarray(features[roots]), features, min(batch_size, num_rows), **shared).ids
    # A root is usually, but not always, its own nearest: duplicates may come before it.
    return [
        [root, *(i for i in ids if i not in (root, -1))][:batch_size]
        for root, ids in zip(roots.tolist(), nearest.tolist(), strict=True)
    ]


def advice(kinds: dict[str, dict[str, Any]]) -> list[str]:
    """What the numbers suggest, where they suggest something."""
    lines = []
    uniform, proximity = kinds["uniform"], kinds["proximity"]
    if "false_negative_share" in uniform:
        ratio = proximity["false_negative_share"] / max(uniform["false_negative_share"], 1e-12)
        if ratio > 1.2:
            lines.append(
                f"Proximity batches hold {ratio:.1f} times the false negatives of uniform ones: "
                "try --range-min, --max-score, --exclude-same-label or a smaller --num-candidates."
            )
    if uniform["in_batch_similarity"] > 0.3:
        lines.append(
            f"Any two instances are similar already (uniform batches: {uniform['in_batch_similarity']:.2f}): the "
            "features share a large common component. Subtracting their mean usually makes proximity mean more."
        )
    return lines


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
