"""Batches of a plan in training: in order, on any number of ranks, after any interruption, under every trainer.

What it shares with ProximityBatchSampler is tested for both in test_ranks.py.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from batchsampler_ext import IndexedDataset, Plan, PlannedBatchSampler, compose
from tests.python.small_training import (
    BATCH_SIZE,
    NUM_EPOCHS,
    NUM_INSTANCES,
    Training,
    check_road,
    loop,
    with_stateful_loader,
    worker_options,
)
from tests.python.test_state_roads import accelerate, set_vital_is_deprecated  # noqa: F401  (a fixture)
from tests.python.test_state_roads_of_ranks import check_ranks, resumed
from tests.python.test_state_roads_of_trainers import hf_trainer, lightning_module, transformers  # noqa: F401
from tests.python.torchrun_ranks import on_ranks

NUM_BATCHES = 13


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(NUM_EPOCHS)


def planned(num_epochs: int, seed: int = 0) -> Plan:
    embeddings = torch.randn(NUM_INSTANCES, 8, generator=torch.Generator().manual_seed(0))
    return compose(embeddings, batch_size=BATCH_SIZE, preset="walks", num_epochs=num_epochs, seed=seed)


def expected_epochs(plan: Plan) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in plan.batches(epoch)] for epoch in range(plan.num_epochs)]


# --- epochs ----------------------------------------------------------------------------------------------------------
def test_epochs_are_those_of_the_plan(plan, tmp_path):
    plan.save(tmp_path / "plan.bse")
    for source in (plan, tmp_path / "plan.bse", str(tmp_path / "plan.bse")):
        sampler = PlannedBatchSampler(source, dataset=NUM_INSTANCES)
        assert len(sampler) == NUM_BATCHES
        assert [list(sampler), list(sampler)] == expected_epochs(plan)
        assert sampler.epoch == 1
        sampler.set_epoch(0)
        assert list(sampler) == expected_epochs(plan)[0]


def test_later_epochs_repeat_the_plan_with_one_warning(plan):
    sampler = PlannedBatchSampler(plan)
    with pytest.warns(UserWarning, match="the plan has 2 epochs, so epoch 2 repeats epoch 0, and so on") as caught:
        found = [list(sampler) for _ in range(5)]
    assert len(caught) == 1
    first, second = expected_epochs(plan)
    assert found == [first, second, first, second, first]
    sampler.set_epoch(7)
    assert list(sampler) == second


def test_epochs_may_differ_in_length():
    epochs = [torch.randperm(40).int(), torch.randperm(40).int()[:24], torch.randperm(40).int()[:30]]
    sampler = PlannedBatchSampler(Plan(epochs, 40, 8, {}))
    for number, length in enumerate((5, 3, 4)):
        sampler.set_epoch(number)
        assert len(sampler) == len(list(sampler)) == length


def test_a_damaged_epoch_is_refused_when_it_begins(plan, tmp_path):
    path = tmp_path / "plan.bse"
    plan.save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    sampler = PlannedBatchSampler(path)
    assert list(sampler) == expected_epochs(plan)[0]
    with pytest.raises(ValueError, match="damaged one .epoch_1 has another checksum.*plan.bse"):
        next(iter(sampler))


# --- arguments -------------------------------------------------------------------------------------------------------
class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(NUM_INSTANCES))

    def __len__(self) -> int:
        return NUM_INSTANCES


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"plan": [[0, 1]]}, TypeError, "plan: expected a Plan or the path of its file, got list"),
        ({"dataset": 199}, ValueError, "dataset: expected the 200 instances that the plan was composed for, got 199"),
        ({"dataset": TensorDataset(torch.zeros(201))}, ValueError, "dataset: .* got TensorDataset of 201"),
        ({"dataset": Endless()}, TypeError, "dataset: expected a dataset with __getitem__, got an IterableDataset"),
        (
            {"dataset": 2.5},
            TypeError,
            "dataset: expected a number or a dataset with __len__ and __getitem__, got float",
        ),
        ({"rank": 0}, ValueError, "rank, num_replicas: expected both or neither"),
        (
            {"rank": 0, "num_replicas": 3},
            ValueError,
            "plan: expected a batch_size that num_replicas 3 divides, because all ranks share each batch, got 16",
        ),
    ],
)
def test_bad_arguments_are_named(plan, arguments, error, message):
    with pytest.raises(error, match=message):
        PlannedBatchSampler(**{"plan": plan, **arguments})


def test_datasets_of_the_right_size_are_taken(plan):
    rows = torch.zeros(NUM_INSTANCES, 2)
    for dataset in (NUM_INSTANCES, TensorDataset(rows), [0] * NUM_INSTANCES, rows, rows.numpy(), rows[:, 0].long()):
        assert len(PlannedBatchSampler(plan, dataset=dataset)) == NUM_BATCHES


# --- states ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", range(2 * NUM_BATCHES))
def test_kill_and_resume_continue_the_exact_sequence(plan, place):
    expected = [batch for epoch in expected_epochs(plan) for batch in epoch]
    sampler, begun = PlannedBatchSampler(plan), []
    while len(begun) < place:
        for batch in sampler:
            begun.append(batch)
            if len(begun) == place:
                break
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    assert len(pickle.dumps(state)) < 500
    fresh = PlannedBatchSampler(plan)
    fresh.load_state_dict(state)
    rest = list(fresh)
    if len(begun) + len(rest) < len(expected):
        rest += list(fresh)
    assert begun + rest == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_num_trained_goes_back_to_what_was_trained(plan, num_workers):
    dataset = IndexedDataset(TensorDataset(torch.zeros(NUM_INSTANCES, 1)))
    sampler = PlannedBatchSampler(plan, dataset=dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on one core
        batches = iter(DataLoader(dataset, batch_sampler=sampler, **worker_options(num_workers)))
    trained = [next(batches)[0].tolist() for _ in range(4)]
    state = sampler.state_dict(4)
    assert (sampler.state_dict()["num_drawn"] > 4) == (num_workers > 0)
    fresh = PlannedBatchSampler(plan)
    fresh.load_state_dict(state)
    assert trained + list(fresh) == expected_epochs(plan)[0]
    for _ in batches:
        pass


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda sampler: pickle.loads(pickle.dumps(sampler))])
def test_copies_continue_where_the_sampler_would(plan, duplicate, tmp_path):
    plan.save(tmp_path / "plan.bse")
    for source in (plan, tmp_path / "plan.bse"):
        sampler = PlannedBatchSampler(source)
        batches = iter(sampler)
        begun = [next(batches), next(batches)]
        other = duplicate(sampler)
        other.load_state_dict(other.state_dict())
        assert begun + list(other) == expected_epochs(plan)[0]


def test_states_of_other_plans_are_refused(plan):
    sampler = PlannedBatchSampler(plan)
    next(iter(sampler))
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="state: expected plan '.*' as this sampler has, got '"):
        PlannedBatchSampler(planned(NUM_EPOCHS, seed=1)).load_state_dict(state)
    with pytest.raises(ValueError, match="state: expected batch_size 8 as this sampler has, got 16"):
        PlannedBatchSampler(Plan(plan._epochs, NUM_INSTANCES, 8, {})).load_state_dict(state)


@pytest.mark.parametrize(
    "changes", [{"num_drawn": 14}, {"num_drawn": -1}, {"epoch": -1}, {"version": 1}, {"settings": None}, {"plans": 5}]
)
def test_damaged_states_are_refused(plan, changes):
    sampler = PlannedBatchSampler(plan)
    begun = [next(iter(sampler))]
    good = sampler.state_dict()
    fresh = PlannedBatchSampler(plan)
    with pytest.raises((TypeError, ValueError), match=r"^(state|epoch)"):
        fresh.load_state_dict({**good, **changes})
    assert list(fresh)[:1] == begun


def test_an_iterator_given_up_right_after_loading_loses_no_batches(plan):
    """StatefulDataLoader with workers draws ahead, gives the iterator up and begins again."""
    sampler = PlannedBatchSampler(plan)
    batches = iter(sampler)
    begun = [next(batches) for _ in range(5)]
    fresh = PlannedBatchSampler(plan)
    fresh.load_state_dict(sampler.state_dict())
    next(iter(fresh))
    assert begun + list(fresh) == expected_epochs(plan)[0]
    assert list(fresh) == expected_epochs(plan)[1]


# --- trainers that skip batches, or share them out -------------------------------------------------------------------
def test_trainers_may_skip_batches_with_or_without_a_state(plan):
    SkipBatchSampler = pytest.importorskip("accelerate.data_loader").SkipBatchSampler
    expected = expected_epochs(plan)
    sampler = PlannedBatchSampler(plan)
    sampler.set_epoch(1)
    assert list(SkipBatchSampler(sampler, 5)) == expected[1][5:]
    batches = iter(sampler := PlannedBatchSampler(plan))
    for _ in range(5):
        next(batches)
    fresh = PlannedBatchSampler(plan)
    fresh.load_state_dict(sampler.state_dict())
    assert list(SkipBatchSampler(fresh, 5)) == expected[0][5:]
    assert list(fresh) == expected[1]


def test_batches_are_not_shared_out_twice(plan):
    BatchSamplerShard = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    shard = BatchSamplerShard(PlannedBatchSampler(plan, rank=0, num_replicas=2), num_processes=2)
    with pytest.raises(RuntimeError, match="^PlannedBatchSampler: expected a loader that Accelerate has not prepared"):
        next(iter(shard))
    shard = BatchSamplerShard(PlannedBatchSampler(plan, num_replicas=1), num_processes=2)
    assert len(list(shard)) == -(-NUM_BATCHES // 2)


def test_processes_without_a_group_are_warned(plan, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(UserWarning, match="^PlannedBatchSampler: WORLD_SIZE is 2, but there is no process group"):
        next(iter(PlannedBatchSampler(plan)))


# --- roads of checkpoints --------------------------------------------------------------------------------------------
class PlannedTraining(Training):
    """The training of the other roads, with batches of a plan."""

    def __init__(self, num_replicas: int | None = None) -> None:
        super().__init__()
        self.sampler = PlannedBatchSampler(planned(NUM_EPOCHS), dataset=self.dataset, num_replicas=num_replicas)


def train_plain(load: Path | None, place: int, save: Path) -> list:
    training = PlannedTraining()
    training.fill()
    if load is not None:
        state = torch.load(load, weights_only=True)
        for name, part in training.parts.items():
            part.load_state_dict(state[name])
    loader = DataLoader(training.dataset, batch_sampler=training.sampler)

    def save_all() -> None:
        torch.save({name: part.state_dict() for name, part in training.parts.items()}, save)

    loop(training, loader, place, save_all, training.sampler.epoch)
    return training.trained


def test_torch_save(tmp_path):
    check_road(train_plain, tmp_path)


@set_vital_is_deprecated
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_stateful_data_loader(num_workers, tmp_path):
    """The loader knows which batches were trained, also with workers."""
    check_road(with_stateful_loader(PlannedTraining, num_workers), tmp_path)


def test_hf_trainer_without_the_integration(transformers, tmp_path):  # noqa: F811
    """It skips batches by itself, so it needs no state of the sampler if its loader calls set_epoch."""

    def train(load: Path | None, place: int, save: Path) -> list:
        training = PlannedTraining()
        training.fill()
        checkpoint = load and load / f"checkpoint-{places[load]}"
        places[save] = place
        trainer = hf_trainer(transformers, training, place, 0, output_dir=str(save))
        rows = [{"indices": i, "x": x} for i, x in enumerate(training.data)]
        loader = DataLoader(rows, batch_sampler=training.sampler)
        trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(loader)  # calls set_epoch
        trainer.callback_handler.callbacks = [
            callback for callback in trainer.callback_handler.callbacks if type(callback).__name__ != "_Checkpoints"
        ]
        trainer.train(resume_from_checkpoint=checkpoint)
        return training.trained

    places: dict[Path, int] = {}
    check_road(train, tmp_path, (2, NUM_BATCHES, NUM_BATCHES + 3))


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    def train(load: Path | None, place: int, save: Path) -> list:
        training = PlannedTraining()
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=NUM_EPOCHS, logger=False, enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ModelCheckpoint(save, "{step}", save_top_k=-1, every_n_train_steps=1)],
        )  # fmt: skip
        names[save] = f"step={place}.ckpt"
        trainer.fit(lightning_module(lightning, training, 0), ckpt_path=load and load / names[load])
        return training.trained

    names: dict[Path, str] = {}
    check_road(train, tmp_path, (2, NUM_BATCHES + 3))


def with_process_group(folder: Path) -> dict:
    """Ranks share a plan through the default process group, and resume from torch.save."""
    torch.distributed.init_process_group("gloo")
    return resumed(train_plain, folder)


def test_ranks_of_a_process_group(tmp_path):
    check_ranks(on_ranks(with_process_group, tmp_path))
