"""Hard batches beside the losses, miners and trainers of pytorch-metric-learning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from batchsampler_ext import FeatureBank, IndexedDataset, PlannedBatchSampler, ProximityBatchSampler, compose

pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import losses, miners, trainers

from batchsampler_ext.integrations.metric_learning import track_embeddings

# The trainers show the loss with a progress bar.
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")

N, B, DIM = 43, 8, 4
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4


def trainer_of(sampler: Any, kind: Any = trainers.MetricLossOnly, **options: Any) -> Any:
    """Returns a trainer that does not change its model."""
    torch.manual_seed(0)
    embedder = torch.nn.Linear(6, DIM)
    defaults = {
        "models": {"trunk": torch.nn.Identity(), "embedder": embedder},
        "optimizers": {"embedder_optimizer": torch.optim.SGD(embedder.parameters(), lr=0.0)},
        "batch_size": B,
        "loss_funcs": {"metric_loss": losses.NTXentLoss()},
        "dataset": TensorDataset(X, Y),
        "sampler": sampler,
        "dataloader_num_workers": 0,
    }
    return kind(**{**defaults, **options})


def bank_and_sampler(**options: Any) -> tuple[FeatureBank, ProximityBatchSampler]:
    bank = FeatureBank(N, DIM, dtype=torch.float32, normalize=False, **options)
    return bank, ProximityBatchSampler(N, B, bank=bank)


def test_bank_has_the_embeddings_of_each_sample():
    bank, sampler = bank_and_sampler()
    miner = miners.MultiSimilarityMiner()
    trainer = trainer_of(sampler, mining_funcs={"tuple_miner": miner})
    track_embeddings(trainer, bank)
    trainer.train(num_epochs=2)
    assert bank.step == 12
    torch.testing.assert_close(bank.data, trainer.models["embedder"](X).detach())
    assert sampler.stats().missing_embedding_share == 0
    trainer.models["embedder"](X[:3])  # outside of training, as testers do
    assert bank.step == 12


def test_trainer_gets_the_batches_that_it_would_have_got():
    """User's getter and collate function see samples without indices."""
    seen: list[Any] = []

    def collate(samples: list[Any]) -> Any:
        assert all(len(sample) == 2 for sample in samples)
        return {"x": torch.stack([x for x, _ in samples]), "y": torch.stack([y for _, y in samples])}

    def getter(batch: Any) -> Any:
        seen.append(batch)
        return batch["x"], batch["y"]

    bank, sampler = bank_and_sampler()
    trainer = trainer_of(sampler, collate_fn=collate, data_and_label_getter=getter, dataloader_num_workers=1)
    track_embeddings(trainer, bank)
    trainer.train()
    for _ in trainer.dataloader_iter:  # ends the worker
        pass
    assert [sorted(batch) for batch in seen] == [["x", "y"]] * 6
    assert torch.cat([batch["x"] for batch in seen]).sort(0).values.equal(X.sort(0).values)
    torch.testing.assert_close(bank.data, trainer.models["embedder"](X).detach())


@pytest.mark.parametrize("two_towers", [False, True])
def test_two_streams(two_towers):
    bank, sampler = bank_and_sampler(two_towers=two_towers)
    trainer = trainer_of(sampler, trainers.TwoStreamMetricLoss, dataset=TensorDataset(X, -X, Y))
    trainer.loss_funcs["metric_loss"] = losses.TripletMarginLoss()
    track_embeddings(trainer, bank)
    trainer.train()
    embedder = trainer.models["embedder"]
    assert bank.step == 6
    torch.testing.assert_close(bank.data, embedder(X).detach())
    if two_towers:
        torch.testing.assert_close(bank.documents, embedder(-X).detach())


def test_plan_needs_no_line():
    plan = compose(X, batch_size=B, preset="uniform", num_epochs=2)
    seen: list[torch.Tensor] = []
    getter = lambda batch: seen.append(batch[1]) or (batch[0], batch[1] % 4)  # noqa: E731
    data = TensorDataset(X, torch.arange(N))
    trainer = trainer_of(PlannedBatchSampler(plan), dataset=data, data_and_label_getter=getter)
    trainer.train(num_epochs=2)
    expected = [batch[batch >= 0] for epoch in range(2) for batch in plan.batches(epoch)]
    assert [batch.tolist() for batch in seen] == [batch.tolist() for batch in expected]


