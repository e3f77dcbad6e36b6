"""Banks in files: full disks, damaged rows, other processes, copies."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from batchsampler_ext import FeatureBank, ProximityBatchSampler

N, D = 40, 5
WORD = 2**64


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "bank"


def opened(path: Path, **options) -> FeatureBank:
    return FeatureBank(N, D, path=path, two_towers=True, **options)


def filled(path: Path, **options) -> FeatureBank:
    bank = opened(path, **options)
    rows = torch.randn(N // 2, D, generator=torch.Generator().manual_seed(0))
    bank.update(range(N // 2), rows, -rows)
    bank.update([3, 3, N - 1], rows[:3], rows[3:6])
    return bank


def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def row_checksum(tables: list[torch.Tensor], last_update: int, row: int) -> int:
    """The definition in csrc/cpu/bank/bank_update.h."""
    lanes = [1, 2, 3, 4]

    def add(lane: int, word: int) -> None:
        total = (lanes[lane] + word) % WORD
        lanes[lane] = (total << 29 | total >> 35) * 0x9E3779B97F4A7C15 % WORD

    add(0, last_update % WORD)
    for table in tables:
        content = table[row].contiguous().view(torch.uint8).numpy().tobytes()
        for k in range(0, len(content), 8):
            add(k // 8 % 4, int.from_bytes(content[k : k + 8], "little"))
    return sum(lanes) % WORD


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 3, 4, 15, 16, 17, 40])
@pytest.mark.parametrize("two_towers", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_checksums_equal_their_definition(path, dtype, dim, two_towers, momentum):
    bank = FeatureBank(6, dim, path=path, two_towers=two_towers, dtype=dtype, momentum=momentum)
    for ids in ([1, 4], [4, 4, 0]):
        rows = torch.randn(len(ids), dim)
        bank.update(ids, rows, rows.flip(0) if two_towers else None)
    tables = [table for table in (bank.data, bank.documents) if table is not None]
    expected = [row_checksum(tables, last, row) for row, last in enumerate(bank.last_update.tolist())]
    assert np.fromfile(f"{path}.checksums", np.uint64).tolist() == expected
    again = FeatureBank(6, dim, path=path, two_towers=two_towers, dtype=dtype, momentum=momentum)  # without a warning
    assert torch.equal(again.data, bank.data)


def test_flipped_bits_in_files_of_a_bank_are_found(path, recwarn):
    """400 single bits. The row counts as missing, with a warning. All others stay."""
    warnings.simplefilter("always")
    bank = filled(path)
    rows = [table.clone() for table in (bank.data, bank.documents, bank.last_update)]
    del bank
    suffixes = ["", ".documents", ".last_update", ".checksums"]
    content = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in suffixes}
    rng, num_silent = np.random.default_rng(0), 0
    for _ in range(400):
        suffix = suffixes[rng.integers(4)]
        place = int(rng.integers(len(content[suffix])))
        flipped = bytearray(content[suffix])
        flipped[place] ^= 1 << int(rng.integers(8))
        Path(f"{path}{suffix}").write_bytes(flipped)
        recwarn.clear()
        again = opened(path)
        row = place // (len(flipped) // N)
        assert [str(part.message)[: len("FeatureBank: 1 of")] for part in recwarn] == ["FeatureBank: 1 of"]
        assert f"the first is row {row}." in str(recwarn[0].message)
        keep = torch.arange(N) != row
        for table, old in zip((again.data, again.documents, again.last_update), rows, strict=True):
            num_silent += not torch.equal(table[keep], old[keep])
        assert again.last_update[row] == -1
        assert not again.data[row].any()
        recwarn.clear()
        opened(path)  # it is repaired
        assert not len(recwarn)
        del again
        for name, data in content.items():
            Path(f"{path}{name}").write_bytes(data)
    assert num_silent == 0


def write_damaged(path: Path, num_damaged: int) -> None:
    """Writes a bank of 1,000 rows, of which 600 have an embedding, and damages the first ones."""
    FeatureBank(1000, 4, path=path).update(torch.arange(600), torch.randn(600, 4))
    checksums = np.memmap(f"{path}.checksums", np.int64, "r+")
    checksums[:num_damaged] += 1
    checksums.flush()


def test_mostly_damaged_files_are_refused_and_stay(path):
    write_damaged(path, 301)
    content = [Path(f"{path}{suffix}").read_bytes() for suffix in ("", ".last_update", ".checksums")]
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"^path: expected files whose rows agree .*, got 301 of 1000 rows that do not"
        ):
            FeatureBank(1000, 4, path=path)
    assert content == [Path(f"{path}{suffix}").read_bytes() for suffix in ("", ".last_update", ".checksums")]
    Path(f"{path}.replaced").touch()  # the process was stopped while it loaded a state
    with pytest.warns(UserWarning, match="301 of 1000 rows"):
        FeatureBank(1000, 4, path=path)
    assert not Path(f"{path}.replaced").exists()


def test_an_interrupted_load_leaves_files_that_open(path, monkeypatch):
    source = FeatureBank(1000, 4, momentum=0.5)
    source.update(torch.arange(1000), torch.randn(1000, 4))
    bank = FeatureBank(1000, 4, path=path)

    def interrupt(*arguments, **options) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("batchsampler_ext._bank.files.BankFiles._write_checksums", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bank.load_state_dict(source.state_dict())
    del bank
    with pytest.warns(UserWarning, match="1000 of 1000 rows"):
        bank = FeatureBank(1000, 4, path=path)
    bank.load_state_dict(source.state_dict())
    del bank
    bank = FeatureBank(1000, 4, path=path)
    assert torch.equal(bank.data, source.data)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        path.name, *(f"{path.name}.{end}" for end in ("checksums", "json", "last_update"))
    ]  # fmt: skip


def test_a_few_damaged_rows_are_removed(path):
    write_damaged(path, 300)
    with pytest.warns(UserWarning, match="300 of 1000 rows"):
        bank = FeatureBank(1000, 4, path=path)
    assert int((bank.last_update >= 0).sum()) == 300


def test_flipped_bits_in_the_description_are_found_or_harmless(path):
    filled(path)
    name = Path(f"{path}.json")
    content = name.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        name.write_bytes(flipped)
        assert opened_or_refused(path) in ("equal", "refused")


def opened_or_refused(path: Path) -> str:
    try:
        bank = opened(path)
    except ValueError as error:
        return "refused" if "path: expected" in str(error) else str(error)
    return "equal" if int(bank.last_update[3]) == 1 else "other"


def test_older_files_are_refused(path):
    filled(path)
    name = Path(f"{path}.json")
    name.write_text(json.dumps({**json.loads(name.read_text()), "format": 1}))
    with pytest.raises(ValueError, match="path: expected files of a bank with format 2, got 1"):
        opened(path)


def test_a_loaded_state_is_in_the_files(path, tmp_path):
    bank = FeatureBank(N, D, two_towers=True)
    bank.update([2, 5], torch.randn(2, D), torch.randn(2, D))
    filled(path).load_state_dict(bank.state_dict())
    assert torch.equal(opened(path).data, bank.data)


def test_a_half_stored_row_has_no_embedding(path):
    bank = filled(path)
    expected = bank.data.clone()
    bank.data[7, D // 2 :] = 1  # as an update does that is stopped
    del bank
    with pytest.warns(UserWarning, match="FeatureBank: 1 of 40 rows in the files at .*, the first is row 7"):
        again = opened(path)
    expected[7] = 0
    assert torch.equal(again.data, expected)
    assert again.last_update[[6, 7]].tolist() == [0, -1]


FULL = """
import os, resource, sys
from batchsampler_ext import FeatureBank
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    FeatureBank(100_000, 64, path=sys.argv[1])
except OSError as error:
    print(error)
