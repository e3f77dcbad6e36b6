"""Composes the batches of some epochs before training, from the embeddings of a frozen encoder (the teacher)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from ._engine import validate
from ._engine.arrays import Matrix, as_matrix, require_device
from ._plan.clusters import balanced_clusters
from ._plan.digest import digest_of_matrix
from ._plan.epochs import EpochRequest, plan_epoch, repaired, sources_of_batches
from ._plan.recipes import Recipe, recipe_of
from ._plan.sources import (
    Part,
    checked_options,
    checked_sources,
    neighbors_of_all,
    parts_of,
    parts_of_graph,
    source_seed,
)
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
    community_size: int | Sequence[int] | None = None,
    rank_window: tuple[int, int] | Mapping[int, tuple[int, int] | None] | None = None,
    mutual: bool | None = None,
    num_candidates: int | None = None,
    num_neighbors: int | None = None,
    batches_per_cluster: int | None = None,
    graph: ProximityGraph | None = None,
    sources: Any = None,
    leftovers: str = "mixed",
    interleave: str | Mapping[int, float] = "proportional",
    sources_per_batch: int = 1,
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
        preset: "b3" (window (30, 130), mutual edges, communities of 32), "curriculum" (the same with communities of 1,
            2, 4, 8, 16 and then 32), "walks" (4,000 candidates, batches are communities), "clusters" (each batch is
            from one cluster of the embeddings, 4 batches per cluster) or "uniform". The options below replace its
            values.
        community_size: number of instances that are close in the graph. A batch consists of random communities. It
            divides B. B itself makes all of a batch hard, and smaller communities make it softer. A list has the size
            of each epoch, and the last one stays.
        rank_window: (p, q): an instance is joined to its neighbors of rank p + 1 to q among all others, found exactly.
            The first p are skipped, because many are false negatives. A dict source -> (p, q) or None has the windows
            of some sources, and other sources have the preset's. None: batches of the source are uniform.
        mutual: only edges that go both ways count.
        num_candidates, num_neighbors: M and K of :func:`proximity_graph`, instead of a window.
        batches_per_cluster: mean number of batches in a cluster, for "clusters". Fewer make harder batches. Clusters
            are balanced: each holds a multiple of B, but one per source, which holds the remainder.
        graph: a graph over N instances to use instead, for example from approximate neighbors. With ``sources``, only
            edges within a source count.
        sources: int [N], at least 0, the source (data set, language, domain) of each instance. Each batch is then from
            one source, and so are candidates and ranks.
        leftovers: where the instances of a source go that do not fill a batch. "mixed": to batches of the leftovers of
            all sources. "short": to one shorter batch per source, at the end of the epoch. "drop": nowhere, but each
            epoch leaves out others.
        interleave: "proportional": batches of each source are spread evenly over the epoch, at random places. A dict
            source -> weight also sets how many batches each source has, in proportion to the weights. No instance is
            repeated: all full batches of the source that is scarcest for its weight are used, and each epoch draws
            some of the others at random. ``leftovers`` then has no effect: what is not drawn is left out.
        sources_per_batch: c, a divisor of B. Above 1, a batch has B / c instances of each of c different sources. The
            number of such batches is the largest possible, and what they do not hold is left over.
        metric: as in :func:`proximity_graph`.
        num_epochs: E, number of epochs. Each has its own communities and batches.
        drop_last: leave out the ragged batch of each epoch.
        seed: 0 to 2**64 - 1.
        num_threads, max_memory: as in :func:`proximity_graph`.
        progress: called as in :func:`proximity_graph` while the graph is built, then as ``progress(num_done, E)`` after
            each epoch.

    Returns:
        :class:`Plan` of E epochs. Each instance is in exactly one batch of an epoch, unless ``drop_last``,
        ``leftovers="drop"`` or weights leave it out. :meth:`Plan.sources` has the source of each batch.

    Raises:
        TypeError, ValueError: a bad argument, named; a source that is too small for its window, weight or "drop".
        ImportError: "clusters" without scikit-learn.

    Determinism: the plan is a function of embeddings, arguments and seed. Threads and device do not change it. The
    centers of "clusters" also depend on the version of scikit-learn and on the processor.

    Source: BatchSampler (arXiv 2306.03355), B3 (arXiv 2505.11293); clusters as in TAS-B (arXiv 2104.06967) and CDE
    (arXiv 2410.02525); curriculum as in NGAME (arXiv 2207.04452).
    """
    first, second = _towers(queries, documents)
    num_instances = first.num_rows
    batch_size = check_batch_size(batch_size)
    sources = checked_sources(sources, num_instances)
    parts = parts_of(sources, num_instances)
    options = checked_options(
        parts,
        sources is not None,
        batch_size=batch_size,
        drop_last=validate.flag(drop_last, "drop_last"),
        leftovers=leftovers,
        interleave=interleave,
        sources_per_batch=sources_per_batch,
    )
    recipe = recipe_of(
        preset,
        community_size=community_size,
        rank_window=rank_window,
        mutual=mutual,
        num_candidates=num_candidates,
        num_neighbors=num_neighbors,
        batches_per_cluster=batches_per_cluster,
    ).checked(parts, batch_size, options.sources_per_batch, graph is not None)
    num_epochs = validate.integer(num_epochs, "num_epochs", 1, 2**16)
    request = EpochRequest(
        batch_size=batch_size,
        community_size=recipe.community_size_of(0),
        drop_last=drop_last,
        seed=validate.seed(seed),
        epoch=0,
        num_threads=validate.num_threads(num_threads),
        options=None if sources is None else options,
    )
    start = time.perf_counter()
    resources = {
        "num_threads": num_threads,
        "max_memory": max_memory,
        "progress": None if progress is None else _Progress(validate.progress(progress), num_instances),
    }
    validate.choice(metric, "metric", METRICS)
    if recipe.batches_per_cluster is not None:
        if graph is not None:
            raise ValueError("graph: expected None with preset='clusters'")
        parts = [_with_clusters(part, (first, second), recipe, metric, request) for part in parts]
    elif graph is not None:
        if len(graph) != num_instances:
            raise ValueError(f"graph: expected a graph of {num_instances} rows as queries has, got {len(graph)}")
        parts = [parts[0]._replace(graph=graph)] if sources is None else parts_of_graph(graph, parts, sources)
    else:
        towers = {"features": first.owner, "documents": None if second is None else second.owner, "metric": metric}
        given = {**towers, **resources}
        parts = [_with_graph(part, recipe, sources is not None, first.device, request.seed, given) for part in parts]
    built = time.perf_counter()
    planned, found = [], []
    for epoch in range(num_epochs):
        request = request._replace(epoch=epoch, community_size=recipe.community_size_of(epoch))
        result = plan_epoch(parts, request)
        of_batches = None if sources is None else sources_of_batches(result, sources, batch_size)
        planned.append(repaired(result, of_batches, [part.source for part in parts], request))
        if of_batches is not None:
            found.append(of_batches)
        if progress is not None:
            progress(epoch + 1, num_epochs)
    info = {
        "preset": preset,
        **recipe.description(),
        "metric": metric,
        "drop_last": drop_last,
        "sources": None if sources is None else [[part.source, len(part.rows)] for part in parts],
        "leftovers": options.leftovers,
        "interleave": interleave
        if isinstance(interleave, str)
        else {str(key): float(w) for key, w in interleave.items()},
        "sources_per_batch": options.sources_per_batch,
        "seed": request.seed,
        "version": version("batchsampler_ext"),
        "queries": digest_of_matrix(first),
        "documents": None if second is None else digest_of_matrix(second),
    }
    plan = Plan(
        [result.ids for result in planned],
        num_instances,
        batch_size,
        info,
        tail_sizes=planned[0].tail_sizes if len(planned[0].tail_sizes) > 1 else None,
        sources=torch.stack(found) if found else None,
    )
    plan.graph = _united_graph(parts, num_instances)
    plan.seconds = {"graph": built - start, "epochs": time.perf_counter() - built}
    return plan


