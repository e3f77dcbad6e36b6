"""Measures the batches of a data set, for ``inspect``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .. import __version__
from .._engine import validate
from .._engine.backend import core
from ..batches import Batches, sample_batches
from ..graph import ProximityGraph
from ..graph_builders import knn, proximity_graph
from ..metrics import batch_stats
from ..walk import check_batch_size
from .inputs import EmbeddingMatrix
from .memory import PrivateMemoryPeak
from .progress import Progress, Stage
from .timing import timed

__all__ = ["MEASURES", "Inspection", "inspect_features", "spread"]

NUM_KNN_ROOTS = 64
MAX_MEASURED = 2000  # batches of an epoch: enough for a mean and percentiles
MEASURES = ("in_batch_similarity", "false_negative_share")
NEAR_DUPLICATE = 0.95  # cosine above which an edge may join a false negative
MIN_GAIN = 0.02  # of in-batch similarity: with a smaller gain, batches do not count as harder


@dataclass(frozen=True)
class Inspection:
    """The measurements. ``kinds``: name of a kind of batches -> result of :func:`batch_stats`."""

    batches: Batches
    kinds: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    costs: dict[str, float | None]
    graph: dict[str, float]
    conclusions: list[str] = field(default_factory=list)  # sentences

    def summary(self) -> dict[str, Any]:
        """Returns plain numbers for JSON. Each measure has its mean and its 10th and 90th percentile over batches."""
        kinds = {
            kind: {
                "num_measured": stats["num_batches"],
                **{name: spread(stats[f"{name}_per_batch"]) for name in MEASURES if name in stats},
            }
            for kind, stats in self.kinds.items()
        }
        return {
            "version": __version__,
            "isa": core.isa(),
            "settings": self.settings,
            "costs": self.costs,
            "graph": self.graph,
            "kinds": kinds,
            "conclusions": self.conclusions,
        }


def spread(values: np.ndarray) -> dict[str, float]:
    """Returns mean, 10th and 90th percentile over the batches that have a value."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return {"mean": float("nan"), "p10": float("nan"), "p90": float("nan")}
    low, high = np.quantile(known, [0.1, 0.9])
    return {"mean": float(known.mean()), "p10": float(low), "p90": float(high)}


def inspect_features(
    features: EmbeddingMatrix,
    batch_size: int,
    *,
    labels: torch.Tensor | None = None,
    graph_arguments: dict[str, Any],
    epoch_arguments: dict[str, Any],
    stage: Stage,
) -> Inspection:
    """Builds the graph, plans an epoch, and compares its batches with uniform and with kNN batches.

    graph_arguments go to :func:`proximity_graph`, epoch_arguments to :func:`sample_batches`. A kNN batch is a random
    root and its nearest neighbors. kNN batches are a sample, as they cannot cover a data set.
    """
    num_rows = len(features)
    check_epoch(num_rows, batch_size, epoch_arguments)
    with PrivateMemoryPeak() as memory:
        with PrivateMemoryPeak() as sampler_memory:
            graph, graph_seconds = timed(
                lambda: proximity_graph(
                    features, return_scores=True, progress=stage("proximity graph"), **graph_arguments
                )
            )
            batches, walk_seconds = timed(lambda: sample_batches(graph, batch_size, **epoch_arguments))
        uniform_arguments = {**epoch_arguments, "planner": "uniform"}
        candidates: dict[str, Sequence[Any]] = {
            "uniform": sample_batches(graph, batch_size, **uniform_arguments),
            "proximity": batches,
            "kNN": knn_batches(features, batch_size, graph_arguments, stage("kNN batches")),
        }
        kinds = {
            kind: batch_stats(reported(members, stage(f"{kind} batches measured")), features, labels=labels)
            for kind, members in candidates.items()
        }
    costs = {
        "graph_seconds": graph_seconds,
        "walk_seconds": walk_seconds,
        "sampler_memory_bytes": sampler_memory.growth(),
        "peak_memory_bytes": memory.peak,
        "random_fill_share": batches.stats["random_fills"] / max(1, batches.indices.numel() + len(batches.tail)),
        "drawn_share": batches.stats["num_instances"] / num_rows,
    }
    edges = graph.stats()._asdict() | {"near_duplicate_share": near_duplicate_share(graph, graph_arguments["metric"])}
    settings = all_settings(features, batch_size, len(batches), graph.num_neighbors, graph_arguments, epoch_arguments)
    return Inspection(batches, kinds, settings, costs, edges, conclude(kinds, edges, settings))


