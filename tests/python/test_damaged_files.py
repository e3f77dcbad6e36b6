"""What is saved is loaded equal, or refused: flipped bits, claims of sizes, full disks, impossible states."""

from __future__ import annotations

import copy
import io
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from batchsampler_ext import (
    FeatureBank,
    Plan,
    PlannedBatchSampler,
    ProximityBatchSampler,
    ProximityGraph,
    compose,
    proximity_graph,
)
from batchsampler_ext._engine import files
from batchsampler_ext._engine.checked_file import load_checked, save_checked
from batchsampler_ext._engine.files import atomic_directory, atomic_write
from batchsampler_ext.cli.inputs import load_array

N, D = 50, 8


def filled_bank() -> FeatureBank:
    bank = FeatureBank(N, D, two_towers=True)
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    bank.update(range(40), rows[:40], -rows[:40])
    return bank


def content_of_bank(path: Path) -> object:
    bank = FeatureBank(N, D, two_towers=True)
    bank.load(path)
    return [part.tolist() if isinstance(part, torch.Tensor) else part for part in bank.state_dict().values()]


def saved_graph(path: Path) -> None:
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    proximity_graph(rows, 4, rows=torch.arange(3, 40), return_scores=True).save(path)


def content_of_graph(path: Path) -> object:
    graph = ProximityGraph.load(path)
    return graph.neighbors.tolist(), graph.scores.tolist(), graph.ids.tolist(), graph.num_instances


def saved_plan(path: Path) -> None:
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    options = {"rank_window": (1, 9), "community_size": 8, "num_hard_negatives": 2, "unique": [*range(48), 7, 7]}
    compose(rows, batch_size=8, **options).save(path)


def content_of_plan(path: Path) -> object:
    plan = Plan.load(path)
    mask = plan.negative_mask(range(N)).tolist()
    return [batch.tolist() for batch in plan.batches(0)], plan.hard_negatives().tolist(), mask, plan.batch_size


def saved_states(path: Path) -> None:
    """As integrations of trainers write them."""
    bank = filled_bank()
    sampler = ProximityBatchSampler(N, 8, bank=bank)
    next(iter(sampler))
    save_checked(path, {"": {"bank": bank.state_dict(), "sampler": sampler.state_dict()}})


def content_of_states(path: Path) -> object:
    return repr(load_checked(path))


KINDS = {
    "bank": (lambda path: filled_bank().save(path), content_of_bank),
    "graph": (saved_graph, content_of_graph),
    "plan": (saved_plan, content_of_plan),
    "states": (saved_states, content_of_states),
}


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_found_or_without_effect(kind, tmp_path):
    """400 single bits of each kind of file."""
    save, load = KINDS[kind]
    path = tmp_path / "file"
    save(path)
    data, expected = path.read_bytes(), load(path)
    rng, num_refused = np.random.default_rng(0), 0
    for _ in range(400):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert load(path) == expected
        except ValueError:
            num_refused += 1
    assert num_refused > 100  # a file of torch.save has much padding


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_are_refused(kind, tmp_path):
    save, load = KINDS[kind]
    path = tmp_path / "file"
    save(path)
    data = path.read_bytes()
    for length in [0, 1, 8, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="expected|damaged"):
            load(path)


def test_files_without_a_checksum_are_refused(tmp_path):
    bank = filled_bank()
    torch.save(bank.state_dict(), tmp_path / "old.pt")
    with pytest.raises(
        ValueError, match="path: expected a file written by FeatureBank.save, got '.*old.pt': no file of"
    ):
        bank.load(tmp_path / "old.pt")
    with pytest.raises(FileNotFoundError):
        bank.load(tmp_path / "absent.pt")


def test_only_what_can_be_checked_is_saved(tmp_path):
    with pytest.raises(TypeError, match="expected tensors, numbers and strings, got object"):
        save_checked(tmp_path / "file", {"a": object()})
    content = {
        "a": [1, 2.5, None, True, "text"],
        "b": (torch.zeros(0), torch.tensor(3), torch.arange(6).view(2, 3).T, torch.arange(4)[::2][:1]),
    }
    save_checked(tmp_path / "file", content)
    assert repr(load_checked(tmp_path / "file")) == repr(content)