def _united_graph(parts: Sequence[Part], num_instances: int) -> ProximityGraph | None:
    """Returns the edges of all sources as a graph over all instances."""
    graphs = [part.graph for part in parts if part.graph is not None]
    if len(graphs) == 1 and graphs[0].ids is None:
        return graphs[0]
    return ProximityGraph(neighbors_of_all(parts, num_instances), None, None, num_instances) if graphs else None


class _Progress:
    """Counts the rows of all sources."""

    def __init__(self, progress: Progress, num_rows: int) -> None:
        self._progress, self._num_rows, self._done = progress, num_rows, 0

    def __call__(self, done: int, num_rows: int) -> None:
        self._progress(self._done + done, self._num_rows)
        if done == num_rows:
            self._done += done


def _with_clusters(
    part: Part, towers: tuple[Matrix, Matrix | None], recipe: Recipe, metric: str, request: EpochRequest
) -> Part:
    assert recipe.batches_per_cluster is not None
    clusters = balanced_clusters(
        [tower for tower in towers if tower is not None],
        part.rows,
        recipe.batches_per_cluster,
        request.batch_size,
        metric=metric,
        seed=request.seed if request.options is None else source_seed(request.seed, part.source),
        num_threads=request.num_threads,
    )
    return part._replace(clusters=clusters)


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


def _with_graph(
    part: Part, recipe: Recipe, is_subset: bool, device: torch.device, seed: int, options: dict[str, Any]
) -> Part:
    """Returns the part with a graph over its rows, or without one if its batches are uniform."""
    window, num_others = recipe.window_of(part.source), len(part.rows) - 1
    if is_subset:
        options, seed = {**options, "rows": part.rows.to(device)}, source_seed(seed, part.source)
    if window is not None:
        first, last = window
        graph = knn_graph(num_neighbors=last - first, range_min=first, return_scores=False, **options)
    elif recipe.num_candidates is not None and num_others > 0:
        num_candidates = min(recipe.num_candidates, num_others)
        num_neighbors = min(recipe.num_neighbors or 100, num_candidates)
        graph = proximity_graph(num_neighbors=num_neighbors, num_candidates=num_candidates, seed=seed, **options)
    else:
        return part
    return part._replace(graph=graph.mutual() if recipe.mutual else graph)
