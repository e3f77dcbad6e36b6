"""Composes the batches of some epochs before training, from the embeddings of a frozen encoder (the teacher)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ._engine import validate
from ._engine.cuda import to_device_async
from ._engine.validate import Progress, ProgressBar
from ._negatives.keep_apart import Apart, as_ids_of_columns, as_pairs
from ._negatives.negatives import Demands, Margins, as_labels, checked_max_score, groups_of, labels_of
from ._plan.all_epochs import plan_epochs
from ._plan.approximate import ApproximateSearch
from ._plan.digest import digest_of_matrix
from ._plan.epochs import EpochRequest
from ._plan.given_graph import checked_graph
from ._plan.graphs import GraphOptions, parts_with_graphs, united_graph
from ._plan.hard_negatives import HardNegatives
from ._plan.recipes import recipe_of
from ._plan.room import require_room_of_parts
from ._plan.sources import checked_options, checked_sources, parts_of
from ._plan.stages import stage_of
from .graph import ProximityGraph
from .graph_builders import METRICS, as_towers
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
    graph: ProximityGraph | torch.Tensor | np.ndarray | None = None,
    neighbors: str = "exact",
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
    progress: Progress | ProgressBar | None = None,
) -> Plan:
    """Composes hard batches for any trainer, from embeddings of all instances.

    Args:
        queries: [N, D] float32, bfloat16 or float16, embeddings of the instances by a frozen encoder, or of their first
            texts. Tensors, arrays and memmaps are read in place, on the CPU or a CUDA device. Other arguments may be on
            other devices.
        documents: [N, D], likewise, embeddings of the second texts, on the device of ``queries``. A query is then
            compared with documents.
        batch_size: B.
        preset: "b3" (window (30, 130), mutual edges, communities of 32), "curriculum" (the same with communities of 1,
            2, 4, 8, 16 and then 32, one epoch for each), "walks" (the best 100 of 4,000 candidates; communities of B
            are the batches of the sampler's planner "partition", which grows them from short walks), "clusters" (each
            batch is from one cluster of the embeddings, 4 batches per cluster) or "uniform". The options below replace
            its values, and those that would have no effect are refused.
        community_size: number of instances that are close in the graph. A batch consists of random communities. It
            divides B / ``sources_per_batch``. B itself makes all of a batch hard, and smaller communities make it
            softer. A list has the size of each epoch, and the last one stays. None: the sizes of the preset, each
            replaced by the largest divisor that is not above it, without repetition. With B = 100, "b3" has
            communities of 25.
        rank_window: (p, q): an instance is joined to its neighbors of rank p + 1 to q, found as ``neighbors`` says. The
            first p are skipped, because many are false negatives. Ranks count all other instances of the source, except
            those that ``labels`` and ``max_score`` exclude, or a single column of ``unique`` without ``labels``. With
            ``sources``, a dict source -> (p, q) has the windows of some sources, and others have the preset's. The
            value None in a dict makes batches of its source uniform.
        mutual: only edges that go both ways count. For a given ``graph``, the default is False.
        num_candidates, num_neighbors: M and K of :func:`proximity_graph`, instead of a window. M above N - 1 counts as
            N - 1.
        batches_per_cluster: mean number of batches in a cluster, for "clusters". Fewer make harder batches. A cluster
            may hold up to about twice as many. Sizes of clusters are multiples of B, so that batches do not cross
            them. One cluster per source also holds the remainder.
        graph: edges to use instead of a window or candidates: :class:`ProximityGraph` over the N instances, or the
            neighbors that another library has found, an integer array or tensor [N, K]. -1 is no neighbor. Edges of an
            instance to itself are ignored. With ``sources``, only edges within a source count. Margins and
            ``max_score`` need the scores of a :class:`ProximityGraph`.
        neighbors: how a window is searched. "exact" takes a time of N**2. "faiss" and "pynndescent" search on the CPU
            with these libraries. FAISS is faster above some 200,000 rows. Both miss some neighbors: their effort is
            raised until they find 95% of the exact neighbors up to rank q, for 1,000 random instances. A warning says
            if they cannot, and the report of the plan has the share. Edges have exact scores. Instances with too few
            neighbors that ``labels``, ``unique`` and ``max_score`` allow among those listed are searched exactly. If
            more than a tenth of the instances need this, an error asks for "exact". ``max_memory`` is refused.
            "pynndescent" has no metric "ip". Sources with fewer than 100,000 instances are searched exactly.
        sources: int [N], at least 0, the source (data set, language, domain) of each instance. Each batch is then from
            one source, unless it holds "mixed" leftovers or ``sources_per_batch`` is above 1. Candidates and ranks are
            always from one source.
        leftovers: where the instances of a source go that do not fill a batch. "mixed": to batches of the leftovers of
            all sources. "short": to one shorter batch per source, at the end of the epoch. "drop": nowhere, but each
            epoch leaves out others.
        interleave: "proportional": batches of each source are spread evenly over the epoch, at random places. A dict
            source -> weight also sets how many batches each source has, in proportion to the weights. No instance is
            repeated: all full batches of the source that is scarcest for its weight are used, and each epoch draws
            some of the others at random. What is not drawn is left out, so ``leftovers`` is not "short".
        sources_per_batch: c, a divisor of B. Above 1, a batch has B / c instances of each of c different sources. The
            number of such batches is the largest possible, and what they do not hold is left over.
        metric: as in :func:`proximity_graph`.
        unique: int [N] or [N, C], ids of texts, products or patients, -1 is none. No batch holds more than
            ``max_per_batch`` instances with an equal id in a column. Instances are swapped between batches for this,
            mostly with neighbors in the graph. None is dropped. Batches of a source swap only with one another. With
            "clusters", batches may then hold instances of other clusters. Equal ids get no edge, and with one column
            and without ``labels``, the ranks of a window do not count them.
        max_per_batch: how many instances with an equal id a batch may hold. Needs ``unique``.
        positives: int [P, 2], pairs (query i, document of j) that are further positives. They get no edge, either way.
            Batches are repaired by a few swaps so that such pairs rarely meet. Pairs that still meet are in the mask. A
            pair (i, i) is allowed, and has no effect.
        margin: document j is no negative of query i if s(i, j) >= s(i, i) - margin, with the exact scores of
            ``metric``. Such pairs are no edges. Needs ``documents``.
        relative_margin: likewise, if s(i, j) >= s(i, i) - relative_margin * abs(s(i, i)). It is between 0 and 1.
        labels, max_score: as in :func:`proximity_graph`. ``max_score`` needs a preset with a graph.
            :meth:`Plan.negative_mask` also knows all pairs that ``unique``, ``positives``, ``labels`` and margins
            exclude.
        num_hard_negatives: h, at most the neighbors of an instance. The plan then has :meth:`Plan.hard_negatives`.
        num_epochs: E, number of epochs. Each has its own communities and batches. Communities have one size per
            epoch, so "curriculum" reaches 32 in the sixth. If all epochs would be uniform for this reason, they are
            refused.
        drop_last: leave out the ragged batch of each epoch. Its instances are random, unless ``unique`` needs others.
        seed: 0 to 2**64 - 1.
        num_threads, max_memory: as in :func:`proximity_graph`.
        progress: called as in :func:`proximity_graph` while the graph is built, then as ``progress(num_done, E)`` after
            each epoch.

    Returns:
        :class:`Plan` of E epochs. Each instance is in exactly one batch of an epoch, unless ``drop_last``,
        ``leftovers="drop"`` or weights leave it out. :meth:`Plan.sources` has the source of each batch.

    Raises:
        TypeError, ValueError: a bad argument, named; one that would have no effect; a source that is too small for its
            window, weight or "drop"; a batch size without a divisor from 2 to 32, for "b3" and "curriculum".
            ``unique``: an id is on more instances than the batches may hold, or no way was found to keep all ids apart.
            With one column and without sources, none exists then.
        ImportError: "clusters" without scikit-learn; ``neighbors`` without its library.

    Determinism: the plan is a function of embeddings, arguments and seed. Threads and device do not change it. The
    centers of "clusters" also depend on the version of scikit-learn and on the processor. What ``neighbors`` finds
    depends on the version of its library and on the processor. With "pynndescent", or if many rows are equal, it also
    depends on ``num_threads``.

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
    if drop_last and num_instances < batch_size:
        raise ValueError(
            f"drop_last: expected False with {num_instances} instances and batch_size {batch_size}, because no batch "
            "would be left"
        )
    num_epochs = validate.integer(num_epochs, "num_epochs", 1, 2**16)
    given = {
        "community_size": community_size,
        "rank_window": rank_window,
        "mutual": mutual,
        "num_candidates": num_candidates,
        "num_neighbors": num_neighbors,
        "batches_per_cluster": batches_per_cluster,
    }
    given = {name: value for name, value in given.items() if value is not None}
    recipe = recipe_of(
        preset,
        has_graph=graph is not None,
        has_sources=sources is not None,
        has_max_score=max_score is not None,
        **given,
    )
    given_graph = checked_graph(graph, num_instances)
    recipe = recipe.checked(parts, batch_size, options.sources_per_batch, given_graph, num_epochs, preset, given)
    request = EpochRequest(
        batch_size=batch_size,
        community_size=recipe.community_size_of(0),
        drop_last=drop_last,
        seed=validate.seed(seed),
        epoch=0,
        num_threads=validate.num_threads(num_threads),
        follows_walks=recipe.follows_walks,
        options=None if sources is None else options,
    )
    validate.integer(max_per_batch, "max_per_batch", 1, batch_size, because=" (batch_size)")
    if unique is None and max_per_batch != 1:
        raise ValueError(f"max_per_batch: expected 1 without unique, got {max_per_batch}")
    apart = Apart(
        as_ids_of_columns(unique, num_instances),
        int(max_per_batch),
        as_pairs(positives, num_instances),
    )
    require_room_of_parts(apart, parts, options, request)
    validate.choice(metric, "metric", METRICS)
    own_labels = as_labels(labels, num_instances)
    groups, max_score = groups_of(apart.ids, own_labels), checked_max_score(max_score)
    hard_negatives = HardNegatives.check(num_hard_negatives, recipe, given_graph, num_instances, preset)
    progress = validate.progress(progress)
    equal_labels = labels_of(apart) if own_labels is None else torch.from_numpy(own_labels)
    search = ApproximateSearch.check(
        neighbors, recipe, parts, first, second, metric=metric, labels=equal_labels, max_score=max_score,
        max_memory=max_memory, num_threads=request.num_threads,
    )  # fmt: skip

    start = time.perf_counter()
    digests = [
        None if tower is None else digest_of_matrix(tower, name, stage_of(progress, f"check of {name}"), metric=metric)
        for tower, name in ((first, "queries"), (second, "documents"))
    ]
    margins = Margins.check(margin, relative_margin, first, second, metric, request.num_threads)
    demands = Demands(apart, groups, margins, max_score)
    checked = time.perf_counter()
    options_of_graphs = GraphOptions(
        first,
        second,
        metric,
        None if equal_labels is None else to_device_async(equal_labels, first.device),
        max_memory,
        hard_negatives,
        search,
        progress,
    )
    parts = parts_with_graphs(parts, recipe, demands, request, options_of_graphs, given_graph)
    united = united_graph(parts, num_instances)
    built = time.perf_counter()
    planned = plan_epochs(parts, recipe, demands, request, num_epochs, united, sources, progress)
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
        "max_score": demands.max_score,
        "num_hard_negatives": None if hard_negatives is None else hard_negatives.table.shape[1],
        "has_given_graph": given_graph is not None,
        "neighbors": neighbors,
        "neighbor_search": None if search is None else search.description(),
        "num_moved": planned.num_moved,
        "num_positives_met": planned.num_met,
        "seed": request.seed,
        "version": version("batchsampler_ext"),
        "queries": digests[0],
        "documents": digests[1],
    }
    plan = Plan(
        planned.epochs,
        num_instances,
        batch_size,
        info,
        tail_sizes=planned.tail_sizes if len(planned.tail_sizes) > 1 else None,
        sources=planned.sources,
        negatives=None if planned.negatives.is_empty else planned.negatives,
        hard_negatives=None if hard_negatives is None else hard_negatives.table,
    )
    plan.graph = united
    plan.seconds = {"checks": checked - start, "graph": built - checked, "epochs": time.perf_counter() - built}
    return plan
