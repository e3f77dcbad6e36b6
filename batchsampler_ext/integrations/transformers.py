"""Hard batches in the ``Trainer`` of transformers: one line before ``trainer.train()``, one or two in ``compute_loss``.

    set_batch_sampler(trainer, sampler)

The index of each row is added around the trainer's collator. A hook of the model takes it off again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from .._sampler.base import EpochSampler
from ..dataset import IndexedDataset
from ..planned_sampler import PlannedBatchSampler
from ..sampler import ProximityBatchSampler
from ._hf_trainer import Checkpoints, Place, checkpoints_of, place_of, resumed_checkpoint
from ._loaders import HardSampler, check_dataset, check_ranks_of, load_sampling, loader_options, sampling_state

__all__ = ["set_batch_sampler"]

_KEY = "indices"  # of the batch
_UPDATE = 'indices = inputs.pop("indices", None) and, if it is not None, bank.update(indices, embeddings)'


def set_batch_sampler(trainer: Trainer, sampler: HardSampler) -> None:
    """Makes a trainer train on the batches of a sampler. Call this before ``trainer.train()``.

    The training loader keeps the trainer's dataset, collator, workers and other options. Evaluation does not change.
    All processes share each batch, so ``accelerator_config`` does not matter. Checkpoints of the trainer have the bank
    and the position, and ``resume_from_checkpoint`` continues exactly, with and without ``ignore_data_skip``.

    Batches have the ids of their rows in ``inputs["indices"]``, int64 [B]. ``model.forward`` does not get them. Take
    them in ``compute_loss``: ``indices = inputs.pop("indices", None)``, which is None in evaluation.

    Args:
        trainer: a ``transformers.Trainer`` or an object of a subclass. Its collator returns a mapping.
        sampler: :class:`ProximityBatchSampler`, whose bank ``compute_loss`` updates, or :class:`PlannedBatchSampler`.
            Its batch size is ``per_device_train_batch_size``; that of a plan is this times the number of processes.

    Raises:
        TypeError, ValueError: another trainer or sampler. When training begins: a dataset, batch size, number of
            processes or training argument that does not fit, or a checkpoint that cannot be continued exactly.
            ``RuntimeError`` after the first step: the bank has no embeddings, because ``compute_loss`` does not update
            it.

    Example:
        >>> set_batch_sampler(trainer, ProximityBatchSampler(dataset, 32, bank=bank))  # doctest: +SKIP
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"trainer: expected a transformers.Trainer, got {type(trainer).__name__}")
    if any(parent.__module__.startswith("sentence_transformers.") for parent in type(trainer).__mro__):
        raise TypeError(
            f"trainer: expected a transformers.Trainer, got a {type(trainer).__name__} of sentence-transformers. Write "
            "args.batch_sampler = hard_batches(bank), of batchsampler_ext.integrations.sentence_transformers"
        )
    if not isinstance(sampler, EpochSampler):
        given = type(sampler).__name__
        raise TypeError(f"sampler: expected a ProximityBatchSampler or a PlannedBatchSampler, got {given}")
    checkpoints = checkpoints_of(trainer, _Checkpoints)
    checkpoints.parts = {"": _Part(sampler, checkpoints)}
    before = trainer.__dict__.get("get_train_dataloader")
    if isinstance(before, _GetTrainLoader):  # of an earlier call
        before.close()
    trainer.get_train_dataloader = _GetTrainLoader(trainer, sampler)  # type: ignore[method-assign]


class _GetTrainLoader:
    """Takes the place of ``trainer.get_train_dataloader``."""

    def __init__(self, trainer: Trainer, sampler: HardSampler) -> None:
        self._trainer, self._sampler = trainer, sampler
        self._original: Callable[[], DataLoader[Any]] = trainer.get_train_dataloader

    def close(self) -> None:
        self._trainer.get_train_dataloader = self._original  # type: ignore[method-assign]

    def __call__(self) -> DataLoader[Any]:
        trainer, sampler = self._trainer, self._sampler
        if isinstance(trainer.train_dataset, IterableDataset):
            check_dataset(trainer.train_dataset, sampler, "set_batch_sampler")
        _check_arguments(trainer, sampler)
        checkpoints = checkpoints_of(trainer, _Checkpoints)
        checkpoints.path = resumed_checkpoint(trainer)
        loader = self._original()
        check_dataset(loader.dataset, sampler, "set_batch_sampler")
        checkpoints.hook_into(trainer.model)
        options = loader_options(loader)
        options["collate_fn"] = _IndexedCollator(options["collate_fn"])
        return DataLoader(IndexedDataset(loader.dataset), batch_sampler=sampler, **options)


