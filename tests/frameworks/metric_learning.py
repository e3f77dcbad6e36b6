"""Losses, miners and trainers of pytorch-metric-learning."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from pytorch_metric_learning import losses, miners, trainers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch.utils.data import DataLoader, TensorDataset

from batchsampler_ext.integrations.metric_learning import track_embeddings
from tests.frameworks.matrix import Run
from tests.frameworks.plain import encoder_of, load_parts, save_parts
from tests.python.small_training import NUM_EPOCHS


class Memory(losses.CrossBatchMemory):
    """Its own state lacks the position in the queue, so a resumed run would have another loss."""

    def get_extra_state(self) -> dict[str, Any]:
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queue_idx, self.has_been_filled = state["queue_idx"], state["has_been_filled"]


def train_losses(run: Run) -> None:
    training, encoder = run.training, encoder_of(run)
    memory = Memory(losses.NTXentLoss(0.2), 8, memory_size=64, miner=miners.MultiSimilarityMiner())
    loss: Any = DistributedLossWrapper(memory) if dist.is_initialized() else memory
    loader = DataLoader(training.dataset, batch_sampler=training.sampler)
    training.fill()
    parts = {"encoder": training.encoder, "loss": memory, **training.sampling}
    load_parts(run, parts)
    for _ in range(training.sampler.epoch, NUM_EPOCHS):
        for indices, (x,) in loader:
            noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(training.num_steps))
            embeddings = encoder(torch.cat([x, x + noise]))
            training.optimizer.zero_grad()
            loss(embeddings, indices.repeat(2)).backward()  # labels are ids, because the memory has other batches, too
            training.optimizer.step()
            training.update(indices, embeddings[: len(x)])
            training.trained.append(indices.tolist())
            if run.is_place:
                save_parts(run, parts)


def train_with_trainer(run: Run) -> None:
    warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar")
    training, encoder = run.training, encoder_of(run)
    parts = {"encoder": training.encoder, **training.sampling}

    def labels_of(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, ids = batch
        training.trained.append(ids.tolist())
        return x, ids % 4

    def save(trainer: Any) -> None:
        if run.is_place:
            save_parts(run, parts)

    trainer = trainers.MetricLossOnly(
        models={"trunk": torch.nn.Identity(), "embedder": encoder},
        optimizers={"embedder_optimizer": training.optimizer},
        batch_size=training.sampler.batch_size,
        loss_funcs={"metric_loss": losses.NTXentLoss(0.2)},
        mining_funcs={"tuple_miner": miners.MultiSimilarityMiner()},
        dataset=TensorDataset(training.data, torch.arange(len(training.data))),
        sampler=training.sampler,
        data_and_label_getter=labels_of,
        dataloader_num_workers=0,
        end_of_iteration_hook=save,
    )
    training.fill()
    if training.bank is not None:
        track_embeddings(trainer, training.bank)
    load_parts(run, parts)
    num_batches = len(training.sampler)
    first, num_trained = divmod(training.num_before, num_batches)
    if num_trained:  # the trainer does not know that it begins in the middle of an epoch
        trainer.iterations_per_epoch = num_batches - num_trained
        trainer.train(1, 1)
        trainer.iterations_per_epoch, first = None, first + 1
    trainer.train(first + 1, NUM_EPOCHS)
