"""``integrations.accelerate``: what is refused, and what a checkpoint has. tests/frameworks trains with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from batchsampler_ext import FeatureBank, IndexedDataset, PlannedBatchSampler, ProximityBatchSampler, compose
from tests.python.torchrun_ranks import on_ranks

accelerate = pytest.importorskip("accelerate")
N, B = 20, 4
DATA = torch.arange(2.0 * N).reshape(N, 2)
DATASET = IndexedDataset(TensorDataset(DATA))


@pytest.fixture(autouse=True)
def new_state():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def prepare_loader(*arguments):
    from batchsampler_ext.integrations.accelerate import prepare_loader

    return prepare_loader(*arguments)


def planned(batch_size: int = B, **options) -> PlannedBatchSampler:
    return PlannedBatchSampler(compose(DATA, batch_size=batch_size, num_epochs=2, preset="uniform", seed=3), **options)


def proximity(**options) -> ProximityBatchSampler:
    return ProximityBatchSampler(N, B, bank=FeatureBank(N, 2), planner="uniform", **options)


def loader_of(sampler, **options) -> DataLoader:
    return DataLoader(DATASET, batch_sampler=sampler, **options)


def prepared(sampler, **options):
    """Returns an accelerator on the CPU, and the loader of the sampler."""
    accelerator = accelerate.Accelerator(cpu=True, **options)
    return accelerator, prepare_loader(accelerator, loader_of(sampler))


def drawn(loader) -> list[list[int]]:
    return [ids.tolist() for ids, _ in loader]


# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: (loader_of(planned()), a), TypeError, "accelerator: expected an Accelerator, got DataLoader"),
        (lambda a: (a, planned()), TypeError, "loader: expected a DataLoader, got PlannedBatchSampler"),
        (
            lambda a: (a, DataLoader(DATASET, 4)), TypeError,
            r"expected batch_sampler=ProximityBatchSampler\(...\) .* with a BatchSampler. Use accelerator.prepare",
        ),
        (
            lambda a: (a, a.prepare(loader_of(planned()))), TypeError,
            r"got the result of accelerator.prepare. Write loader = prepare_loader\(accelerator, loader\) instead",
        ),
        (
            lambda a: (a, DataLoader(DATA[:12], batch_sampler=planned())), ValueError,
            "expected the 20 instances that the Plan has, got a dataset of 12",
        ),
        (
            lambda a: (a, DataLoader(DATA[:12], batch_sampler=proximity())), ValueError,
            "expected the 20 instances that the FeatureBank has, got a dataset of 12",
        ),
        (
            lambda a: (a, loader_of(proximity(rank=0, num_replicas=2))), ValueError,
            "among 1 processes, of which this is number 0, got rank 0 and num_replicas 2. Leave out rank=",
        ),
    ],
)  # fmt: skip
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        prepare_loader(*make(accelerate.Accelerator(cpu=True)))


def test_skip_first_batches_is_refused():
    _, loader = prepared(planned())
    with pytest.raises(
        RuntimeError, match=r"Write accelerator.load_state\(folder\) and iterate over the loader itself"
    ):
        accelerate.skip_first_batches(loader, 1)


def test_a_sampler_that_is_registered_twice_is_refused():
    accelerator, loader = prepared(planned())
    accelerator.register_for_checkpointing(loader.batch_sampler)
    with pytest.raises(RuntimeError, match="Leave out accelerator.register_for_checkpointing"):
        next(iter(loader))


def test_a_checkpoint_of_the_other_sampler_is_refused(tmp_path):
    accelerator, _ = prepared(planned())
    accelerator.save_state(tmp_path)
    accelerator, _ = prepared(proximity())
    with pytest.raises(ValueError, match="expected that of a ProximityBatchSampler, got one without a bank"):
        accelerator.load_state(tmp_path)


# --- what it does ----------------------------------------------------------------------------------------------------
def test_it_is_prepared_once_and_keeps_options():
    def collate(rows: list) -> list:
        return rows

    accelerator = accelerate.Accelerator(cpu=True)
    loader = prepare_loader(accelerator, loader_of(planned(), collate_fn=collate, timeout=3))
    assert prepare_loader(accelerator, loader) is accelerator.prepare(loader) is loader
    assert accelerator._dataloaders == [loader]
    assert (loader.collate_fn, loader.timeout, len(loader)) == (collate, 3, 5)


def test_gradients_are_synchronized_at_the_end_of_the_loader():
    accelerator, loader = prepared(planned(), gradient_accumulation_steps=2)
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    synchronized = []
    for _ in range(2):
        for _ in loader:
            with accelerator.accumulate(model):
                synchronized.append(accelerator.sync_gradients)
    assert synchronized == [False, True, False, True, True] * 2


def test_gather_for_metrics_keeps_a_ragged_batch():
    accelerator, loader = prepared(planned(batch_size=6))
    sizes = [len(accelerator.gather_for_metrics(ids)) for ids, _ in loader]
    assert sizes == [6, 6, 6, 2]


@pytest.mark.parametrize("num_trained", [1, 3, 5, 7])
def test_a_plan_continues_after_the_batches_that_training_has_got(num_trained, tmp_path):
    _, loader = prepared(planned())
    expected = [*drawn(loader), *drawn(loader)]
    accelerator, loader = prepared(planned())
    count = 0
    for _ in range(2):
        for _ in loader:
            count += 1
            if count == num_trained:
                break  # as with max_steps
        if count == num_trained:
            break
    accelerator.save_state(tmp_path / "first")
    sampler = planned()
    accelerator, loader = prepared(sampler)
    accelerator.load_state(tmp_path / "first")
    accelerator.save_state(tmp_path / "second")  # before a batch is drawn
    sampler = planned()
    accelerator, loader = prepared(sampler)
    accelerator.load_state(tmp_path / "second")
    found = [batch for _ in range(sampler.epoch, 2) for batch in drawn(loader)]
    assert found == expected[num_trained:]


@pytest.mark.parametrize("num_saved", [3, 5, 6])
def test_a_checkpoint_before_the_update_of_a_batch_draws_it_again(num_saved, tmp_path):
    """The bank tells that the batch is not trained."""
    sampler = proximity()
    accelerator, loader = prepared(sampler)
    expected = []
    for _ in range(2):
        for ids, (x,) in loader:
            expected.append(ids.tolist())
            if len(expected) == num_saved:
                accelerator.save_state(tmp_path)
            sampler.bank.update(ids, x)
    sampler = proximity()
    accelerator, loader = prepared(sampler)
    accelerator.load_state(tmp_path)
    found = [batch for _ in range(sampler.epoch, 2) for batch in trained(loader)]
    assert found == expected[num_saved - 1 :]


def test_a_bank_that_training_does_not_update_continues_too(tmp_path):
    sampler = proximity()
    sampler.bank.update(range(N), DATA)
    accelerator, loader = prepared(sampler)
    expected = drawn(loader)
    accelerator, loader = prepared(proximity())
    for count, _ in enumerate(loader, start=1):
        if count == 2:
            accelerator.save_state(tmp_path)
    accelerator, loader = prepared(proximity())
    accelerator.load_state(tmp_path)
    assert drawn(loader) == expected[2:]


def expected_of(sampler) -> list[list[list[int]]]:
    """Returns the batches of each epoch without Accelerate."""
    found = []
    for _ in range(2):
        found.append([])
        for batch in sampler:
            found[-1].append(batch)
            if isinstance(sampler, ProximityBatchSampler):
                sampler.bank.update(batch, DATA[batch])
    return found


def trained(loader, num_steps: int = N) -> list[list[int]]:
    """Returns the batches of an epoch that ends early."""
    found = []
    for ids, (x,) in loader:
        if isinstance(loader.batch_sampler, ProximityBatchSampler):
            loader.batch_sampler.bank.update(ids, x)
        found.append(ids.tolist())
        if len(found) == num_steps:
            break
    return found


@pytest.mark.parametrize("make", [planned, proximity])
@pytest.mark.parametrize("is_anew", [False, True])
@pytest.mark.parametrize("num_steps", [3, 5])
def test_each_loop_draws_the_next_epoch(make, is_anew, num_steps, tmp_path):
    """Also if the one before ended early, and with a loader that is prepared anew for each epoch."""
    first, second = (epoch[:num_steps] for epoch in expected_of(make()))
    accelerator, loader = prepared(make())
    assert trained(loader, num_steps) == first
    if is_anew:
        loader = prepare_loader(accelerator, loader_of(loader.batch_sampler))
    accelerator.save_state(tmp_path)
    assert trained(loader, num_steps) == second
    accelerator.save_state(tmp_path)
    assert loader.batch_sampler.epoch == 1
    assert len(accelerator._custom_objects) == 1


@pytest.mark.parametrize("make", [planned, proximity])
def test_a_loader_prepared_anew_saves_the_position_of_the_one_before(make, tmp_path):
    first, second = expected_of(make())
    accelerator, loader = prepared(make())
    trained(loader, 3)
    prepare_loader(accelerator, loader_of(loader.batch_sampler))
    accelerator.save_state(tmp_path)
    accelerator, loader = prepared(make())
    accelerator.load_state(tmp_path)
    loader = prepare_loader(accelerator, loader_of(loader.batch_sampler))
    assert [trained(loader), trained(loader)] == [first[3:], second]


@pytest.mark.parametrize("make", [planned, proximity])
def test_a_loop_that_is_closed_after_loading_does_not_change_the_epoch(make, tmp_path):
    first, second = expected_of(make())
    accelerator, loader = prepared(make())
    trained(loader, 3)
    accelerator.save_state(tmp_path)
    accelerator, loader = prepared(make())
    unclosed = iter(loader)
    next(unclosed)
    accelerator.load_state(tmp_path)
    unclosed.close()
    assert [trained(loader), trained(loader)] == [first[3:], second]


def test_a_look_at_the_first_batch_changes_nothing_with_a_bank():
    first, second = expected_of(proximity())
    _, loader = prepared(proximity())
    next(iter(loader))
    assert [trained(loader), trained(loader)] == [first, second]


def test_the_epoch_can_be_set():
    _, loader = prepared(planned())
    _, second = expected_of(planned())
    loader.set_epoch(1)
    assert trained(loader) == second


class Mesh:
    """Stands in for a device mesh."""

    def __init__(self, **sizes: int) -> None:
        self.mesh_dim_names, self.shape = tuple(sizes), tuple(sizes.values())


@pytest.mark.parametrize(
    ("sizes", "given", "right"),
    [
        ({"dp_replicate": 2, "dp_shard": 4}, {"num_replicas": 1}, {"rank": 5, "num_replicas": 8}),
        ({"dp_shard": 8, "tp": 1}, {"num_replicas": 1}, {"rank": 5, "num_replicas": 8}),
        ({"dp_shard": 4, "tp": 2}, {"rank": 5, "num_replicas": 8}, {"rank": 2, "num_replicas": 4}),
        ({"dp_shard": 2, "cp": 2, "tp": 2}, {"rank": 5, "num_replicas": 8}, {"rank": 1, "num_replicas": 2}),
        ({"sp": 8}, {"rank": 5, "num_replicas": 8}, {"num_replicas": 1}),
    ],
)
def test_sharing_fits_the_data_parallel_part_of_a_device_mesh(sizes, given, right, monkeypatch):
    accelerator = accelerate.Accelerator(cpu=True)
    for name, value in {"torch_device_mesh": Mesh(**sizes), "num_processes": 8, "process_index": 5}.items():
        monkeypatch.setattr(accelerate.Accelerator, name, value)
    is_parallel = any(size > 1 for name, size in sizes.items() if not name.startswith("dp"))
    write = rf"pass rank={right.get('rank', 0)} and num_replicas={right['num_replicas']}, .*FeatureBank\(process_group="
    with pytest.raises(ValueError, match=write if is_parallel else "Leave out rank= and num_replicas="):
        prepare_loader(accelerator, loader_of(planned(batch_size=8, **given)))
    prepare_loader(accelerator, loader_of(planned(batch_size=8, **right)))


# --- accelerator.prepare on two processes ----------------------------------------------------------------------------
def refusals(folder: Path) -> list[str]:
    """Returns the error of ``accelerator.prepare``, or of the first batch, for each of some loaders."""
    tails = compose(DATA, batch_size=4, preset="uniform", sources=[0] * 10 + [1] * 10, leftovers="short")
    found = []
    for sampler, config in (
        (planned(), {}),
        (planned(), {"dispatch_batches": True}),
        (proximity(), {"even_batches": False}),
        (proximity(num_replicas=1), {"even_batches": False}),
        (planned(batch_size=6, num_replicas=1), {"even_batches": False, "split_batches": True}),
        (PlannedBatchSampler(tails, num_replicas=1), {}),
        (planned(num_replicas=1), {"use_stateful_dataloader": True}),
        (planned(num_replicas=1), {}),
        (planned(batch_size=6, num_replicas=1), {"even_batches": False}),
        (proximity(num_replicas=1), {}),
        (planned(num_replicas=1), {"dispatch_batches": True}),
    ):
        config = accelerate.DataLoaderConfiguration(**config)
        accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
        try:
            found.append(str(sum(len(batch) for batch in drawn(accelerator.prepare(loader_of(sampler))))))
        except RuntimeError as error:
            found.append(str(error))
    try:
        prepare_loader(accelerator, loader_of(planned(num_replicas=1)))
    except ValueError as error:
        found.append(str(error))
    return found


def test_sharing_that_loses_instances_or_hangs_is_refused_before_the_first_batch(tmp_path):
    pytest.importorskip("torchdata")
    for rank, result in enumerate(on_ranks(refusals, tmp_path)):
        assert isinstance(result, list), result
        for message in result[:8]:
            assert "Write loader = prepare_loader(accelerator, loader) instead of accelerator.prepare(" in message
        for message in result[:3]:
            assert "the sampler shares its batches among 2 ranks itself" in message
        assert "got even_batches=False and 5 batches in an epoch" in result[3]
        assert "got even_batches=False and 4 batches in an epoch" in result[4]
        assert "expected at most one batch with less than 4 instances" in result[5]
        assert "expected use_stateful_dataloader=False" in result[6]
        assert "expected a number of batches that the 2 processes divide" in result[7]
        assert result[8:11] == [["12", "8"][rank], "12", "10"]
        assert f"this is number {rank}, got rank 0 and num_replicas 1" in result[11]


def test_epochs_set_by_an_iterator_of_the_user_count():
    class Epochs:
        def __init__(self, loader) -> None:
            self.loader = loader

        def __iter__(self):
            self.loader.set_epoch(5)
            yield from self.loader

    sampler = PlannedBatchSampler(compose(torch.randn(40, 4), batch_size=8, preset="uniform", num_epochs=6))
    loader = prepare_loader(accelerate.Accelerator(cpu=True), DataLoader(torch.arange(40), batch_sampler=sampler))
    assert len(list(Epochs(loader))) == 5
    assert sampler.epoch == 5


# --- the guide -------------------------------------------------------------------------------------------------------
def test_the_guide_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / "accelerate.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    block = block.replace("Accelerator()", "Accelerator(cpu=True)")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    batches = []
    for folder in (None, "epoch-0"):
        model = torch.nn.Linear(8, 16)
        names = {
            "dataset": [torch.full((8,), i / 100) for i in range(100)], "DataLoader": DataLoader, "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "folder": folder,
        }  # fmt: skip

        def train_step(model, batch) -> torch.Tensor:
            batches.append((batch[:, 0] * 100).round().long().tolist())
            return model(batch)

        names["train_step"] = train_step
        exec(block, names)
    assert len(batches) == 12
