"""``integrations.transformers``: what is refused, and what batches have. tests/frameworks trains with it."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from batchsampler_ext import FeatureBank, PlannedBatchSampler, ProximityBatchSampler, compose

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

N, B, WIDTH = 20, 4, 3
DATA = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    yield
    torch.set_num_threads(before)


class Model(nn.Module):
    """Its loss does not depend on what a batch has besides x."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, labels=None, return_loss=True):
        embeddings = self.layer(x)
        return {"loss": embeddings.pow(2).mean(), "embeddings": embeddings}


def rows(count: int = N) -> list:
    return [{"x": x, "labels": 0, "unused": "text"} for x in DATA.tolist()[:count]]


def proximity(**options) -> ProximityBatchSampler:
    return ProximityBatchSampler(N, B, bank=FeatureBank(N, WIDTH), **options)


def planned(batch_size: int = B, **options) -> PlannedBatchSampler:
    return PlannedBatchSampler(compose(DATA, batch_size=batch_size, num_epochs=2, preset="uniform", **options))


def trainer_of(folder, sampler=None, update=True, kind=transformers.Trainer, data=None, **arguments):
    """Returns a trainer whose compute_loss notes the indices of each batch, and updates the bank."""

    class Trainer(kind):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            indices = inputs.get("indices")  # stays in the batch
            outputs = model(**inputs)
            if indices is not None:
                self.trained.append(indices.tolist())
                assert torch.equal(inputs["x"], DATA[indices])
                if update and isinstance(sampler, ProximityBatchSampler):
                    sampler.bank.update(indices, outputs["embeddings"])
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    arguments = {"per_device_train_batch_size": B, "save_strategy": "no", **arguments}
    settings = transformers.TrainingArguments(
        str(folder), num_train_epochs=2, report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
        **arguments,
    )  # fmt: skip
    trainer = Trainer(Model(), settings, train_dataset=rows() if data is None else data, eval_dataset=rows(6))
    trainer.trained = []
    if sampler is not None:
        set_batch_sampler(trainer, sampler)
    return trainer


def set_batch_sampler(*arguments):
    from batchsampler_ext.integrations.transformers import set_batch_sampler

    set_batch_sampler(*arguments)


def trained(trainer, **options) -> list:
    trainer.train(**options)
    return trainer.trained


# --- errors ----------------------------------------------------------------------------------------------------------
def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match="trainer: expected a transformers.Trainer, got PlannedBatchSampler"):
        set_batch_sampler(planned(), trainer_of(tmp_path))
    with pytest.raises(TypeError, match="sampler: expected a ProximityBatchSampler or .*, got FeatureBank"):
        set_batch_sampler(trainer_of(tmp_path), FeatureBank(N, WIDTH))


def test_a_trainer_of_sentence_transformers_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformerTrainer

    trainer = SentenceTransformerTrainer.__new__(SentenceTransformerTrainer)
    with pytest.raises(TypeError, match=r"Write args.batch_sampler = hard_batches\(bank\), of .*sentence_transformers"):
        set_batch_sampler(trainer, planned())