def _check_arguments(trainer: Trainer, sampler: HardSampler) -> None:
    args, name = trainer.args, type(sampler).__name__
    check_ranks_of(trainer.accelerator, sampler, "set_batch_sampler")
    if args.auto_find_batch_size:
        raise ValueError(f"auto_find_batch_size: expected False, because the {name} has its batch size, got True")
    if sampler.batch_size != args.train_batch_size:
        raise ValueError(
            f"set_batch_sampler: expected a {name} with {args.train_batch_size} instances per process, as "
            f"per_device_train_batch_size says, got one with {sampler.batch_size}. Write "
            f"per_device_train_batch_size={sampler.batch_size // max(1, args.n_gpu)}"
        )
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy != "random":
        raise ValueError(
            f"train_sampling_strategy: expected 'random', because the {name} composes batches, got {strategy!r}"
        )
    if args.dataloader_drop_last and sampler._ragged_sizes() != ():
        raise ValueError(
            f"dataloader_drop_last: expected False, because the {name} has batches that are not full, got True. Pass "
            "drop_last=True to the sampler, or to compose"
        )
    if isinstance(sampler, PlannedBatchSampler):
        is_even = len({sampler.plan._num_batches(epoch) for epoch in range(sampler.plan.num_epochs)}) == 1
    else:
        is_even = not sampler.planner.length_varies
    if not is_even:
        raise ValueError(
            f"set_batch_sampler: expected epochs with equal numbers of batches, because the trainer counts them, got a "
            f"{name} whose epochs vary. Use another planner"
        )


class _IndexedCollator:
    """Collates rows with their ids."""

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self._collator = collator

    def __call__(self, rows: list[tuple[int, Any]]) -> MutableMapping[str, Any]:
        batch = self._collator([row for _, row in rows])
        if not isinstance(batch, MutableMapping):
            raise TypeError(f"data_collator: expected one that returns a dict, got {type(batch).__name__}")
        if _KEY in batch:
            raise ValueError(
                f"set_batch_sampler: expected batches without {_KEY!r}, which are the ids of the rows, got it from the "
                "data_collator. Rename the column of train_dataset"
            )
        batch[_KEY] = torch.tensor([index for index, _ in rows])
        return batch


def _without_indices(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Takes the indices off the arguments of ``forward``, so that ``model(**inputs)`` works with them."""
    return tuple(map(_popped, args)), _popped(kwargs)


def _popped(inputs: Any) -> Any:
    if not isinstance(inputs, Mapping) or _KEY not in inputs:
        return inputs
    if type(inputs) is dict:  # torch.compile cannot copy
        return {name: value for name, value in inputs.items() if name != _KEY}
    rest: Any = copy.copy(inputs)
    del rest[_KEY]
    return rest


class _Checkpoints(Checkpoints):
    """Counts the batches that are trained, since a loader with workers draws ahead. Removes the hook of the model.

    Attributes:
        num_trained: number of batches of the epoch that are trained. None: training has not begun.
    """

    function = "set_batch_sampler"

    def __init__(self) -> None:
        super().__init__()
        self._hook: Any = None
        self.num_trained: int | None = None
        self._first = 0  # number of batches of the next epoch that are trained already
        self._is_checked = False

    def hook_into(self, model: Any) -> None:
        """Takes the indices off the inputs of this model until training ends."""
        self._unhook()  # the trainer may have made another model
        self._hook = model.register_forward_pre_hook(_without_indices, with_kwargs=True)

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._unhook()

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        self._first, self.num_trained, self._is_checked = 0, None, False
        if self.path is None:
            super().on_train_begin(args, state, control, train_dataloader=train_dataloader, **kwargs)
            self._sampler.set_epoch(0)
            return
        self._first = place_of(args, state, train_dataloader).num_batches
        num_batches, num_accumulated = len(train_dataloader), args.gradient_accumulation_steps
        if args.ignore_data_skip and self._first and num_batches % num_accumulated:
            raise ValueError(
                f"ignore_data_skip: expected False where gradient_accumulation_steps, {num_accumulated}, does not "
                f"divide the {num_batches} batches of an epoch, got True. The trainer would leave out the last update "
                "of the resumed epoch. Skipping reads no data here"
            )
        super().on_train_begin(args, state, control, train_dataloader=train_dataloader, **kwargs)

    @property
    def _sampler(self) -> HardSampler:
        part: _Part = self.parts[""]
        return part.sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_trained, self._first = self._first, 0

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_trained = (self.num_trained or 0) + 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_trained = (self.num_trained or 0) + 1
        sampler = self._sampler
        if self._is_checked or not isinstance(sampler, ProximityBatchSampler):
            return
        self._is_checked = True
        if not sampler._is_repeatable() and sampler.bank.missing_embedding_share == 1:
            raise RuntimeError(
                "set_batch_sampler: expected a bank that training updates, or that has embeddings, got none after the "
                f"first step. Write {_UPDATE} in compute_loss, or bank.fill_from before training"
            )


class _Part:
    """What a checkpoint has."""

    def __init__(self, sampler: HardSampler, counter: _Checkpoints) -> None:
        self.sampler, self._counter = sampler, counter

    def state(self) -> dict[str, Any]:
        return sampling_state(self.sampler, self.sampler.state_dict(self._counter.num_trained))

    def load(self, state: dict[str, Any], place: Place, path: Path) -> None:
        saved = state["sampler"]
        found = Place(saved["epoch"], saved["num_drawn"])
        if saved["is_finished"]:
            found = Place(saved["epoch"] + 1, 0)
        if found != place:
            raise ValueError(
                f"{path}: expected a state at epoch {place.epoch}, batch {place.num_batches}, where the trainer "
                f"continues, got one at epoch {found.epoch}, batch {found.num_batches}. Train with the "
                "gradient_accumulation_steps and batch size of the checkpoint. An epoch that was stopped early cannot "
                "be continued"
            )
        load_sampling(self.sampler, state)
