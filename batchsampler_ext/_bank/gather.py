"""Gathers rows of all ranks, for a bank that stores what every rank has embedded."""

from __future__ import annotations

import torch
import torch.distributed as dist

FAILED = -1  # in place of a number of rows


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather_rows(tensors: list[torch.Tensor], group: dist.ProcessGroup | None) -> list[torch.Tensor]:
    """Each tensor's rows of all ranks in rank order, on its device; ranks may differ in the number of rows.

    Raises:
        RuntimeError: a rank has announced a failure; on all other ranks.
    """
    device = _device(group)
    sizes = _gather_sizes(len(tensors[0]), group)
    if FAILED in sizes:
        raise RuntimeError(f"update: failed on rank {sizes.index(FAILED)} of the group; no rank stores anything")
    return [_gather_padded(tensor.to(device), sizes, group).to(tensor.device) for tensor in tensors]


def announce_failure(group: dist.ProcessGroup | None) -> None:
    """Instead of gather_rows on a rank whose arguments are bad, so that the others do not wait for it."""
    _gather_sizes(FAILED, group)


def _gather_sizes(size: int, group: dist.ProcessGroup | None) -> list[int]:
    own = torch.tensor([size], device=_device(group))
    sizes = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, own, group=group)
    return [int(size) for size in sizes]


def _gather_padded(tensor: torch.Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> torch.Tensor:
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Where the group's backend wants its tensors: NCCL knows no CPU tensors."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
