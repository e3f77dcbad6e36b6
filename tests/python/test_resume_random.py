"""Random sequences of what loaders and trainers do. The saved position is always that of training."""

from __future__ import annotations

import pickle
import random

import pytest
import torch

from batchsampler_ext import FeatureBank, GraphConfig, ProximityBatchSampler

N, B = 13, 3
NUM_BATCHES = 5


class Run:
    """A training loop whose loader draws ahead. It knows what is trained, and compares the sampler's state with it."""

    def __init__(self, planner: str, sets_epoch: bool) -> None:
        self.planner, self.sets_epoch = planner, sets_epoch
        self.sampler = self.new_sampler()
        self.batches, self.ahead, self.num_ahead = None, [], 0
        self.epoch, self.trained = 0, []  # batches trained in this epoch

    def new_sampler(self) -> ProximityBatchSampler:
        config = GraphConfig(num_candidates=5, num_neighbors=3)
        return ProximityBatchSampler(N, B, bank=FeatureBank(N, 4), planner=self.planner, graph=config, seed=1)

    def begin(self, num_ahead: int) -> None:
        """Makes the loader's iterator, unless the epoch is being trained already."""
        if self.batches is None and not self.ahead:
            if self.sets_epoch:
                self.sampler.set_epoch(self.epoch)
            self.batches, self.num_ahead = iter(self.sampler), num_ahead
            self.fill()

    def fill(self) -> None:
        while self.batches is not None and len(self.ahead) <= self.num_ahead:
            batch = next(self.batches, None)
            if batch is None:
                self.batches = None
            else:
                self.ahead.append(batch)

    def train(self) -> None:
        if not self.ahead:
            return
        batch = self.ahead.pop(0)
        generator = torch.Generator().manual_seed(self.sampler.bank.step)
        self.sampler.bank.update(batch, torch.randn(len(batch), 4, generator=generator))
        self.trained.append(batch)
        ids = [i for batch in self.trained for i in batch]
        assert len(set(ids)) == len(ids)
        self.fill()
        if not self.ahead and self.batches is None:
            assert sorted(ids) == list(range(N))
            self.epoch, self.trained = self.epoch + 1, []

    def look(self) -> None:
        next(iter(self.sampler), None)

    def refresh(self) -> None:
        self.sampler.refresh()

    def save_and_load(self) -> None:
        states = pickle.dumps((self.sampler.bank.state_dict(), self.sampler.state_dict()))
        bank_state, state = pickle.loads(states)
        self.sampler = self.new_sampler()
        self.sampler.bank.load_state_dict(bank_state)
        self.sampler.load_state_dict(state)
        self.batches, self.ahead = None, []

    def check(self) -> None:
        state = self.sampler.state_dict()
        position = (state["epoch"], state["num_drawn"])
        if state["is_finished"]:
            position = (state["epoch"] + 1, 0)
        assert position == (self.epoch, len(self.trained))


@pytest.mark.parametrize("planner", ["uniform", "partition"])
@pytest.mark.parametrize("sets_epoch", [False, True])
def test_random_sequences_neither_lose_nor_repeat_batches(planner, sets_epoch):
    for seed in range(150):
        chosen = random.Random(seed)
        run, done = (
            Run(planner, sets_epoch),
            ["begin 0", "train"],
        )  # before the first update nobody knows what is trained
        run.begin(0)
        run.train()
        for _ in range(chosen.randint(4, 30)):
            name = chosen.choice(["begin", "train", "train", "train", "train", "look", "refresh", "save_and_load"])
            arguments = [chosen.choice([0, 1, 3, 9])] if name == "begin" else []
            if name == "look" and len(run.trained) == NUM_BATCHES - 1:
                continue  # it would draw all that is left, as training does
            done.append(" ".join(map(str, [name, *arguments])))
            try:
                getattr(run, name)(*arguments)
                run.check()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {', '.join(done)}") from error
