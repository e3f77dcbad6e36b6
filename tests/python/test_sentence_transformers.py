"""Two lines in a training with sentence-transformers: which batches it trains, what the bank gets, how it resumes."""

from __future__ import annotations

import copy
import doctest
import gc
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchsampler_ext import FeatureBank, GraphConfig, Plan, PlannedBatchSampler, ProximityBatchSampler, compose
from tests.python.torchrun_ranks import on_ranks

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")

import datasets
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import nn

from batchsampler_ext.integrations.sentence_transformers import fill_bank, hard_batches, track_embeddings
from tests.python.tiny_texts import WIDTH, RecordingTrainer, arguments, bert_model, pairs, static_model

# All other warnings are errors, ours too.
pytestmark = pytest.mark.filterwarnings("ignore:.pin_memory. argument is set as true but no accelerator is found")

N, B = 40, 8
GRAPH = GraphConfig(num_candidates=20, num_neighbors=4)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Each training collects garbage, which takes a second among the objects of all imported modules."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


def plan_of(size: int = N, num_epochs: int = 2, batch_size: int = B, seed: int = 0) -> Plan:
    features = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(seed))
    return compose(features, batch_size=batch_size, preset="uniform", num_epochs=num_epochs, seed=seed)


def plan_batches(plan: Plan, *epochs: int) -> list[list[int]]:
    return [batch[batch >= 0].tolist() for epoch in epochs for batch in plan.batches(epoch)]


def positions(trainer: RecordingTrainer, data: datasets.Dataset) -> list[list[int]]:
    """Returns the rows of each training step, known by their tokens."""
    model = trainer.model
    known = {tuple(model.preprocess([text])["input_ids"].ravel().tolist()): i for i, text in enumerate(data["anchor"])}
    assert len(known) == len(data)
    found = []
    for step in trainer.steps:
        ids = step["anchor_input_ids"]
        if "anchor_offsets" in step:  # StaticEmbedding has flat tokens
            rows = [part.tolist() for part in torch.tensor_split(ids, step["anchor_offsets"][1:].tolist())]
        else:
            rows = [row[: int(n)].tolist() for row, n in zip(ids, step["anchor_attention_mask"].sum(1), strict=True)]
        found.append([known[tuple(row)] for row in rows])
    return found


def check_epochs(batches: list[list[int]], size: int = N, num_epochs: int = 2) -> None:
    num_batches = len(batches) // num_epochs
    epochs = [batches[i * num_batches : (i + 1) * num_batches] for i in range(num_epochs)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(size))
    assert epochs[0] != epochs[1]


def mnrl(model: SentenceTransformer) -> nn.Module:
    return losses.MultipleNegativesRankingLoss(model)


