"""Lightning and Fabric keep the user's sampler. The callback saves, resumes and logs what is in the loaders."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from batchsampler_ext import FeatureBank, IndexedDataset, PlannedBatchSampler, ProximityBatchSampler, compose

pytest.importorskip("lightning")

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader

from batchsampler_ext.integrations.lightning import SamplingCallback
from tests.frameworks.lightning import Module, ModuleWithLoader, loader_of
from tests.frameworks.matrix import MatrixTraining
from tests.python.small_training import NUM_BATCHES, lightning_warnings

pytestmark = [
    *lightning_warnings,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed"),
]
KINDS = ("bank", "plan")


@pytest.fixture(autouse=True, scope="module")
def quick():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def trainer_of(*callbacks: Any, **options: Any) -> Any:
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        options["enable_checkpointing"] = False
    defaults = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    return lightning.Trainer(accelerator="cpu", devices=1, callbacks=list(callbacks), **{**defaults, **options})


class Validating(Module):
    def validation_step(self, batch: Any, number: int) -> None:
        pass


def saving(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, **(options or {"every_n_train_steps": 1}))


# --- the sampler is not rebuilt --------------------------------------------------------------------------------------
def sampler_of(kind: str, *, drop_last: bool = False, size: int = 20) -> Any:
    data = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    if kind == "bank":
        return ProximityBatchSampler(size, 8, drop_last, bank=FeatureBank(size, 4))
    return PlannedBatchSampler(compose(data, batch_size=8, preset="uniform", drop_last=drop_last))


def test_samplers_for_other_ranks_are_refused():
    dataset = TensorDataset(torch.zeros(20, 1))
    loader = DataLoader(dataset, batch_sampler=sampler_of("bank"))
    data = pytest.importorskip("lightning.pytorch.utilities.data")
    with pytest.raises(ValueError, match="shares its batches among the 2 processes of the trainer, of which this is"):
        data._update_dataloader(loader, DistributedSampler(dataset, num_replicas=2, rank=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("package", ["lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"])
@pytest.mark.parametrize("in_hook", [True, False])
def test_existing_sampler_is_kept(kind, package, in_hook):
    """With the functions of each package that rebuild it, for a loader made in a hook, and before."""
    data = pytest.importorskip(f"{package}.utilities.data")
    common = pytest.importorskip(f"{package.replace('pytorch_lightning', 'lightning_fabric')}.utilities.data")
    if not hasattr(common, "_replace_dunder_methods"):
        common = pytest.importorskip("lightning.fabric.utilities.data")
    dataset = TensorDataset(torch.zeros(20, 1))
    if in_hook:
        with common._replace_dunder_methods(DataLoader, "dataset"), common._replace_dunder_methods(BatchSampler):
            sampler = sampler_of(kind)
            loader = DataLoader(dataset, batch_sampler=sampler)
    else:
        sampler = sampler_of(kind)
        loader = DataLoader(dataset, batch_sampler=sampler)
    replaced = data._update_dataloader(loader, DistributedSampler(dataset, num_replicas=1, rank=0))
    assert replaced is not loader
    assert replaced.batch_sampler is sampler
    assert sorted(i for batch in replaced.batch_sampler for i in batch) == list(range(20))


def test_subclasses_are_kept_and_may_have_protocols():
    class Named(Protocol):
        name: str

    class Own(ProximityBatchSampler, Named):
        def __init__(self) -> None:
            super().__init__(20, 8, bank=FeatureBank(20, 4))
            self.name = "own"

    data = pytest.importorskip("lightning.pytorch.utilities.data")
    dataset, sampler = TensorDataset(torch.zeros(20, 1)), Own()
    replaced = data._update_dataloader(DataLoader(dataset, batch_sampler=sampler), SequentialSampler(dataset))
    assert replaced.batch_sampler is sampler
    assert len(pickle.loads(pickle.dumps(sampler_of("bank")))) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_needs_all_instances(kind, tmp_path):
    class Predicting(lightning.LightningModule):
        def predict_step(self, batch: Any, number: int) -> Any:
            return batch[0]

    def predict(sampler: Any, size: int) -> list[int]:
        loader = DataLoader(IndexedDataset(TensorDataset(torch.zeros(size, 1))), batch_sampler=sampler)
        return torch.cat(trainer_of().predict(Predicting(), loader)).tolist()

    assert sorted(predict(sampler_of(kind), 20)) == list(range(20))
    assert sorted(predict(sampler_of(kind, drop_last=True, size=16), 16)) == list(range(16))
    with pytest.raises(ValueError, match=r"drop_last=False for predictions, .* leaves out 4 .*batch_size=8\)"):
        predict(sampler_of(kind, drop_last=True), 20)


# --- the callback ----------------------------------------------------------------------------------------------------
def fit(
    kind: str, in_hook: bool, folder: Path, load: Path | None = None, num_before: int = 0, **options: Any
) -> list[list[int]]:
    torch.manual_seed(0)
    training = MatrixTraining(kind, 1, num_before)
    checkpoint = saving(folder, **options.pop("saving", {}))
    trainer, path = trainer_of(checkpoint, SamplingCallback(), **options), load and load / f"step={num_before}.ckpt"
    if "val_check_interval" in options or "limit_val_batches" in options:
        trainer.fit(Validating(training), loader_of(training), DataLoader(training.dataset, 16), ckpt_path=path)
    elif in_hook:
        trainer.fit(ModuleWithLoader(training), ckpt_path=path)
    else:
        trainer.fit(Module(training), loader_of(training), ckpt_path=path)
    return training.trained


AT_END = {"every_n_epochs": 1, "save_on_train_epoch_end": False}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"reload_dataloaders_every_n_epochs": 1}, (5, NUM_BATCHES, 18)),
        ({"limit_train_batches": 6}, (3, 6, 8)),
        ({"max_steps": 20, "max_epochs": -1}, (5, NUM_BATCHES, 18)),
        ({"val_check_interval": 4}, (4, 5, NUM_BATCHES, 18)),
        ({"limit_val_batches": 2, "saving": AT_END}, (NUM_BATCHES,)),  # after validation, when the epoch has ended
    ],
    ids=["reload", "limit", "max_steps", "validation", "after_validation"],
)
def test_resumed_run_is_exact(kind, options, places, tmp_path):
    in_hook = "reload_dataloaders_every_n_epochs" in options
    whole = fit(kind, in_hook, tmp_path / "whole", **options)
    for place in places:
        rest = fit(kind, in_hook, tmp_path / str(place), tmp_path / "whole", place, **options)
        assert rest == whole[place:], place


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_is_exact_with_accumulated_gradients(kind, tmp_path):
    """A step takes two batches, and the last one of an epoch takes one."""
    whole = fit(kind, False, tmp_path, accumulate_grad_batches=2)
    for step, num_batches in ((3, 6), (7, NUM_BATCHES), (9, NUM_BATCHES + 4)):
        torch.manual_seed(0)
        training = MatrixTraining(kind, 1, num_batches)
        trainer = trainer_of(saving(tmp_path), SamplingCallback(), accumulate_grad_batches=2)
        trainer.fit(Module(training), loader_of(training), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert training.trained == whole[num_batches:]


@pytest.mark.parametrize("in_hook", [True, False])
def test_batches_drawn_ahead_are_trained_after_resuming(in_hook, tmp_path):
    """Lightning begins to draw before it tells that training starts, and may then end the epoch without drawing."""

    def train(load: Path | None, place: int, folder: Path) -> list[list[int]]:
        training = MatrixTraining("bank", 1, place)
        module = ModuleWithLoader(training, num_workers=1) if in_hook else Module(training)
        options = {"limit_train_batches": 4, "reload_dataloaders_every_n_epochs": 1}
        trainer = trainer_of(saving(folder), SamplingCallback(), **options)
        trainer.fit(module, None if in_hook else loader_of(training, 1), ckpt_path=load)
        return training.trained

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consider setting `persistent_workers=True`")
        whole = train(None, 0, tmp_path / "whole")
        for place in (3, 4):
            assert train(tmp_path / "whole" / f"step={place}.ckpt", place, tmp_path / str(place)) == whole[place:]


class Two(Module):
    """Trains on two loaders, and notes the batches of both."""

    def __init__(self, training: MatrixTraining) -> None:
        super().__init__(training)
        self.drawn: list[Any] = []

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        (indices, (x,)), other = batch["bank"], batch["other"]
        self.drawn.append((indices.tolist(), None if other is None else other[0].tolist()))
        return self.training_.loss(indices, x)


def plan_loader(training: MatrixTraining, size: int) -> DataLoader:
    plan = compose(training.data[:size], batch_size=16, preset="uniform", num_epochs=9)
    part = IndexedDataset(TensorDataset(training.data[:size]))
    return DataLoader(part, batch_sampler=PlannedBatchSampler(plan))


@pytest.mark.parametrize(
    ("mode", "size", "options"),
    [
        ("min_size", 80, {}),
        ("max_size", 200, {}),
        ("max_size_cycle", 200, {}),
        ("max_size_cycle", 80, {"limit_train_batches": 4}),  # the shorter loader has 5
    ],
)
def test_combined_loaders_resume(mode, size, options, tmp_path):
    """Each loader has its sampler."""

    def train(place: int, load: Path | None) -> list[Any]:
        training = MatrixTraining("bank", 1, place)
        loaders = CombinedLoader({"bank": loader_of(training), "other": plan_loader(training, size)}, mode)
        module = Two(training)
        trainer_of(saving(tmp_path), SamplingCallback(), **options).fit(module, loaders, ckpt_path=load)
        return module.drawn

    whole = train(0, None)
    num_batches = len(whole) // 2
    assert num_batches == {"min_size": 5, "max_size": NUM_BATCHES}.get(mode, 4 if options else NUM_BATCHES)
    for place in (3, num_batches, num_batches + 2):
        assert train(place, tmp_path / f"step={place}.ckpt") == whole[place:], place


@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle"])
def test_combined_loaders_resume_beside_a_shorter_one(mode, tmp_path):
    """Lightning begins other loaders anew when it resumes, so only our batches are compared."""

    def train(place: int, load: Path | None) -> list[Any]:
        training = MatrixTraining("bank", 1, place)
        loaders = {"bank": loader_of(training), "other": DataLoader(training.dataset, 50)}
        module = Two(training)
        trainer_of(saving(tmp_path), SamplingCallback()).fit(module, CombinedLoader(loaders, mode), ckpt_path=load)
        return [batch for batch, _ in module.drawn]

    whole = train(0, None)
    for place in (3, NUM_BATCHES, 18):
        assert train(place, tmp_path / f"step={place}.ckpt") == whole[place:], place


@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle", "sequential"])
def test_combined_loaders_that_begin_again_are_refused(mode):
    training = MatrixTraining("bank", 1, 0)
    loaders = CombinedLoader({"bank": loader_of(training), "other": plan_loader(training, 80)}, mode)
    refused(
        rf"got mode '{mode}' with loaders of \[13, 5\] batches. Write CombinedLoader\(loaders, \"min_size\"", loaders
    )


def test_statistics_are_logged_once_per_epoch(tmp_path):
    logger, training = CSVLogger(tmp_path, version=0), MatrixTraining("bank", 1, 0)
    trainer_of(SamplingCallback(), logger=logger, log_every_n_steps=1).fit(Module(training), loader_of(training))
    header, *rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().split("\n")
    column = header.split(",").index("sampling/in_batch_similarity")
    values = [float(row.split(",")[column]) for row in rows if row and row.split(",")[column]]
    assert len(values) == 2
    assert values[-1] == pytest.approx(training.sampler.stats().in_batch_similarity)


def test_state_is_that_of_the_latest_batch_after_training():
    training, callback = MatrixTraining("bank", 1, 0), SamplingCallback()
    assert callback.state_dict() == {}
    trainer_of(callback, max_steps=3, max_epochs=-1).fit(Module(training), loader_of(training))
    (state,) = callback.state_dict()["samplers"]
    assert state["num_drawn"] == 3


def test_trainer_of_the_earlier_name(tmp_path):
    pl = pytest.importorskip("pytorch_lightning")

    class Other(pl.LightningModule):
        def __init__(self, training: MatrixTraining) -> None:
            super().__init__()
            self.training_, self.encoder = training, training.encoder

        setup, training_step, configure_optimizers = Module.setup, Module.training_step, Module.configure_optimizers

    def train(place: int, load: Path | None) -> list[list[int]]:
        training = MatrixTraining("bank", 1, place)
        checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
        trainer = pl.Trainer(accelerator="cpu", devices=1, callbacks=[checkpoint, SamplingCallback()], **options)
        trainer.fit(Other(training), loader_of(training), ckpt_path=load)
        return training.trained

    whole = train(0, None)
    assert train(5, tmp_path / "step=5.ckpt") == whole[5:]


# --- traps -----------------------------------------------------------------------------------------------------------
def refused(match: str, loaders: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        trainer_of(SamplingCallback(), **options).fit(Module(MatrixTraining("plan", 1, 0)), loaders)


def test_loader_without_sampler_is_refused():
    dataset = IndexedDataset(TensorDataset(torch.zeros(20, 64)))
    match = r"expected a loader with a ProximityBatchSampler .* got BatchSampler. Write DataLoader\(dataset, batch_"
    refused(match, DataLoader(dataset, batch_size=4))


def test_one_sampler_in_two_loaders_is_refused():
    training = MatrixTraining("bank", 1, 0)
    refused("sampler of its own for each loader", [loader_of(training), loader_of(training)])


def test_overfitting_is_refused_if_batches_change():
    """They change with each epoch, unless a plan has one epoch."""
    refused("overfit_batches: expected 0, .* got 4", loader_of(MatrixTraining("bank", 1, 0)), overfit_batches=4)
    training = MatrixTraining("plan", 1, 0)
    training.sampler = PlannedBatchSampler(compose(training.data, batch_size=16, preset="uniform", num_epochs=1))
    with pytest.warns(UserWarning, match="epoch 1 repeats epoch 0"):
        trainer_of(SamplingCallback(), overfit_batches=4).fit(Module(training), loader_of(training))
    assert training.trained[:4] == training.trained[4:]


@pytest.mark.parametrize("ranks", [{"rank": 0, "num_replicas": 2}, {"rank": 1, "num_replicas": 2}])
def test_sampler_for_other_ranks_is_refused(ranks):
    training = MatrixTraining("plan", 1, 0, **ranks)
    match = f"SamplingCallback: .* among 1 processes, .* got rank {ranks['rank']} and num_replicas 2. Leave out rank="
    refused(match, loader_of(training))


@pytest.mark.parametrize(
    ("num_replicas", "write"),
    [(2, "Leave out rank= and num_replicas="), (1, r"pass rank=0 and num_replicas=1, .*FeatureBank\(process_group=")],
)
def test_sampler_is_checked_against_the_ranks_of_the_strategy(num_replicas, write, monkeypatch):
    """With DDP, all processes share a batch. With a tensor-parallel model, some of them train on the same part."""
    kwargs = {"rank": 0, "num_replicas": num_replicas}
    monkeypatch.setattr(lightning.Trainer, "distributed_sampler_kwargs", kwargs)
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    given = {"num_replicas": 1} if num_replicas == 2 else {"rank": 0, "num_replicas": 2}
    refused(write, loader_of(MatrixTraining("plan", 1, 0, **given)))


@pytest.mark.parametrize("function", ["validate", "test"])
def test_a_checkpoint_that_is_only_tested_is_not_resumed(function, tmp_path):
    class Tested(Validating):
        test_step = Validating.validation_step

        def setup(self, stage: str) -> None:
            if stage == "fit":
                super().setup(stage)

    fit("bank", False, tmp_path)
    training = MatrixTraining("bank", 1, 0)
    trainer, module = trainer_of(saving(tmp_path / "next"), SamplingCallback()), Tested(training)
    getattr(trainer, function)(module, DataLoader(training.dataset, 16), ckpt_path=tmp_path / "step=18.ckpt")
    assert training.bank.step == 0
    trainer.fit(module, loader_of(training), DataLoader(training.dataset, 16))
    assert len(training.trained) == 2 * NUM_BATCHES
    assert training.bank.step == 1 + 2 * NUM_BATCHES  # with the one that fills the bank
    getattr(trainer, function)(module, DataLoader(training.dataset, 16), ckpt_path=tmp_path / "step=18.ckpt")
    assert "SamplingCallback" not in trainer._checkpoint_connector.dump_checkpoint()["callbacks"]  # not that of 18
    assert training.bank.step == 1 + 2 * NUM_BATCHES


def test_a_state_of_a_training_that_did_not_begin_is_forgotten(tmp_path):
    fit("bank", False, tmp_path)
    training, callback = MatrixTraining("bank", 1, 0), SamplingCallback()
    trainer = trainer_of(saving(tmp_path / "next"), callback)
    with pytest.raises(ValueError, match="expected a loader with"):
        trainer.fit(Module(training), DataLoader(training.dataset, 16), ckpt_path=tmp_path / "step=18.ckpt")
    trainer_of(callback).fit(Module(training), loader_of(training))
    assert len(training.trained) == 2 * NUM_BATCHES


def test_a_trainer_that_did_not_begin_goes_on_with_the_checkpoint(tmp_path):
    whole = fit("bank", False, tmp_path)
    training = MatrixTraining("bank", 1, 18)
    trainer = trainer_of(saving(tmp_path / "next"), SamplingCallback())
    with pytest.raises(ValueError, match="expected a loader with"):
        trainer.fit(Module(training), DataLoader(training.dataset, 16), ckpt_path=tmp_path / "step=18.ckpt")
    trainer.fit(Module(training), loader_of(training))
    assert training.trained == whole[18:]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_warnings_are_shown_again_after_resuming(is_stopped, tmp_path):
    class Stopped(Module):
        def on_train_epoch_start(self) -> None:
            if is_stopped:
                raise KeyboardInterrupt

    fit("bank", False, tmp_path)
    training, before = MatrixTraining("bank", 1, 5), list(warnings.filters)
    trainer = trainer_of(saving(tmp_path / "next"), SamplingCallback())
    with pytest.raises(SystemExit) if is_stopped else contextlib.nullcontext():
        trainer.fit(Stopped(training), loader_of(training), ckpt_path=tmp_path / "step=5.ckpt")
    assert warnings.filters == before


def test_checkpoint_without_state_is_told(tmp_path):
    training = MatrixTraining("bank", 1, 0)
    trainer_of(saving(tmp_path)).fit(Module(training), loader_of(training))
    training = MatrixTraining("bank", 1, 5)
    with pytest.warns(UserWarning, match="checkpoint has no state of the sampler"):
        trainer_of(SamplingCallback(), saving(tmp_path / "next")).fit(
            Module(training), loader_of(training), ckpt_path=tmp_path / "step=5.ckpt"
        )
    assert len(training.trained) == 2 * NUM_BATCHES - 5
    states = [torch.load(tmp_path / "next" / f"step={step}.ckpt", weights_only=True) for step in (7, 15)]
    drawn = [state["callbacks"]["SamplingCallback"]["samplers"][0]["num_drawn"] for state in states]
    assert drawn == [2, 2]


def test_state_of_other_samplers_is_refused(tmp_path):
    fit("bank", False, tmp_path)
    training, path = MatrixTraining("plan", 1, 5), tmp_path / "step=5.ckpt"
    with pytest.raises(ValueError, match="expected loaders with 1 banks, as the checkpoint has, got 0"):
        trainer_of(saving(tmp_path), SamplingCallback()).fit(Module(training), loader_of(training), ckpt_path=path)
    training = MatrixTraining("bank", 1, 5, seed=4)
    with pytest.raises(ValueError, match="state: expected seed 4 as this sampler has, got 3"):
        trainer_of(saving(tmp_path), SamplingCallback()).fit(Module(training), loader_of(training), ckpt_path=path)


def test_fabric_continues_without_a_warning(tmp_path):
    """It counts its iterations, so its numbers say nothing about the loaded epoch."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    for num_iterations in (0, 3):  # before loading
        training = MatrixTraining("bank", 1, 0)
        training.fill()
        loader = fabric.setup_dataloaders(loader_of(training))
        for _ in range(num_iterations):
            list(loader)
        other = MatrixTraining("bank", 1, 0)
        other.fill()
        other.sampler.set_epoch(1)
        batches = list(other.sampler)
        fabric.save(tmp_path / "fabric.ckpt", {"sampler": other.sampler, "bank": other.bank})
        other.sampler.load_state_dict(other.sampler.state_dict(num_trained=4))
        fabric.save(tmp_path / "fabric.ckpt", {"sampler": other.sampler, "bank": other.bank})
        fabric.load(tmp_path / "fabric.ckpt", {"sampler": training.sampler, "bank": training.bank})
        assert [indices.tolist() for indices, _ in loader] == batches[4:]
        list(loader)
        assert training.sampler.epoch == 2


def guide(name: str) -> str:
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return code


class Encoding(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(32, 16)

    def loss(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_guide_of_lightning_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    code = guide("lightning.md").replace("Trainer(max_epochs=2,", "Trainer(max_epochs=2, **quiet,")
    dataset = TensorDataset(torch.randn(200, 32))
    names = {
        "dataset": dataset, "DataLoader": DataLoader, "lightning": lightning, "Module": Encoding, "quiet": quiet,
    }  # fmt: skip
    exec(code, names)
    assert names["bank"].step == 8


def test_guide_of_fabric_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for num_epochs, num_steps in ((1, 4), (3, 12)):  # the second one resumes
        model = torch.nn.Linear(32, 16)
        names = {
            "dataset": TensorDataset(torch.randn(200, 32)), "DataLoader": DataLoader, "os": os, "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "train_step": model, "num_epochs": num_epochs,
            "fabric": lightning.Fabric(accelerator="cpu", devices=1),
        }  # fmt: skip
        exec(guide("fabric.md"), names)
        assert names["bank"].step == num_steps
