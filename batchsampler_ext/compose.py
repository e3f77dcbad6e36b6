"""Composes the batches of some epochs before training, from the embeddings of a frozen encoder (the teacher)."""

from __future__ import annotations

import dataclasses
import time
from importlib.metadata import version
from typing import Any

from ._engine import validate
from ._engine.arrays import Matrix, as_matrix, require_device
from ._plan.digest import digest_of_matrix
from ._plan.epochs import EpochRequest, plan_epoch
from ._plan.recipes import Recipe, recipe_of
from .graph import ProximityGraph
from .graph_builders import Progress, knn_graph, proximity_graph
from .plan import Plan
from .walk import check_batch_size

__all__ = ["compose"]


def compose(
    queries: Any,
    documents: Any = None,
    *,
    batch_size: int,
    preset: str = "b3",
    community_size: int | None = None,
    rank_window: tuple[int, int] | None = None,
    mutual: bool | None = None,
    num_candidates: int | None = None,
    num_neighbors: int | None = None,
    graph: ProximityGraph | None = None,
    metric: str = "cosine",
    num_epochs: int = 1,
    drop_last: bool = False,
    seed: int = 0,
    num_threads: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Composes hard batches for any trainer, from embeddings of all instances.

    Args:
        queries: [N, D] float32, bfloat16 or float16, embeddings of the instances by a frozen encoder, or of their first
            texts. Tensors, arrays and memmaps are read in place, on the CPU or a CUDA device.
        documents: [N, D], likewise, embeddings of the second texts. A query is then compared with documents.
        batch_size: B.
        preset: "b3" (window (30, 130), mutual edges, communities of 32), "walks" (4,000 candidates, batches are
            communities) or "uniform". The options below replace its values.
        community_size: number of instances that are close in the graph. A batch consists of random communities. It
            divides B. B itself makes all of a batch hard, and smaller communities make it softer.
        rank_window: (p, q): an instance is joined to its neighbors of rank p + 1 to q among all others, found exactly.
            The first p are skipped, because many are false negatives.
        mutual: only edges that go both ways count.
        num_candidates, num_neighbors: M and K of :func:`proximity_graph`, instead of a window.
        graph: a graph over N instances to use instead, for example from approximate neighbors.
        metric: as in :func:`proximity_graph`.
        num_epochs: E, number of epochs. Each has its own communities and batches.
        drop_last: leave out the ragged batch of each epoch.
        seed: 0 to 2**64 - 1.
        num_threads, max_memory: as in :func:`proximity_graph`.
        progress: called as in :func:`proximity_graph` while the graph is built, then as ``progress(num_done, E)`` after
            each epoch.

    Returns:
        :class:`Plan` of E epochs. Each instance is in exactly one batch of an epoch.

    Raises:
        TypeError, ValueError: a bad argument, named.

    Determinism: the plan is a function of embeddings, arguments and seed. Threads and device do not change it.

    Source: BatchSampler (arXiv 2306.03355), B3 (arXiv 2505.11293).
    """
    first, second = _towers(queries, documents)
    num_instances = first.num_rows
    batch_size = check_batch_size(batch_size)
    recipe = recipe_of(
        preset,
        community_size=community_size,
        rank_window=rank_window,
        mutual=mutual,
        num_candidates=num_candidates,
        num_neighbors=num_neighbors,
    ).checked(num_instances, batch_size)
    num_epochs = validate.integer(num_epochs, "num_epochs", 1, 2**16)
    request = EpochRequest(
        batch_size=batch_size,
        community_size=recipe.community_size or batch_size,
        drop_last=validate.flag(drop_last, "drop_last"),
        seed=validate.seed(seed),
        epoch=0,
        num_threads=validate.num_threads(num_threads),
    )
    start = time.perf_counter()
    options = {"metric": metric, "num_threads": num_threads, "max_memory": max_memory, "progress": progress}
    if graph is None:
        graph = _graph_of(recipe, queries, documents, seed, options)
    elif len(graph) != num_instances:
        raise ValueError(f"graph: expected a graph of {num_instances} rows as queries has, got {len(graph)}")
    built = time.perf_counter()
    epochs = []
    for epoch in range(num_epochs):
        epochs.append(plan_epoch(graph, num_instances, request._replace(epoch=epoch)))
        if progress is not None:
            progress(epoch + 1, num_epochs)
    info = {
        "preset": preset,
        **dataclasses.asdict(recipe),
        "metric": metric,
        "drop_last": drop_last,
        "seed": request.seed,
        "version": version("batchsampler_ext"),
        "queries": digest_of_matrix(first),
        "documents": None if second is None else digest_of_matrix(second),
    }
    plan = Plan(epochs, num_instances, batch_size, info)
    plan.graph, plan.seconds = graph, {"graph": built - start, "epochs": time.perf_counter() - built}
    return plan


def _towers(queries: Any, documents: Any) -> tuple[Matrix, Matrix | None]:
    first = as_matrix(queries, "queries")
    if documents is None:
        return first, None
    second = as_matrix(documents, "documents")
    require_device(second.device, "documents", first.device)
    if (second.num_rows, second.dim) != (first.num_rows, first.dim):
        raise ValueError(
            f"documents: expected the shape of queries, [{first.num_rows}, {first.dim}], "
            f"got [{second.num_rows}, {second.dim}]"
        )
    return first, second


def _graph_of(
    recipe: Recipe, queries: Any, documents: Any, seed: int, options: dict[str, Any]
) -> ProximityGraph | None:
    if recipe.rank_window is not None:
        first, last = recipe.rank_window
        graph = knn_graph(queries, last - first, documents=documents, range_min=first, return_scores=False, **options)
    elif recipe.num_candidates is not None:
        graph = proximity_graph(
            queries,
            recipe.num_neighbors,
            num_candidates=recipe.num_candidates,
            documents=documents,
            seed=seed,
            **options,
        )
    else:
        return None
    return graph.mutual(options["num_threads"]) if recipe.mutual else graph