class Probe(nn.Module):
    """A loss that notes what it gets."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, sentence_features: Any, labels: Any) -> torch.Tensor:
        features = list(sentence_features)
        self.seen.append((torch.is_grad_enabled(), [sorted(part) for part in features], labels))
        return sum(self.model(part)["sentence_embedding"].square().mean() for part in features)


@pytest.fixture(params=["bank", "plan"])
def source(request) -> FeatureBank | Plan:
    return FeatureBank(N, WIDTH, two_towers=True) if request.param == "bank" else plan_of()


def trainer_of(source: Any, folder: Path, data: Any = None, loss: Any = None, **options: Any) -> RecordingTrainer:
    model = static_model()
    trainer_options = {name: options.pop(name) for name in ("eval_dataset", "args") if name in options}
    args = trainer_options.pop("args", None) or arguments(folder, **options)
    sources = source.values() if isinstance(source, dict) else [source]
    graph = {"graph": GRAPH} if any(isinstance(part, FeatureBank) for part in sources) else {}
    args.batch_sampler = hard_batches(source, **graph)
    loss = mnrl(model) if loss is None else loss(model)
    if graph:
        loss = track_embeddings(loss, source)
    data = pairs(N) if data is None else data
    return RecordingTrainer(model, args, train_dataset=data, loss=loss, **trainer_options)


# --- batches ---------------------------------------------------------------------------------------------------------
def test_epochs_are_whole_and_differ(source, tmp_path):
    trainer = trainer_of(source, tmp_path)
    trainer.train()
    batches = positions(trainer, pairs(N))
    check_epochs(batches)
    if isinstance(source, Plan):
        assert batches == plan_batches(source, 0, 1)
    else:
        assert source.step == len(batches) == 10
        stats = trainer.args.batch_sampler.samplers[None].stats()
        assert stats.missing_embedding_share == 0
        assert stats.in_batch_similarity > 0.2  # uniform batches: 0.0


@pytest.mark.parametrize(
    "options", [{"gradient_accumulation_steps": 3}, {"dataloader_num_workers": 2}, {"max_steps": 10}]
)
def test_training_options(source, options, tmp_path):
    trainer = trainer_of(source, tmp_path, **options)
    trainer.train()
    check_epochs(positions(trainer, pairs(N)))


@pytest.mark.parametrize("drop_last", [True, False])
def test_ragged_batch(drop_last, tmp_path):
    for source in (FeatureBank(N - 3, WIDTH), plan_of(N - 3)):
        data = pairs(N - 3)
        trainer = trainer_of(source, tmp_path, data, dataloader_drop_last=drop_last)
        trainer.train()
        batches = positions(trainer, data)
        assert [len(batch) for batch in batches] == ([8] * 8 if drop_last else [8, 8, 8, 8, 5] * 2)
        assert trainer.state.global_step == len(batches)


def test_ids_are_positions_after_shuffle_and_split(tmp_path):
    data = pairs(80).shuffle(seed=1).train_test_split(test_size=0.5, seed=2)
    assert data["train"]._indices is not None
    plan = plan_of()
    trainer = trainer_of(plan, tmp_path, data["train"], eval_dataset=data["test"])
    trainer.train()
    assert positions(trainer, data["train"]) == plan_batches(plan, 0, 1)

    bank = FeatureBank(N, WIDTH, dtype=torch.float32)
    trainer = trainer_of(bank, tmp_path, data["train"], learning_rate=0.0)
    trainer.train()
    torch.testing.assert_close(bank.data, encoded(trainer.model, data["train"]["anchor"]))


def test_other_order_than_that_of_the_filled_bank_is_refused(tmp_path):
    bank = FeatureBank(N, WIDTH)
    fill_bank(bank, static_model(), pairs(N))
    with pytest.raises(
        ValueError, match=r"expected the rows that fill_bank got, in their order, got others. Call it after"
    ):
        trainer_of(bank, tmp_path, pairs(N).shuffle(seed=1)).train()
    fill_bank(bank, static_model(), pairs(N).shuffle(seed=1))
    trainer_of(bank, tmp_path, pairs(N).shuffle(seed=1)).train()


def test_plain_training_on_the_same_data(tmp_path):
    data, model = pairs(N), static_model()
    trainer_of(FeatureBank(N, WIDTH), tmp_path, data).train()
    trainer = RecordingTrainer(model, arguments(tmp_path), train_dataset=data, loss=mnrl(model))
    trainer.train()
    assert "label" not in trainer.steps[0]


def test_second_training_begins_again(source, tmp_path):
    trainer = trainer_of(source, tmp_path)
    trainer.train()
    trainer.train()
    batches = positions(trainer, pairs(N))
    check_epochs(batches[:10])
    check_epochs(batches[10:])


def test_data_set_is_left_as_it_was(source, tmp_path):
    data = pairs(N)
    trainer = trainer_of(source, tmp_path, data)
    trainer.train()
    assert list(data[0]) == list(data[:2]) == data.column_names == ["anchor", "positive"]
    assert data.map(lambda row: {"length": len(row["anchor"])}).column_names == ["anchor", "positive", "length"]
    assert list(next(iter(data))) == ["anchor", "positive"]


# --- what the bank gets ----------------------------------------------------------------------------------------------
def encoded(model: SentenceTransformer, texts: Any) -> torch.Tensor:
    return nn.functional.normalize(model.encode(list(texts), convert_to_tensor=True), dim=1)


LOSSES = {
    "MNRL": mnrl,
    "cached": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3),
    "matryoshka": lambda model: losses.MatryoshkaLoss(model, mnrl(model), [WIDTH, 4], n_dims_per_step=1),
    "matryoshka of small dimensions": lambda model: losses.MatryoshkaLoss(model, mnrl(model), [4, 2]),
    "matryoshka of cached": lambda model: losses.MatryoshkaLoss(model, LOSSES["cached"](model), [WIDTH, 4]),
    "adaptive layers": lambda model: losses.AdaptiveLayerLoss(model, mnrl(model)),
    "GIST": lambda model: losses.GISTEmbedLoss(model, guide=copy.deepcopy(model)),
    "cached GIST": lambda model: losses.CachedGISTEmbedLoss(model, guide=copy.deepcopy(model), mini_batch_size=3),
    "mega batches": lambda model: losses.MegaBatchMarginLoss(model, mini_batch_size=4),
    "contrastive": losses.OnlineContrastiveLoss,
    "CoSENT": losses.CoSENTLoss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_bank_has_the_embeddings_of_each_row(name, tmp_path):
    model = bert_model(tmp_path / "model")
    labels = {"label": [i % 2 for i in range(N)]} if name in ("contrastive", "CoSENT") else {}
    data, bank = pairs(N, **labels), FeatureBank(N, WIDTH, two_towers=True, dtype=torch.float32)
    loss = LOSSES[name](model)
    assert track_embeddings(loss, bank) is loss
    args = arguments(tmp_path, num_train_epochs=1, learning_rate=0.0)
    args.batch_sampler = hard_batches(bank, graph=GRAPH)
    RecordingTrainer(model, args, train_dataset=data, loss=loss).train()
    assert bank.step == N // B
    torch.testing.assert_close(bank.data, encoded(model, data["anchor"]))
    torch.testing.assert_close(bank.documents, encoded(model, data["positive"]))


@pytest.mark.parametrize("num_negatives", [1, 2])
def test_further_columns_are_not_stored(num_negatives, tmp_path):
    """Columns after the first are embedded at once, in one forward pass."""
    model, data = bert_model(tmp_path / "model"), pairs(N)
    for number in range(num_negatives):
        data = data.add_column(f"negative_{number}", [data["positive"][i - 1 - number] for i in range(N)])
    for make in (mnrl, LOSSES["cached"]):
        bank = FeatureBank(N, WIDTH, two_towers=True, dtype=torch.float32)
        args = arguments(tmp_path, num_train_epochs=1, learning_rate=0.0)
        args.batch_sampler = hard_batches(bank, graph=GRAPH)
        RecordingTrainer(model, args, train_dataset=data, loss=track_embeddings(make(model), bank)).train()
        torch.testing.assert_close(bank.data, encoded(model, data["anchor"]))
        torch.testing.assert_close(bank.documents, encoded(model, data["positive"]))


def test_bank_of_one_tower_has_first_or_both_columns(tmp_path):
    first = FeatureBank(N, WIDTH, dtype=torch.float32)
    both = FeatureBank(N, 2 * WIDTH, dtype=torch.float32, normalize=False)
    for bank in (first, both):
        trainer = trainer_of(bank, tmp_path, learning_rate=0.0)
        trainer.train()
    anchors, documents = (trainer.model.encode(pairs(N)[name], convert_to_tensor=True) for name in pairs(1)[0])
    torch.testing.assert_close(first.data, nn.functional.normalize(anchors))
    torch.testing.assert_close(both.data, torch.cat([anchors, documents], 1))


def test_loss_may_be_a_class_or_a_function(tmp_path):
    for loss in (losses.MultipleNegativesRankingLoss, mnrl):
        bank = FeatureBank(N, WIDTH)
        args = arguments(tmp_path)
        args.batch_sampler = hard_batches(bank, graph=GRAPH)
        loss = track_embeddings(loss, bank)
        trainer = RecordingTrainer(model_init=lambda: static_model(), args=args, train_dataset=pairs(N), loss=loss)
        trainer.train()
        assert bank.step == 10


def test_tracking_twice_stores_once(tmp_path):
    bank = FeatureBank(N, WIDTH)
    trainer = trainer_of(bank, tmp_path, loss=lambda model: track_embeddings(mnrl(model), bank))
    trainer.train()
    assert bank.step == 10


# --- what the loss gets ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", [i % 3 - 1 for i in range(N)]),
        ("score", [i / 7 for i in range(N)]),
        ("labels", [[i / 3, -i / 5, 1e-30] for i in range(N)]),
        ("scores", [[[i, 1], [2, i]] for i in range(N)]),
        ("label", [i % 2 == 0 for i in range(N)]),
        (None, None),
    ],
)
@pytest.mark.parametrize("is_torch", [False, True])
def test_loss_gets_the_same_labels(column, values, is_torch, tmp_path):
    data = pairs(N, **({} if column is None else {column: values}))
    if is_torch:
        data = data.with_format("torch")
    bank, plain = FeatureBank(N, WIDTH), static_model()
    trainer = trainer_of(bank, tmp_path, data, loss=Probe, num_train_epochs=1)
    trainer.train()
    order = positions(trainer, pairs(N))
    probe = Probe(plain)
    args = arguments(tmp_path, num_train_epochs=1)
    args.batch_sampler = lambda dataset, **options: order_sampler(order)
    RecordingTrainer(plain, args, train_dataset=data, loss=probe).train()
    assert len(trainer.loss.seen) == len(probe.seen) == 5
    for (_, keys, labels), (_, expected_keys, expected) in zip(trainer.loss.seen, probe.seen, strict=True):
        assert keys == expected_keys
        assert type(labels) is type(expected)
        if expected is not None:
            assert labels.dtype == expected.dtype
            assert torch.equal(labels, expected)


def order_sampler(order: list[list[int]]) -> Any:
    from sentence_transformers.base.sampler import DefaultBatchSampler

    class Ordered(DefaultBatchSampler):
        def __iter__(self):
            return iter(order)

        def __len__(self):
            return len(order)

    return Ordered(range(N), batch_size=B, drop_last=False)


# --- evaluation ------------------------------------------------------------------------------------------------------
def test_evaluation_has_default_batches_and_stores_nothing(source, tmp_path):
    """Evaluation data of the same size, and the training data itself."""
    data = pairs(N)
    for held_out in (pairs(N, 100), data):
        trainer = trainer_of(source, tmp_path, data, loss=Probe, eval_dataset=held_out, eval_strategy="epoch")
        before = 0 if isinstance(source, Plan) else source.step
        trainer.train()
        trainer.evaluate()
        seen = trainer.loss.seen
        assert [is_training for is_training, _, _ in seen].count(False) == 3 * 5
        assert all(labels is None for _, _, labels in seen)
        sampler = trainer.get_eval_dataloader().batch_sampler
        assert type(sampler).__name__ == "DefaultBatchSampler"
        assert type(trainer.get_test_dataloader(held_out).batch_sampler).__name__ == "DefaultBatchSampler"
        if isinstance(source, FeatureBank):
            assert source.step - before == 10


# --- several data sets -----------------------------------------------------------------------------------------------
def several() -> datasets.DatasetDict:
    return datasets.DatasetDict(a=pairs(N), b=pairs(24, 100))


@pytest.mark.parametrize("kinds", ["banks", "plans", "both"])
@pytest.mark.parametrize("num_losses", [1, 2])
def test_several_data_sets(kinds, num_losses, tmp_path):
    data, bank_a, bank_b = several(), FeatureBank(N, WIDTH, dtype=torch.float32), FeatureBank(24, WIDTH)
    plan_a, plan_b = plan_of(), plan_of(24)
    sources = {
        "banks": {"b": bank_b, "a": bank_a}, "plans": {"a": plan_a, "b": plan_b}, "both": {"a": bank_a, "b": plan_b}
    }[kinds]  # fmt: skip
    make = (
        mnrl if num_losses == 1 else lambda model: {"a": mnrl(model), "b": losses.MultipleNegativesRankingLoss(model)}
    )
    trainer = trainer_of(sources, tmp_path, data, loss=make, learning_rate=0.0)
    trainer.train()
    whole = datasets.concatenate_datasets([several()["a"], several()["b"]])
    batches = positions(trainer, whole)
    assert len(batches) == 16
    for epoch in (batches[:8], batches[8:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(N + 24))
    of_b = [[i - N for i in batch] for batch in batches if batch[0] >= N]
    if kinds == "banks":
        assert (bank_a.step, bank_b.step) == (10, 6)
        torch.testing.assert_close(bank_a.data, encoded(trainer.model, whole["anchor"][:N]))
    else:
        assert of_b == plan_batches(plan_b, 0, 1)


# --- checkpoints -----------------------------------------------------------------------------------------------------
def resumed_equals(make: Any, folder: Path, data: datasets.Dataset, steps: tuple[int, ...], num_micro: int = 1) -> None:
    """Requires the batches of a run that is never interrupted, from each of its checkpoints on, twice in a row."""
    whole = make(folder / "whole", save_strategy="steps", save_steps=1)
    whole.train()
    expected = positions(whole, data)
    for step in steps:
        again = make(folder / f"from_{step}", save_strategy="steps", save_steps=step + 2)
        again.train(resume_from_checkpoint=str(folder / "whole" / f"checkpoint-{step}"))
        assert positions(again, data) == expected[step * num_micro :], f"resumed at step {step}"
        later = step + 2
        third = make(folder / f"from_{step}_{later}")
        third.train(resume_from_checkpoint=str(folder / f"from_{step}" / f"checkpoint-{later}"))
        assert positions(third, data) == expected[later * num_micro :], f"resumed at steps {step} and {later}"


def make_of(kind: str, **options: Any) -> Any:
    def make(folder: Path, **more: Any) -> RecordingTrainer:
        if kind == "plan":
            return trainer_of(plan_of(num_epochs=3), folder, num_train_epochs=3, **options, **more)
        bank = FeatureBank(N, WIDTH)
        fill_bank(bank, static_model(), pairs(N))
        return trainer_of(bank, folder, num_train_epochs=3, **options, **more)

    return make


@pytest.mark.parametrize("kind", ["bank", "plan"])
@pytest.mark.parametrize("options", [{}, {"dataloader_num_workers": 2}], ids=["", "workers"])
def test_resumes_exactly(kind, options, tmp_path):
    resumed_equals(make_of(kind, **options), tmp_path, pairs(N), (5, 8) if options else (2, 5, 8, 10))


@pytest.mark.parametrize("kind", ["bank", "plan"])
def test_resumes_exactly_with_gradient_accumulation(kind, tmp_path):
    make = make_of(kind, gradient_accumulation_steps=2, per_device_train_batch_size=5 if kind == "bank" else B)
    if kind == "bank":
        resumed_equals(make, tmp_path, pairs(N), (1, 4, 7), num_micro=2)
    else:  # five batches: the third update of each epoch has one
        whole = make(tmp_path / "whole", save_strategy="steps", save_steps=1)
        whole.train()
        expected = positions(whole, pairs(N))
        for step, num_trained in ((1, 2), (3, 5), (4, 7)):
            again = make(tmp_path / f"from_{step}")
            again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
            assert positions(again, pairs(N)) == expected[num_trained:]


def test_resumes_exactly_without_skipping(tmp_path):
    """A bank's position is in the checkpoint. A plan has none there, so the trainer must skip batches."""
    resumed_equals(make_of("bank", ignore_data_skip=True), tmp_path, pairs(N), (2, 5, 8))


