"""The matrix of frameworks: each trains the same small encoder, is saved, and resumes, on one and on two ranks.

A framework is a function ``train(run)``. It trains ``run.training`` to the end of the last epoch, and saves once.
docs/frameworks/README.md has the table. ``python -m tests.frameworks.table`` writes it.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from batchsampler_ext import FeatureBank, PlannedBatchSampler, compose
from tests.python.small_training import BATCH_SIZE, NUM_EPOCHS, NUM_INSTANCES, Training
from tests.python.torchrun_ranks import NUM_RANKS, on_ranks

# Places at which a run is saved, as numbers of batches: in the first epoch, and in the second one.
FIRST, SECOND = 5, 18
KINDS = ("bank", "plan")  # ProximityBatchSampler, PlannedBatchSampler
CHECKS = {
    "E": "another order in each epoch",
    "U": "each instance once per epoch, over all ranks",
    "B": "equal banks on all ranks",
    "R": "exact resume",
}
REFUSED = "refused"


class MatrixTraining(Training):
    """A training with either sampler. With a plan, there is no bank.

    Args:
        kind: of ``KINDS``.
        num_ranks: the global batch has BATCH_SIZE instances on any number of ranks.
        options: of the sampler.
    """

    num_instances = 201  # the last batch of two ranks is padded

    def __init__(self, kind: str, num_ranks: int, num_before: int, **options: Any) -> None:
        super().__init__(batch_size=BATCH_SIZE // num_ranks, **(options if kind == "bank" else {}))
        self.kind, self.num_before = kind, num_before
        if kind == "plan":
            size = BATCH_SIZE // num_ranks * options.get("num_replicas", num_ranks)
            plan = compose(self.data, batch_size=size, num_epochs=NUM_EPOCHS, preset="uniform", seed=3)
            self.make_sampler = functools.partial(PlannedBatchSampler, plan, **options)
            self.sampler = self.make_sampler()
            self.bank = None

    @property
    def num_steps(self) -> int:
        """Number of batches that this rank has trained since the beginning, before and after resuming."""
        return self.num_before + len(self.trained)

    @property
    def sampling(self) -> dict[str, Any]:
        """What must be saved besides the encoder."""
        return {"sampler": self.sampler} if self.bank is None else {"bank": self.bank, "sampler": self.sampler}

    def fill(self) -> None:
        if self.bank is not None:
            super().fill()

    def update(self, indices: torch.Tensor, embeddings: torch.Tensor) -> None:
        if self.bank is not None:
            self.bank.update(indices, embeddings)


class EvenTraining(MatrixTraining):
    """No batch of two ranks is padded."""

    num_instances = NUM_INSTANCES


@dataclass
class Run:
    """One training of a framework. It resumes if ``load`` is given, in new objects."""

    training: Any  # a MatrixTraining, or what the framework names
    place: int  # number of batches of this rank after which it is saved; 0: never
    save: Path  # a folder that exists
    load: Path | None  # the folder of an earlier run

    @property
    def is_place(self) -> bool:
        """Whether to save now, after a step."""
        return self.training.num_steps == self.place


@dataclass(frozen=True)
class Framework:
    """A row of the matrix.

    Args:
        train: "module:function" that takes a :class:`Run`, so that spawned processes find it.
        options: of the function.
        missing: what does not hold, such as {("bank", 2): "R"}, by kind and number of ranks. "" is nothing.
        refused: a part of the error, by kind and number of ranks, where the integration refuses to train.
        reason: why something is missing or refused, for the table.
        sampler: options of the sampler.
        training: "module:class" of a training with the arguments of :class:`MatrixTraining` and the attributes
            ``num_before``, ``num_instances``, ``num_steps``, ``trained`` and ``bank``. An epoch has 13 batches.
    """

    name: str
    train: str
    options: tuple[tuple[str, Any], ...] = ()
    missing: tuple[tuple[tuple[str, int], str], ...] = ()
    refused: tuple[tuple[tuple[str, int], str], ...] = ()
    reason: str = ""
    packages: tuple[str, ...] = ()  # that it needs
    sampler: tuple[tuple[str, Any], ...] = ()
    training: str = "tests.frameworks.matrix:MatrixTraining"

    def expected(self, kind: str, num_ranks: int) -> str:
        if (kind, num_ranks) in dict(self.refused):
            return REFUSED
        checks = "EUR" if kind == "plan" or num_ranks == 1 else "EUBR"
        missing = dict(self.missing).get((kind, num_ranks), "")
        return "".join(letter for letter in checks if letter not in missing)


def named(path: str) -> Any:
    """Returns what "module:name" is."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def run_all(framework: Framework, kind: str, num_ranks: int, folder: Path) -> dict[str, Any]:
    """Runs on one rank: a whole training, then one that resumes from its place, and one that resumes from that one."""
    train: Callable[..., None] = named(framework.train)
    make: Callable[..., Any] = named(framework.training)
    error = dict(framework.refused).get((kind, num_ranks))
    chain = [(None, 0, FIRST), (0, FIRST, SECOND), (1, SECOND, 0)]
    found, banks = [], []
    for number, (load, before, place) in enumerate(chain):
        save = folder / f"{kind}{number}"
        save.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        training = make(kind, num_ranks, before, **dict(framework.sampler))
        run = Run(training, place, save, None if load is None else folder / f"{kind}{load}")
        if error is None:
            train(run, **dict(framework.options))
        else:
            with pytest.raises(Exception, match=error):
                train(run, **dict(framework.options))
            return {REFUSED: True}
        found.append(training.trained)
        banks.append(tables_of(training.bank))
    return {"batches": found, "banks": banks, "num_instances": training.num_instances}


