"""The processes of one training run under torchrun: their ranks, and gathering between them."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from typing import Any

import torch
import torch.distributed as dist


def start(args: argparse.Namespace, *, distributed: bool = True) -> None:
    """Sets threads and seeds. Under torchrun, also joins the process group and sets the device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    elif hasattr(os, "getloadavg") and os.getloadavg()[0] > torch.get_num_threads() > 1:
        print(
            f"other programs keep this machine busy (load {os.getloadavg()[0]:.1f}), and the {torch.get_num_threads()} "
            "threads of torch would wait for each other: --threads 1 is probably faster",
            file=sys.stderr,
        )
    if args.resume and args.checkpoint is None:
        raise SystemExit("--resume: expected --checkpoint as well, got none")
    for path in (args.out, args.log, args.checkpoint):
        if path is not None and not path.absolute().parent.is_dir():  # fail now, not after an epoch
            raise SystemExit(f"expected a folder {path.absolute().parent} to write {path.name} to")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not distributed:
            raise SystemExit("this program trains in one process")
        if args.device.startswith("cuda"):
            args.device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(args.device)
        if not dist.is_initialized():
            # Processes wait at a barrier while rank 0 evaluates, which may take longer than the default of 10 minutes.
            backend = "nccl" if args.device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, timeout=datetime.timedelta(hours=2))
        if args.batch_size % dist.get_world_size():
            raise SystemExit(f"--batch-size: expected a multiple of {dist.get_world_size()} processes")
    torch.manual_seed(args.seed)


def end() -> None:
    """Ends a process of a group after its work, and skips the cleanup of the interpreter.

    DistributedDataParallel keeps the threads of gloo alive after ``destroy_process_group``. During that cleanup, such a
    thread may abort the process, rarely: "terminate called without an active exception".
    """
    if num_processes() > 1:
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


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
        # All processes compute the same loss of all rows, and DDP averages their gradients. The factor makes it a sum.
        return grad.chunk(num_processes())[rank()] * num_processes()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Returns the rows of all processes in rank order. Gradients flow back to the rows of this process.

    A loss of the gathered rows is the loss of the whole batch. After DDP's mean, so are the gradients.
    """
    return rows if num_processes() == 1 else _GatherRows.apply(rows)
