"""Plans all epochs: their batches, after exchanges of leftovers and repairs, and the pairs that are no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .._negatives.keep_apart import Repairs
from .._negatives.negatives import Demands, Negatives, neighbors_of_instances
from ..graph import ProximityGraph
from ..graph_builders import Progress
from .epochs import EpochRequest, PlannedEpoch, batch_sizes, plan_epoch, repaired, sources_of_batches
from .leftovers import exchanged
from .recipes import Recipe
from .sources import Part
from .stages import stage_of


class PlannedEpochs(NamedTuple):
    """epochs: int32 [L] each, one batch after the other, full ones first. The other lists have one value per epoch."""

    epochs: list[torch.Tensor]
    tail_sizes: tuple[int, ...]  # of the shorter batches of each epoch
    sources: torch.Tensor | None  # int64 [E, number of batches], -1 for several
    negatives: Negatives
    num_moved: list[int]  # instances that repairs moved to another batch
    num_met: list[int]  # pairs of ``positives`` in one batch


def plan_epochs(
    parts: Sequence[Part],
    recipe: Recipe,
    demands: Demands,
    request: EpochRequest,
    num_epochs: int,
    graph: ProximityGraph | None,
    sources: torch.Tensor | None,
    progress: Progress | None,
) -> PlannedEpochs:
    """graph: the edges of all parts, which repairs keep inside batches. sources: int64 [N] or None."""
    apart, values = demands.apart, [part.source for part in parts]
    num_instances = len(apart.ids)
    neighbors = None if graph is None or apart.is_empty else neighbors_of_instances([graph], num_instances)
    repairs = Repairs(apart, neighbors, request.seed, None if sources is None else values)
    epochs, of_batches, pairs = [], [], [apart.positives]
    progress = stage_of(progress, "epochs", is_public=True)
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
            planned, before, num_moved = _with_exchanges(planned, sources, demands, request)
            repairs.num_moved[-1] += num_moved
        planned = repaired(planned, before, values, parts, request)
        epochs.append(planned.ids)
        if sources is not None:  # batches of several sources may be of one now
            of_batches.append(sources_of_batches(planned, sources, request.batch_size))
        if demands.margins is not None:
            sizes = batch_sizes(planned, request.batch_size).tolist()
            pairs += [demands.margins.pairs(batch) for batch in planned.ids.split(sizes)]
        if progress is not None:
            progress(epoch + 1, num_epochs)
    return PlannedEpochs(
        epochs,
        planned.tail_sizes,
        torch.stack(of_batches) if of_batches else None,
        Negatives.of(num_instances, demands.groups, pairs),
        repairs.num_moved,
        repairs.num_met,
    )


def _with_exchanges(
    planned: PlannedEpoch, sources: torch.Tensor, demands: Demands, request: EpochRequest
) -> tuple[PlannedEpoch, torch.Tensor, int]:
    """Returns the epoch after :func:`exchanged`, the sources of batches before it, and how many instances moved."""
    before = sources_of_batches(planned, sources, request.batch_size)
    sizes = batch_sizes(planned, request.batch_size)
    ids, num_moved = exchanged(
        planned.ids, sizes, before, sources, demands.apart, seed=request.seed, epoch=request.epoch
    )
    return planned._replace(ids=ids), before, num_moved