def all_settings(
    features: EmbeddingMatrix,
    batch_size: int,
    num_batches: int,
    num_neighbors: int,
    graph_arguments: dict[str, Any],
    epoch_arguments: dict[str, Any],
) -> dict[str, Any]:
    """Returns sizes and arguments, with the values of defaults."""
    num_rows = len(features)
    return {
        "num_instances": num_rows,
        "dim": features.shape[1],
        "dtype": str(features.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "num_batches": num_batches,
        **{name: value for name, value in graph_arguments.items() if name != "labels"},
        "exclude_same_label": graph_arguments["labels"] is not None,
        **epoch_arguments,
        "compute_dtype": str(graph_arguments["compute_dtype"]).removeprefix("torch."),
        "num_candidates": graph_arguments["num_candidates"] or min(1000, num_rows - 1),
        "num_neighbors": num_neighbors,
        "num_threads": validate.num_threads(graph_arguments["num_threads"]),
    }


def near_duplicate_share(graph: ProximityGraph, metric: str) -> float:
    """Returns the share of edges with a cosine above NEAR_DUPLICATE; nan for other metrics or without edges."""
    if metric != "cosine" or graph.scores is None:
        return float("nan")
    scores = graph.scores[graph.neighbors >= 0]
    return float((scores > NEAR_DUPLICATE).double().mean()) if len(scores) else float("nan")


def check_epoch(num_rows: int, batch_size: int, epoch_arguments: dict[str, Any]) -> None:
    """Checks the arguments of planning before the graph is built."""
    check_batch_size(batch_size)
    validate.epoch(epoch_arguments["epoch"])
    validate.restart_threshold(epoch_arguments["restart_prob"])
    if batch_size > num_rows and epoch_arguments["drop_last"]:
        raise ValueError(
            f"batch_size: expected at most {num_rows} with drop_last, the number of instances, got {batch_size}"
        )


def reported(batches: Sequence[Any], progress: Progress) -> Iterator[Any]:
    """Yields all batches, or MAX_MEASURED of them spread evenly over the epoch."""
    positions = np.linspace(0, len(batches) - 1, min(len(batches), MAX_MEASURED)).astype(int).tolist()
    for done, position in enumerate(positions, start=1):
        yield batches[position]
        progress(done, len(positions))


def knn_batches(
    features: EmbeddingMatrix, batch_size: int, graph_arguments: dict[str, Any], progress: Progress
) -> list[list[int]]:
    """Returns a random sample of batches, each a root and its nearest neighbors."""
    num_rows = len(features)
    generator = torch.Generator("cpu").manual_seed(graph_arguments.get("seed", 0) % 2**63)
    roots = torch.randperm(num_rows, generator=generator, device="cpu")[:NUM_KNN_ROOTS].sort().values.numpy()
    shared = {name: graph_arguments[name] for name in ("metric", "compute_dtype", "num_threads", "max_memory")}
    nearest = knn(features[roots], features, min(batch_size, num_rows), progress=progress, **shared).ids
    # A root is not always its own nearest row: duplicates may come before it.
    return [
        [root, *(i for i in ids if i not in (root, -1))][:batch_size]
        for root, ids in zip(roots.tolist(), nearest.tolist(), strict=True)
    ]


def conclude(kinds: dict[str, dict[str, Any]], graph: dict[str, float], settings: dict[str, Any]) -> list[str]:
    """Returns sentences: whether batches are harder than uniform ones, how many negatives may be false, what to try."""
    lines = [describe_hardness(kinds, settings), describe_falseness(kinds, graph, settings)]
    uniform = kinds["uniform"]["in_batch_similarity"]
    if uniform > 0.3:
        lines.append(
            f"Random instances are already similar ({uniform:.2f} in uniform batches): the features share a large "
            "common component. Subtracting their mean usually gives better neighbors."
        )
    return lines


def describe_hardness(kinds: dict[str, dict[str, Any]], settings: dict[str, Any]) -> str:
    batch_size, num_rows = settings["batch_size"], settings["num_instances"]
    if batch_size > num_rows:
        return f"The batch size {batch_size} exceeds the {num_rows} instances, so one batch holds all of them."
    uniform, proximity, knn = (kinds[name]["in_batch_similarity"] for name in ("uniform", "proximity", "kNN"))
    if np.isnan(uniform + proximity):
        return "Hardness is undefined: no batch has two members."
    compared = f"in-batch similarity is {proximity:.2f}, against {uniform:.2f} in uniform and {knn:.2f} in kNN batches"
    if proximity - uniform >= MIN_GAIN:
        return f"Proximity batches are harder than uniform ones: {compared}."
    if settings["num_candidates"] < num_rows - 1:
        return f"Proximity batches are barely harder than uniform ones: {compared}. Try a larger --num-candidates."
    return f"Proximity batches are barely harder than uniform ones: {compared}. These features leave little to gain."


def describe_falseness(kinds: dict[str, dict[str, Any]], graph: dict[str, float], settings: dict[str, Any]) -> str:
    share, base = (kinds[name].get("false_negative_share", float("nan")) for name in ("proximity", "uniform"))
    if "false_negative_share" not in kinds["uniform"]:
        suspects = graph["near_duplicate_share"]
        unknown = "False negatives are unknown without --labels"
        if np.isnan(suspects):
            return f"{unknown}."
        found = f"{unknown}. {suspects:.1%} of the edges score above {NEAR_DUPLICATE} and may join false negatives"
        is_advised = suspects >= 0.01 and settings["max_score"] is None
        return f"{found}. Try --max-score {NEAR_DUPLICATE}." if is_advised else f"{found}."
    if np.isnan(share + base):
        return "False negatives are unknown: no batch has two known labels."
    others = min(settings["batch_size"], settings["num_instances"]) - 1
    count = f"about {share * others:,.1f} of the {others:,} negatives of an instance have its label and may be false"
    if share <= max(1.2 * base, base + 0.01):
        return f"By the labels, {count}. This is no more than in uniform batches ({base * others:,.1f})."
    times = f"{share / base:.1f} times as many as in uniform batches" if base > 0 else "uniform batches have none"
    remedies = ", ".join(unused_remedies(settings))
    return f"By the labels, {count} ({times}). Try {remedies} or a smaller --num-candidates."


def unused_remedies(settings: dict[str, Any]) -> list[str]:
    """Returns the options against false negatives that are not in use. A larger --range-min is always possible."""
    unused = ["--max-score"] if settings["max_score"] is None else []
    if not settings["exclude_same_label"]:
        unused.append("--exclude-same-label")
    return ["a larger --range-min" if settings["range_min"] else "--range-min", *unused]
