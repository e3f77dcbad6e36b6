"""Gathers the updates of all ranks, and finds out when ranks do not do the same."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist

from .._engine.process_group import device_of, gather_integers

FAILED, DONE = -1, -2  # sent instead of a number of rows
NO_PLAN = -1  # sent instead of the step of a plan


class Header(NamedTuple):
    """What every rank says before it sends rows."""

    num_rows: int  # or FAILED: the arguments of this rank are bad; or DONE: fill_from has no batch left
    num_instances: int
    dim: int
    step: int  # updates so far
    plan_step: int  # updates before the latest plan, or NO_PLAN
    checksum: int  # of the bank at that time
    has_gradients: int  # gradients are enabled, as in training


def gather_headers(own: Header, group: dist.ProcessGroup | None) -> list[Header]:
    """Returns the headers of all ranks.

    Raises:
        RuntimeError: on all ranks, if one has bad arguments, a bank of another shape, another number of updates, or
            gradients disabled while others train.
    """
    headers = [Header(*part) for part in gather_integers(own, group)]
    sizes, steps = [header.num_rows for header in headers], [header.step for header in headers]
    shapes = [(header.num_instances, header.dim) for header in headers]
    if len(set(shapes)) > 1:
        raise RuntimeError(f"update: expected banks of one shape on all ranks, got {shapes}; no rank stores anything")
    if FAILED in sizes:
        raise RuntimeError(f"update: failed on rank {sizes.index(FAILED)} of the group; no rank stores anything")
    if len(set(steps)) > 1:
        other = next(rank for rank, step in enumerate(steps) if step != steps[0])
        raise RuntimeError(
            f"update: expected as many updates on every rank, got {steps[0]} on rank 0 and {steps[other]} on rank "
            f"{other}; no rank stores anything. Call update on every rank, and load the bank's state on every rank"
        )
    modes = [header.has_gradients for header in headers]
    if len(set(modes)) > 1:
        training, other = modes.index(1), modes.index(0)
        raise RuntimeError(
            f"update: expected training on every rank, got gradients on rank {training} and none on rank {other}; no "
            "rank stores anything. An evaluation on one rank must not call it"
        )
    return headers


def differing_rank(headers: list[Header]) -> int | None:
    """Returns the first rank whose bank was not that of rank 0 when both planned, or None."""
    plans = [(header.plan_step, header.checksum) for header in headers]
    return next((rank for rank, plan in enumerate(plans) if plan != plans[0]), None)


def first_difference(row_hashes: torch.Tensor, group: dist.ProcessGroup | None) -> tuple[int, int] | None:
    """Returns (row, rank) of the first row in which a rank differs from rank 0, or None. All ranks call it."""
    device = device_of(group)
    expected = row_hashes.to(device, copy=True)
    dist.broadcast(expected, dist.get_global_rank(group, 0) if group is not None else 0, group=group)
    different = torch.nonzero(expected != row_hashes.to(device))
    own = int(different[0]) if len(different) else len(row_hashes)
    row, rank = min((row, rank) for rank, (row,) in enumerate(gather_integers([own], group)))
    return None if row == len(row_hashes) else (row, rank)


def gather_rows(
    tensors: list[torch.Tensor], headers: list[Header], group: dist.ProcessGroup | None
) -> list[torch.Tensor]:
    """Returns each tensor with the rows of all ranks in rank order, on its device."""
    sizes, device = [max(0, header.num_rows) for header in headers], device_of(group)
    return [_gather_padded(tensor.to(device), sizes, group).to(tensor.device) for tensor in tensors]


def _gather_padded(tensor: torch.Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> torch.Tensor:
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
