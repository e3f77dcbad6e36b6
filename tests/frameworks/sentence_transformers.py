"""The trainer of sentence-transformers, as docs/frameworks/sentence_transformers.md shows it."""

from __future__ import annotations

import copy
import functools
import gc
import tempfile
import warnings
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from sentence_transformers.sentence_transformer import losses

from batchsampler_ext import FeatureBank, GraphConfig, Plan, compose
from batchsampler_ext.integrations.sentence_transformers import fill_bank, hard_batches, track_embeddings
from tests.frameworks.matrix import Run
from tests.python.small_training import BATCH_SIZE, NUM_EPOCHS
from tests.python.test_sentence_transformers import positions
from tests.python.tiny_texts import WIDTH, RecordingTrainer, arguments, bert_model, pairs

SIZES = {
    "a": 8 * BATCH_SIZE,
    "b": 5 * BATCH_SIZE,
}  # of two data sets; 13 full batches, since the trainer drops the last
LOSSES = {
    "MNRL": losses.MultipleNegativesRankingLoss,
    "cached": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3),
    "Matryoshka": lambda model: losses.MatryoshkaLoss(model, LOSSES["MNRL"](model), [WIDTH, 4]),
    "gathered": lambda model: losses.MultipleNegativesRankingLoss(model, gather_across_devices=True),
}


class TextTraining:
    """A training on pairs of texts. The trainer makes the sampler."""

    num_instances = sum(SIZES.values())

    def __init__(self, kind: str, num_ranks: int, num_before: int) -> None:
        self.kind, self.num_ranks, self.num_before = kind, num_ranks, num_before
        self.trained: list[list[int]] = []
        self.bank: FeatureBank | None = None

    def source(self, model: Any, data: datasets.Dataset, batch_size: int) -> FeatureBank | Plan:
        """Returns what ``hard_batches`` takes for a data set."""
        if self.kind == "plan":
            features = torch.randn(len(data), WIDTH, generator=torch.Generator().manual_seed(0))
            return compose(features, batch_size=batch_size, preset="uniform", num_epochs=NUM_EPOCHS)
        self.bank = FeatureBank(len(data), WIDTH, two_towers=True)
        fill_bank(self.bank, model, data)
        return self.bank


@functools.cache
def _new_model() -> Any:
    """Returns the model before training. With several ranks, transformers would write its files on the first only."""
    with tempfile.TemporaryDirectory() as folder:
        return bert_model(Path(folder))


class _SaveAt(transformers.TrainerCallback):
    def __init__(self, place: int) -> None:
        self.place = place

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == self.place


def train_texts(run: Run, loss: str = "MNRL", is_several: bool = False) -> None:
    warnings.filterwarnings("ignore", ".pin_memory. argument is set as true but no accelerator is found")
    gc.freeze()  # each training collects garbage, which takes a second among the objects of all imported modules
    training, model = run.training, copy.deepcopy(_new_model())
    per_device = BATCH_SIZE // training.num_ranks
    whole = pairs(training.num_instances)
    source: Any
    if is_several:
        data: Any = datasets.DatasetDict(a=pairs(SIZES["a"]), b=pairs(SIZES["b"], SIZES["a"]))
        source = {name: training.source(model, part, per_device) for name, part in data.items()}
    else:
        data, source = whole, training.source(model, whole, BATCH_SIZE)

    made, graph = LOSSES[loss](model), {}
    if training.kind == "bank":
        made, graph = track_embeddings(made, source), {"graph": GraphConfig(num_candidates=50, num_neighbors=8)}
    args = arguments(run.save, per_device_train_batch_size=per_device, num_train_epochs=NUM_EPOCHS)
    args.batch_sampler = hard_batches(source, **graph)
    trainer = RecordingTrainer(model, args, train_dataset=data, loss=made, callbacks=[_SaveAt(run.place)])
    trainer.train(resume_from_checkpoint=run.load and str(run.load / f"checkpoint-{training.num_before}"))
    training.trained = positions(trainer, whole)
