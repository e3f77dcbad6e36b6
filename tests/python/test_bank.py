"""The embedding bank: updates, duplicates, momentum, states, files and ranks."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from batchsampler_ext import FeatureBank, proximity_graph
from batchsampler_ext.reference import bank_rows, unit_rows


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(unit_rows(rows.float().numpy()))


def scaled_rows(count: int, dim: int, seed: int) -> torch.Tensor:
    """Rows of very different norms; one is zero."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dim, generator=generator)
    rows *= torch.logspace(-8, 4, count)[:, None]
    rows[count // 2] = 0
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 64, 130])
def test_stored_rows_equal_the_oracle(dtype, normalize, momentum, dim):
    bank = FeatureBank(60, dim, dtype=dtype, normalize=normalize, momentum=momentum)
    first, second = scaled_rows(40, dim, 0), scaled_rows(30, dim, 1)
    bank.update(range(40), first)
    bank.update(range(25, 55), second)
    expected = torch.zeros(60, dim)
    expected[:40] = torch.from_numpy(bank_rows(first.numpy(), first.numpy(), normalize=normalize, momentum=0.0))
    expected = expected.to(dtype).float()
    old = expected[25:40].numpy()
    seen = bank_rows(old, second[:15].numpy(), normalize=normalize, momentum=momentum)
    unseen = bank_rows(old, second[15:].numpy(), normalize=normalize, momentum=0.0)
    expected[25:55] = torch.from_numpy(np.concatenate([seen, unseen]))
    assert torch.equal(bank.data, expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_16_bits_equals_torch(dtype):
    """All 16-bit values, the midpoints between them, and the float32 neighbors of the midpoints.

    They cover ties to even and subnormals, without overflow.
    """
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    values = values[values.isfinite()].sort().values
    middles = (values[1:].double() + values[:-1].double()).float() / 2
    middles = middles[middles.isfinite()]
    inputs = torch.cat(
        [middles, values, torch.nextafter(middles, values.max()), torch.nextafter(middles, values.min())]
    )
    bank = FeatureBank(len(inputs), 1, dtype=dtype, normalize=False)
    bank.update(torch.arange(len(inputs)), inputs[:, None])
    assert torch.equal(bank.data.view(torch.int16)[:, 0], inputs.to(dtype).view(torch.int16))


def test_values_too_large_for_the_dtype_are_refused():
    bank = FeatureBank(4, 2, dtype=torch.float16, normalize=False)
    bank.update([0], torch.tensor([[65519.0, 1.0]]))
    with pytest.raises(ValueError, match=r"embeddings: .*torch.float16, got 65520 for instance 2"):
        bank.update([1, 2], torch.tensor([[1.0, 1.0], [65520.0, 1.0]]))
    FeatureBank(4, 2, dtype=torch.float16).update([0], torch.tensor([[1e30, 1.0]]))
    bank = FeatureBank(4, 2, normalize=False, nonfinite="skip")
    bank.update([0, 1], torch.tensor([[3.4e38, 1.0], [3.3e38, 1.0]]))
    assert bank.last_update.tolist() == [-1, 0, -1, -1]


def test_update_normalizes_and_records_the_step():
    bank = FeatureBank(10, 4, dtype=torch.float32)
    first, second = torch.randn(3, 4), torch.randn(2, 4)
    bank.update([1, 5, 9], first)
    bank.update(torch.tensor([5, 0]), second)
    assert torch.equal(bank.data[[1, 9]], unit(first)[[0, 2]])
    assert torch.equal(bank.data[[5, 0]], unit(second))
    assert bank.last_update.tolist() == [1, 0, -1, -1, -1, 1, -1, -1, -1, 0]
    assert (bank.step, bank.missing_embedding_share) == (2, 0.6)
    stats = bank.stats()
    assert stats.update_seconds > 0
    assert stats[:-1] == (0.6, 2, 0.5, 1.0, 0)
    assert stats._fields[:-1] == ("missing_embedding_share", "step", "mean_age", "max_age", "num_skipped")


def test_last_duplicate_wins():
    bank = FeatureBank(4, 2, dtype=torch.float32, normalize=False)
    bank.update([3, 1, 3, 1, 3], torch.arange(10.0).view(5, 2))
    assert bank.data.tolist() == [[0, 0], [6, 7], [0, 0], [8, 9]]


def test_momentum_mixes_old_and_new_rows():
    bank = FeatureBank(3, 2, dtype=torch.float32, momentum=0.75, normalize=False)
    bank.update([0], torch.tensor([[4.0, 0.0]]))
    bank.update([0, 1], torch.tensor([[0.0, 4.0], [0.0, 4.0]]))
    assert bank.data.tolist() == [[3, 1], [0, 4], [0, 0]]


def test_update_drops_gradients_and_rounds_to_16_bits():
    bank = FeatureBank(4, 8)
    rows = torch.randn(2, 8, requires_grad=True)
    bank.update([0, 2], rows)
    assert not bank.data.requires_grad
    assert torch.equal(bank.data[[0, 2]], unit(rows.detach()).bfloat16())
    bank.update([1], rows[:1].half())
    assert bank.missing_embedding_share == 0.25


def test_two_towers_store_documents():
    bank = FeatureBank(20, 4, two_towers=True)
    rows, documents = torch.randn(20, 4), torch.randn(20, 4)
    bank.update(range(20), rows, documents)
    assert torch.equal(bank.documents, unit(documents).bfloat16())
    assert proximity_graph(bank.data, 3, documents=bank.documents).neighbors.shape == (20, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0], torch.randn(2, 4)), ValueError, r"embeddings: expected shape \[1, 4\], got \[2, 4\]"),
        (([0], torch.randn(1, 5)), ValueError, r"embeddings: expected shape \[1, 4\], got \[1, 5\]"),
        (([0], torch.zeros(1, 4, dtype=torch.int64)), TypeError, "embeddings: expected a floating point tensor"),
        (([8], torch.randn(1, 4)), ValueError, r"indices: expected values in \[0, 8\), got 8"),
        (([-1], torch.randn(1, 4)), ValueError, r"indices: expected values in \[0, 8\), got -1"),
        (([0.5], torch.randn(1, 4)), TypeError, "indices: expected integers"),
        (([0], torch.randn(1, 4), torch.randn(1, 4)), ValueError, "documents: expected no documents"),
        (([0, 6], torch.tensor([[1.0] * 4, [float("nan")] * 4])), ValueError, "embeddings: .* for instance 6"),
    ],
)
def test_bad_updates_store_nothing(arguments, error, message):
    bank = FeatureBank(8, 4)
    with pytest.raises(error, match=message):
        bank.update(*arguments)
    assert bank.step == 0
    assert bank.missing_embedding_share == 1


