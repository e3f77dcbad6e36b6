"""Composes the batches of some epochs before training, from the embeddings of a frozen encoder (the teacher)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ._engine import validate
from ._engine.arrays import Matrix
from ._plan.clusters import balanced_clusters
from ._plan.digest import digest_of_matrix
from ._plan.epochs import EpochRequest, batch_sizes, plan_epoch, repaired, sources_of_batches
from ._plan.hard_negatives import HardNegatives
from ._plan.keep_apart import Apart, Repairs, as_ids_of_columns, as_pairs, require_room
from ._plan.leftovers import exchanged
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
from ._plan.sources import Part, checked_options, checked_sources, parts_of, parts_of_graph, source_seed
from ._plan.stages import stage_of
from ._plan.tables import sizes_of
from .graph import ProximityGraph
from .graph_builders import METRICS, Progress, as_towers, knn_graph, proximity_graph
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
    unique: Any = None,
    max_per_batch: int = 1,
    positives: Any = None,
    margin: float | None = None,
    relative_margin: float | None = None,
    labels: Any = None,
    max_score: float | None = None,
    num_hard_negatives: int | None = None,
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
        unique: int [N] or [N, C], ids of texts, products or patients, -1 is none. No batch holds more than
            ``max_per_batch`` instances with an equal id in a column. Instances are swapped between batches for this,
            mostly with neighbors in the graph. None is dropped. Batches of a source swap only with one another. With
            "clusters", batches may then hold instances of other clusters. Equal ids get no edge, and with one column
            and without ``labels``, the ranks of a window do not count them.
        max_per_batch: how many instances with an equal id a batch may hold.
        positives: int [P, 2], pairs (query i, document of j) that are further positives. They are no edges, and are
            kept apart where few swaps can do that.
        margin: document j is no negative of query i if s(i, j) >= s(i, i) - margin, with the exact scores of
            ``metric``. Such pairs are no edges. Needs ``documents``.
        relative_margin: likewise, if s(i, j) >= (1 - relative_margin) * s(i, i). It is between 0 and 1.
        labels, max_score: as in :func:`proximity_graph`.
            :meth:`Plan.negative_mask` also knows all pairs that ``unique``, ``positives``, ``labels`` and margins
            exclude.
        num_hard_negatives: h, at most the neighbors of an instance. The plan then has :meth:`Plan.hard_negatives`.
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
            ``unique``: an id is on more instances than the batches may hold, or no way was found to keep all ids apart.
            With one column and without sources, none exists then.
        ImportError: "clusters" without scikit-learn.

    Determinism: the plan is a function of embeddings, arguments and seed. Threads and device do not change it. The
    centers of "clusters" also depend on the version of scikit-learn and on the processor.

    Source: BatchSampler (arXiv 2306.03355), B3 (arXiv 2505.11293); clusters as in TAS-B (arXiv 2104.06967) and CDE
    (arXiv 2410.02525); curriculum as in NGAME (arXiv 2207.04452).
    """
    first, second = as_towers(queries, documents, "queries")
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
    apart = Apart(
        as_ids_of_columns(unique, num_instances),
        validate.integer(max_per_batch, "max_per_batch", 1, batch_size, because=" (batch_size)"),
        as_pairs(positives, num_instances),
    )
    if options.sources_per_batch > 1 and not apart.is_empty:
        raise ValueError("sources_per_batch: expected 1 with unique or positives, because swaps would mix the sources")
    if not drop_last:
        _require_room(apart, parts, options.leftovers, batch_size)
    groups = groups_of(apart.ids, as_labels(labels, num_instances))
    max_score = checked_max_score(max_score)
    validate.choice(metric, "metric", METRICS)
    margins = Margins.check(margin, relative_margin, first, second, metric, request.num_threads)

    hard_negatives = HardNegatives.check(num_hard_negatives, recipe, graph, num_instances, preset)
    has_given_graph = graph is not None

    progress = validate.progress(progress)
    start = time.perf_counter()
    if recipe.batches_per_cluster is not None:
        if graph is not None:
            raise ValueError("graph: expected None with preset='clusters'")
        shown = stage_of(progress, "clusters")
        shown = None if shown is None else _Progress(shown, num_instances)
        parts = [_with_clusters(part, (first, second), recipe, metric, request, shown) for part in parts]
    elif graph is not None:
        if len(graph) != num_instances or graph.num_instances != num_instances:
            raise ValueError(f"graph: expected a graph of {num_instances} rows as queries has, got {len(graph)}")
        graph = without_positives(graph, apart, groups, margins, max_score)
        parts = [parts[0]._replace(graph=graph)] if sources is None else parts_of_graph(graph, parts, sources)
        for part in parts:
            if hard_negatives is not None and part.graph is not None:
                hard_negatives.add(part.graph, is_given=True)
    else:
        shown = stage_of(progress, "graph", is_public=True)
        given = {
            "features": first.owner,
            "documents": None if second is None else second.owner,
            "metric": metric,
            "labels": labels if labels is not None else labels_of(apart, first.device),
            "max_score": max_score,
            "return_scores": any(value is not None for value in (margins, max_score, hard_negatives)),
            "num_threads": num_threads,
            "max_memory": max_memory,
            "progress": None if shown is None else _Progress(shown, num_instances),
        }
        for number, part in enumerate(parts):
            found = _graph_of(part, recipe, sources is not None, first.device, request.seed, given)
            if found is not None:
                found = without_positives(found, apart, groups, margins, max_score)
                if hard_negatives is not None:
                    hard_negatives.add(found)
                parts[number] = part._replace(graph=found.mutual(request.num_threads) if recipe.mutual else found)
    graph = _united_graph(parts, num_instances)
    built = time.perf_counter()

    values = [part.source for part in parts]
    neighbors = None if graph is None or apart.is_empty else neighbors_of_instances([graph], num_instances)
    repairs = Repairs(apart, neighbors, request.seed, None if sources is None else values)
    epochs, of_batches, pairs = [], [], [apart.positives]
    shown = stage_of(progress, "epochs", is_public=True)
    for epoch in range(num_epochs):
        repair = repairs.of_epoch(epoch)
        request = request._replace(
            epoch=epoch,
            community_size=recipe.community_size_of(epoch),
            repair=None if apart.is_empty else repair,
        )
        planned = plan_epoch(parts, request)
        before = None
        if sources is not None:
            before = sources_of_batches(planned, sources, batch_size)
            ids, num_moved = exchanged(
                planned.ids,
                batch_sizes(planned, batch_size),
                before,
                sources,
                apart,
                seed=request.seed,
                epoch=epoch,
            )
            planned = planned._replace(ids=ids)
            repairs.num_moved[-1] += num_moved
        planned = repaired(planned, before, values, request)
        epochs.append(planned.ids)
        if sources is not None:  # batches of several sources may be of one now
            of_batches.append(sources_of_batches(planned, sources, batch_size))
        if margins is not None:
            pairs += [margins.pairs(batch) for batch in planned.ids.split(batch_sizes(planned, batch_size).tolist())]
        if shown is not None:
            shown(epoch + 1, num_epochs)
    negatives = Negatives.of(num_instances, groups, pairs)

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
        "max_per_batch": apart.max_per_batch,
        "margin": None if margin is None else float(margin),
        "relative_margin": None if relative_margin is None else float(relative_margin),
        "max_score": max_score,
        "num_hard_negatives": None if hard_negatives is None else hard_negatives.table.shape[1],
        "num_moved": repairs.num_moved,
        "num_positives_met": repairs.num_met,
        "seed": request.seed,
        "version": version("batchsampler_ext"),
        "has_given_graph": has_given_graph,
        "queries": digest_of_matrix(first, stage_of(progress, "digest of queries")),
        "documents": None if second is None else digest_of_matrix(second, stage_of(progress, "digest of documents")),
    }
    plan = Plan(
        epochs,
        num_instances,
        batch_size,
        info,
        tail_sizes=planned.tail_sizes if len(planned.tail_sizes) > 1 else None,
        sources=torch.stack(of_batches) if of_batches else None,
        negatives=None if negatives.is_empty else negatives,
        hard_negatives=None if hard_negatives is None else hard_negatives.table,
    )
    plan.graph = graph
    plan.seconds = {"graph": built - start, "epochs": time.perf_counter() - built}
    return plan