@pytest.mark.parametrize(
    ("sampler", "arguments", "message"),
    [
        (
            planned, {"per_device_train_batch_size": 8},
            "expected a PlannedBatchSampler with 8 instances per process, .* got one with 4. Write "
            "per_device_train_batch_size=4",
        ),
        (planned, {"data": rows(12)}, "expected the 20 instances that the Plan has, got a dataset of 12"),
        (proximity, {"data": rows(12)}, "expected the 20 instances that the FeatureBank has, got a dataset of 12"),
        (planned, {"auto_find_batch_size": True}, "auto_find_batch_size: expected False"),
        (planned, {"train_sampling_strategy": "sequential"}, "train_sampling_strategy: expected 'random'"),
        (
            lambda: planned(6), {"dataloader_drop_last": True, "per_device_train_batch_size": 6},
            "dataloader_drop_last: expected False, .* Pass drop_last=True to the sampler, or to compose",
        ),
        (
            lambda: proximity(planner="cover_by_walks"), {},
            "expected epochs with equal numbers of batches, .* Use another planner",
        ),
        (
            lambda: proximity(rank=1, num_replicas=2), {},
            "among 1 processes, of which this is number 0, got rank 1 and num_replicas 2. Leave out rank=",
        ),
    ],
)  # fmt: skip
def test_training_that_does_not_fit_the_sampler_is_refused(sampler, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained(trainer_of(tmp_path, sampler(), **arguments))


def test_an_iterable_dataset_is_refused(tmp_path):
    data = datasets.Dataset.from_list(rows()).to_iterable_dataset()
    with pytest.raises(TypeError, match="expected a dataset with __len__ and __getitem__, got IterableDataset"):
        trained(trainer_of(tmp_path, planned(), data=data, max_steps=2))


@pytest.mark.parametrize(
    ("collator", "error", "message"),
    [
        (lambda rows: {"indices": torch.zeros(len(rows))}, ValueError, "Rename the column of train_dataset"),
        (list, TypeError, "data_collator: expected one that returns a dict, got list"),
    ],
)
def test_other_collators_are_refused(collator, error, message, tmp_path):
    trainer = trainer_of(tmp_path, planned(), remove_unused_columns=False)
    trainer.data_collator = collator
    with pytest.raises(error, match=message):
        trained(trainer)


def test_a_bank_that_nothing_fills_is_refused_after_the_first_step(tmp_path):
    with pytest.raises(RuntimeError, match=r'Write indices = inputs.pop\("indices", None\) .* bank.update\(indices'):
        trained(trainer_of(tmp_path, proximity(), update=False))
    sampler = proximity()
    sampler.bank.update(range(N), DATA)  # embeddings of a teacher
    assert len(trained(trainer_of(tmp_path, sampler, update=False))) == 10


def test_a_hyperparameter_search_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", dict)  # a trial of no backend
    for make in (proximity, planned):
        with pytest.raises(
            ValueError, match="set_batch_sampler: .* a trial of hyperparameter_search. .*Train each with a"
        ):
            trained(trainer_of(tmp_path, make()), trial={"learning_rate": 1e-3})


def test_an_error_of_a_bank_is_raised_on_all_ranks_when_a_checkpoint_is_saved(tmp_path):
    """Not only on the one that writes, because it would leave the others waiting."""
    from batchsampler_ext.integrations._hf_trainer import checkpoints_of
    from batchsampler_ext.integrations.transformers import _Checkpoints

    sampler = proximity()
    trainer = trainer_of(tmp_path, sampler)
    checkpoints = checkpoints_of(trainer, _Checkpoints)

    def fail() -> None:
        raise ValueError("embeddings: expected finite values")

    sampler.bank.check = fail
    arguments = types.SimpleNamespace(should_save=False, save_only_model=False)
    with pytest.raises(ValueError, match="expected finite values"):
        checkpoints.on_save(arguments, trainer.state, trainer.control)


@pytest.mark.parametrize("is_unpacked", [True, False])
def test_a_compiled_model_takes_batches_with_indices_in_one_graph(is_unpacked):
    from batchsampler_ext.integrations.transformers import _without_indices

    class First(nn.Linear):
        def forward(self, inputs=None, x=None):
            assert inputs is None or sorted(inputs) == ["x"]
            return super().forward(x if inputs is None else inputs["x"])

    model = First(WIDTH, WIDTH)
    model.register_forward_pre_hook(_without_indices, with_kwargs=True)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    batch = {"x": DATA, "indices": torch.arange(N)}
    outputs = compiled(**batch) if is_unpacked else compiled(batch)
    assert outputs.shape == DATA.shape
    assert sorted(batch) == ["indices", "x"]


# --- batches ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_dataset", [False, True])
@pytest.mark.parametrize("remove_unused_columns", [False, True])
def test_batches_have_indices_that_the_model_does_not_get(is_dataset, remove_unused_columns, tmp_path):
    data = datasets.Dataset.from_list(rows()) if is_dataset else rows()
    if not remove_unused_columns:
        data = [{"x": row["x"], "labels": 0} for row in data]
    trainer = trainer_of(tmp_path, proximity(), data=data, remove_unused_columns=remove_unused_columns)
    batches = trained(trainer)
    for epoch in (batches[:5], batches[5:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(N))
    count = len(trainer.trained)
    assert "eval_loss" in trainer.evaluate()
    assert len(trainer.trained) == count  # evaluation has no indices


def test_a_plan_needs_no_compute_loss(tmp_path):
    settings = transformers.TrainingArguments(
        str(tmp_path), max_steps=7, per_device_train_batch_size=B, report_to=[], disable_tqdm=True, use_cpu=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(Model(), settings, train_dataset=rows())
    set_batch_sampler(trainer, planned())
    assert trainer.train().global_step == 7


def test_the_last_call_counts_and_training_again_begins_with_the_first_epoch(tmp_path):
    sampler = planned(seed=1)
    trainer = trainer_of(tmp_path, planned(seed=2))
    set_batch_sampler(trainer, sampler)
    expected = [batch.tolist() for epoch in range(2) for batch in sampler.plan.batches(epoch)]
    assert trained(trainer) == expected
    assert trained(trainer) == 2 * expected
    assert len(trainer.model._forward_pre_hooks) == 0  # it has one while it trains
    assert sum("_Checkpoints" in type(part).__name__ for part in trainer.callback_handler.callbacks) == 1


# --- resuming --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [proximity, planned])
@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 5, "ignore_data_skip": True},
        {"ignore_data_skip": True, "max_steps": 8},
        {"accelerator_config": {"split_batches": True, "dispatch_batches": True, "even_batches": False}},
    ],
    ids=["accumulates", "accumulates, does not skip", "max_steps", "accelerator_config"],
)
def test_a_resumed_training_is_exact(make, arguments, tmp_path):
    torch.manual_seed(0)
    arguments = {"save_strategy": "steps", "save_steps": 1, **arguments}
    whole = trained(trainer_of(tmp_path / "whole", make(), **arguments))
    per_step = arguments.get("gradient_accumulation_steps", 1)
    steps = -(-5 // per_step)
    for checkpoint in sorted((tmp_path / "whole").glob("checkpoint-*")):
        step = int(checkpoint.name.split("-")[1])
        if step == arguments.get("max_steps"):
            continue  # the trainer trains one more step then, with any sampler
        trainer = trainer_of(tmp_path / "rest", make(), **{**arguments, "save_strategy": "no"})
        rest = trained(trainer, resume_from_checkpoint=str(checkpoint))
        assert rest == whole[step // steps * 5 + step % steps * per_step :], step


def test_resuming_that_cannot_be_exact_is_refused(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 1}
    trained(trainer_of(tmp_path, planned(), **arguments))
    checkpoint = str(tmp_path / "checkpoint-1")

    def resume(sampler, **options) -> list:
        return trained(trainer_of(tmp_path, sampler, **options), resume_from_checkpoint=checkpoint)

    with pytest.raises(ValueError, match="gradient_accumulation_steps, 2, does not divide the 5 batches"):
        resume(planned(), gradient_accumulation_steps=2, ignore_data_skip=True)
    with pytest.raises(ValueError, match="state at epoch 0, batch 2, .* got one at epoch 0, batch 1. Train with the"):
        resume(planned(), gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"expected a checkpoint with \{'': \['bank', 'sampler'\]\}"):
        resume(proximity())
    with pytest.raises(ValueError, match="state: expected plan"):
        resume(planned(seed=5))
    (tmp_path / "checkpoint-1" / "batchsampler_ext.pt").unlink()
    with pytest.raises(FileNotFoundError, match="to resume from, which training with set_batch_sampler writes"):
        resume(planned())


# --- the guide -------------------------------------------------------------------------------------------------------
def test_the_guide_runs(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / "transformers.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 16)

        def forward(self, x, labels=None):
            embeddings = self.layer(x)
            return embeddings, embeddings.pow(2).mean()

    settings = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
        per_device_train_batch_size=32, per_device_eval_batch_size=10, label_names=["labels"],
    )  # fmt: skip
    dataset = [{"x": [i / 100] * 8, "labels": i} for i in range(100)]
    names = {"dataset": dataset, "model": Encoder(), "args": settings, "transformers": transformers}
    exec(block, names)
    assert names["bank"].step == 8
    found = names["trainer"].predict(dataset[:30])
    assert found.predictions.shape == (30, 16)
    assert found.label_ids.tolist() == list(range(30))
    assert names["bank"].step == 8