@pytest.mark.parametrize("kind", ["banks", "plans"])
def test_resumes_several_data_sets_exactly(kind, tmp_path):
    whole = datasets.concatenate_datasets([several()["a"], several()["b"]])

    def make(folder: Path, **options: Any) -> RecordingTrainer:
        if kind == "plans":
            source: dict[str, Any] = {"a": plan_of(), "b": plan_of(24)}
        else:
            source = {"a": FeatureBank(N, WIDTH), "b": FeatureBank(24, WIDTH)}
            for name, bank in source.items():
                fill_bank(bank, static_model(), several()[name])
        return trainer_of(source, folder, several(), num_train_epochs=2, **options)

    resumed_equals(make, tmp_path, whole, (1, 4, 8, 10, 13))


def test_checkpoint_of_other_training_is_refused(tmp_path):
    trainer_of(plan_of(), tmp_path, save_strategy="steps", save_steps=3).train()
    path = tmp_path / "checkpoint-3"
    with pytest.raises(ValueError, match=r"expected a checkpoint with {'': \['bank', 'rows', 'sampler'\]} by data set"):
        trainer_of(FeatureBank(N, WIDTH), tmp_path).train(resume_from_checkpoint=str(path))
    (path / "batchsampler_ext.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"hard_batches: expected .*checkpoint-3"):
        trainer_of(FeatureBank(N, WIDTH), tmp_path).train(resume_from_checkpoint=str(path))


def test_resuming_with_other_rows_is_refused(source, tmp_path):
    trainer_of(source, tmp_path, save_strategy="steps", save_steps=3).train()
    other = plan_of() if isinstance(source, Plan) else FeatureBank(N, WIDTH, two_towers=True)
    trainer = trainer_of(other, tmp_path, pairs(N).shuffle(seed=1))
    with pytest.raises(ValueError, match=r"checkpoint-3.*expected the same rows of train_dataset in the same order"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_arguments_are_saved_without_the_bank(source, tmp_path):
    trainer = trainer_of(source, tmp_path, save_strategy="steps", save_steps=4)
    trainer.train()
    args = torch.load(tmp_path / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert "batch_sampler" not in json.loads(args.to_json_string())
    assert repr(args.batch_sampler) == repr(trainer.args.batch_sampler)
    assert len(pickle.dumps(trainer.args.batch_sampler)) < 1000
    model = static_model()
    reloaded = RecordingTrainer(model, args, train_dataset=pairs(N), eval_dataset=pairs(N), loss=mnrl(model))
    assert reloaded.evaluate()["eval_loss"] > 0
    with pytest.raises(
        RuntimeError, match=r"saved without the bank or plan of hard_batches\(.*hard_batches\(...\) aga"
    ):
        reloaded.train()


# --- filling the bank ------------------------------------------------------------------------------------------------
def test_fill_bank_makes_the_first_epoch_hard(tmp_path):
    bank = FeatureBank(N, WIDTH, two_towers=True, dtype=torch.float32)
    fill_bank(bank, static_model(), pairs(N, label=range(N)), batch_size=16)
    torch.testing.assert_close(bank.data, encoded(static_model(), pairs(N)["anchor"]))
    torch.testing.assert_close(bank.documents, encoded(static_model(), pairs(N)["positive"]))
    trainer = trainer_of(bank, tmp_path, num_train_epochs=1)
    trainer.train()
    assert trainer.args.batch_sampler.samplers[None].stats().missing_embedding_share == 0


def test_bank_of_a_teacher_needs_no_tracking(tmp_path):
    bank = FeatureBank(N, 24)
    fill_bank(bank, static_model(24), pairs(N))
    args = arguments(tmp_path)
    args.batch_sampler = hard_batches(bank, graph=GRAPH)
    model = static_model()
    trainer = RecordingTrainer(model, args, train_dataset=pairs(N), loss=Probe(model))
    trainer.train()
    check_epochs(positions(trainer, pairs(N)))
    assert bank.step == 1
    assert all(labels is None for _, _, labels in trainer.loss.seen)


# --- errors ----------------------------------------------------------------------------------------------------------
def test_wrong_arguments_are_named():
    bank, plan = FeatureBank(N, WIDTH), plan_of()
    sampler = ProximityBatchSampler(N, B, bank=bank)
    with pytest.raises(TypeError, match=r"source: expected a FeatureBank.*got ProximityBatchSampler. Pass its bank"):
        hard_batches(sampler)
    with pytest.raises(TypeError, match=r"source: .*got PlannedBatchSampler. Pass its bank or plan"):
        hard_batches(PlannedBatchSampler)
    with pytest.raises(TypeError, match="hard_batches: the trainer sets it, got the option 'batch_size'"):
        hard_batches(bank, batch_size=8)
    with pytest.raises(TypeError, match=r"hard_batches: expected one of \[.*'graph'.*got the option 'grap'"):
        hard_batches(bank, grap=GRAPH)
    with pytest.raises(TypeError, match=r"expected no options for a plan, got \['graph'\]"):
        hard_batches(plan, graph=GRAPH)
    with pytest.raises(ValueError, match="scope"):
        hard_batches(bank, scope="all")
    with pytest.raises(TypeError, match=r"bank: .*got Plan. The batches of a plan are fixed, so leave this line out"):
        track_embeddings(mnrl(static_model()), plan)
    with pytest.raises(TypeError, match="loss: expected a loss of sentence-transformers with a model, got Linear"):
        track_embeddings(nn.Linear(1, 1), bank)
    with pytest.raises(TypeError, match="loss: expected a loss, its class or a function that makes it, got int"):
        track_embeddings(3, bank)
    with pytest.raises(ValueError, match="dataset: expected 40 rows as the bank has instances, got 39"):
        fill_bank(bank, static_model(), pairs(39))
    with pytest.raises(ValueError, match=r"expected FeatureBank\(n, 24, two_towers=True\) for pairs"):
        fill_bank(bank, static_model(24), pairs(N))
    for given, message in [
        ((plan, static_model(), pairs(N)), "bank: expected a FeatureBank, got Plan"),
        ((bank, nn.Linear(1, 1), pairs(N)), "model: expected a SentenceTransformer, got Linear"),
        ((bank, static_model(), ["a"] * N), "dataset: expected a datasets.Dataset, got list"),
    ]:
        with pytest.raises(TypeError, match=message):
            fill_bank(*given)
    with pytest.raises(TypeError, match="model: expected a SentenceTransformer, got ABCMeta"):
        fill_bank(bank, type(static_model()), pairs(N))
    with pytest.raises(ValueError, match="dataset: expected 2 columns of texts, one for each tower, got 1"):
        fill_bank(FeatureBank(N, WIDTH, two_towers=True), static_model(), pairs(N).select_columns(["anchor"]))
    with pytest.raises(ValueError, match="source: expected at least one data set, got an empty dict"):
        hard_batches({})
    with pytest.raises(ValueError, match="loss: expected at least one data set, got an empty dict"):
        track_embeddings({}, bank)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda bank: ProximityBatchSampler, "got the class. Write args.batch_sampler = hard_batches"),
        (lambda bank: PlannedBatchSampler, "got the class. Write args.batch_sampler = hard_batches"),
        (lambda bank: ProximityBatchSampler(N, B, bank=bank), "got an object. Write args.batch_sampler = hard_batches"),
        (lambda bank: bank, "FeatureBank: expected a function as batch_sampler, got an object. Write"),
        (lambda bank: plan_of(), "Plan: expected a function as batch_sampler, got an object. Write"),
        (lambda bank: hard_batches(FeatureBank(39, WIDTH)), "expected the 39 instances that the FeatureBank has"),
        (lambda bank: hard_batches(plan_of(39)), "the 39 instances that the Plan has, got training data of 40"),
        (lambda bank: hard_batches(plan_of(batch_size=4)), "a plan with batch_size 8, as per_device_train_batch"),
        (lambda bank: hard_batches({"a": bank}), r"a DatasetDict with \['a'\] as train_dataset, got a Data"),
        (lambda bank: hard_batches(FeatureBank(N, WIDTH)), r"loss = track_embeddings\(loss, bank\), or fill_bank"),
    ],
)  # fmt: skip
def test_wrong_batch_samplers_say_what_to_write(given, message, tmp_path):
    bank, model, args = FeatureBank(N, WIDTH), static_model(), arguments(tmp_path)
    args.batch_sampler = given(bank)
    trainer = RecordingTrainer(model, args, train_dataset=pairs(N), loss=track_embeddings(mnrl(model), bank))
    with pytest.raises((TypeError, ValueError), match=message):
        trainer.train()