def test_bad_bank_arguments_are_refused():
    for arguments, error, message in [
        ({"num_instances": 0}, ValueError, "num_instances: .* got 0"),
        ({"dim": 0}, ValueError, "dim: .* got 0"),
        ({"dtype": torch.float64}, TypeError, "dtype: expected float32, bfloat16 or float16, got torch.float64"),
        ({"two_towers": 4}, TypeError, "two_towers: expected True or False, got 4"),
        ({"momentum": 1.0}, ValueError, r"momentum: expected a float in \[0, 1\), got 1.0"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite: expected one of 'raise', 'skip'"),
        ({"device": "meta"}, ValueError, "device: expected a device of type 'cpu'"),
    ]:
        with pytest.raises(error, match=message):
            FeatureBank(**{"num_instances": 8, "dim": 4, **arguments})
    with pytest.raises(ValueError, match="documents: expected documents"):
        FeatureBank(8, 4, two_towers=True).update([0], torch.randn(1, 4))


def test_nonfinite_rows_are_skipped_on_request():
    bank = FeatureBank(4, 2, nonfinite="skip")
    bank.update([0, 1, 2], torch.tensor([[1.0, 1.0], [float("inf"), 1.0], [1.0, float("nan")]]))
    assert bank.last_update.tolist() == [0, -1, -1, -1]
    assert bank.stats().num_skipped == 2


def test_fill_from_fills_every_row():
    bank = FeatureBank(10, 3)
    seen = []
    loader = [torch.arange(0, 6), torch.arange(6, 10)]
    bank.fill_from(lambda ids: (ids, torch.randn(len(ids), 3)), loader, progress=lambda *a: seen.append(a))
    assert bank.missing_embedding_share == 0
    assert seen == [(1, 2), (2, 2)]


def test_state_round_trips(tmp_path):
    bank = FeatureBank(6, 3, two_towers=True)
    bank.update([4, 2], torch.randn(2, 3), torch.randn(2, 3))
    bank.save(tmp_path / "bank.pt")
    other = FeatureBank(6, 3, two_towers=True)
    other.load(tmp_path / "bank.pt")
    for name in ("data", "documents", "last_update"):
        assert torch.equal(getattr(other, name), getattr(bank, name))
    assert other.step == 1
    with pytest.raises(ValueError, match=r"state: expected data torch.bfloat16 \[5, 3\], got torch.bfloat16 \[6, 3\]"):
        FeatureBank(5, 3, two_towers=True).load_state_dict(bank.state_dict())
    with pytest.raises(ValueError, match="state: expected documents None"):
        FeatureBank(6, 3).load_state_dict(bank.state_dict())
    with pytest.raises(ValueError, match="state: expected a dict with"):
        other.load_state_dict({"data": bank.data})
    (tmp_path / "bank.pt").write_bytes((tmp_path / "bank.pt").read_bytes()[:100])
    with pytest.raises(ValueError, match="path: expected a file written by FeatureBank.save"):
        other.load(tmp_path / "bank.pt")


def test_mapped_bank_is_reopened_from_its_files(tmp_path):
    path = tmp_path / "bank"
    bank = FeatureBank(50, 8, path=path, two_towers=True)
    rows = torch.randn(20, 8)
    bank.update(range(20), rows, -rows)
    bank.update([30], rows[:1], rows[:1])
    suffixes = ["", ".checksums", ".documents", ".json", ".last_update"]
    assert sorted(os.listdir(tmp_path)) == ["bank" + suffix for suffix in suffixes]
    again = FeatureBank(50, 8, path=path, two_towers=True)
    assert torch.equal(again.data, bank.data)
    assert torch.equal(again.documents, bank.documents)
    assert (again.step, again.missing_embedding_share) == (2, 29 / 50)
    assert np.memmap(path, dtype=np.int16, mode="r").size == 400
    for arguments, message in [
        ((60, 8), "num_instances 60, got 50"),
        ((50, 4), "dim 4, got 8"),
        ((50, 8), "has_documents False, got True"),
    ]:
        with pytest.raises(ValueError, match=f"path: expected files of a bank with {message}"):
            FeatureBank(*arguments, path=path)
    with pytest.raises(ValueError, match="dtype 'float16', got 'bfloat16'"):
        FeatureBank(50, 8, path=path, two_towers=True, dtype=torch.float16)
    os.truncate(path, 100)
    with pytest.raises(ValueError, match="path: expected 800 bytes in .*bank', got 100"):
        FeatureBank(50, 8, path=path, two_towers=True)
    os.remove(f"{path}.json")
    with pytest.raises(ValueError, match=r"path: expected no files or all files of a bank, got .* without .*bank.json"):
        FeatureBank(50, 8, path=path, two_towers=True)
    with pytest.raises(ValueError, match="path: expected a path in a writable directory"):
        FeatureBank(50, 8, path=tmp_path / "no" / "bank")


def test_rows_of_the_bank_itself_can_be_stored():
    bank = FeatureBank(2, 2, dtype=torch.float32, normalize=False)
    bank.update([0, 1], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    bank.update([1, 0], bank.data)
    assert bank.data.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_nonfinite_duplicates_are_skipped_or_refused(momentum):
    rows = torch.tensor([[1.0, 1.0], [float("nan"), 1.0]])
    bank = FeatureBank(4, 2, momentum=momentum, nonfinite="skip")
    bank.update([1, 1], rows)
    assert bank.last_update.tolist() == [-1, 0, -1, -1]
    with pytest.raises(ValueError, match="embeddings: .* got nan for instance 1"):
        FeatureBank(4, 2, momentum=momentum).update([1, 1], rows.flip(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "state: step: expected an integer"),
        ({"step": 0}, "state: step: expected an integer from 1 to "),
        ({"num_skipped": -1}, "state: num_skipped: "),
        ({"data": [1]}, r"state: expected data torch.bfloat16 \[6, 3\], got \[1\]"),
        ({"data": torch.full((6, 3), float("nan"), dtype=torch.bfloat16)}, "state: expected finite values in data"),
    ],
)
def test_damaged_states_change_nothing(change, message):
    bank, other = FeatureBank(6, 3), FeatureBank(6, 3)
    bank.update([4, 2], torch.randn(2, 3))
    with pytest.raises((TypeError, ValueError), match=message):
        other.load_state_dict({**bank.state_dict(), **change})
    assert (other.missing_embedding_share, other.step) == (1, 0)


def gather_on_rank(rank: int, port: int, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    bank = FeatureBank(8, 2, dtype=torch.float32, normalize=False)
    if rank == 0:
        bank.update([0, 3], torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    else:
        bank.update([3, 5, 6], torch.tensor([[3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]))
    try:  # a bad call on one rank fails on all ranks; the next update succeeds
        bank.update([rank], torch.ones(1, 2 + rank))
    except (RuntimeError, ValueError) as error:
        failure = str(error)
    bank.update([rank + 1], torch.full((1, 2), 6.0 + rank))
    results[rank] = (bank.data[:, 0].tolist(), failure)
    torch.distributed.destroy_process_group()


def test_ranks_gather_updates_in_rank_order():
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        port = 29500 + os.getpid() % 2000
        torch.multiprocessing.spawn(gather_on_rank, (port, results), nprocs=2)
        assert results[0][0] == results[1][0] == [1, 6, 7, 3, 0, 4, 5, 0]
        assert results[0][1] == "update: failed on rank 1 of the group; no rank stores anything"
        assert results[1][1] == "embeddings: expected shape [1, 2], got [1, 3]"
