"""Runs a function on two ranks, as torchrun does: spawned processes without a process group."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

NUM_RANKS = 2


def run_rank(rank: int, function: Callable[[Path], Any], port: int, folder: str, queue: Any) -> None:
    """Runs a function as torchrun does."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS), "LOCAL_WORLD_SIZE": str(NUM_RANKS),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        queue.put((rank, function(Path(folder))))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
    if dist.is_initialized():
        dist.destroy_process_group()


def on_ranks(function: Callable[[Path], Any], folder: Path, timeout: float = 90) -> list[Any]:
    """Returns ``function(folder)`` of each rank, in order; a traceback where it raised.

    The function makes the process group, and can be pickled. timeout: seconds to wait for a result.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = torch.multiprocessing.get_context("spawn").Queue()
    context = torch.multiprocessing.start_processes(
        run_rank, (function, port, str(folder), queue), nprocs=NUM_RANKS, join=False, start_method="spawn"
    )
    try:
        results = [queue.get(timeout=timeout) for _ in range(NUM_RANKS)]
    finally:
        for process in context.processes:
            process.join(20)
            process.kill()
    return [result for _, result in sorted(results, key=lambda item: item[0])]
