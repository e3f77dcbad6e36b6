"""What fuzzing has found, as tests: arrays that are not what they seem, and files whose checksums are right."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from batchsampler_ext import (
    FeatureBank,
    Plan,
    ProximityBatchSampler,
    ProximityGraph,
    compose,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
)
from batchsampler_ext._engine.arrays import as_matrix
from batchsampler_ext._engine.checked_file import load_checked, save_checked
from batchsampler_ext._plan.file import write_plan
from batchsampler_ext.cli.inputs import load_matrix
from tests.fuzz.source import Failing, WithDLPack

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
TABLE = knn_graph(X, 2).neighbors
FREED = X.clone()
FREED.untyped_storage().resize_(0)
FREED_IDS = torch.arange(12)
FREED_IDS.untyped_storage().resize_(0)
MANY = torch.zeros(1, dtype=torch.int64).expand(2**31 + 7)


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    memory = bytearray(1) + bytes(tensor.reshape(-1).view(torch.uint8).numpy())
    return torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape)


@pytest.mark.parametrize("width", [1, 3])
def test_negative_views_have_the_values_that_they_show(width):
    """torch negates the imaginary part of a conjugate when it is read, and does not write it."""
    features = X[:, :width].contiguous()
    shown = torch.complex(torch.zeros_like(features), -features).conj().imag
    assert torch.equal(shown, features)
    graphs = [proximity_graph(part, 3, metric="ip", return_scores=True) for part in (features, shown)]
    assert torch.equal(graphs[0].neighbors, graphs[1].neighbors)
    assert torch.equal(graphs[0].scores, graphs[1].scores)
    banks = [FeatureBank(12, width, dtype=torch.float32) for _ in range(2)]
    for bank, part in zip(banks, (features, shown), strict=True):
        bank.update(range(12), part)
    assert torch.equal(banks[0].data, banks[1].data)


def test_memory_at_odd_addresses_is_read():
    expected = knn_graph(X, 2)
    for given in (misaligned(X), WithDLPack(X), WithDLPack(X, shift=4), WithDLPack(X, shift=1)):
        assert torch.equal(knn_graph(given, 2).neighbors, expected.neighbors)
    assert as_matrix(misaligned(X).numpy(), "features").address % 4 == 0
    graph = ProximityGraph(misaligned(TABLE), misaligned(torch.zeros(12, 2)), misaligned(torch.arange(12)))
    assert graph.stats().num_edges == 24
    assert graph.neighbors.data_ptr() % 4 == 0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: knn_graph(FREED, 2), "features"),
        (lambda: FeatureBank(12, 3).update(range(12), FREED), "embeddings"),
        (lambda: FeatureBank(12, 3).update(FREED_IDS, X), "indices"),
        (lambda: knn_graph(X, 2, labels=FREED_IDS), "labels"),
        (lambda: compose(X, batch_size=2, preset="uniform", unique=FREED_IDS), "unique"),
        (lambda: ProximityGraph(TABLE, ids=FREED_IDS), "ids"),
        (lambda: random_walk_with_restart(TABLE, FREED_IDS, 2), "roots"),
    ],
)
def test_tensors_whose_memory_was_freed_are_refused(call, name):
    """FSDP frees the memory of parameters and keeps their shapes. Reading it ended the process."""
    with pytest.raises(ValueError, match=f"{name}: expected a tensor with memory for its elements, got one whose"):
        call()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_that_stand_for_others_are_refused():
    """Reading one that vmap or FakeTensorMode has made ended the process, or raised an error without a name."""
    message = "embeddings: expected a tensor with memory for its elements, got one whose memory was freed or belongs to"
    bank = FeatureBank(12, 3)
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(lambda rows: bank.update(range(12), rows))(torch.stack([X, X]))
    with FakeTensorMode():
        fake = torch.zeros(12, 3)
    with pytest.raises(ValueError, match=rf"{message} other tensors \(type FakeTensor\)"):
        bank.update(range(12), fake)


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (X.to_sparse(), TypeError, "expected a dense tensor, got a tensor that is torch.sparse_coo"),
        (
            torch.nested.nested_tensor([X, X], layout=torch.jagged),
            TypeError,
            "expected a dense tensor, got a tensor that is ",
        ),
        (X.to("meta"), ValueError, "expected a device of type 'cpu'"),
    ],
)
def test_tensors_of_other_kinds_are_refused_by_name(tensor, error, message):
    with pytest.raises(error, match=f"features: {message}"):
        knn_graph(tensor, 2)
    with pytest.raises(error, match=f"embeddings: {message}"):
        FeatureBank(12, 3).update(range(12), tensor)
    state = {**FeatureBank(12, 3).state_dict(), "data": tensor}
    with pytest.raises(error, match=f"state: data: {message}"):
        FeatureBank(12, 3).load_state_dict(state)


@pytest.mark.parametrize("given", [range(2**40), range(2**70), range(2**63, 2**63 + 3)])
def test_ranges_are_not_listed_before_they_are_counted(given):
    with pytest.raises(ValueError, match=r"rows: expected fewer than 2\*\*31 integers below 2\*\*63, got range"):
        knn_graph(X, 2, rows=given)
    with pytest.raises(ValueError, match=r"sampler: expected fewer than 2\*\*31 integers below 2\*\*63, got range"):
        ProximityBatchSampler(given, 4, bank=FeatureBank(12, 3))


def test_sizes_of_communities_are_counted_before_they_are_listed():
    with pytest.raises(
        ValueError, match=r"community_size: expected at most 2\*\*24 sizes, one for each epoch, got range"
    ):
        compose(X, batch_size=2, rank_window=(0, 3), community_size=range(1, 2**70))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.tensor(1.5), TypeError, "expected a number, ids, a dataset with __len__ and __getitem__"),
        (np.array(1.5), TypeError, "expected a number, ids, a dataset with __len__ and __getitem__"),
        (FREED_IDS, ValueError, "expected a tensor with memory for its elements"),
    ],
)
def test_arrays_that_list_no_instances_are_refused(given, error, message):
    with pytest.raises(error, match=f"sampler: {message}"):
        ProximityBatchSampler(given, 4, bank=FeatureBank(12, 3))


def test_rows_that_dlpack_claims_are_counted():
    with pytest.raises(ValueError, match=r"features: expected fewer than 2\*\*31 rows .* got 2147483655"):
        knn_graph(WithDLPack(X, claims=2**31 + 7), 2)


@pytest.mark.parametrize("given", [Failing(), WithDLPack(X, bits=24), WithDLPack(X, lanes=2)])
def test_errors_of_dlpack_name_the_argument(given):
    with pytest.raises(TypeError, match=r"features: expected a tensor or an array .*, got \w+ \(.+\)"):
        knn_graph(given, 2)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ProximityGraph(TABLE[:1].expand(2**31 + 7, 2)), "neighbors"),
        (lambda: knn_graph(X, 2, labels=MANY), "labels"),
        (lambda: knn_graph(X, 2, rows=MANY), "rows"),
        (lambda: knn_graph(X, 2, rows=np.broadcast_to(np.int64(0), 2**31 + 7)), "rows"),
        (lambda: FeatureBank(12, 3).update(MANY, X), "indices"),
        (lambda: compose(X, batch_size=2, preset="uniform", unique=MANY), "unique"),
        (lambda: compose(X, batch_size=2, preset="uniform", sources=MANY), "sources"),
        (lambda: random_walk_with_restart(TABLE, MANY, 2), "roots"),
    ],
)
def test_rows_that_take_no_memory_are_not_copied(call, name):
    with pytest.raises(ValueError, match=rf"{name}: expected fewer than 2\*\*31 rows, got 2147483655"):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: random_walk_with_restart(TABLE, [0], 2, restart_prob=10**400),
            ValueError,
            r"restart_prob: expected a float in \[0, 1\), got 1000",
        ),
        (lambda: knn_graph(X, 2, max_score=10**400), ValueError, "max_score: expected a float or None, got 1000"),
        (lambda: FeatureBank(4, 2, momentum="x"), TypeError, r"momentum: expected a float in \[0, 1\), got 'x'"),
        (lambda: FeatureBank(4, 2, dtype=[1]), TypeError, r"dtype: expected float32, .* got \[1\]"),
        (lambda: FeatureBank(4, 2, device="x"), ValueError, "device: expected a device of torch, got 'x'"),
        (lambda: FeatureBank(4, 2**62), ValueError, f"dim: expected an integer from 1 to {2**57}, got {2**62}"),
        (lambda: ProximityGraph(TABLE).to(None), TypeError, "device: expected a device of torch, got None"),
    ],
)
def test_numbers_beyond_floats_and_wrong_types_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- files ------------------------------------------------------------------------------------------------------------
def archive(path: Path, root: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", content)
        file.writestr(f"{root}/byteorder", "little")
        file.writestr(f"{root}/version", "3\n")


def lists_of_one_another() -> bytes:
    part: list[object] = []
    for _ in range(60):
        part = [part, part]
    return pickle.dumps({"version": 1, "content": part, "checksum": 0}, protocol=2)


def nested_lists() -> bytes:
    return (
        b"\x80\x02}(X\x07\0\0\0versionK\x01X\x08\0\0\0checksumK\x01X\x07\0\0\0content"
        + b"]" * 3000
        + b"a" * 2999
        + b"u."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(bytearray(5), protocol=2), "it has an object of another type, "),
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (2**34).to_bytes(6, "little") + b"\x85R.", "builtins bytearray"),
        (lists_of_one_another(), "lists that contain one another"),
        (nested_lists(), "recursion"),
    ],
)
def test_checkpoints_hold_tensors_and_numbers_only(tmp_path, content, message):
    """The second one took 16 GiB, the third one would have been read for ever."""
    archive(tmp_path / "file", "archive", content)
    with pytest.raises(ValueError, match=message):
        load_checked(tmp_path / "file")


def test_a_number_that_a_tensor_repeats_is_saved_as_often_as_it_stands_there(tmp_path):
    content = {"a": torch.arange(3).expand(4, 3), "b": torch.nn.Parameter(X)}
    save_checked(tmp_path / "file", content)
    loaded = load_checked(tmp_path / "file")
    assert torch.equal(loaded["a"], content["a"])
    assert torch.equal(loaded["b"], X)
    torch.save({"version": 1, "content": torch.zeros(1).expand(2**40), "checksum": 0}, tmp_path / "file")
    with pytest.raises(ValueError, match="a tensor that uses its data several times"):
        load_checked(tmp_path / "file")


def test_matrices_of_commands_take_no_memory_that_their_file_lacks(tmp_path):
    path = str(tmp_path / "matrix.pt")
    torch.save({"x": X, "other": bytearray(5)}, path)
    with pytest.raises(ValueError, match=r"queries: .*it has an object of another type, \w+ bytearray"):
        load_matrix(path, "queries")
    torch.save(X[:1].expand(2**20, 3), path)
    with pytest.raises(ValueError, match=r"queries: expected a matrix with all its elements in .*, got \[1048576, 3\]"):
        load_matrix(path, "queries")
    other_values = {"x": torch.nn.Parameter(X), "a": torch.float32, "b": {1, 2j}, "c": b"a", "d": X.int().to_sparse()}
    torch.save(other_values, path)
    assert torch.equal(load_matrix(path, "queries", tensor="x"), X)
    torch.save(X, path, _use_new_zipfile_serialization=False)  # of the format before torch 1.6
    with pytest.raises(ValueError, match=r"queries: expected a file of torch.save .*no archive of torch 1.6"):
        load_matrix(path, "queries")


def test_files_without_checksums_of_members_are_read(tmp_path):
    """torch can leave them out, to save time."""
    torch.serialization.set_crc32_options(False)
    try:
        save_checked(tmp_path / "file", {"a": X})
        torch.save(X, tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_checked(tmp_path / "file")["a"], X)
    assert torch.equal(load_matrix(str(tmp_path / "file.pt"), "queries"), X)


def test_an_archive_behind_another_file_is_refused(tmp_path):
    file = io.BytesIO()
    torch.save({"version": 1}, file, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("a/data.pkl", b"")
    (tmp_path / "file").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="no archive"):
        load_checked(tmp_path / "file")


def test_members_that_use_the_same_bytes_are_refused(tmp_path):
    file, array, count = io.BytesIO(), io.BytesIO(), 500
    np.save(array, np.zeros((100, 10), np.int32))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("neighbors.npy", array.getvalue())
    data = file.getvalue()
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[start:end]
    last = struct.pack("<HHHHIIH", 0, 0, count, count, len(entry) * count, start, 0)
    (tmp_path / "file").write_bytes(data[:start] + entry * count + b"PK\5\6" + last)
    with pytest.raises(
        ValueError, match="path: expected an intact graph .*its members together are longer than the file"
    ):
        ProximityGraph.load(tmp_path / "file")


HEADER = {"num_instances": 6, "num_epochs": 2, "batch_size": 2, "tail_sizes": None, "info": {}}
EPOCHS = {f"epoch_{epoch}": torch.arange(6, dtype=torch.int32) for epoch in range(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 2**70}, "batch_size: expected an integer from 1 to"),
        ({"info": [["seed", 1]]}, "info: expected a dict, got list"),
        ({"info": {"seed": "a"}}, "seed: expected an integer, got 'a'"),
        ({"info": {"seed": None}}, "seed: expected an integer, got None"),
        ({"info": {"metric": "dot"}}, "metric: expected one of"),
        ({"info": {"max_per_batch": 0}}, "max_per_batch: expected an integer from 1"),
        ({"info": {"community_size": 3}}, "community_size: expected a list, got int"),
        ({"info": {"rank_window": [1]}}, "rank_window: expected two integers, got 1"),
        ({"info": {"margin": {}}}, "margin: expected a float or None, got {}"),
        ({"info": {"relative_margin": 2}}, "relative_margin: expected a finite number from 0 to 1, got 2"),
        ({"info": {"sources": [[1]]}}, "sources: expected two integers, got 1"),
        ({"info": {"neighbor_search": {}}}, "neighbor_search: expected an integer, got None"),
        ({"info": {"queries": 3}}, "queries: expected a string, got int"),
    ],
)
def test_plans_with_impossible_headers_are_refused(tmp_path, change, message):
    write_plan(tmp_path / "plan", EPOCHS, {**HEADER, **change})
    with pytest.raises(
        ValueError, match=rf"path: expected a file written by Plan.save, got one with a wrong header \({message}"
    ):
        Plan.load(tmp_path / "plan")


def test_margins_of_a_file_may_be_integers_of_any_size(tmp_path):
    shown = []
    for margin in (2**70, float(2**70), 10**308):
        write_plan(tmp_path / "plan", EPOCHS, {**HEADER, "info": {"margin": margin}})
        shown.append(str(Plan.load(tmp_path / "plan").report(X[:6], X[6:])))
    assert shown[0] == shown[1] == shown[2]


@pytest.mark.parametrize("num_left", [0, 4])
def test_epochs_with_other_numbers_of_batches_are_refused(tmp_path, num_left):
    """Samplers and sources count on equally many."""
    write_plan(tmp_path / "plan", {**EPOCHS, "epoch_1": torch.arange(num_left, dtype=torch.int32)}, HEADER)
    with pytest.raises(ValueError, match="path: .* got one whose epochs have different numbers of batches"):
        Plan.load(tmp_path / "plan")


def test_hard_negatives_after_an_absent_one_are_refused(tmp_path):
    table = torch.tensor([[1, -1], [0, 2], [-1, -1], [0, 1], [-1, 3], [0, 1]], dtype=torch.int32)
    write_plan(tmp_path / "plan", {**EPOCHS, "hard_negatives": table}, HEADER)
    with pytest.raises(ValueError, match="path: .* got one whose hard_negatives have a -1 before an id"):
        Plan.load(tmp_path / "plan").hard_negatives()


def test_nested_descriptions_are_refused(tmp_path):
    bank = FeatureBank(4, 2, path=tmp_path / "bank")
    del bank
    (tmp_path / "bank.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="path: expected the JSON description of a bank"):
        FeatureBank(4, 2, path=tmp_path / "bank")
    write_plan(tmp_path / "plan", EPOCHS, {**HEADER, "info": json.loads("[" * 900 + "]" * 900)})
    with pytest.raises(ValueError, match="path: expected a file written by Plan.save"):
        Plan.load(tmp_path / "plan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": torch.arange(3)}, "expected a state of version 6"),
        ({"indices": torch.zeros(1, dtype=torch.int32).expand(2**40, 4)}, "expected indices with memory for each"),
        ({"tail": torch.zeros(1, dtype=torch.int32, device="meta")}, "tail: expected a device of type 'cpu'"),
    ],
)
def test_states_with_other_tensors_are_refused(change, message):
    sampler = ProximityBatchSampler(12, 4, bank=FeatureBank(12, 3))
    next(iter(sampler))
    state = sampler.state_dict()
    changed = {name: change.get(name, part) for name, part in state.items()}
    changed["plans"] = tuple({name: change.get(name, part) for name, part in plan.items()} for plan in state["plans"])
    with pytest.raises(ValueError, match=f"state: {message}"):
        sampler.load_state_dict(changed)
