"""The batches of one epoch: communities of the graph of each source, unions of them, and their order.

For each source: graph -> communities -> unions. Then the unions of all sources are put in order, and the leftovers are
made into batches. Last, a repair swaps instances that may not meet, among the batches of one source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .._engine.random import Stream, derived_seed, permutation
from .._negatives.tables import gathered, sizes_of
from ..graph import ProximityGraph
from ..planners import PartitionPlanner, PlanRequest
from .communities import communities_of
from .sources import (
    Part,
    SourceOptions,
    chosen_sources,
    counts_of_blocks,
    interleaved,
    mixed,
    source_seed,
)

Repair = Callable[..., torch.Tensor]
"""``repair(members, sizes, part, left_out, num_mixed)`` returns the batches of one source after swaps between them.

members: int32 [L], one batch after the other. sizes: int64, of the batches. part: 0 for batches of several sources,
else 1 + the index of the source. Without sources there is one call with part 0. left_out: int32, instances of the
source in no batch, which may take the place of members. num_mixed: number of batches of several sources.
"""


class EpochRequest(NamedTuple):
    """Which batches to make. All values have been checked."""

    batch_size: int
    community_size: int  # divides batch_size / sources_per_batch
    drop_last: bool
    seed: int
    epoch: int
    num_threads: int
    options: SourceOptions | None = None  # None: there are no sources
    repair: Repair | None = None
    follows_walks: bool = False  # communities are a partition by walks


class PlannedEpoch(NamedTuple):
    """ids: int32 [L], one batch after the other, full ones first. tail_sizes: sizes of the shorter batches."""

    ids: torch.Tensor
    tail_sizes: tuple[int, ...]


class _Ordered(NamedTuple):
    """The instances of a source, int32: communities in the order in which they are united, then the others."""

    communities: torch.Tensor  # [m, c]
    singles: torch.Tensor


def plan_epoch(parts: Sequence[Part], request: EpochRequest) -> PlannedEpoch:
    """Returns the batches of an epoch. Sizes are the same in every epoch."""
    options = request.options or SourceOptions()
    size = request.batch_size
    block = size // options.sources_per_batch
    ordered = [_ordered(part, request, block) for part in parts]
    counts = [own.communities.numel() // block for own in ordered]
    if options.num_batches is not None:
        counts = list(options.num_batches)
    elif options.sources_per_batch > 1:
        counts = list(counts_of_blocks(counts, options.sources_per_batch))
    blocks = [own.communities.reshape(-1)[: n * block].view(n, block) for own, n in zip(ordered, counts, strict=True)]
    full = [torch.cat(blocks)]
    if options.sources_per_batch > 1:
        full = [_united(full[0], counts, options.sources_per_batch, request)]
        counts = [len(full[0])]
    tails: list[torch.Tensor] = []
    if options.leftovers != "drop":
        left = [
            own.communities[n.numel() // own.communities.shape[1] :] for own, n in zip(ordered, blocks, strict=True)
        ]
        if options.leftovers == "mixed":
            ids = _mixed(left, [own.singles for own in ordered], request)
            num_full = len(ids) // size
            full.append(ids[: num_full * size].view(num_full, size))
            counts.append(num_full)
            tails = [] if request.drop_last else [ids[num_full * size :]]
        else:
            tails = [torch.cat([part.reshape(-1), own.singles]) for part, own in zip(left, ordered, strict=True)]
    batches = torch.cat(full)[interleaved(counts, request.seed, request.epoch)]
    tails = [tail for tail in tails if len(tail)]
    return PlannedEpoch(torch.cat([batches.reshape(-1), *tails]), tuple(len(tail) for tail in tails))


def repaired(
    epoch: PlannedEpoch,
    sources: torch.Tensor | None,
    values: Sequence[int],
    parts: Sequence[Part],
    request: EpochRequest,
) -> PlannedEpoch:
    """Returns the epoch after ``request.repair`` of the batches of each source. values: all sources, ascending.

    sources: int64, of each batch, or None. parts: all instances of each source.
    """
    if request.repair is None or len(epoch.ids) == 0:
        return epoch
    sizes = batch_sizes(epoch, request.batch_size)
    is_left_out = torch.ones(sum(len(part.rows) for part in parts), dtype=torch.bool)
    is_left_out[epoch.ids.long()] = False
    if sources is None:
        left_out = is_left_out.nonzero().ravel().to(torch.int32)
        return epoch._replace(ids=request.repair(epoch.ids, sizes, 0, left_out, 0))
    ids = epoch.ids.clone()
    part_of_batch = np.searchsorted(np.array([-1, *values]), sources.numpy())
    order = np.argsort(part_of_batch, kind="stable")  # batches of a source, in their order
    starts = np.cumsum(sizes) - sizes
    found, firsts = np.unique(part_of_batch[order], return_index=True)
    num_mixed = int((part_of_batch == 0).sum())
    for part, batches in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
        counts = sizes[batches]
        places = np.arange(counts.sum()) + np.repeat(starts[batches] - (np.cumsum(counts) - counts), counts)
        chosen = torch.from_numpy(places)
        before = ids[chosen]
        own = is_left_out if part == 0 else is_left_out[parts[part - 1].rows]  # batches of several sources come first
        left_out = own.nonzero().ravel() if part == 0 else parts[part - 1].rows[own]
        ids[chosen] = request.repair(before, counts, part, left_out.to(torch.int32), num_mixed if part else 0)
        if len(left_out):
            is_left_out[before.long()] = True
            is_left_out[ids[chosen].long()] = False
    return epoch._replace(ids=ids)


def batch_sizes(epoch: PlannedEpoch, batch_size: int) -> np.ndarray:
    return sizes_of(len(epoch.ids), batch_size, epoch.tail_sizes)


def sources_of_batches(epoch: PlannedEpoch, sources: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Returns the source of each batch, int64 [num_batches]; -1 if instances are of several."""
    found = sources[epoch.ids.long()]
    sizes = batch_sizes(epoch, batch_size)
    if not len(sizes):
        return torch.empty(0, dtype=torch.int64)
    starts = np.cumsum(sizes) - sizes
    low, high = np.minimum.reduceat(found.numpy(), starts), np.maximum.reduceat(found.numpy(), starts)
    return torch.from_numpy(np.where(low == high, low, -1))


