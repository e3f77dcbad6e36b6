"""Training loops of one's own: torch's loader and torchdata's, with and without DistributedDataParallel."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from tests.frameworks.matrix import Run
from tests.python.small_training import NUM_EPOCHS, worker_options


def encoder_of(run: Run) -> torch.nn.Module:
    """Returns the encoder of a loop of one's own. On several ranks it makes the process group, if there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return run.training.encoder
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return DistributedDataParallel(run.training.encoder)


def load_parts(run: Run, parts: dict[str, Any]) -> None:
    if run.load is not None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        state = torch.load(run.load / f"state{rank}.pt", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])


def save_parts(run: Run, parts: dict[str, Any], **arguments: Any) -> None:
    rank = dist.get_rank() if dist.is_initialized() else 0
    states = {name: part.state_dict(**(arguments if name == "sampler" else {})) for name, part in parts.items()}
    torch.save(states, run.save / f"state{rank}.pt")


def train_plain(run: Run, num_workers: int = 0) -> None:
    training, encoder = run.training, encoder_of(run)
    loader = DataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))
    training.fill()
    parts = {"encoder": training.encoder, **training.sampling}
    load_parts(run, parts)
    for _ in range(training.sampler.epoch, NUM_EPOCHS):
        for indices, (x,) in loader:
            training.step(indices, x, encoder)
            if run.is_place:
                # Without a bank, the sampler does not know how many of the batches that workers drew are trained.
                is_told = num_workers > 0 and training.bank is None
                arguments = {"num_trained": (training.num_steps - 1) % len(loader) + 1} if is_told else {}
                save_parts(run, parts, **arguments)


def train_stateful(run: Run, num_workers: int = 0) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    training, encoder = run.training, encoder_of(run)
    loader: Any = StatefulDataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))
    training.fill()
    parts = {"encoder": training.encoder, **training.sampling, "loader": loader}
    del parts["sampler"]
    load_parts(run, parts)
    for _ in range(training.num_before // len(loader), NUM_EPOCHS):
        for indices, (x,) in loader:
            training.step(indices, x, encoder)
            if run.is_place:
                save_parts(run, parts)
