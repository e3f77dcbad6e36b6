"""Plans all epochs: their batches, after exchanges of leftovers and repairs, and the pairs that are no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .._engine.validate import Progress
from .._engine.warn import warn
from .._negatives.keep_apart import Repairs
from .._negatives.negatives import Demands, Margins, Negatives, PairSet, neighbors_of_instances
from ..graph import ProximityGraph
from .epochs import EpochRequest, PlannedEpoch, batch_sizes, plan_epoch, repaired, sources_of_batches
from .leftovers import exchanged
from .recipes import Recipe
from .sources import Part
from .stages import stage_of

_NUM_WATCHED = 64  # batches
_MOST_WITHIN = 0.5  # share of their pairs that margins may exclude
_FEW_PAIRS = 1 << 20  # so few of an epoch cost nothing


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
    epochs, of_batches, pairs = [], [], PairSet(num_instances)
    pairs.add([apart.positives])
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
            pairs.add(_within_margins(demands.margins, planned.ids.split(sizes), is_first=epoch == 0))
        if progress is not None:
            progress(epoch + 1, num_epochs)
    return PlannedEpochs(
        epochs,
        planned.tail_sizes,
        torch.stack(of_batches) if of_batches else None,
        pairs.negatives(demands.groups),
        repairs.num_moved,
        repairs.num_met,
    )


def _within_margins(margins: Margins, batches: Sequence[torch.Tensor], is_first: bool) -> list[np.ndarray]:
    """Returns int32 [P, 2], the pairs of each batch that margins exclude.

    Warns if they are most pairs of the first batches, early enough to stop the call: the mask takes 4 bytes per pair,
    and the loss has hardly any negatives.
    """
    found, num_met = [], 0
    for number, batch in enumerate(batches, start=1):
        found.append(margins.pairs(batch))
        num_met += len(batch) * (len(batch) - 1)
        if is_first and number == min(_NUM_WATCHED, len(batches)):
            num_within = sum(map(len, found))
            num_expected = num_within / number * len(batches)
            if num_within > _MOST_WITHIN * num_met and num_expected > _FEW_PAIRS:
                warn(
                    f"compose: margin and relative_margin exclude {num_within / num_met:.0%} of the pairs in the first "
                    f"{number} batches, so few negatives are left, and the mask of each epoch has about "
                    f"{num_expected:.2g} pairs. Smaller margins avoid this",
                )
    return found


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