def test_wrong_arguments_say_what_to_write():
    bank, sampler = bank_and_sampler()
    plan = PlannedBatchSampler(compose(X, batch_size=B, preset="uniform"))
    other = FeatureBank(N, DIM)
    miner = {"subset_batch_miner": miners.BatchHardMiner()}
    for trainer, given, message in [
        (losses.NTXentLoss(), bank, r"got NTXentLoss. In a loop of your own, write bank.update\(indices, embeddings\)"),
        (trainer_of(sampler), sampler, "bank: expected a FeatureBank, got ProximityBatchSampler"),
        (trainer_of(None), bank, r"expected sampler=ProximityBatchSampler\(dataset, batch_size, bank=bank\), got None"),
        (trainer_of(plan), bank, "PlannedBatchSampler. The batches of a plan are fixed, so leave this line out"),
        (trainer_of(sampler), other, "bank: expected the bank of the trainer's sampler, got another one"),
        (trainer_of(sampler, batch_size=4), bank, "expected batch_size=8 as the sampler has, got 4"),
        (trainer_of(sampler, mining_funcs=miner), bank, "expected no subset_batch_miner.*Use a tuple_miner"),
        (trainer_of(sampler, dataset=TensorDataset(X[:9], Y[:9])), bank, "a dataset of 43 samples .* got 9"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            track_embeddings(trainer, given)
    trainer = trainer_of(sampler)
    track_embeddings(trainer, bank)
    with pytest.raises(ValueError, match="got an IndexedDataset. Call track_embeddings once"):
        track_embeddings(trainer, bank)


def test_a_new_trainer_after_an_interrupted_one_stores_right_embeddings():
    """The earlier one has taken a batch, but not embedded it."""

    class Interrupted(torch.nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

    bank, sampler = bank_and_sampler()
    models = {"trunk": Interrupted(), "embedder": torch.nn.Linear(6, DIM)}
    trainer = trainer_of(sampler, models=models)
    track_embeddings(trainer, bank)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    models["trunk"] = torch.nn.Identity()
    trainer = trainer_of(sampler, models=models)
    track_embeddings(trainer, bank)
    with torch.no_grad():
        expected = models["embedder"](X)
    updates: list[bool] = []
    update = bank.update
    bank.update = lambda ids, rows: updates.append(torch.allclose(rows, expected[ids], atol=1e-5)) or update(ids, rows)  # type: ignore[method-assign]
    trainer.optimizers["embedder_optimizer"] = torch.optim.SGD(models["embedder"].parameters(), lr=0.0)
    trainer.train()
    assert updates == [True] * 6


def test_wrong_width_is_named():
    bank = FeatureBank(N, DIM + 1)
    trainer = trainer_of(ProximityBatchSampler(N, B, bank=bank))
    track_embeddings(trainer, bank)
    with pytest.raises(ValueError, match=r"embeddings: expected shape \[8, 5\], got \[8, 4\]"):
        trainer.train()


# --- what the guide says ---------------------------------------------------------------------------------------------
def test_positions_as_labels_make_other_batches_positive():
    """In a memory of earlier batches. Instance ids do not."""
    for is_position, expected in ((True, 3), (False, 1)):
        memory = losses.CrossBatchMemory(losses.NTXentLoss(), DIM, memory_size=64)
        for first in (0, 8, 16):
            ids = torch.arange(first, first + 8)
            labels = (torch.arange(8) if is_position else ids).repeat(2)
            embeddings = torch.nn.functional.normalize(torch.randn(16, DIM))
            memory(embeddings, labels)
        anchors, _, _, _ = memory.create_indices_tuple(
            embeddings, labels, memory.embedding_memory[:48], memory.label_memory[:48], None, True
        )
        assert len(anchors) == 16 * (2 * expected - 1)  # two views of each, without the anchor itself


def test_state_of_memory_lacks_its_position():
    memory, loaded = (losses.CrossBatchMemory(losses.NTXentLoss(), DIM, memory_size=64) for _ in range(2))
    memory(torch.randn(16, DIM), torch.arange(8).repeat(2))
    loaded.load_state_dict(memory.state_dict())
    assert (memory.queue_idx, loaded.queue_idx) == (16, 0)


def test_guide_runs():
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / "metric_learning.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    loop, trainer = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    bank, sampler = bank_and_sampler()
    template = trainer_of(None)
    names: dict[str, Any] = {
        "loader": DataLoader(IndexedDataset(TensorDataset(X, Y)), batch_sampler=sampler),
        "model": template.models["embedder"],
        "train_step": lambda loss: loss.backward(),
        "loss_func": losses.NTXentLoss(),
        "miner": miners.MultiSimilarityMiner(),
        "bank": bank,
    }
    exec(loop, names)
    assert bank.step == 6
    names |= {name: getattr(template, name) for name in ("models", "optimizers", "batch_size", "loss_funcs", "dataset")}
    names |= {"ProximityBatchSampler": ProximityBatchSampler}
    # The trainer's default is two worker processes.
    names["MetricLossOnly"] = lambda *args, **options: trainers.MetricLossOnly(
        *args, **options, dataloader_num_workers=0
    )
    exec(trainer, names)
    assert bank.step == 6 + 12
