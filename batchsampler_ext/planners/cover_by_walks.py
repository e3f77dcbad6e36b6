"""Cover by walks, the authors' epoch: walks from undrawn roots until less than a batch of instances is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .._engine.cuda import to_device_async, to_host
from .._graph_view import GraphView
from ..graph import ProximityGraph
from ..walk import run_row_walks
from ._walking import COUNTS, WalkingPlanner, root_order
from .base import Batches, PlanRequest


@dataclass(frozen=True)
class CoverByWalksPlanner(WalkingPlanner):
    """Walks from instances that are not drawn yet. The instances left at the end are the ragged batch.

    Instances repeat, and the length of the epoch varies.

    Args:
        order, restart_prob: see :class:`WalkingPlanner`.

    Source: Yang et al., KDD 2023.
    """

    name: ClassVar[str] = "cover_by_walks"
    covers_once: ClassVar[bool] = False
    length_varies: ClassVar[bool] = True

    def plan(self, graph: ProximityGraph, request: PlanRequest) -> Batches:
        """Walks in rounds of 64 on the CPU, 1024 on a device, and waits for the device once per round.

        A walk is discarded if an earlier walk has drawn its root. The host decides this after each round.
        """
        view = GraphView(graph)
        num_rows, batch_size = view.num_rows, request.batch_size
        arguments = self.walk_arguments(view, request)
        walks_at_once = 64 if graph.device.type == "cpu" else 1024
        order = to_host(root_order(view, request))
        drawn = _no_rows(num_rows) if request.drawn is None else request.drawn.clone()
        goal = num_rows // batch_size * batch_size
        num_drawn, position = int(drawn.sum()), 0
        parts: list[torch.Tensor] = []  # rows of the batches so far
        totals = torch.zeros(len(COUNTS), dtype=torch.int64, device="cpu")
        limit = request.num_batches if request.num_batches is not None else num_rows + 1
        while num_drawn < goal and limit > 0:
            # Walks from the next undrawn roots run in parallel. A walk is discarded if an earlier one draws its root.
            places = _undrawn_places(drawn, order, position, min(limit, walks_at_once))
            rows, counts = _walk_to_host(view, order[places], places, batch_size, arguments)
            kept = []
            for i, place in enumerate(places.tolist()):
                position = place + 1
                if bool(drawn[order[place]]):
                    continue
                num_drawn += int((~drawn[rows[i]]).sum())
                drawn[rows[i]] = True
                kept.append(i)
                limit -= 1
                if num_drawn >= goal or limit == 0:
                    break
            parts.append(rows[kept])
            totals += counts[:, kept].sum(1)
        nodes = torch.cat(parts) if parts else order[:0].view(0, batch_size)
        has_tail = not request.drop_last and num_drawn >= goal and limit > 0
        tail = order[~drawn[order]] if has_tail else order[:0]
        return _batches(view, nodes, tail, totals)


def _batches(view: GraphView, nodes: torch.Tensor, tail: torch.Tensor, totals: torch.Tensor) -> Batches:
    """Returns batches of instance ids. nodes, tail: rows on the host."""
    graph = view.graph
    everything = torch.cat([nodes.reshape(-1), tail])
    is_member = _no_rows(view.num_rows)
    is_member[everything] = True
    graph.check()
    ids = view.ids(to_device_async(everything.to(torch.int32), graph.device))
    stats = {"num_instances": int(is_member.sum()), **dict(zip(COUNTS, totals.tolist(), strict=True))}
    return Batches(ids[: nodes.numel()].view(nodes.shape), ids[nodes.numel() :], stats)


def _no_rows(num_rows: int) -> torch.Tensor:
    return torch.zeros(num_rows, dtype=torch.bool, device="cpu")


def _walk_to_host(
    view: GraphView, roots: torch.Tensor, walk_ids: torch.Tensor, batch_size: int, arguments: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows int64 [R, B] and counts int64 [4, R] of walks from R roots, all on the host."""
    device = view.graph.device
    walks = run_row_walks(
        view, to_device_async(roots, device), to_device_async(walk_ids, device), batch_size, **arguments
    )
    everything = to_host(torch.cat([walks.nodes.long().reshape(-1), *walks[1:]]))
    num_instances = walks.nodes.numel()
    return everything[:num_instances].view(walks.nodes.shape), everything[num_instances:].view(len(COUNTS), -1)


def _undrawn_places(drawn: torch.Tensor, order: torch.Tensor, position: int, count: int) -> torch.Tensor:
    """Returns the next `count` places in the order, from `position` on, whose rows are not drawn; fewer at the end."""
    length = 4 * count
    while True:
        places = torch.nonzero(~drawn[order[position : position + length]])[:count, 0] + position
        if len(places) == count or position + length >= len(order):
            return places
        length *= 2
