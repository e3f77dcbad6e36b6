"""What integrations need of the Hugging Face ``Trainer``: which loader it makes, and its checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

from transformers import Trainer, TrainerCallback

from .._engine.checked_file import load_checked, save_checked

_FILE = "batchsampler_ext.pt"  # in the trainer's checkpoints


class LoaderCall(NamedTuple):
    """The trainer that makes a loader at the moment."""

    kind: str  # "train", "eval" or "test"
    trainer: Trainer
    checkpoint: str | None  # that training resumes from

    @property
    def num_processes(self) -> int:
        return int(self.trainer.accelerator.num_processes)

    @property
    def is_split(self) -> bool:
        """Whether a batch is that of all processes."""
        return bool(self.trainer.accelerator.split_batches)


def loader_call() -> LoaderCall | None:
    """Returns the call in progress, or None outside a trainer. The arguments of a sampler do not tell its purpose."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_name
        if name in ("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader"):
            owner = frame.f_locals.get("self")
            if isinstance(owner, Trainer):
                return LoaderCall(name.split("_")[1], owner, resumed_checkpoint(owner))
        frame = frame.f_back
    return None


def resumed_checkpoint(trainer: Trainer) -> str | None:
    """Returns the folder that the training in progress resumes from, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        is_training = frame.f_code.co_name in ("_inner_training_loop", "train")
        if is_training and frame.f_locals.get("self") is trainer:
            checkpoint = frame.f_locals.get("resume_from_checkpoint")
            if checkpoint is not None:
                return checkpoint or None
        frame = frame.f_back
    return None


class Place(NamedTuple):
    """Where the trainer continues."""

    epoch: int
    num_batches: int  # of this epoch that are trained


class Part(Protocol):
    """What a checkpoint has of a data set."""

    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any], place: Place, path: Path) -> None:
        """Raises ``ValueError`` if training cannot continue exactly. path: of the file, for the message."""


class Checkpoints(TrainerCallback):
    """Saves samplers and banks with the trainer's checkpoints, and loads them when it resumes.

    Attributes:
        parts: by data set. "" is the only one.
        path: the folder of the checkpoint that training resumes from, or None.
        function: that the user calls.
    """

    function = "hard_batches"

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        self.path: str | None = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.save_only_model:
            return
        saved = self._states()  # on all ranks, because it may raise the error of an earlier update
        if args.should_save:
            save_checked(Path(args.output_dir, f"checkpoint-{state.global_step}", _FILE), saved)

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        if state.is_hyper_param_search:
            raise ValueError(
                f"{self.function}: expected a training of its own, got a trial of hyperparameter_search. All trials "
                "would share the sampler, and train on the bank of the trial before. Train each with a new trainer, "
                "bank and sampler"
            )
        if self.path is None:
            return
        place = place_of(args, state, train_dataloader)
        self._load(Path(self.path, _FILE), place)
        # The trainer's call does not reach a sampler that is skipped behind Accelerate's shards.
        batches = train_dataloader.batch_sampler
        while batches is not None and not hasattr(batches, "set_epoch"):
            batches = getattr(batches, "batch_sampler", None)
        if batches is not None:
            batches.set_epoch(place.epoch)

    def _load(self, path: Path, place: Place) -> None:
        if not path.exists():
            raise FileNotFoundError(
                f"{self.function}: expected {str(path)!r} to resume from, which training with {self.function} writes. "
                "Train from the model of that checkpoint instead"
            )
        try:
            saved = load_checked(path)
        except ValueError as error:
            raise ValueError(f"{path}: expected the states that {self.function} has saved, got {error}") from error
        found, expected = ({name: sorted(part) for name, part in parts.items()} for parts in (saved, self._states()))
        if found != expected:
            raise ValueError(f"{path}: expected a checkpoint with {expected} by data set, got {found}")
        for name, part in self.parts.items():
            part.load(saved[name], place, path)

    def _states(self) -> dict[str, dict[str, Any]]:
        return {name: part.state() for name, part in self.parts.items()}


def place_of(args: Any, state: Any, loader: Any) -> Place:
    """Returns where a trainer continues. args, state: its arguments and its state. loader: that of training."""
    steps = -(-len(loader) // args.gradient_accumulation_steps)
    return Place(state.global_step // steps, state.global_step % steps * args.gradient_accumulation_steps)


def checkpoints_of(trainer: Trainer, make: type[Checkpoints] = Checkpoints) -> Any:
    """Returns the trainer's callback of this class. Adds one if there is none."""
    found = next((part for part in trainer.callback_handler.callbacks if type(part) is make), None)
    if found is None:
        found = make()
        trainer.add_callback(found)
    return found