def tables_of(bank: FeatureBank | None) -> Any:
    return None if bank is None else (bank.data.float().tolist(), bank.last_update.tolist())


def letters(results: list[dict[str, Any]]) -> str:
    """Returns what holds: (E)pochs advance, the (U)nion is whole and disjoint, (B)anks are equal, (R)esuming is exact.

    results: of :func:`run_all`, by rank.
    """
    if all(REFUSED in result for result in results):
        return REFUSED
    wholes = [result["batches"][0] for result in results]
    size = len(wholes[0]) // NUM_EPOCHS
    epochs = [[whole[e * size : (e + 1) * size] for whole in wholes] for e in range(NUM_EPOCHS)]
    drawn = [sorted(i for batches in epoch for batch in batches for i in batch) for epoch in epochs]
    held = ""
    if all(epochs[0][rank] != epochs[1][rank] for rank in range(len(results))):
        held += "E"
    whole_set = list(range(results[0]["num_instances"]))
    if all(sorted(set(ids)) == whole_set and len(ids) - len(whole_set) < len(results) for ids in drawn):
        held += "U"
    has_bank = results[0]["banks"][0] is not None
    if len(results) > 1 and has_bank and all(result["banks"] == results[0]["banks"] for result in results):
        held += "B"
    resumed = all(
        batches == result["batches"][0][place:] and bank == result["banks"][0]
        for result in results
        for place, batches, bank in zip((FIRST, SECOND), result["batches"][1:], result["banks"][1:], strict=True)
    )
    return held + "R" * resumed


def run_kinds(framework: Framework, folder: Path) -> dict[str, Any]:
    """Runs both samplers on this rank. Warnings of ours fail."""
    warnings.filterwarnings("error", r"(bank\.|update|ProximityBatchSampler|PlannedBatchSampler|set_epoch)")
    return {kind: run_all(framework, kind, NUM_RANKS, folder) for kind in KINDS}


def cells(framework: Framework, num_ranks: int, folder: Path) -> dict[str, str]:
    """Returns what holds, by kind. Raises ``RuntimeError`` with the tracebacks of the ranks that failed.

    num_ranks: 1 or NUM_RANKS.
    """
    if num_ranks == 1:
        return {kind: letters([run_all(framework, kind, 1, folder)]) for kind in KINDS}
    found = on_ranks(functools.partial(run_kinds, framework), folder, timeout=200)
    errors = [f"rank {rank} of {num_ranks}:\n{text}" for rank, text in enumerate(found) if isinstance(text, str)]
    if errors:
        raise RuntimeError("\n".join([framework.name, *errors]))
    return {kind: letters([result[kind] for result in found]) for kind in KINDS}
