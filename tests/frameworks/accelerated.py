"""Accelerate: with ``prepare_loader``, and with its own ``prepare``, which shares out whole batches."""

from __future__ import annotations

import json
from typing import Any

from torch.utils.data import DataLoader

from tests.frameworks.matrix import Run
from tests.python.small_training import NUM_EPOCHS, worker_options


def train_accelerate(run: Run, num_workers: int = 0, **config: Any) -> None:
    """config: of ``DataLoaderConfiguration``. It does not change anything."""
    from accelerate import Accelerator, DataLoaderConfiguration

    from batchsampler_ext.integrations.accelerate import prepare_loader

    training = run.training
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**config))
    model, training.optimizer = accelerator.prepare(training.encoder, training.optimizer)
    loader = DataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))
    loader = prepare_loader(accelerator, loader)
    training.fill()
    if run.load is not None:
        accelerator.load_state(run.load)
    for _ in range(training.sampler.epoch, NUM_EPOCHS):
        for indices, (x,) in loader:
            training.step(indices, x, model)
            if run.is_place:
                accelerator.save_state(run.save)


def train_prepared(run: Run) -> None:
    """Registers bank and sampler. A plan has no bank that tells what is trained, so batches are skipped."""
    from accelerate import Accelerator, skip_first_batches

    training, accelerator = run.training, Accelerator(cpu=True)
    loader = DataLoader(training.dataset, batch_sampler=training.sampler)
    model, training.optimizer, prepared = accelerator.prepare(training.encoder, training.optimizer, loader)
    loader = prepared
    training.fill()
    if training.bank is not None:
        accelerator.register_for_checkpointing(training.bank, training.sampler)
    first_epoch = num_skipped = 0
    if run.load is not None:
        accelerator.load_state(run.load)
        first_epoch, num_skipped = json.loads((run.load / "position.json").read_text())
    for epoch in range(first_epoch, NUM_EPOCHS):
        loader.set_epoch(epoch)
        rest = loader if training.bank is not None else skip_first_batches(loader, num_skipped)
        for number, (indices, (x,)) in enumerate(rest, start=num_skipped + 1):
            training.step(indices, x, model)
            if run.is_place:
                accelerator.save_state(run.save)
                (run.save / "position.json").write_text(json.dumps([epoch, number]))
        num_skipped = 0