"""


def test_a_bank_that_does_not_fit_is_an_error(path, tmp_path):
    result = run(FULL, path)
    assert (result.returncode, result.stdout) == (0, f"[Errno 27] File too large: '{path}'\n"), result.stderr
    assert os.listdir(tmp_path) == []


ON_A_FULL_DISK = """
import os, sys, torch
from batchsampler_ext import FeatureBank
try:
    bank = FeatureBank(100_000, 64, path=sys.argv[1] + "/bank")
    bank.update(range(50_000), torch.randn(50_000, 64))
except OSError as error:
    print(error.errno, os.listdir(sys.argv[1]))
bank = FeatureBank(1_000, 64, path=sys.argv[1] + "/bank")
bank.update(range(1_000), torch.randn(1_000, 64))
bank.save(sys.argv[1] + "/saved")
old = open(sys.argv[1] + "/saved", "rb").read()
open(sys.argv[1] + "/more", "wb").write(bytes(700_000))
try:
    bank.save(sys.argv[1] + "/saved")
except OSError as error:
    print(error.errno, open(sys.argv[1] + "/saved", "rb").read() == old, len(os.listdir(sys.argv[1])))
"""


def test_a_full_disk_is_an_error(tmp_path):
    """Without reserved space, the process would end by SIGBUS."""
    shell = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c '{ON_A_FULL_DISK}' {tmp_path}"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    command = [unshare, "-Urm", "sh", "-c", shell]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stdout) == (0, "28 []\n28 True 6\n"), result.stderr


def test_space_is_taken_where_the_file_system_cannot_reserve_it(path, monkeypatch):
    def unsupported(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    FeatureBank(3000, 250, path=path, dtype=torch.float32)
    assert os.stat(path).st_size == 3_000_000
    assert os.stat(path).st_blocks * 512 >= 3_000_000
    assert not np.fromfile(path, np.uint8).any()


OPEN = """
import sys
from batchsampler_ext import FeatureBank
try:
    FeatureBank(40, 5, path=sys.argv[1], two_towers=True)