def _ordered(part: Part, request: EpochRequest, block: int) -> _Ordered:
    seed = request.seed if request.options is None else source_seed(request.seed, part.source)
    if part.clusters is not None:
        return _in_clusters(part.rows, part.clusters, block, seed, request.epoch)
    size = request.community_size
    num_communities = len(part.rows) // size
    if part.graph is None or size == 1:
        ids = gathered(part.rows, permutation(len(part.rows), seed, request.epoch))
        return _Ordered(ids[: num_communities * size].view(num_communities, size), ids[num_communities * size :])
    cut = _parts_by_walks if request.follows_walks else communities_of
    communities, tail = cut(part.graph, size, seed=seed, epoch=request.epoch, num_threads=request.num_threads)
    if size < block:
        communities = communities[permutation(num_communities, derived_seed(seed, Stream.UNIONS), request.epoch)]
    return _Ordered(communities, tail)


def _parts_by_walks(
    graph: ProximityGraph, size: int, *, seed: int, epoch: int, num_threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (communities, tail) as :func:`communities_of`, in less time and with fewer edges inside."""
    request = PlanRequest(size, seed=seed, epoch=epoch, num_threads=num_threads)
    partition = PartitionPlanner("hard").plan(graph, request)
    return partition.indices.cpu().to(torch.int32), partition.tail.cpu().to(torch.int32)


def _in_clusters(rows: torch.Tensor, clusters: torch.Tensor, block: int, seed: int, epoch: int) -> _Ordered:
    """Unites random instances of one cluster. Only the last cluster may hold other than a multiple of ``block``."""
    order = permutation(len(rows), seed, epoch)
    order = order[clusters[order].argsort(stable=True)]
    ids = rows[order].to(torch.int32)
    num_blocks = len(rows) // block
    blocks = ids[: num_blocks * block].view(num_blocks, block)
    order = permutation(num_blocks, derived_seed(seed, Stream.UNIONS), epoch)
    return _Ordered(blocks[order], ids[num_blocks * block :])


def _mixed(communities: list[torch.Tensor], singles: list[torch.Tensor], request: EpochRequest) -> torch.Tensor:
    if request.options is None:  # the ragged batch, as it was left
        return torch.cat([communities[0].reshape(-1), singles[0]])
    return mixed(torch.cat(communities), torch.cat(singles), request.seed, request.epoch)


def _united(blocks: torch.Tensor, counts: Sequence[int], per_batch: int, request: EpochRequest) -> torch.Tensor:
    """Returns batches of blocks of different sources. blocks: [sum(counts), block], source by source."""
    chosen = chosen_sources(counts, per_batch, request.seed, request.epoch).reshape(-1)
    places = torch.empty_like(chosen)
    places[chosen.argsort(stable=True)] = torch.arange(len(chosen))  # the k-th use of a source is its k-th block
    return blocks[places].view(-1, per_batch * blocks.shape[1])
