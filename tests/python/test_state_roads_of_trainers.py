"""States of bank and sampler in checkpoints of Lightning, Fabric and the HF Trainer, which own the training loop."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.python.small_training import (
    BATCH_SIZE,
    NUM_BATCHES,
    NUM_EPOCHS,
    Training,
    check_road,
    lightning_warnings,
    loop,
    worker_options,
)

pytestmark = [
    *lightning_warnings,
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes"),  # on one core
]


# --- Lightning -------------------------------------------------------------------------------------------------------
@pytest.fixture
def lightning():
    return pytest.importorskip("lightning")


def lightning_module(lightning, training: Training, num_workers: int):
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = training.encoder

        def setup(self, stage: str) -> None:
            training.fill()  # on_train_start would be too late: loaders with workers have planned the epoch by then

        def training_step(self, batch, number: int) -> torch.Tensor:
            indices, (x,) = batch
            return training.loss(indices, x)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return training.optimizer

        def train_dataloader(self) -> DataLoader:
            return DataLoader(training.dataset, batch_sampler=training.sampler, **worker_options(num_workers))

        def on_save_checkpoint(self, checkpoint: dict) -> None:
            checkpoint["bank"], checkpoint["sampler"] = training.bank.state_dict(), training.sampler.state_dict()

        def on_load_checkpoint(self, checkpoint: dict) -> None:
            training.bank.load_state_dict(checkpoint["bank"])
            training.sampler.load_state_dict(checkpoint["sampler"])

    return Module()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning(lightning, num_workers, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def train(load: Path | None, place: int, save: Path) -> list:
        training = Training()
        callbacks = [
            ModelCheckpoint(save, "{step}", save_top_k=-1, every_n_train_steps=1),
            ModelCheckpoint(save, "end-{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True),
        ]
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=NUM_EPOCHS, logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=callbacks,
        )  # fmt: skip
        names[save] = f"step={place}.ckpt" if place > 0 else "end-epoch=0.ckpt"
        trainer.fit(lightning_module(lightning, training, num_workers), ckpt_path=load and load / names[load])
        return training.trained

    names: dict[Path, str] = {}
    check_road(train, tmp_path)


def test_fabric(lightning, tmp_path):
    """Fabric counts epochs from 0 after loading. The sampler counts them from the loaded one."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)

    def train(load: Path | None, place: int, save: Path) -> list:
        training = Training()
        training.fill()
        loader = DataLoader(training.dataset, batch_sampler=training.sampler)
        loader = fabric.setup_dataloaders(loader)
        if load is not None:
            fabric.load(load, training.parts)
        epoch = training.sampler.epoch
        loop(training, loader, place, lambda: fabric.save(save, training.parts), epoch)
        return training.trained

    check_road(train, tmp_path)


def test_fabric_loaders_made_in_each_epoch(lightning):
    """Each counts its iterations from 0. Epochs go on, with and without ``set_epoch``, and after copying."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    for is_set in (False, True):
        training = Training()
        training.fill()
        for epoch in range(3):
            loader = fabric.setup_dataloaders(DataLoader(training.dataset, batch_sampler=training.sampler))
            if is_set:
                training.sampler.set_epoch(epoch)
            for indices, (x,) in loader:
                training.step(indices, x)
            assert training.sampler.epoch == epoch
        assert pickle.loads(pickle.dumps(training.sampler)).epoch == 2


# --- HF Trainer ------------------------------------------------------------------------------------------------------
@pytest.fixture
def transformers():
    pytest.importorskip("accelerate")
    module = pytest.importorskip("transformers")
    verbosity = module.logging.get_verbosity()
    module.logging.set_verbosity_error()
    yield module
    module.logging.set_verbosity(verbosity)


def hf_trainer(transformers, training: Training, place: int, num_workers: int, **arguments):
    from batchsampler_ext.integrations.transformers import set_batch_sampler

    rows = [{"x": x} for x in training.data]

    class SaveAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            control.should_save = state.global_step == place

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> torch.Tensor:
            return training.loss(inputs["indices"], inputs["x"], model)

        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(rows, **worker_options(num_workers))  # its options are kept

    settings = transformers.TrainingArguments(
        num_train_epochs=NUM_EPOCHS, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        logging_strategy="no", per_device_train_batch_size=BATCH_SIZE, **arguments,
    )  # fmt: skip
    trainer = Trainer(training.encoder, settings, train_dataset=rows, callbacks=[SaveAt()])
    set_batch_sampler(trainer, training.sampler)
    return trainer


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("num_accumulated", "drop_last", "arguments"),
    [
        pytest.param(1, False, {}, id="skips"),
        pytest.param(2, False, {}, id="skips, accumulates"),
        pytest.param(1, False, {"ignore_data_skip": True}, id="does not skip"),
        pytest.param(2, True, {"ignore_data_skip": True}, id="does not skip, accumulates"),
    ],
)  # fmt: skip
def test_hf_trainer(transformers, num_accumulated, drop_last, arguments, num_workers, tmp_path):
    """Places are counted in batches: 2 updates, an epoch, an epoch and 3 updates."""
    num_batches = NUM_BATCHES - drop_last
    steps: dict[Path, int] = {}

    def train(load: Path | None, place: int, save: Path) -> list:
        training = Training(drop_last=drop_last)
        training.fill()
        steps[save] = -(-place // num_accumulated)  # an update at the end of an epoch may have fewer batches
        checkpoint = load and load / f"checkpoint-{steps[load]}"
        trainer = hf_trainer(
            transformers, training, steps[save], num_workers, output_dir=str(save),
            gradient_accumulation_steps=num_accumulated, **arguments,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        return training.trained

    places = (2 * num_accumulated, num_batches, num_batches + 3 * num_accumulated)
    check_road(train, tmp_path, places, num_batches=num_batches)
