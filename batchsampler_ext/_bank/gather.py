"""Gathers the rows of all ranks, for a bank that stores the updates of every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist

FAILED = -1  # a rank sends this instead of its number of rows


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather_rows(tensors: list[torch.Tensor], group: dist.ProcessGroup | None) -> list[torch.Tensor]:
    """Returns each tensor with the rows of all ranks in rank order, on its device.

    The number of rows may differ between ranks.

    Raises:
        RuntimeError: another rank has announced a failure.
    """
    device = _device(group)
    sizes = _gather_sizes(len(tensors[0]), group)
    if FAILED in sizes:
        raise RuntimeError(f"update: failed on rank {sizes.index(FAILED)} of the group; no rank stores anything")
    return [_gather_padded(tensor.to(device), sizes, group).to(tensor.device) for tensor in tensors]


def announce_failure(group: dist.ProcessGroup | None) -> None:
    """Replaces gather_rows on a rank whose arguments are bad, so that the other ranks do not wait for it."""
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
    """Returns the device of tensors for the group's backend: NCCL does not accept CPU tensors."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
