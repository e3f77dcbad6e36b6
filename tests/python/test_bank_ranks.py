"""The bank on several ranks: uneven updates, ranks that differ, lag or die, and filling together."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from batchsampler_ext import FeatureBank, ProximityBatchSampler
from tests.python.rank_processes import TIMEOUT, on_ranks


def new_bank() -> FeatureBank:
    return FeatureBank(40, 8, dtype=torch.float32, normalize=False)


def rows_of(ids: list[int], version: float = 0.0) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.float32)[:, None].expand(-1, 8) + version


def uneven_updates(rank: int, num_ranks: int) -> list:
    bank = new_bank()
    bank.update([] if rank == 0 else [1, 2, 3], rows_of([] if rank == 0 else [1, 2, 3]))
    bank.update([], rows_of([]))
    bank.update([rank], rows_of([rank], 5.0))
    return [bank.step, bank.data[:, 0].tolist(), bank.last_update.tolist()]


def test_uneven_and_empty_updates_are_gathered(tmp_path):
    first, second = on_ranks(uneven_updates, tmp_path)
    assert first == second
    assert first[0] == 3
    assert first[1][:5] == [5.0, 6.0, 2.0, 3.0, 0.0]
    assert first[2][:5] == [2, 2, 0, 0, -1]


def one_update_more(rank: int, num_ranks: int) -> str:
    bank = new_bank()
    bank.update([rank], rows_of([rank]))
    bank.step += rank  # as after a state that was loaded on one rank only
    try:
        bank.update([rank], rows_of([rank]))
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_ranks_at_different_steps_are_refused(tmp_path):
    expected = (
        "update: expected as many updates on every rank, got 1 on rank 0 and 2 on rank 1; no rank stores anything. "
        "Call update on every rank, and load the bank's state on every rank"
    )
    assert on_ranks(one_update_more, tmp_path) == [expected] * 2


def different_banks(rank: int, num_ranks: int) -> str:
    bank = new_bank()
    bank.update(list(range(20 * rank, 20 * rank + 20)), rows_of(list(range(20 * rank, 20 * rank + 20))))
    sampler = ProximityBatchSampler(40, 5, bank=bank)
    drawn = list(sampler)
    if rank == 1:
        bank.data[17, 3] += 1e-6
    bank.update(drawn[0], rows_of(drawn[0]))  # equal so far, when the first epoch was planned
    batches = iter(sampler)
    next(batches)
    try:
        bank.update([39], rows_of([39]))
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_banks_that_differ_in_one_row_are_found_after_the_next_plan(tmp_path):
    first, second = on_ranks(different_banks, tmp_path)
    assert first == second
    assert "bank: expected equal banks on all ranks, got others on rank 0 and rank 1" in first
    assert "row 17 differs on rank 1" in first


def killed_rank(rank: int, num_ranks: int) -> float:
    bank = new_bank()
    bank.update([rank], rows_of([rank]))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RuntimeError):
        update_often(bank, rank)
    return time.monotonic() - start


def update_often(bank: FeatureBank, rank: int) -> None:
    for _ in range(3):
        bank.update([rank], rows_of([rank]))


def test_a_killed_rank_ends_the_others_within_the_timeout(tmp_path):
    (seconds,) = on_ranks(killed_rank, tmp_path, num_results=1)
    assert seconds < TIMEOUT + 5


def filled_together(rank: int, num_ranks: int) -> list:
    results = []
    dataset = TensorDataset(torch.arange(40))
    for kind in ("whole", "split", "shuffled"):
        bank = new_bank()
        sampler = DistributedSampler(dataset, shuffle=False) if kind == "split" else None
        loader = DataLoader(dataset, batch_size=6, sampler=sampler, shuffle=kind == "shuffled")
        encoded = []

        def encode(batch, encoded=encoded):
            encoded.extend(batch[0].tolist())
            return batch[0], rows_of(batch[0].tolist())

        bank.fill_from(encode, loader)
        results.append((len(encoded), bank.missing_embedding_share, bank.data[:, 0].tolist() == list(range(40))))
    return results


def test_ranks_fill_the_bank_together(tmp_path):
    """Seven batches on three ranks; or as a DistributedSampler splits them, padded to 42 samples."""
    results = on_ranks(filled_together, tmp_path, num_ranks=3)
    assert [result[0] for result in results] == [(16, 0.0, True), (12, 0.0, True), (12, 0.0, True)]
    assert [result[1] for result in results] == [(14, 0.0, True)] * 3
    assert [result[2] for result in results] == [(40, 0.0, True)] * 3  # orders differ between ranks: each encodes all


def failing_encoder(rank: int, num_ranks: int) -> str:
    bank = new_bank()

    def encode(ids):
        if rank == 1 and ids[0] == 4:
            raise KeyError("no such sample")
        return ids, rows_of(ids)

    try:
        bank.fill_from(encode, [[0, 1], [2, 3], [4, 5]])
    except (KeyError, RuntimeError) as error:
        message = str(error)
    bank.update([rank], rows_of([rank]))  # ranks still agree
    return f"{message} {bank.step}"


def test_an_error_of_one_encoder_reaches_all_ranks(tmp_path):
    first, second = on_ranks(failing_encoder, tmp_path)
    assert first == "update: failed on rank 1 of the group; no rank stores anything 3"
    assert second == "'no such sample' 3"


def encoder_with_a_wrong_result(rank: int, num_ranks: int) -> str:
    bank = new_bank()

    def encode(ids):
        return (ids, rows_of(ids.tolist())) if rank == 1 else rows_of(ids.tolist())

    try:
        bank.fill_from(encode, torch.arange(40).split(8))
    except (TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_a_wrong_result_of_one_encoder_reaches_all_ranks(tmp_path):
    first, second = on_ranks(encoder_with_a_wrong_result, tmp_path)
    assert first.startswith("TypeError: encode_fn: expected (indices, embeddings)")
    assert second.startswith("RuntimeError: update: failed on rank 0")


def failing_progress(rank: int, num_ranks: int) -> str:
    bank = new_bank()

    def progress(done, total):
        if rank == 0 and done == 2:
            raise KeyError("no terminal")

    try:
        bank.fill_from(lambda ids: (ids, rows_of(ids)), [[0, 1], [2, 3], [4, 5]], progress=progress)
    except (KeyError, RuntimeError) as error:
        return str(error)
    return "no error"


def test_an_error_of_one_progress_callback_reaches_all_ranks(tmp_path):
    first, second = on_ranks(failing_progress, tmp_path)
    assert first == "'no terminal'"
    assert second == "update: failed on rank 0 of the group; no rank stores anything"


def banks_of_other_shape(rank: int, num_ranks: int) -> str:
    bank = FeatureBank(40 + rank, 8)
    try:
        bank.update([rank], rows_of([rank]))
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_banks_of_different_shapes_are_refused(tmp_path):
    expected = "update: expected banks of one shape on all ranks, got [(40, 8), (41, 8)]; no rank stores anything"
    assert on_ranks(banks_of_other_shape, tmp_path) == [expected] * 2


def planned_on_one_rank(rank: int, num_ranks: int) -> int:
    bank = new_bank()
    bank.update([rank], rows_of([rank]))
    if rank == 0:
        next(iter(ProximityBatchSampler(40, 5, bank=bank, num_replicas=1)))  # to look at batches, say
    bank.update([rank], rows_of([rank]))
    return bank.step


def test_a_plan_of_a_single_process_is_not_compared(tmp_path):
    assert on_ranks(planned_on_one_rank, tmp_path) == [2, 2]


def test_row_hashes_tell_single_bits_and_swapped_values_apart():
    from batchsampler_ext._engine.hashes import checksum, hash_rows

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        table = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
        before = hash_rows(table)
        words = table.view(torch.int32 if dtype == torch.float32 else torch.int16)
        words[11, 4] ^= 1
        after = hash_rows(table)
        assert torch.nonzero(before != after).ravel().tolist() == [11]
        assert checksum(before) != checksum(after)
        swapped = table.clone()
        swapped[3, [0, 1]] = table[3, [1, 0]]
        assert torch.nonzero(hash_rows(swapped) != after).ravel().tolist() == [3]
        assert checksum(hash_rows(table.flip(0))) != checksum(after)