LIMITED = """
import resource, sys
from batchsampler_ext import Plan, PlannedBatchSampler, ProximityGraph, FeatureBank
from batchsampler_ext.cli.inputs import load_array
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
load = {
    "graph": ProximityGraph.load,
    "plan": lambda path: [len(list(Plan.load(path).batches(0))), len(list(PlannedBatchSampler(path)))],
    "bank": FeatureBank(4, 2).load,
    "npy": lambda path: load_array(path, "labels", "array of integers"),
}[sys.argv[1]]
try:
    print(load(sys.argv[2]))
except ValueError as error:
    print("ValueError", error)
"""


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def graph_that_claims(path: Path) -> None:
    shapes = {"format": ((), "i8"), "num_instances": ((), "i8"), "neighbors": ((2**31 - 1, 2), "i4")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in shapes.items():
            archive.writestr(f"{name}.npy", npy_header(*shape) + bytes(8))


def packed_graph(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("neighbors.npy", npy_header((1 << 16, 1 << 10), "i4") + bytes(1 << 28))


def packed_bank(path: Path) -> None:
    filled_bank().save(path)
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, bytes(1 << 28) if name.endswith("/data/0") else data)


def plan_that_claims(path: Path) -> None:
    plan = compose(torch.randn(20, 4), batch_size=4, preset="uniform")
    plan.__dict__["num_instances"] = 2**31 - 1
    plan.save(path)


@pytest.mark.parametrize(
    ("kind", "save", "expected"),
    [
        ("graph", graph_that_claims, "ValueError path: expected an intact graph .* it claims 17179869"),
        ("graph", packed_graph, "ValueError path: expected an intact graph .* or compressed"),
        ("bank", packed_bank, "ValueError path: expected a file written by FeatureBank.save, .* or compressed"),
        ("plan", plan_that_claims, r"\[5, 5\]"),
        ("npy", lambda path: path.write_bytes(npy_header((2**30,), "i8")), "ValueError labels: .*it claims 8589934"),
        (
            "npy",
            lambda path: path.write_bytes(b"\x93NUMPY\x02\0" + b"\xff" * 4),
            "ValueError labels: .*it claims a header of",
        ),
    ],
)
def test_claims_of_small_files_take_no_memory(kind, save: Callable[[Path], object], expected, tmp_path):
    """The process may take 1 GiB. The files claim up to 16 GiB."""
    save(tmp_path / "file")
    command = [sys.executable, "-c", LIMITED, kind, str(tmp_path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert re.search(expected, result.stdout), result.stdout


def test_tensors_that_claim_more_than_their_record_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "file"
    save_checked(path, {"a": torch.arange(10), "b": torch.arange(30)})
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    swapped = {"/data/0": "/data/1", "/data/1": "/data/0"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            end = name[-7:]
            archive.writestr(name, records[name[:-7] + swapped[end]] if end in swapped else data)
    with pytest.raises(ValueError, match="damaged"):
        load_checked(path)


FULL = """
import resource, sys, os, torch
from pathlib import Path
from batchsampler_ext import FeatureBank, Plan, ProximityGraph
from batchsampler_ext._engine.checked_file import save_checked
kind, path = sys.argv[1:]
make = {
    "bank": lambda n: FeatureBank(n, 64).save,
    "graph": lambda n: ProximityGraph(torch.zeros(n, 32, dtype=torch.int32)).save,
    "plan": lambda n: Plan([torch.randperm(32 * n, dtype=torch.int32)], 32 * n, 16, {}).save,
    "states": lambda n: lambda path: save_checked(path, [torch.zeros(n, 64)]),
}[kind]
make(100)(path)
old = Path(path).read_bytes()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
try:
    make(5000)(path)
except OSError as error:
    print(error.errno, Path(path).read_bytes() == old, os.listdir(os.path.dirname(path)))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # for `make coverage`, which writes a file at exit
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_old_file(kind, tmp_path):
    command = [sys.executable, "-W", "error", "-c", FULL, kind, str(tmp_path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stdout) == (0, "27 True ['file']\n"), result.stderr
    assert "ignored" not in result.stderr


def test_permissions_are_kept(tmp_path):
    path = tmp_path / "bank.pt"
    filled_bank().save(path)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    for mode in (0o600, 0o664):
        path.chmod(mode)
        filled_bank().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode


IN_A_GROUP = """
import os, sys
import batchsampler_ext._engine.files as files
os.setgroups([2000])
os.setgid(3000)
os.setuid(1001)
for path in sys.argv[1:]:
    with files.atomic_write(path) as file:
        file.write(b"new")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes two other users")
def test_files_of_other_users_keep_their_group_and_folders_need_not_be_listed():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        paths = [Path(name, "group", "file"), Path(name, "unlisted", "file")]
        for path, mode in zip(paths, (0o777, 0o333), strict=True):
            path.parent.mkdir()
            path.parent.chmod(mode)
        paths[0].write_bytes(b"old")
        paths[0].chmod(0o660)
        os.chown(paths[0], 1000, 2000)
        result = subprocess.run(
            [sys.executable, "-c", IN_A_GROUP, *map(str, paths)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        assert [path.read_bytes() for path in paths] == [b"new"] * 2
        found = paths[0].stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1001, 2000, 0o660)


def test_files_are_written_where_the_number_of_links_is_always_0(tmp_path, monkeypatch):
    class WithoutLinks:
        st_nlink = 0

        def __init__(self, found: os.stat_result) -> None:
            self._found = found

        def __getattr__(self, name: str) -> object:
            return getattr(self._found, name)

    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda file: WithoutLinks(fstat(file)))
    filled_bank().save(tmp_path / "bank.pt")
    FeatureBank(4, 2, path=tmp_path / "bank")
    assert len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize("number", [np.float32(0.25), np.float64(0.25), np.int64(3), np.bool_(True)])
def test_numbers_of_numpy_are_saved(tmp_path, number):
    save_checked(tmp_path / "file", {"restart_prob": number})
    assert repr(load_checked(tmp_path / "file")) == repr({"restart_prob": number.item()})


def test_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        calls.append(("fsync", stat.S_ISDIR(os.fstat(file).st_mode), os.fstat(file).st_size if not calls else None))
        fsync(file)

    def noted_replace(*paths: object) -> None:
        calls.append(("replace",))
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"12345")
    assert calls == [("fsync", False, 5), ("replace",), ("fsync", True, None)]


def test_abandoned_files_are_removed_and_others_stay(tmp_path):
    name = f"{files._NODE}89abcdef"
    of_another_machine = f".file.{int(files._NODE, 16) ^ 1:08x}89abcdef.tmp"
    others = [f".file.{name}.tmp.txt", ".file.tmp", f".other.{name}.tmp", f".file.{name[:-1]}x.tmp", of_another_machine]
    for left in [f".file.{name}.tmp", *others]:
        (tmp_path / left).write_bytes(b"half")
    (tmp_path / f".folder.{name}.tmp").mkdir()
    (tmp_path / f".folder.{name}.tmp" / "part").write_bytes(b"half")
    with atomic_write(tmp_path / "file") as first, atomic_write(tmp_path / "file") as second:  # of two processes
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    with atomic_directory(tmp_path / "folder") as folder, atomic_write(tmp_path / "folder" / ".." / "file") as file:
        (folder / "part").write_bytes(b"whole")
        file.write(b"third")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "file", "folder"])
    assert (tmp_path / "folder" / "part").read_bytes() == b"whole"


@pytest.fixture
def sampler() -> ProximityBatchSampler:
    bank = FeatureBank(N, D)
    bank.update(range(N), torch.randn(N, D, generator=torch.Generator().manual_seed(0)))
    return ProximityBatchSampler(range(40), 8, bank=bank)


NO_IDS = torch.zeros(0, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "plan", "message"),
    [
        ({"num_drawn": 0}, {"indices": torch.zeros(0, 8, dtype=torch.int32)}, "expected plans with instances"),
        ({}, {"indices": torch.zeros(5, 0, dtype=torch.int32)}, "expected plans with instances"),
        ({"num_drawn": 5}, {}, "expected num_drawn from 0 to 5, and is_finished exactly at 5, got 5 and False"),
        ({"is_finished": True}, {}, "expected num_drawn from 0 to 5, and is_finished exactly at 5, got 2 and True"),
        ({"num_drawn": 6}, {}, "expected num_drawn from 0 to 5, got 6"),
        ({"num_drawn": -1}, {}, "num_drawn: expected an integer at least 0"),
        ({"epoch": 2**24}, {}, "epoch: expected an integer from 0"),
        ({"plans": (), "num_drawn": 0, "is_finished": True}, {}, "expected drawn batches of a finished epoch"),
        ({"plans": ()}, {}, "expected num_drawn from 0 to 0, got 2"),
        ({}, {"tail": torch.arange(8, dtype=torch.int32)}, "at most once in a plan"),
        ({}, {"indices": torch.full((5, 8), 3, dtype=torch.int32)}, "at most once in a plan"),
        ({}, {"indices": torch.arange(1, 41, dtype=torch.int32).view(5, 8)}, "that this sampler draws, got 40"),
        ({}, {"indices": torch.arange(40, 80, dtype=torch.int32).view(5, 8)}, r"instances in \[0, 50\)"),
        ({}, {"indices": torch.arange(32, dtype=torch.int32).view(4, 8), "tail": torch.arange(32, 40).int()}, "a tail"),
    ],
)
def test_impossible_states_of_a_sampler_are_refused(sampler, change, plan, message):
    batches = iter(sampler)
    next(batches), next(batches)
    state = copy.deepcopy(sampler.state_dict(2))
    state["plans"] = tuple({**part, **plan} for part in state["plans"])
    rest = list(batches)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict({**state, **change})
    assert len(rest) == 3
    assert sampler.epoch == 0


