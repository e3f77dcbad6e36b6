"""States of bank and sampler on roads of two processes: each rank trains on exactly the same batches after resuming."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from tests.python.small_training import BATCH_SIZE, FIRST, LAST, NUM_EPOCHS, NUM_INSTANCES, SECOND, Training, loop
from tests.python.torchrun_ranks import NUM_RANKS, on_ranks


def resumed(train, folder: Path) -> dict[int, list]:
    """Returns the batches from each place on, of a run that is never interrupted and of one that resumes there."""
    places = (FIRST, LAST, SECOND)
    whole = train(None, FIRST, folder / "0")
    result = {0: [whole, whole]}
    for number, place in enumerate(places):
        following = (*places[number + 1 :], 0)[0]
        result[place] = [whole[place:], train(folder / str(number), following, folder / str(number + 1))]
    return result


def check_ranks(results: list) -> None:
    for result in results:
        assert isinstance(result, dict), result
    for rank, result in enumerate(results):
        for place, (expected, batches) in result.items():
            assert batches == expected, f"rank {rank} resumed after {place} batches"
    for epoch in range(NUM_EPOCHS):
        drawn = [i for result in results for b in result[0][0][epoch * LAST : (epoch + 1) * LAST] for i in b]
        assert sorted(drawn) == list(range(NUM_INSTANCES))


def halves(**options) -> Training:
    """Returns a training whose global batches are as large as those of one process."""
    training = Training(batch_size=BATCH_SIZE // NUM_RANKS, **options)
    training.fill()
    return training


# --- torch.distributed.checkpoint ------------------------------------------------------------------------------------
def with_distributed_checkpoint(folder: Path) -> dict:
    dist.init_process_group("gloo")

    def train(load: Path | None, place: int, save: Path) -> list:
        training = halves()
        parts = {name: part for name, part in training.parts.items() if name != "optimizer"}  # it has no momentum
        model = DistributedDataParallel(training.encoder)
        if load is not None:
            dcp.load(parts, checkpoint_id=load)
        loader = DataLoader(training.dataset, batch_sampler=training.sampler)
        loop(training, loader, place, lambda: dcp.save(parts, checkpoint_id=save), training.sampler.epoch, model)
        return training.trained

    return resumed(train, folder)


def test_distributed_checkpoint(tmp_path):
    check_ranks(on_ranks(with_distributed_checkpoint, tmp_path))


# --- Accelerate ------------------------------------------------------------------------------------------------------
def with_accelerate(folder: Path) -> dict:
    """The sampler shares the batches out, so its loader is not prepared."""
    from accelerate import Accelerator

    def train(load: Path | None, place: int, save: Path) -> list:
        training, accelerator = halves(), Accelerator(cpu=True)
        loader = DataLoader(training.dataset, batch_sampler=training.sampler)
        model, training.optimizer = accelerator.prepare(training.encoder, training.optimizer)
        accelerator.register_for_checkpointing(training.bank, training.sampler)
        if load is not None:
            accelerator.load_state(load)
        loop(training, loader, place, lambda: accelerator.save_state(save), training.sampler.epoch, model)
        return training.trained

    return resumed(train, folder)


def test_accelerate_with_a_loader_that_is_not_prepared(tmp_path):
    pytest.importorskip("accelerate")
    check_ranks(on_ranks(with_accelerate, tmp_path))


def with_prepared_loader(folder: Path) -> list:
    """Returns two refusals, and the batches of a run and of those that resume. The two ranks share 12 batches of 16."""
    from accelerate import Accelerator, DataLoaderConfiguration

    def refusal(training: Training, is_stateful: bool) -> str:
        config = DataLoaderConfiguration(use_stateful_dataloader=is_stateful)
        loader = DataLoader(training.dataset, batch_sampler=training.sampler)
        try:
            next(iter(Accelerator(cpu=True, dataloader_config=config).prepare(loader)))
        except RuntimeError as error:
            return str(error)
        return ""

    refusals = [refusal(halves(), False), refusal(Training(num_replicas=1), True)]

    def train(load: Path | None, place: int, save: Path) -> list:
        training, accelerator = Training(num_replicas=1, drop_last=True), Accelerator(cpu=True)
        training.fill()
        loader = DataLoader(training.dataset, batch_sampler=training.sampler)
        model, training.optimizer, loader = accelerator.prepare(training.encoder, training.optimizer, loader)
        accelerator.register_for_checkpointing(training.bank, training.sampler)
        if load is not None:
            accelerator.load_state(load)
        loader.set_epoch(training.sampler.epoch)
        loop(training, loader, place, lambda: accelerator.save_state(save), training.sampler.epoch, model)
        return training.trained

    whole = train(None, 2, folder / "0")
    return [refusals, whole, *(train(folder / str(i), (6, 8, 0)[i], folder / str(i + 1)) for i in range(3))]


def test_accelerate_shares_out_batches_of_a_sampler_with_one_replica(tmp_path):
    """Each rank trains on every second batch. If the sampler shares the batches out as well, this is an error.

    So is a StatefulDataLoader, which does not see the state of the sampler behind Accelerate's wrapper.
    """
    pytest.importorskip("accelerate")
    pytest.importorskip("torchdata")
    results = on_ranks(with_prepared_loader, tmp_path)
    for result in results:
        assert isinstance(result, list), result
        refusals, whole, *rests = result
        assert "expected a loader that Accelerate has not prepared" in refusals[0]
        assert "expected use_stateful_dataloader=False where Accelerate shares batches among 2" in refusals[1]
        assert rests == [whole[2:], whole[6:], whole[8:]]
    for epoch in range(NUM_EPOCHS):
        drawn = [i for result in results for batch in result[1][6 * epoch : 6 * epoch + 6] for i in batch]
        assert len(drawn) == len(set(drawn)) == 12 * BATCH_SIZE


# --- Lightning -------------------------------------------------------------------------------------------------------
def with_lightning(folder: Path) -> dict:
    """Lightning does not replace the sampler by one that it makes itself."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from tests.python.test_state_roads_of_trainers import lightning_module

    warnings.simplefilter("ignore")
    names: dict[Path, str] = {}

    def train(load: Path | None, place: int, save: Path) -> list:
        training = Training(batch_size=BATCH_SIZE // NUM_RANKS)
        trainer = lightning.Trainer(
            accelerator="cpu", devices=NUM_RANKS, strategy="ddp", max_epochs=NUM_EPOCHS,
            logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[ModelCheckpoint(save, "{step}", save_top_k=-1, every_n_train_steps=1)],
        )  # fmt: skip
        names[save] = f"step={place}.ckpt"
        trainer.fit(lightning_module(lightning, training, 0), ckpt_path=load and load / names[load])
        return training.trained

    return resumed(train, folder)


def test_lightning(tmp_path):
    pytest.importorskip("lightning")
    check_ranks(on_ranks(with_lightning, tmp_path))
