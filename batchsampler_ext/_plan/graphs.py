"""The graphs of a plan: one for the instances of each source, or their clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .._engine.arrays import Matrix, as_ids
from .._engine.cuda import to_device_async
from .._engine.validate import Progress
from .._negatives.negatives import Demands, neighbors_of_instances, split_positives, without_positives
from ..graph import ProximityGraph
from ..graph_builders import CheckedLabels, knn_graph, proximity_graph
from .approximate import ApproximateSearch
from .clusters import balanced_clusters
from .epochs import EpochRequest
from .hard_negatives import HardNegatives
from .recipes import Recipe
from .sources import Part, parts_of_graph, source_seed
from .stages import stage_of


class GraphOptions(NamedTuple):
    """What graphs are built from. labels, max_memory: as in :func:`proximity_graph`.

    hard_negatives: collects those of all instances, from edges before ``mutual``. None: they are not wanted.
    search: finds windows of ranks. None: they are searched exactly.
    """

    queries: Matrix
    documents: Matrix | None
    metric: str
    labels: Any
    max_memory: int | None
    hard_negatives: HardNegatives | None
    search: ApproximateSearch | None
    progress: Progress | None


def parts_with_graphs(
    parts: Sequence[Part],
    recipe: Recipe,
    demands: Demands,
    request: EpochRequest,
    options: GraphOptions,
    given: ProximityGraph | None,
) -> list[Part]:
    """Returns the parts with the graphs or clusters of the recipe. No edge is against the demands.

    given: a graph over all instances to use instead.
    """
    if recipe.batches_per_cluster is not None:
        progress = _counted(stage_of(options.progress, "clusters"), options)
        return [_with_clusters(part, recipe, request, options, progress) for part in parts]
    result: list[Part] = []
    if given is not None:
        row_of = None if request.options is None else _rows_in_parts(parts, options)
        row_of_on_device = None if row_of is None else to_device_async(row_of, given.device)
        for part in _parts_of_given(parts, without_positives(given, demands), request):
            graph = part.graph
            if graph is not None:
                if row_of is not None:
                    graph._row_table = row_of_on_device
                if options.hard_negatives is not None:
                    options.hard_negatives.add(graph, is_given=True)
                graph = graph.mutual(request.num_threads) if recipe.mutual else graph
                graph = _for_planning(graph, recipe, row_of)
            result.append(part._replace(graph=graph))
        return result
    common = {
        "features": options.queries.owner,
        "documents": None if options.documents is None else options.documents.owner,
        "metric": options.metric,
        "labels": _checked_once(options, len(parts)),
        "max_score": demands.max_score,
        "return_scores": any(x is not None for x in (demands.margins, demands.max_score, options.hard_negatives)),
        "num_threads": request.num_threads,
        "max_memory": options.max_memory,
        "progress": _counted(stage_of(options.progress, "graph", is_public=True), options),
    }
    apart, device = demands.apart, options.queries.device
    row_of = _rows_in_parts(parts, options)
    row_of_on_device = to_device_async(row_of, device)
    demands = demands._replace(groups=to_device_async(demands.groups, device))
    for part, own in zip(parts, split_positives(apart, [part.rows for part in parts]), strict=True):
        graph = _graph_of(part, recipe, request, options, common)
        if graph is not None:
            graph = without_positives(graph, demands._replace(apart=own))
            graph._row_table = None if graph.ids is None else row_of_on_device
            if options.hard_negatives is not None:
                options.hard_negatives.add(graph)
            graph = graph.mutual(request.num_threads) if recipe.mutual else graph
            graph = _for_planning(graph, recipe, row_of)
        result.append(part._replace(graph=graph))
    return result


def _checked_once(options: GraphOptions, num_parts: int) -> Any:
    """Returns the labels for graphs of several parts."""
    if options.labels is None or num_parts == 1 or options.queries.device.type != "cpu":
        return options.labels
    return CheckedLabels(as_ids(options.labels, "labels", -1, 2**63))


def _rows_in_parts(parts: Sequence[Part], options: GraphOptions) -> torch.Tensor:
    """Returns the place of each instance in its part, int32 [N] on the CPU.

    No edge leaves a part, so the graphs of all parts share this table.
    """
    result = torch.empty(options.queries.num_rows, dtype=torch.int32, device="cpu")
    for part in parts:
        result[part.rows] = torch.arange(len(part.rows), dtype=torch.int32, device="cpu")
    return result


def _for_planning(graph: ProximityGraph, recipe: Recipe, row_of: torch.Tensor | None) -> ProximityGraph:
    """Returns the graph where batches of all epochs are made from it: on the CPU, unless they are parts by walks.

    row_of: :func:`_rows_in_parts`. None: the graph is over all instances.
    """
    if recipe.follows_walks or graph.device.type == "cpu":
        return graph
    result = graph.to("cpu")
    result._row_table = None if result.ids is None else row_of
    return result


def _parts_of_given(parts: Sequence[Part], given: ProximityGraph, request: EpochRequest) -> list[Part]:
    if request.options is None:
        return [parts[0]._replace(graph=given)]
    sources = torch.empty(given.num_instances, dtype=torch.int64, device="cpu")
    for part in parts:
        sources[part.rows] = part.source
    return parts_of_graph(given, parts, sources)


def united_graph(parts: Sequence[Part], num_instances: int) -> ProximityGraph | None:
    """Returns the edges of all sources as a graph over all instances, on the CPU."""
    graphs = [part.graph for part in parts if part.graph is not None]
    if len(graphs) == 1 and graphs[0].ids is None:
        return graphs[0].to("cpu")
    neighbors = neighbors_of_instances(graphs, num_instances)
    return None if neighbors is None else ProximityGraph(neighbors)


def _counted(progress: Progress | None, options: GraphOptions) -> _Progress | None:
    return None if progress is None else _Progress(progress, options.queries.num_rows)


class _Progress:
    """Counts the rows of all sources."""

    def __init__(self, progress: Progress, num_rows: int) -> None:
        self._progress, self._num_rows, self._done = progress, num_rows, 0

    def __call__(self, done: int, num_rows: int) -> None:
        self._progress(self._done + done, self._num_rows)
        if done == num_rows:
            self._done += done


def _with_clusters(
    part: Part, recipe: Recipe, request: EpochRequest, options: GraphOptions, progress: Progress | None
) -> Part:
    assert recipe.batches_per_cluster is not None
    clusters = balanced_clusters(
        [tower for tower in (options.queries, options.documents) if tower is not None],
        part.rows,
        recipe.batches_per_cluster,
        request.batch_size,
        metric=options.metric,
        seed=request.seed if request.options is None else source_seed(request.seed, part.source),
        num_threads=request.num_threads,
        progress=progress,
    )
    return part._replace(clusters=clusters)


def _graph_of(
    part: Part, recipe: Recipe, request: EpochRequest, options: GraphOptions, common: dict[str, Any]
) -> ProximityGraph | None:
    """Returns a graph over the rows of the part. None: its batches are uniform."""
    window, num_others, seed = recipe.window_of(part.source), len(part.rows) - 1, request.seed
    if request.options is not None:
        rows = to_device_async(part.rows, options.queries.device)
        common, seed = {**common, "rows": rows}, source_seed(seed, part.source)
    if window is not None and options.search is not None and options.search.takes(part.rows):
        return options.search.graph(
            part.rows,
            window,
            source=None if request.options is None else part.source,
            seed=seed,
            return_scores=common["return_scores"],
            index_progress=stage_of(options.progress, f"index by {options.search.library}"),
            progress=common["progress"],
        )
    if window is not None:
        first, last = window
        return knn_graph(num_neighbors=last - first, range_min=first, **common)
    if recipe.num_candidates is not None and num_others > 0:
        num_candidates = min(recipe.num_candidates, num_others)
        num_neighbors = min(recipe.num_neighbors or 100, num_candidates)
        return proximity_graph(num_neighbors=num_neighbors, num_candidates=num_candidates, seed=seed, **common)
    if common["progress"] is not None and (recipe.windows is not None or recipe.num_candidates is not None):
        common["progress"](len(part.rows), len(part.rows))  # other sources have graphs
    return None
