"""The processes of one training, under torchrun: their places, and what they tell each other."""

from __future__ import annotations

import argparse
import atexit
import datetime
import os
from typing import Any

import torch
import torch.distributed as dist


def start(args: argparse.Namespace, *, distributed: bool = True) -> None:
    """Threads, seeds and, under torchrun, this process' place among the others and its device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.resume and args.checkpoint is None:
        raise SystemExit("--resume: needs --checkpoint")
    for path in (args.out, args.log, args.checkpoint):
        if path is not None and not path.absolute().parent.is_dir():  # better now than after an epoch
            raise SystemExit(f"expected a folder {path.absolute().parent} to write {path.name} to")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not distributed:
            raise SystemExit("this program trains in one process")
        if args.device.startswith("cuda"):
            args.device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(args.device)
        if not dist.is_initialized():
            # The others wait at a barrier while the first one evaluates, which may take more than the usual 10 minutes.
            backend = "nccl" if args.device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, timeout=datetime.timedelta(hours=2))
            atexit.register(dist.destroy_process_group)
        if args.batch_size % dist.get_world_size():
            raise SystemExit(f"--batch-size: expected a multiple of {dist.get_world_size()} processes")
    torch.manual_seed(args.seed)


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(num_processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        # All processes compute the same loss of all rows, and DDP takes the mean of their gradients, not the sum.
        return grad.chunk(num_processes())[rank()] * num_processes()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, in rank order; gradients flow back to this process' own.

    The loss of what is gathered is that of the whole batch, and so are, after DDP's mean, the gradients.
    """
    return rows if num_processes() == 1 else _GatherRows.apply(rows)