def test_wrong_data_sets_say_what_to_write(tmp_path):
    with pytest.raises(ValueError, match=r"expected a dict with a bank or plan for each of \['a', 'b'\]"):
        trainer_of(plan_of(), tmp_path, several()).train()
    with pytest.raises(ValueError, match=r"expected the data sets \['a', 'b'\] of train_dataset, got \['a', 'c'\]"):
        trainer_of({"a": plan_of(), "c": plan_of()}, tmp_path, several()).train()
    with pytest.raises(ValueError, match="got training data of 'b' of 24 rows"):
        trainer_of({"a": plan_of(), "b": plan_of()}, tmp_path, several()).train()


def test_missing_lines_are_named(tmp_path):
    bank, other, model = FeatureBank(N, WIDTH), FeatureBank(N, WIDTH), static_model()
    loss = track_embeddings(mnrl(model), bank)
    trainer = RecordingTrainer(model, arguments(tmp_path), train_dataset=pairs(N), loss=loss)
    with pytest.raises(RuntimeError, match=r"got none. Write args.batch_sampler = hard_batches\(bank\)"):
        trainer.train()
    track_embeddings(mnrl(model), other)  # another loss
    args = arguments(tmp_path)
    args.batch_sampler = hard_batches(other)
    with pytest.raises(ValueError, match=r"Write loss = track_embeddings\(loss, bank\), or fill_bank"):
        RecordingTrainer(model, args, train_dataset=pairs(N), loss=loss).train()
    fill_bank(other, model, pairs(N))
    with pytest.raises(RuntimeError, match=r"got none. Write args.batch_sampler = .* with the bank of this loss"):
        RecordingTrainer(model, args, train_dataset=pairs(N), loss=loss).train()
    banks = {"a": FeatureBank(N, WIDTH), "b": FeatureBank(24, WIDTH)}
    args.batch_sampler = hard_batches(banks)
    loss = {"a": track_embeddings(mnrl(model), banks["b"]), "b": track_embeddings(mnrl(model), banks["a"])}
    with pytest.raises(RuntimeError, match="expected the bank that hard_batches got, got another one"):
        RecordingTrainer(model, args, train_dataset=several(), loss=loss).train()


