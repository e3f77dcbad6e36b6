"""Hard batches in the trainers of pytorch-metric-learning: the sampler is their ``sampler``, and one line for the bank.

    trainer = trainers.MetricLossOnly(..., sampler=ProximityBatchSampler(dataset, 64, bank=bank))
    track_embeddings(trainer, bank)  # not needed for a plan

A loop of one's own needs nothing from here: it calls ``bank.update`` beside the loss. Install it with
``pip install 'pytorch-metric-learning>=2.9'``.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.trainers import BaseTrainer
from torch.utils.data import default_collate

from ..bank import FeatureBank
from ..dataset import IndexedDataset
from ..planned_sampler import PlannedBatchSampler
from ..sampler import ProximityBatchSampler

__all__ = ["track_embeddings"]


def track_embeddings(trainer: BaseTrainer, bank: FeatureBank) -> None:
    """Makes a trainer store the embeddings of its batches in the bank, from the next ``trainer.train`` on.

    The bank gets what ``models["embedder"]`` returns in training. Testers store nothing. Give a bank with two towers to
    a ``TwoStreamMetricLoss``, which embeds two inputs of each instance; a bank with one tower gets the first of them.
    Your dataset, ``collate_fn`` and ``data_and_label_getter`` stay as they are, and the loss gets what it got.

    Args:
        trainer: has ``sampler=ProximityBatchSampler(...)`` with this bank.
        bank: as wide as the embeddings.

    Raises:
        TypeError, ValueError: the trainer has another sampler, bank, batch size or number of samples, is tracked
            already, or drops samples of a batch (``subset_batch_miner``). In training: the errors of
            :meth:`FeatureBank.update`.

    Example: ``track_embeddings(trainer, bank)``
    """
    if not isinstance(trainer, BaseTrainer):
        raise TypeError(
            f"trainer: expected a trainer of pytorch-metric-learning, got {type(trainer).__name__}. In a loop of your "
            "own, write bank.update(indices, embeddings)"
        )
    if not isinstance(bank, FeatureBank):
        raise TypeError(f"bank: expected a FeatureBank, got {type(bank).__name__}")
    sampler = trainer.sampler
    if not isinstance(sampler, ProximityBatchSampler):
        is_planned = isinstance(sampler, PlannedBatchSampler)
        hint = ". The batches of a plan are fixed, so leave this line out" if is_planned else ""
        raise TypeError(
            "trainer: expected sampler=ProximityBatchSampler(dataset, batch_size, bank=bank), got "
            f"{type(sampler).__name__}{hint}"
        )
    if sampler.bank is not bank:
        raise ValueError("bank: expected the bank of the trainer's sampler, got another one")
    if trainer.batch_size != sampler.batch_size:
        raise ValueError(
            f"trainer: expected batch_size={sampler.batch_size} as the sampler has, got {trainer.batch_size}"
        )
    if "subset_batch_miner" in trainer.mining_funcs:
        raise ValueError(
            "trainer: expected no subset_batch_miner, which takes samples out of the batch, got one. Use a tuple_miner"
        )
    if isinstance(trainer.dataset, IndexedDataset):
        raise ValueError("trainer: expected the dataset itself, got an IndexedDataset. Call track_embeddings once")
    if len(trainer.dataset) != bank.num_instances:
        raise ValueError(
            f"trainer: expected a dataset of {bank.num_instances} samples as the bank has instances, got "
            f"{len(trainer.dataset)}"
        )
    tracker = _Tracker(bank, trainer.data_and_label_getter)
    trainer.dataset = IndexedDataset(trainer.dataset)
    trainer.collate_fn = _IndexedCollate(trainer.collate_fn or default_collate)
    trainer.data_and_label_getter = tracker.begin
    embedder = trainer.models["embedder"]
    for hook in list(embedder._forward_hooks.values()):
        earlier = getattr(hook, "__self__", None)
        if isinstance(earlier, _Tracker):  # of another trainer
            earlier.hook.remove()
    tracker.hook = embedder.register_forward_hook(tracker.meet)


class _IndexedCollate:
    """Collates pairs (index, sample) to (indices, batch). It travels to worker processes."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[torch.Tensor, Any]:
        indices, samples = zip(*items, strict=True)
        return torch.tensor(indices), self._collate(list(samples))


class _Tracker:
    """Notes the indices of a batch when the trainer takes it, and stores the embeddings when it has all of them."""

    def __init__(self, bank: FeatureBank, getter: Any) -> None:
        self._bank, self._getter = bank, getter
        self._indices: torch.Tensor | None = None
        self._met: list[torch.Tensor] = []
        self.hook: Any = None  # of the embedder

    def begin(self, batch: tuple[torch.Tensor, Any]) -> Any:
        self._indices, rest = batch
        self._met = []
        return self._getter(rest)

    def meet(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        if self._indices is None or not torch.is_grad_enabled():
            return
        self._met.append(output.detach())
        if len(self._met) == 1 + (self._bank.documents is not None):
            indices, self._indices = self._indices, None
            self._bank.update(indices, *self._met)