def _require_room(apart: Apart, parts: Sequence[Part], leftovers: str, batch_size: int) -> None:
    """Raises ``ValueError`` if no composing can keep ids apart, before the work. For epochs of all instances.

    The repair checks what these counts cannot tell.
    """
    if leftovers == "drop":
        return
    num_instances = sum(len(part.rows) for part in parts)
    if leftovers == "mixed":
        require_room(apart.ids, sizes_of(num_instances, batch_size), apart.max_per_batch)
    if leftovers == "mixed" and len(parts) == 1:
        return
    mixed = sizes_of(sum(len(part.rows) % batch_size for part in parts), batch_size)
    for part in parts:
        sizes = sizes_of(len(part.rows), batch_size)
        if leftovers == "mixed":
            sizes = np.concatenate([sizes[sizes == batch_size], mixed])
        require_room(apart.ids[part.rows.numpy()], sizes, apart.max_per_batch, f"batches of source {part.source}")


def _united_graph(parts: Sequence[Part], num_instances: int) -> ProximityGraph | None:
    """Returns the edges of all sources as a graph over all instances."""
    graphs = [part.graph for part in parts if part.graph is not None]
    if len(graphs) == 1 and graphs[0].ids is None:
        return graphs[0]
    neighbors = neighbors_of_instances(graphs, num_instances)
    return None if neighbors is None else ProximityGraph(neighbors)


class _Progress:
    """Counts the rows of all sources."""

    def __init__(self, progress: Progress, num_rows: int) -> None:
        self._progress, self._num_rows, self._done = progress, num_rows, 0

    def __call__(self, done: int, num_rows: int) -> None:
        self._progress(self._done + done, self._num_rows)
        if done == num_rows:
            self._done += done


def _with_clusters(
    part: Part,
    towers: tuple[Matrix, Matrix | None],
    recipe: Recipe,
    metric: str,
    request: EpochRequest,
    progress: Progress | None,
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
        progress=progress,
    )
    return part._replace(clusters=clusters)


def _graph_of(
    part: Part, recipe: Recipe, is_subset: bool, device: torch.device, seed: int, options: dict[str, Any]
) -> ProximityGraph | None:
    """Returns a graph over the rows of the part. None: its batches are uniform."""
    window, num_others = recipe.window_of(part.source), len(part.rows) - 1
    if is_subset:
        options, seed = {**options, "rows": part.rows.to(device)}, source_seed(seed, part.source)
    if window is not None:
        first, last = window
        return knn_graph(num_neighbors=last - first, range_min=first, **options)
    if recipe.num_candidates is not None and num_others > 0:
        num_candidates = min(recipe.num_candidates, num_others)
        num_neighbors = min(recipe.num_neighbors or 100, num_candidates)
        return proximity_graph(num_neighbors=num_neighbors, num_candidates=num_candidates, seed=seed, **options)
    if options["progress"] is not None and (recipe.windows is not None or recipe.num_candidates is not None):
        options["progress"](len(part.rows), len(part.rows))  # other sources have graphs
    return None