def test_instances_that_two_plans_draw_are_refused(sampler):
    batches = iter(sampler)
    next(batches), next(batches)
    sampler.refresh()
    next(batches)
    state = copy.deepcopy(sampler.state_dict(3))
    sampler.load_state_dict(state)
    first = state["plans"][0]
    assert len(state["plans"]) == 2
    with pytest.raises(ValueError, match="expected each instance to be drawn at most once"):
        sampler.load_state_dict({**state, "plans": (first, {**state["plans"][1], "indices": first["indices"][:3]})})


@pytest.mark.parametrize(("num_drawn", "is_finished"), [(2, True), (5, False)])
def test_impossible_states_of_a_planned_sampler_are_refused(num_drawn, is_finished):
    plan = compose(torch.randn(20, 4), batch_size=4, preset="uniform")
    sampler = PlannedBatchSampler(plan)
    batches = iter(sampler)
    next(batches), next(batches)
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="state: expected num_drawn from 0 to 5, and is_finished exactly at 5"):
        sampler.load_state_dict({**state, "num_drawn": num_drawn, "is_finished": is_finished})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_update": torch.full((N,), -2)}, r"state: expected last_update from -1 to 2\*\*62 - 1, got -2 to -2"),
        ({"last_update": torch.full((N,), 2**63 - 1), "step": 2**63}, "state: expected last_update from -1"),
        ({"step": 2**63 - 1}, "state: step: expected an integer from 1 to"),
        ({"num_skipped": 2**70}, "state: num_skipped: expected an integer from 0 to"),
    ],
)
def test_impossible_states_of_a_bank_are_refused(change, message):
    bank = filled_bank()
    with pytest.raises(ValueError, match=message):
        bank.load_state_dict({**bank.state_dict(), **change})
    assert bank.step == 1


def test_a_plan_without_batches_can_continue():
    sampler = PlannedBatchSampler(Plan([torch.zeros(0, dtype=torch.int32)], 10, 4, {}))
    sampler.load_state_dict(sampler.state_dict())
    assert list(sampler) == []


def test_empty_arrays_are_read(tmp_path):
    np.save(tmp_path / "empty.npy", np.zeros(0, np.int64))
    assert len(load_array(str(tmp_path / "empty.npy"), "labels", "array")) == 0
