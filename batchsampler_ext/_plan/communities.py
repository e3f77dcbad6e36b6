"""Communities of a graph: groups of exactly ``size`` instances with as many edges inside as possible."""

from __future__ import annotations

import torch

from .._engine.arrays import address
from .._engine.backend import core
from .._engine.random import Stream, derived_seed
from .._engine.requests import CommunitiesRequest
from .._graph_view import GraphView
from ..graph import ProximityGraph


def communities_of(
    graph: ProximityGraph, size: int, *, seed: int, epoch: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (communities, tail): each instance of the graph once.

    Args:
        graph: R rows. Edges count in their direction; those of a mutual graph count twice.
        size: c, number of instances of a community, at least 1.
        seed, epoch: name the random choices.
        num_threads: threads on the CPU.

    Returns:
        int32 [R // c, c] and [R % c] on the CPU. Communities come in random order. The rows of each ascend.

    Device: communities of a graph on a CUDA device are computed on the CPU, from a copy of its neighbors.

    Determinism: a function of the edges, ``size``, ``seed`` and ``epoch``. Threads and device do not change it.
    :mod:`batchsampler_ext.reference.communities` defines it.

    Source: multilevel partitioning as in METIS (Karypis, Kumar: A fast and high quality multilevel scheme for
    partitioning irregular graphs, 1998), with label propagation under size constraints (Meyerhenke, Sanders, Schulz:
    Partitioning complex networks via size-constrained clustering, 2014). Exact sizes are ours.
    """
    view = GraphView(graph.to("cpu"))
    rows = torch.empty(view.num_rows, dtype=torch.int32)
    request = CommunitiesRequest(view.layout, size, derived_seed(seed, Stream.COMMUNITIES, epoch=epoch))
    core.communities(request, num_threads=num_threads, rows=address(rows))
    ids = view.ids(rows)
    num_full = view.num_rows // size
    return ids[: num_full * size].view(num_full, size), ids[num_full * size :]
