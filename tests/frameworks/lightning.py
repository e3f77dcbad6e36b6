"""Lightning's Trainer and Fabric. Both make the process group themselves."""

from __future__ import annotations

import os
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from batchsampler_ext.integrations.lightning import SamplingCallback
from tests.frameworks.matrix import MatrixTraining, Run
from tests.python.small_training import NUM_EPOCHS, worker_options


def num_ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


class Module(lightning.LightningModule):
    def __init__(self, training: MatrixTraining) -> None:
        super().__init__()
        self.training_, self.encoder = training, training.encoder

    def setup(self, stage: str) -> None:
        self.training_.fill()

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        indices, (x,) = batch
        return self.training_.loss(indices, x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.training_.optimizer


class ModuleWithLoader(Module):
    """Makes the sampler in the hook."""

    def __init__(self, training: MatrixTraining, num_workers: int = 0) -> None:
        super().__init__(training)
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader:
        self.training_.sampler = self.training_.make_sampler()
        return loader_of(self.training_, self.num_workers)


def loader_of(training: MatrixTraining, num_workers: int = 0) -> DataLoader:
    return DataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))


def train_lightning(run: Run, in_hook: bool, use_distributed_sampler: bool, num_workers: int = 0) -> None:
    ranks = num_ranks()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=NUM_EPOCHS,
        use_distributed_sampler=use_distributed_sampler, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(run.save, "{step}", save_top_k=-1, every_n_train_steps=1), SamplingCallback()],
    )  # fmt: skip
    path = run.load and run.load / f"step={run.training.num_before}.ckpt"
    if in_hook:
        trainer.fit(ModuleWithLoader(run.training, num_workers), ckpt_path=path)
    else:
        trainer.fit(Module(run.training), loader_of(run.training, num_workers), ckpt_path=path)


def train_fabric(run: Run, use_distributed_sampler: bool) -> None:
    training, ranks = run.training, num_ranks()
    fabric = lightning.Fabric(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto")
    fabric.launch()
    encoder, optimizer = fabric.setup(training.encoder, training.optimizer)
    loader = fabric.setup_dataloaders(loader_of(training), use_distributed_sampler=use_distributed_sampler)
    training.fill()
    parts = {"encoder": encoder, "optimizer": optimizer, **training.sampling}
    if run.load is not None:
        fabric.load(run.load / "all.ckpt", parts)
    for _ in range(training.sampler.epoch, NUM_EPOCHS):
        for indices, (x,) in loader:
            optimizer.zero_grad()
            fabric.backward(training.loss(indices, x, encoder))
            optimizer.step()
            if run.is_place:
                fabric.save(run.save / "all.ckpt", parts)