except ValueError as error:
    print(error)
"""


def test_a_second_process_is_refused(path):
    bank = filled(path)
    same = opened(path)  # the process itself may open it again, as notebooks do
    del bank
    result = run(OPEN, path)
    assert result.stdout.startswith(f"path: expected files that no other process has open, got '{path}'"), result.stderr
    del same
    assert run(OPEN, path).stdout == ""


FORK = """
import os, sys, torch, warnings
from batchsampler_ext import FeatureBank
warnings.simplefilter("ignore")
bank = FeatureBank(40, 5, path=sys.argv[1])
child = os.fork()
if child == 0:
    for call in (
        lambda: bank.update([1], torch.ones(1, 5)),
        lambda: bank.load_state_dict(FeatureBank(40, 5).state_dict()),
        lambda: FeatureBank(40, 5, path=sys.argv[1]),
    ):
        try:
            call()
        except (RuntimeError, ValueError) as error:
            os.write(1, str(error)[:60].encode() + b"\\n")
    os._exit(0)
os.waitpid(child, 0)
bank.update([1], torch.ones(1, 5))
os.write(1, b"%d\\n" % bank.step)
"""


def test_a_forked_process_is_refused_and_the_lock_stays(path):
    result = run(FORK, path)
    assert result.stdout.splitlines() == [
        "bank: expected changes by the process that has opened the fi",
        "bank: expected changes by the process that has opened the fi",
        f"path: expected files that no other process has open, got '{path}'"[:60],
        "1",
    ], result.stderr


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps, ForkingPickler.dumps])
def test_copies_are_refused(path, copied):
    bank = filled(path)
    sampler = ProximityBatchSampler(N, 8, bank=bank)
    for whole in (bank, sampler):
        with pytest.raises(
            TypeError, match="FeatureBank: expected a bank in memory to copy or pickle, got one in files"
        ):
            copied(whole)
    in_memory = FeatureBank(N, D, two_towers=True)
    in_memory.load_state_dict(copy.deepcopy(bank.state_dict()))
    assert torch.equal(copy.deepcopy(in_memory).data, bank.data)


@pytest.mark.parametrize("has_path", [False, True])
@pytest.mark.parametrize("sampler_is_inside", [False, True])
def test_banks_of_inference_mode_train(path, has_path, sampler_is_inside):
    options = {"path": path} if has_path else {}
    with torch.inference_mode():
        bank = FeatureBank(N, D, **options)
        bank.update(range(N), torch.randn(N, D))
        sampler = ProximityBatchSampler(N, 8, bank=bank)
        if sampler_is_inside:
            list(sampler)
    sampler = sampler if sampler_is_inside else ProximityBatchSampler(N, 8, bank=bank)
    batches = iter(sampler)
    for _ in range(2):
        ids = next(batches)
        bank.update(ids, torch.randn(len(ids), D, requires_grad=True))
    states = copy.deepcopy((bank.state_dict(), sampler.state_dict()))
    rest = list(batches)
    bank.load_state_dict(states[0])
    sampler.load_state_dict(states[1])
    assert list(sampler) == rest
    (bank.data.float() @ torch.randn(D, 2, requires_grad=True)).sum().backward()
    if not has_path:
        copy.deepcopy(sampler).bank.load_state_dict(states[0])


def test_callbacks_may_use_bank_and_sampler():
    """A state of a callback continues where the epoch stood. Nothing waits for itself."""
    states = []

    def use(*_: int) -> None:
        states.append(copy.deepcopy(sampler.state_dict()))
        copies = [copy.copy(sampler), pickle.loads(pickle.dumps(bank)), copy.deepcopy(bank)]
        assert len(copies[0]) == len(sampler)
        bank.state_dict(), bank.stats(), sampler.stats(), bank.rows_for_graph()

    bank = FeatureBank(4000, 8)
    bank.update(range(4000), torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)))
    sampler = ProximityBatchSampler(4000, 100, bank=bank, progress=use)
    batches = list(sampler)
    assert states
    other = ProximityBatchSampler(4000, 100, bank=bank)
    other.load_state_dict(states[-1])
    assert list(other) == batches