@pytest.mark.parametrize("label", [None, "label"])
def test_an_untracked_loss_gets_its_own_labels_after_a_tracked_one(label, tmp_path):
    """With the same bank, in the same process."""
    bank, columns = FeatureBank(N, WIDTH), {} if label is None else {label: list(range(N))}
    trainer_of(bank, tmp_path, pairs(N)).train()
    model, args = static_model(), arguments(tmp_path)
    args.batch_sampler = hard_batches(bank, graph=GRAPH)
    loss = Probe(model)
    RecordingTrainer(model, args, train_dataset=pairs(N, **columns), loss=loss).train()
    assert bank.step == 10
    shapes = {None if labels is None else labels.ndim for _, _, labels in loss.seen}
    assert shapes == {None if label is None else 1}


def test_a_hyperparameter_search_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", dict)  # a trial of no backend
    with pytest.raises(ValueError, match="hard_batches: expected a training of its own, got a trial of hyperparameter"):
        trainer_of(source, tmp_path).train(trial={"learning_rate": 1e-3})


def test_wrong_width_says_which_banks_fit(tmp_path):
    for bank in (FeatureBank(N, 7), FeatureBank(N, 16, two_towers=True)):
        with pytest.raises(ValueError, match=r"expected FeatureBank\(n, 8, two_towers=True\) for pairs, FeatureBank"):
            trainer_of(bank, tmp_path).train()


