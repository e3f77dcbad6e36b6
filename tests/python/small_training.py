"""A tiny training that is interrupted and resumed: the same on every road, so that roads differ in what they save."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import TensorDataset

from batchsampler_ext import FeatureBank, GraphConfig, IndexedDataset, ProximityBatchSampler

NUM_INSTANCES, BATCH_SIZE, NUM_EPOCHS = 200, 16, 2
NUM_BATCHES = 13  # per epoch; the last one has 8 instances
# Places at which a run is saved: after a step of the first epoch, after its last step, between the epochs (when the
# loader has ended the first one), after a step of the second epoch.
FIRST, LAST, BETWEEN, SECOND = 5, NUM_BATCHES, -NUM_BATCHES, 18


# Lightning 2.6 calls functions that torch 2.13 has deprecated, and advises to use more workers. It does not know that
# the sampler continues in the middle of an epoch.
lightning_warnings = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


class Training:
    """Encoder, optimizer, bank and sampler. All are new, so a resumed run has nothing but what it loads."""

    num_instances = NUM_INSTANCES

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.data = torch.from_numpy(load_digits().data[: self.num_instances]).float() / 16
        self.dataset = IndexedDataset(TensorDataset(self.data))
        self.encoder = torch.nn.Linear(64, 8)
        self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=1.0)
        self.bank = FeatureBank(self.num_instances, 8)
        options = {"graph": GraphConfig(num_candidates=50, num_neighbors=8), "seed": 3, **options}
        batch_size = options.pop("batch_size", BATCH_SIZE)
        self.make_sampler: Callable[[], Any] = functools.partial(
            ProximityBatchSampler, self.num_instances, batch_size, bank=self.bank, **options
        )
        self.sampler = self.make_sampler()
        self.trained: list[list[int]] = []  # the batches

    @property
    def num_steps(self) -> int:
        return max(0, self.bank.step - 1)  # the first update fills the bank

    @property
    def parts(self) -> dict[str, Any]:
        """All that has a state."""
        return {"encoder": self.encoder, "optimizer": self.optimizer, "bank": self.bank, "sampler": self.sampler}

    def fill(self) -> None:
        """Fills the bank, so that the first epoch depends on it."""
        with torch.no_grad():
            self.bank.update(range(self.num_instances), self.encoder(self.data))

    def update(self, indices: torch.Tensor, embeddings: torch.Tensor) -> None:
        self.bank.update(indices, embeddings)

    def loss(self, indices: torch.Tensor, x: torch.Tensor, encoder: Callable | None = None) -> torch.Tensor:
        """Returns a contrastive loss and updates the bank. The noise is a function of the step."""
        noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(self.num_steps))
        z1, z2 = (normalize((encoder or self.encoder)(view), dim=1) for view in (x, x + noise))
        self.update(indices, z2)
        self.trained.append(indices.tolist())
        return cross_entropy(z1 @ z2.T / 0.2, torch.arange(len(x)))

    def step(self, indices: torch.Tensor, x: torch.Tensor, encoder: Callable | None = None) -> None:
        self.optimizer.zero_grad()
        self.loss(indices, x, encoder).backward()
        self.optimizer.step()


def loop(
    training: Training,
    loader: Any,
    place: int,
    save: Callable[[], object],
    first_epoch: int,
    encoder: Callable | None = None,
) -> None:
    """Trains to the end. Saves at the place."""
    for _ in range(first_epoch, NUM_EPOCHS):
        for indices, (x,) in loader:
            training.step(indices, x, encoder)
            if training.num_steps == place:
                save()
        if training.num_steps == -place:
            save()


# Trains to the end, and returns the batches. Arguments: the checkpoint to start from or None; the place at which to
# save; the checkpoint to save.
Road = Callable[[Path | None, int, Path], list[list[int]]]


def check_road(train: Road, folder: Path, *chains: tuple[int, ...], num_batches: int = NUM_BATCHES) -> None:
    """Requires the exact batches from each place on.

    chains: places, at each of which the run is saved that resumed from the place before.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other
    for chain in chains or ((FIRST, LAST, SECOND), (BETWEEN, SECOND)):
        place = folder / "_".join(map(str, chain))
        place.mkdir()
        whole = train(None, chain[0], place / "0")
        check_epochs(whole, num_batches)
        for number, (step, following) in enumerate(zip(chain, (*chain[1:], 0), strict=True)):
            rest = train(place / str(number), following, place / str(number + 1))
            assert rest == whole[abs(step) :], f"resumed after {step} batches"
    torch.set_num_threads(num_threads)


def check_epochs(batches: list[list[int]], num_batches: int = NUM_BATCHES) -> None:
    """Requires that all instances are trained once per epoch, except those that drop_last leaves out."""
    assert len(batches) == NUM_EPOCHS * num_batches
    for epoch in range(NUM_EPOCHS):
        drawn = [i for batch in batches[epoch * num_batches : (epoch + 1) * num_batches] for i in batch]
        assert len(drawn) == len(set(drawn)) == min(NUM_INSTANCES, num_batches * BATCH_SIZE)


def worker_options(num_workers: int) -> dict[str, Any]:
    """Returns arguments of a loader. Its processes are forked from one that has imported all modules already."""
    if num_workers == 0:
        return {"num_workers": 0}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["batchsampler_ext", "pytest", "torchdata.stateful_dataloader"])
    return {"num_workers": num_workers, "multiprocessing_context": context, "prefetch_factor": 3}


def with_stateful_loader(make: Callable[[], Training], num_workers: int) -> Road:
    """Returns the road on which torchdata's loader saves and loads the state of the sampler."""
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def train(load: Path | None, place: int, save: Path) -> list[list[int]]:
        training = make()
        training.fill()
        options = worker_options(num_workers)
        loader = loaders.StatefulDataLoader(training.dataset, batch_sampler=training.sampler, **options)
        parts = {name: part for name, part in training.parts.items() if name != "sampler"} | {"loader": loader}
        if load is not None:
            state = torch.load(load, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])

        def save_all() -> None:
            torch.save({name: part.state_dict() for name, part in parts.items()}, save)

        loop(training, loader, place, save_all, training.num_steps // NUM_BATCHES)
        return training.trained

    return train
