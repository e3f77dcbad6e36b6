"""Composes the batches of some epochs before training, from the embeddings of a frozen encoder (the teacher)."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import Any

import torch

from ._engine import validate
from ._engine.arrays import Matrix, as_matrix, require_device
from ._plan.digest import digest_of_matrix
from ._plan.epochs import EpochRequest, plan_epoch
from ._plan.keep_apart import Apart, Repairs, as_ids_of_columns, as_pairs, require_room, sizes_of
from ._plan.negatives import (
    Margins,
    Negatives,
    as_labels,
    checked_max_score,
    groups_of,
    labels_of,
    neighbors_of_instances,
    without_positives,
)
from ._plan.recipes import Recipe, recipe_of
from .graph import ProximityGraph
from .graph_builders import METRICS, Progress, knn_graph, proximity_graph
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
    unique: Any = None,
    max_per_batch: int = 1,
    positives: Any = None,
    margin: float | None = None,
    relative_margin: float | None = None,
    labels: Any = None,
    max_score: float | None = None,
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
        unique: int [N] or [N, C], ids of texts, products or patients, -1 is none. No batch holds more than
            ``max_per_batch`` instances with an equal id in a column. Instances are swapped between batches for this,
            mostly with neighbors in the graph. None is dropped. Equal ids get no edge, and with one column and without
            ``labels``, the ranks of a window do not count them.
        max_per_batch: how many instances with an equal id a batch may hold.
        positives: int [P, 2], pairs (query i, document of j) that are further positives. They are no edges, and are
            kept apart where few swaps can do that.
        margin: document j is no negative of query i if s(i, j) >= s(i, i) - margin, with the exact scores of
            ``metric``. Such pairs are no edges. Needs ``documents``.
        relative_margin: likewise, if s(i, j) >= (1 - relative_margin) * s(i, i). It is between 0 and 1.
        labels, max_score: as in :func:`proximity_graph`.
            :meth:`Plan.negative_mask` also knows all pairs that ``unique``, ``positives``, ``labels`` and margins
            exclude.
        num_epochs: E, number of epochs. Each has its own communities and batches.
        drop_last: leave out the ragged batch of each epoch.
        seed: 0 to 2**64 - 1.
        num_threads, max_memory, progress: as in :func:`proximity_graph`.

    Returns:
        :class:`Plan` of E epochs. Each instance is in exactly one batch of an epoch.

    Raises:
        TypeError, ValueError: a bad argument, named. ``unique``: an id is on more instances than the batches may hold,
            or no way was found to keep all ids apart. With one column, none exists then.

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
    apart = Apart(
        as_ids_of_columns(unique, num_instances),
        validate.integer(max_per_batch, "max_per_batch", 1, batch_size, because=" (batch_size)"),
        as_pairs(positives, num_instances),
    )
    if not drop_last:
        require_room(apart.ids, sizes_of(num_instances, batch_size), apart.max_per_batch)
    groups = groups_of(apart.ids, as_labels(labels, num_instances))
    max_score = checked_max_score(max_score)
    validate.choice(metric, "metric", METRICS)
    margins = Margins.check(margin, relative_margin, first, second, metric, request.num_threads)
    if graph is None:
        options: dict[str, Any] = {
            "metric": metric,
            "num_threads": num_threads,
            "max_memory": max_memory,
            "progress": progress,
        }
        options |= {"labels": labels if labels is not None else labels_of(apart, first.device), "max_score": max_score}
        graph = _graph_of(recipe, queries, documents, seed, margins is not None or max_score is not None, options)
        graph = None if graph is None else without_positives(graph, apart, groups, margins, max_score)
        graph = graph.mutual() if graph is not None and recipe.mutual else graph
    elif len(graph) != num_instances or graph.num_instances != num_instances:
        raise ValueError(f"graph: expected a graph of {num_instances} rows as queries has, got {len(graph)}")
    else:
        graph = without_positives(graph, apart, groups, margins, max_score)
    graphs = [] if graph is None or apart.is_empty else [graph]
    repairs = Repairs(apart, neighbors_of_instances(graphs, num_instances), request.seed)
    epochs, pairs = [], [apart.positives]
    for epoch in range(num_epochs):
        ids = plan_epoch(graph, num_instances, request._replace(epoch=epoch))
        ids = repairs.of_epoch(epoch)(ids, sizes_of(len(ids), batch_size), 0)
        epochs.append(ids)
        if margins is not None:
            pairs += [margins.pairs(batch) for batch in ids.split(batch_size) if len(batch)]
    negatives = Negatives.of(num_instances, groups, pairs)
    info = {
        "preset": preset,
        **dataclasses.asdict(recipe),
        "metric": metric,
        "max_per_batch": apart.max_per_batch,
        "margin": margin,
        "relative_margin": relative_margin,
        "max_score": max_score,
        "drop_last": drop_last,
        "num_moved": repairs.num_moved,
        "num_positives_met": repairs.num_met,
        "seed": request.seed,
        "version": version("batchsampler_ext"),
        "queries": digest_of_matrix(first),
        "documents": None if second is None else digest_of_matrix(second),
    }
    return Plan(torch.stack(epochs), num_instances, batch_size, info, negatives)


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
    recipe: Recipe, queries: Any, documents: Any, seed: int, return_scores: bool, options: dict[str, Any]
) -> ProximityGraph | None:
    if recipe.rank_window is not None:
        first, last = recipe.rank_window
        return knn_graph(
            queries,
            last - first,
            documents=documents,
            range_min=first,
            return_scores=return_scores,
            **options,
        )
    if recipe.num_candidates is not None:
        return proximity_graph(
            queries,
            recipe.num_neighbors,
            num_candidates=recipe.num_candidates,
            documents=documents,
            seed=seed,
            return_scores=return_scores,
            **options,
        )
    return None