def test_inner_loss_is_refused(tmp_path):
    def make(model: SentenceTransformer) -> nn.Module:
        return losses.MatryoshkaLoss(model, track_embeddings(mnrl(model), bank), [WIDTH, 4])

    bank, model, args = FeatureBank(N, WIDTH), static_model(), arguments(tmp_path)
    args.batch_sampler = hard_batches(bank, graph=GRAPH)
    with pytest.raises(RuntimeError, match="Give it the outermost loss"):
        RecordingTrainer(model, args, train_dataset=pairs(N), loss=make(model)).train()


def test_data_parallel_is_refused():
    loss = mnrl(static_model())
    loss.model = nn.DataParallel(loss.model)
    with pytest.raises(TypeError, match="expected one process per GPU, got nn.DataParallel"):
        track_embeddings(loss, FeatureBank(N, WIDTH))


def test_docstring_examples_run():
    from batchsampler_ext.integrations import sentence_transformers

    assert doctest.testmod(sentence_transformers) == (0, 1)


# --- two processes ---------------------------------------------------------------------------------------------------
def trainer_on_rank(kind: str, folder: Path, **options: Any) -> RecordingTrainer:
    model = static_model()
    args = arguments(folder, **options)
    loss = losses.MultipleNegativesRankingLoss(model, gather_across_devices=True)
    if kind == "plan":
        args.batch_sampler = hard_batches(plan_of(N, batch_size=2 * B))
    else:
        bank = FeatureBank(N, WIDTH, two_towers=True)
        fill_bank(bank, static_model(), pairs(N))
        args.batch_sampler = hard_batches(bank, graph=GRAPH, scope="local" if kind == "local" else "global")
        loss = track_embeddings(loss, bank)
    return RecordingTrainer(model, args, train_dataset=pairs(N), loss=loss)


