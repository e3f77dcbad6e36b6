"""What goes wrong without an error is found by the code, and said with the line to write. docs/troubleshooting.md
lists these."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from batchsampler_ext import FeatureBank, PlannedBatchSampler, ProximityBatchSampler, compose
from tests.python.rank_processes import on_ranks

N, D, B = 40, 4, 8
ROWS = torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def trained(sampler: ProximityBatchSampler) -> None:
    for batch in sampler:
        sampler.bank.update(batch, ROWS[batch])


# --- epochs ----------------------------------------------------------------------------------------------------------
def test_an_epoch_that_is_set_again():
    sampler = ProximityBatchSampler(N, B, bank=FeatureBank(N, D))
    sampler.set_epoch(0)
    trained(sampler)
    sampler.set_epoch(0)
    with pytest.warns(UserWarning, match="epoch 0 is drawn again after its end.*Write sampler.set_epoch"):
        trained(sampler)
    sampler.set_epoch(0)
    trained(sampler)  # one warning is enough


def test_an_epoch_of_a_plan_that_is_set_again():
    sampler = PlannedBatchSampler(compose(ROWS, batch_size=B, preset="uniform", num_epochs=2))
    sampler.set_epoch(0)
    first = list(sampler)
    sampler.set_epoch(0)
    with pytest.warns(UserWarning, match="PlannedBatchSampler: epoch 0 is drawn again"):
        assert list(sampler) == first


@pytest.mark.parametrize("is_set", [False, True])
def test_epochs_that_advance_are_no_trap(is_set):
    plan = compose(ROWS, batch_size=B, preset="uniform", num_epochs=3)
    for sampler in (ProximityBatchSampler(N, B, bank=FeatureBank(N, D)), PlannedBatchSampler(plan)):
        for epoch in range(3):
            if is_set:
                sampler.set_epoch(epoch)
            for batch in sampler:
                if isinstance(sampler, ProximityBatchSampler):
                    sampler.bank.update(batch, ROWS[batch])


def test_an_epoch_that_is_only_looked_at_may_be_drawn_again():
    bank = FeatureBank(N, D)
    bank.update(range(N), ROWS)
    sampler = ProximityBatchSampler(N, B, bank=bank)
    first = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_an_evaluation_over_a_plan_is_no_trap():
    sampler = PlannedBatchSampler(compose(ROWS, batch_size=B, preset="uniform", num_epochs=3))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        list(sampler)
        list(sampler)  # draws the next epoch, which is then set for the first time


# --- loaders ---------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with torch 2.13
def test_a_batch_sampler_given_as_sampler():
    StatefulDataLoader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    plan = compose(ROWS, batch_size=B, preset="uniform")
    for sampler in (ProximityBatchSampler(N, B, bank=FeatureBank(N, D)), PlannedBatchSampler(plan)):
        for make in (DataLoader, StatefulDataLoader):
            with pytest.raises(RuntimeError, match=r"Write DataLoader\(dataset, batch_sampler=sampler\)"):
                next(iter(make(TensorDataset(ROWS), sampler=sampler, batch_size=B)))
        whole = DataLoader(TensorDataset(ROWS), sampler=sampler, batch_size=None)  # torch's other way
        assert len(next(iter(whole))[0]) == B


# --- the bank --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_right", [True, False])
def test_ids_that_are_positions_in_the_batch(is_right):
    sampler = ProximityBatchSampler(N, B, bank=FeatureBank(N, D))
    batches = iter(sampler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in batches:
            sampler.bank.update(batch[:3] if is_right else range(B), ROWS[: 3 if is_right else B])
    expected = "in epoch 0, bank.update stored . of the 16 instances of the first 2 batches, and its latest ids are"
    assert len(caught) == (not is_right)
    assert all(re.search(expected, str(warning.message)) for warning in caught)
    assert all(warning.filename == __file__ for warning in caught)  # the user's line


def test_batches_trained_before_resuming_count():
    for sampler in (
        ProximityBatchSampler(N, B, bank=FeatureBank(N, D)),
        PlannedBatchSampler(compose(ROWS, batch_size=B, preset="uniform")),
    ):
        batches = iter(sampler)
        [next(batches) for _ in range(3)]
        sampler.load_state_dict(sampler.state_dict(3))
        next(iter(sampler))
        assert sampler.state_dict(4)["num_drawn"] == 4
        with pytest.raises(ValueError, match="num_trained: expected at least 3, the batches of this epoch that were"):
            sampler.state_dict(1)


def test_embeddings_of_an_evaluation():
    bank = FeatureBank(N, D)
    with torch.no_grad():
        bank.update(range(N), ROWS)  # before training: fills the bank
    bank.update(range(B), ROWS[:B].clone().requires_grad_())
    with torch.no_grad(), pytest.warns(UserWarning, match=r"Write `if torch.is_grad_enabled\(\): bank.update"):
        bank.update(range(B), ROWS[:B])
    with torch.inference_mode():
        bank.update(range(B), ROWS[:B])  # one warning is enough


def test_updates_that_never_have_gradients_are_no_trap():
    bank = FeatureBank(N, D)
    bank.update(range(N), ROWS)  # of a teacher, before training
    for _ in range(2):
        with torch.no_grad():
            bank.update(range(B), ROWS[:B])


def test_filling_between_epochs_is_no_trap():
    bank = FeatureBank(N, D)
    bank.update(range(B), ROWS[:B])
    bank.fill_from(lambda ids: (ids, ROWS[ids]), [torch.arange(N)])
    copy.deepcopy(bank).update(range(B), ROWS[:B])


def test_a_sampler_that_is_loaded_without_its_bank():
    sampler = ProximityBatchSampler(N, B, bank=FeatureBank(N, D))
    trained(sampler)
    other = ProximityBatchSampler(N, B, bank=FeatureBank(N, D))
    other.load_state_dict(sampler.state_dict())
    with pytest.warns(UserWarning, match=r"the bank has no update.*bank.load_state_dict\(state\)"):
        list(other)
    other = ProximityBatchSampler(N, B, bank=FeatureBank(N, D))
    other.load_state_dict(sampler.state_dict())
    other.bank.load_state_dict(sampler.bank.state_dict())
    list(other)


# --- ranks -----------------------------------------------------------------------------------------------------------
def equal_and_other_updates(rank: int, num_ranks: int) -> list[list[str]]:
    """Returns the warnings of a training whose ranks draw equal batches, and of one whose ranks share them."""
    found = []
    for options in ({"num_replicas": 1}, {}):
        bank = FeatureBank(N, D)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for first in range(0, N, B):  # fills the bank, equally on all ranks
                bank.update(range(first, first + B), ROWS[first : first + B])
            trained(ProximityBatchSampler(N, B // 2, bank=bank, **options))
            bank.update(range(N), ROWS)
        found.append([str(warning.message) for warning in caught])
    return found


def test_ranks_that_train_on_equal_batches(tmp_path):
    for found in on_ranks(equal_and_other_updates, tmp_path):
        assert isinstance(found, list), found
        (message,), others = found
        assert message.startswith("bank.update: all 2 ranks have stored the same instances")
        assert others == []


def evaluation_on_one_rank(rank: int, num_ranks: int) -> str:
    bank = FeatureBank(N, D)
    try:
        with torch.set_grad_enabled(rank > 0):
            bank.update(range(B), ROWS[:B])
    except RuntimeError as error:
        return f"{bank.step} {error}"
    return "no error"


def test_an_evaluation_on_one_rank(tmp_path):
    """Its update would be taken for the one of another rank's training step."""
    expected = "0 update: expected training on every rank, got gradients on rank 1 and none on rank 0"
    for found in on_ranks(evaluation_on_one_rank, tmp_path):
        assert found.startswith(expected), found


