"""Which part of each global batch a rank draws."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data.distributed import DistributedSampler

from .._engine import validate
from .._engine.process_group import is_distributed
from .._engine.warn import warn


class Ranks(NamedTuple):
    rank: int
    num_replicas: int


def checked_ranks(rank: Any, num_replicas: Any) -> Ranks | None:
    """Returns what the user gave, or None to ask the process group when batches are drawn."""
    if num_replicas is not None:
        num_replicas = validate.integer(num_replicas, "num_replicas", 1)
    if rank is None and num_replicas in (None, 1):
        return None if num_replicas is None else Ranks(0, 1)
    if rank is None or num_replicas is None:
        given = f"{validate.shown(rank)} and {validate.shown(num_replicas)}"
        raise ValueError(f"rank, num_replicas: expected both or neither, got {given}")
    return Ranks(validate.integer(rank, "rank", 0, num_replicas - 1), num_replicas)


def ranks_of(sampler: Any) -> Ranks | None:
    """Returns what a torch DistributedSampler was given. None for any other sampler."""
    if not isinstance(sampler, DistributedSampler):
        return None
    if type(sampler) is not DistributedSampler:
        raise TypeError(
            f"sampler: expected the instances of all ranks, got {type(sampler).__name__}, a kind of DistributedSampler "
            "that may draw anything. Pass what it wraps, and rank= and num_replicas="
        )
    return Ranks(sampler.rank, sampler.num_replicas)


def current_ranks(group: dist.ProcessGroup | None) -> Ranks:
    """Returns the ranks of a process group (None: the default one), or a single one if there is no group yet."""
    if is_distributed():
        return Ranks(dist.get_rank(group), dist.get_world_size(group))
    return Ranks(0, 1)


def is_group_awaited() -> bool:
    """Whether a launcher has started several processes that have not joined a group yet."""
    return not is_distributed() and int(os.environ.get("WORLD_SIZE") or "1") > 1


def warn_without_group(name: str) -> None:
    """name: of the sampler."""
    if is_group_awaited():
        warn(
            f"{name}: WORLD_SIZE is {os.environ['WORLD_SIZE']}, but there is no process group, so every "
            "process draws all batches. Call torch.distributed.init_process_group before the first batch, or pass "
            "rank= and num_replicas= (num_replicas=1 if this is what you want).",
        )


def rank_slice(batch: torch.Tensor, spare_of: Callable[[torch.Tensor], torch.Tensor], ranks: Ranks) -> torch.Tensor:
    """Returns the instances of a global batch that one rank draws, as many on every rank.

    Args:
        batch: ids of the global batch. Rank r takes the r-th of ``num_replicas`` equal parts.
        spare_of: returns ids to pad a ragged batch with, by at most num_replicas - 1 that are not in it. If there are
            too few, ids of the batch are repeated.
    """
    size = -(-len(batch) // ranks.num_replicas)
    num_missing = size * ranks.num_replicas - len(batch)
    if num_missing:
        spare = spare_of(batch).to(batch.dtype)
        padding = torch.cat([spare[~torch.isin(spare, batch)], batch.repeat(num_missing)])[:num_missing]
        batch = torch.cat([batch, padding])
    return batch[ranks.rank * size : (ranks.rank + 1) * size]