def train_on_rank(folder: Path) -> dict[Any, Any]:
    gc.freeze()
    result: dict[Any, Any] = {}
    for kind in ("bank", "plan", "local"):
        whole = folder / kind / "whole"
        trainer = trainer_on_rank(kind, whole, save_strategy="steps", save_steps=1)
        trainer.train()
        result[kind] = positions(trainer, pairs(N))
        if kind != "plan":
            bank = trainer.args.batch_sampler.samplers[None].bank
            result[kind + " bank"] = bank.data.float().numpy()
        for step in (1, 2, 3):
            again = trainer_on_rank(kind, folder / kind / str(step))
            again.train(resume_from_checkpoint=str(whole / f"checkpoint-{step}"))
            result[kind, step] = positions(again, pairs(N))
    try:
        trainer_of({"a": FeatureBank(N, WIDTH), "b": FeatureBank(24, WIDTH)}, folder, several()).train()
    except ValueError as error:
        result["error"] = str(error)
    return result


def test_two_processes(tmp_path):
    """A step of both trains one global batch. N = 40 makes two batches of 16, because the trainer drops the last."""
    first, second = on_ranks(train_on_rank, tmp_path)
    assert isinstance(first, dict), first
    assert isinstance(second, dict), second
    plan = plan_of(N, batch_size=2 * B)
    steps = [a + b for a, b in zip(first["plan"], second["plan"], strict=True)]
    assert steps == [batch for batch in plan_batches(plan, 0, 1) if len(batch) == 2 * B]
    for kind in ("bank", "plan", "local"):
        for epoch in (slice(0, 2), slice(2, 4)):
            drawn = [i for rank in (first, second) for batch in rank[kind][epoch] for i in batch]
            assert len(drawn) == len(set(drawn)) == 32
        for rank in (first, second):
            assert len(rank[kind]) == 4
            for step in (1, 2, 3):
                assert rank[kind, step] == rank[kind][step:], (kind, step)
    for name in ("bank bank", "local bank"):
        np.testing.assert_array_equal(first[name], second[name])
    assert "expected one data set on 2 processes, got several with banks" in first["error"]


# --- the guide -------------------------------------------------------------------------------------------------------
def test_guide_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / "sentence_transformers.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    online, offline = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"model": bert_model(tmp_path / "model"), "dataset": pairs(200)}
    exec(online, names)
    assert names["bank"].step == 1 + 3 * 4  # three epochs are the trainer's default
    exec(offline, names)
    trainer = RecordingTrainer(names["model"], names["args"], train_dataset=names["dataset"], loss=mnrl(names["model"]))
    trainer.train()
    assert positions(trainer, names["dataset"]) == plan_batches(names["plan"], 0, 1, 2)