# --- the page --------------------------------------------------------------------------------------------------------
def test_the_page_quotes_the_code():
    """Every message on the page, in backticks, is a text of the code. "..." is a value."""
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text(encoding="utf-8") for path in (root / "batchsampler_ext").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    page = (root / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    points = re.sub(r"\n +", " ", page).splitlines()
    messages = [point.partition("Message: ")[2] for point in points]
    quoted = [message for found in messages for message in re.findall("`([^`]*)`", found)]
    assert len(quoted) >= 30
    for message in quoted:
        for part in message.split("..."):
            assert re.sub(r"^[.,:] |[.,:]$", "", part.strip()) in joined, part


# --- arrays and bars -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_rows_of_numpy(dtype):
    rows = ROWS.numpy().astype(dtype)
    rows.flags.writeable = False
    expected, bank = (FeatureBank(N, D, two_towers=True) for _ in range(2))
    values = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("=")))
    expected.update(range(N), values, values.flip(0))
    bank.update(np.arange(N), rows, rows[::-1])
    assert torch.equal(bank.data, expected.data)
    assert torch.equal(bank.documents, expected.documents)


def test_rows_that_are_no_floats():
    bank = FeatureBank(N, D)
    for rows, given in (
        (np.zeros((2, D), int), "ndarray of int64"),
        (torch.zeros(2, D, dtype=torch.int64), "Tensor of torch.int64"),
        ([[0.0] * D] * 2, "list"),
    ):
        expected = f"embeddings: expected a floating point tensor or NumPy array, got {given}"
        with pytest.raises(TypeError, match=re.escape(expected)):
            bank.update([0, 1], rows)
    with np.errstate(all="raise"), pytest.raises(ValueError, match="finite in the bank's torch.bfloat16, got inf"):
        bank.update([0], np.full((1, D), 1e200))
    assert bank.step == 0


def test_a_progress_bar():
    tqdm = pytest.importorskip("tqdm").tqdm
    bank, loader = FeatureBank(N, D), DataLoader(torch.arange(N), batch_size=B)
    with tqdm(disable=True) as bar, tqdm(total=7) as shown:
        bank.fill_from(lambda ids: (ids, ROWS[ids]), loader, progress=bar)
        bank.fill_from(lambda ids: (ids, ROWS[ids]), loader, progress=shown)
        assert (shown.n, shown.total) == (5, 5)
        compose(ROWS, batch_size=B, num_epochs=3, preset="walks", progress=shown)
        assert (shown.n, shown.total) == (3, 3)
        bank.fill_from(lambda ids: (ids, ROWS[ids]), (ids for ids in loader), progress=shown)
        assert (shown.n, shown.total) == (5, None)
    bank.fill_from(lambda ids: (ids, ROWS[ids]), tqdm(loader))
    with pytest.raises(TypeError, match="progress: expected a callable .done, total., a bar such as tqdm"):
        bank.fill_from(lambda ids: (ids, ROWS[ids]), loader, progress=3)


def shares_of_work(rank: int, num_ranks: int) -> int:
    from tqdm import tqdm

    bank, encoded = FeatureBank(N, D), []

    def encode(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(ids))
        return ids, ROWS[ids]

    bank.fill_from(encode, tqdm(DataLoader(torch.arange(N), batch_size=B), disable=True))
    return len(encoded) if bank.missing_embedding_share == 0 else -1


def test_ranks_share_the_work_behind_a_bar(tmp_path):
    assert on_ranks(shares_of_work, tmp_path) == [3, 2]
