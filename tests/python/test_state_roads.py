"""States of bank and sampler on every road a checkpoint takes: the resumed run trains on exactly the same batches.

These roads are those of one process with a training loop of its own. Fresh objects load what was saved.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.utils.data import DataLoader

from tests.python.small_training import (
    FIRST,
    LAST,
    NUM_BATCHES,
    NUM_EPOCHS,
    SECOND,
    Training,
    check_road,
    loop,
    with_stateful_loader,
    worker_options,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on one core
# StatefulDataLoader 0.11 calls a function that torch 2.13 has deprecated.
set_vital_is_deprecated = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


# --- torch.save ------------------------------------------------------------------------------------------------------
def train_plain(load: Path | None, place: int, save: Path, num_workers: int = 0, without: str = "") -> list:
    training = Training()
    training.fill()
    if load is not None:
        state = torch.load(load, weights_only=True)
        for name, part in training.parts.items():
            if name != without:
                part.load_state_dict(state[name])
    loader = DataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))

    def save_all() -> None:
        torch.save({name: part.state_dict() for name, part in training.parts.items()}, save)

    loop(training, loader, place, save_all, training.sampler.epoch)
    return training.trained


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torch_save(num_workers, tmp_path):
    def train(*arguments) -> list:
        return train_plain(*arguments, num_workers=num_workers)

    check_road(train, tmp_path)


def test_the_comparison_notices_what_is_not_loaded(tmp_path):
    """The batches depend on every part, so the other tests fail if a road loses one."""
    whole = train_plain(None, FIRST, tmp_path / "state")
    for name in Training().parts:
        if name != "optimizer":  # it has no momentum
            assert train_plain(tmp_path / "state", 0, tmp_path / "none", without=name) != whole[FIRST:]


# --- StatefulDataLoader ----------------------------------------------------------------------------------------------
@set_vital_is_deprecated
@pytest.mark.parametrize("num_workers", [0, 2])
def test_stateful_data_loader(num_workers, tmp_path):
    """The loader has the sampler's state, and loads it when the first epoch begins."""
    check_road(with_stateful_loader(Training, num_workers), tmp_path)


# --- Accelerate ------------------------------------------------------------------------------------------------------
@pytest.fixture
def accelerate():
    module = pytest.importorskip("accelerate")
    yield module
    module.state.AcceleratorState._reset_state(reset_partial_state=True)


def accelerated(accelerate, num_workers: int, is_stateful: bool) -> tuple:
    """Returns a training, an accelerator that saves it, and the prepared loader."""
    training = Training()
    training.fill()
    config = accelerate.DataLoaderConfiguration(use_stateful_dataloader=is_stateful)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    loader = DataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))
    _, _, loader = accelerator.prepare(training.encoder, training.optimizer, loader)
    accelerator.register_for_checkpointing(training.bank, training.sampler)
    return training, accelerator, loader


@set_vital_is_deprecated
@pytest.mark.parametrize("is_stateful", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate(accelerate, num_workers, is_stateful, tmp_path):
    """A prepared loader draws one batch ahead, and more with workers."""

    def train(load: Path | None, place: int, save: Path) -> list:
        training, accelerator, loader = accelerated(accelerate, num_workers, is_stateful)
        if load is not None:
            accelerator.load_state(load)
        loader.set_epoch(training.sampler.epoch)
        loop(training, loader, place, lambda: accelerator.save_state(save), training.sampler.epoch)
        return training.trained

    check_road(train, tmp_path)


@set_vital_is_deprecated
@pytest.mark.parametrize("is_stateful", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate_counts_epochs_from_zero_after_loading(accelerate, num_workers, is_stateful, tmp_path):
    """As without ``loader.set_epoch``. A warning says which epochs the sampler takes the numbers for."""

    def train(load: Path | None, place: int, save: Path) -> list:
        training, accelerator, loader = accelerated(accelerate, num_workers, is_stateful)
        if load is None:
            loop(training, loader, place, lambda: accelerator.save_state(save), 0)
            return training.trained
        accelerator.load_state(load)
        epoch = training.sampler.epoch
        with pytest.warns(UserWarning, match=f"continues with epoch {epoch}: .* is taken for {epoch}"):
            loop(training, loader, place, lambda: accelerator.save_state(save), epoch)
        return training.trained

    check_road(train, tmp_path, (LAST, SECOND))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate_skips_batches(accelerate, num_workers, tmp_path):
    """With a loaded state, ``skip_first_batches`` continues with the batch that comes next."""

    def train(load: Path | None, place: int, save: Path) -> list:
        training, accelerator, loader = accelerated(accelerate, num_workers, False)
        num_skipped = 0
        if load is not None:
            accelerator.load_state(load)
            num_skipped = training.num_steps % NUM_BATCHES
        for epoch in range(training.sampler.epoch, NUM_EPOCHS):
            loader.set_epoch(epoch)
            for indices, (x,) in accelerate.skip_first_batches(loader, num_skipped) if num_skipped else loader:
                training.step(indices, x)
                if training.num_steps == place:
                    accelerator.save_state(save)
            num_skipped = 0
        return training.trained

    check_road(train, tmp_path, (FIRST, LAST, SECOND))


# --- torch.distributed.checkpoint ------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
def test_distributed_checkpoint(tmp_path):
    """It loads into the values of the fresh states, in place."""

    def train(load: Path | None, place: int, save: Path) -> list:
        training = Training()
        training.fill()
        parts = {name: part for name, part in training.parts.items() if name != "optimizer"}  # it has no momentum
        if load is not None:
            dcp.load(parts, checkpoint_id=load)
        loader = DataLoader(training.dataset, batch_sampler=training.sampler)
        loop(training, loader, place, lambda: dcp.save(parts, checkpoint_id=save), training.sampler.epoch)
        return training.trained

    check_road(train, tmp_path)
