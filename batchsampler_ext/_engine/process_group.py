"""What every exchange between ranks needs: whether there is a process group, its device, and gathering a few numbers.

Importing this module does not need a torch with distributed support.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from .validate import shown


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def require_member(group: dist.ProcessGroup, name: str) -> None:
    """Raises ``ValueError`` unless this process can exchange tensors with the group."""
    if not is_distributed():
        raise ValueError(f"{name}: expected torch.distributed to be initialized (init_process_group), but it is not")
    if group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{name}: expected a group that this process belongs to, got another one (NON_GROUP_MEMBER)")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"{name}: expected a process group, got {shown(group)} of type {type(group).__name__}")


def device_of(group: dist.ProcessGroup | None) -> torch.device:
    """Returns the device of tensors for the group's backend: NCCL does not accept CPU tensors."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather_integers(own: Sequence[int], group: dist.ProcessGroup | None) -> list[list[int]]:
    """Returns the 64-bit integers of all ranks. All ranks call it, with equally many."""
    values = torch.tensor(own, dtype=torch.int64, device=device_of(group))
    parts = [torch.zeros_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group=group)
    return torch.stack(parts).tolist()


def send_integers(own: Sequence[int], group: dist.ProcessGroup | None) -> None:
    """Takes part in the other ranks' :func:`gather_integers` without waiting for them."""
    values = torch.tensor(own, dtype=torch.int64, device=device_of(group))
    parts = [torch.zeros_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group=group, async_op=True)
