"""Runs a function on several ranks: spawned processes of one gloo group."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

TIMEOUT = 10  # seconds that a rank waits for the others


def run_rank(
    rank: int, function: Callable[[int, int], Any], num_ranks: int, folder: str, queue: Any, all_end: bool
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )  # fmt: skip
    try:
        queue.put((rank, function(rank, num_ranks)))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
    if all_end:
        dist.destroy_process_group()


def on_ranks(
    function: Callable[[int, int], Any], folder: Path, num_ranks: int = 2, num_results: int | None = None
) -> list[Any]:
    """Returns ``function(rank, num_ranks)`` of each rank, in order; a traceback where it raised.

    num_results: number of ranks that are not killed, if some are. The function must be at the top of a module.
    """
    queue = torch.multiprocessing.get_context("spawn").Queue()
    arguments = (function, num_ranks, str(folder), queue, num_results is None)
    context = torch.multiprocessing.start_processes(
        run_rank, arguments, nprocs=num_ranks, join=False, start_method="spawn"
    )
    try:
        results = [queue.get(timeout=90) for _ in range(num_ranks if num_results is None else num_results)]
    finally:
        for process in context.processes:
            process.join(20)
            process.kill()
    return [result for _, result in sorted(results, key=lambda item: item[0])]
