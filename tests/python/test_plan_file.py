"""The file of a plan: it loads what was saved, and nothing else."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from batchsampler_ext import Plan, compose
from batchsampler_ext._plan import file as plan_file

NUM_INSTANCES, BATCH_SIZE, NUM_EPOCHS = 100, 12, 3


@pytest.fixture(scope="module")
def plan() -> Plan:
    embeddings = torch.randn(NUM_INSTANCES, 8, generator=torch.Generator().manual_seed(0))
    return compose(embeddings, batch_size=BATCH_SIZE, preset="walks", num_epochs=NUM_EPOCHS)


@pytest.fixture
def path(plan, tmp_path) -> Path:
    plan.save(tmp_path / "plan.bse")
    return tmp_path / "plan.bse"


def content(plan: Plan) -> list[list[int]]:
    return [batch.tolist() for epoch in range(plan.num_epochs) for batch in plan.batches(epoch)]


def description(data: bytes) -> tuple[dict, bytes]:
    """Returns the JSON of a safetensors file, and its tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_description(layout: dict, tensors: bytes) -> bytes:
    text = json.dumps(layout).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def changed(data: bytes, *, right_checksum: bool = True, header: dict | None = None, **changes) -> bytes:
    """Returns a file whose description has other values, with a checksum that fits unless said otherwise."""
    layout, tensors = description(data)
    parts = json.loads(layout["__metadata__"]["plan"])
    parts = {**parts, **changes, "header": {**parts["header"], **(header or {})}}
    text = json.dumps({name: value for name, value in parts.items() if value is not None}, sort_keys=True)
    checksum = zlib.crc32(text.encode()) if right_checksum else layout["__metadata__"]["checksum"]
    layout["__metadata__"] = {"plan": text, "checksum": str(checksum)}
    return with_description(layout, tensors)


def with_epochs(plan: Plan, path: Path, epochs: list[torch.Tensor]) -> None:
    """Writes a file with right checksums around these epochs."""
    Plan(epochs, plan.num_instances, plan.batch_size, plan.info).save(path)


def test_a_plan_is_loaded_as_it_was_saved(plan, path):
    loaded = Plan.load(path)
    assert (loaded.num_instances, loaded.num_epochs, loaded.batch_size) == (NUM_INSTANCES, NUM_EPOCHS, BATCH_SIZE)
    assert content(loaded) == content(plan)
    assert loaded.info == json.loads(json.dumps(plan.info))
    assert loaded._digest() == plan._digest()
    loaded.save(path)  # over the file that it is mapped from
    assert content(Plan.load(path)) == content(loaded) == content(plan)


def test_a_file_is_a_function_of_the_plan(plan, path, tmp_path):
    plan.save(tmp_path / "again.bse")
    assert (tmp_path / "again.bse").read_bytes() == path.read_bytes()


def test_other_programs_can_read_the_file(plan, path):
    tensors = safetensors.torch.load_file(path)
    assert sorted(tensors) == [f"epoch_{number}" for number in range(NUM_EPOCHS)]
    assert tensors["epoch_1"].tolist() == [i for batch in plan.batches(1) for i in batch.tolist()]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies_of_a_loaded_plan(plan, path, duplicate):
    loaded = Plan.load(path)
    saved = pickle.dumps(loaded)
    assert len(saved) < 5000
    assert content(duplicate(loaded)) == content(plan)
    with_epochs(plan, path, [plan._epochs[1]] * NUM_EPOCHS)
    with pytest.raises(ValueError, match=r"got another plan than the one that was pickled: '.*plan.bse'"):
        pickle.loads(saved)
    assert content(loaded) == content(plan)  # the old file is still mapped


def outcome(path: Path, expected: list[list[int]]) -> str:
    """Returns the error of a file, or "equal". Anything else fails."""
    message = "equal"
    try:
        loaded = Plan.load(path)
        found = (content(loaded), loaded.num_instances, loaded.batch_size)
    except ValueError as error:
        message, found = str(error), str(path) in str(error)
    assert found in (True, (expected, NUM_INSTANCES, BATCH_SIZE))
    return message


def test_flipped_bytes_never_load_another_plan(plan, path):
    """In padding, a flipped byte may leave the same plan."""
    data, expected = path.read_bytes(), content(plan)
    rng = np.random.default_rng(1)
    places = {*range(24), *rng.integers(0, len(data), 200).tolist(), len(data) - 1}
    num_equal = 0
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        num_equal += outcome(path, expected) == "equal"
    assert num_equal <= 2


def test_cut_and_extended_files_are_refused(plan, path):
    data, expected = path.read_bytes(), content(plan)
    for length in [0, 1, 7, 8, 9, *np.random.default_rng(2).integers(10, len(data), 40).tolist(), len(data) - 1]:
        path.write_bytes(data[:length])
        assert "damaged" in outcome(path, expected)
    for tail in (b"\0", b" ", data[-400:], data):
        path.write_bytes(data + tail)
        assert "damaged" in outcome(path, expected)


def test_swapped_tensors_are_refused(plan, path):
    layout, tensors = description(path.read_bytes())
    first, second = (layout[name]["data_offsets"] for name in ("epoch_0", "epoch_1"))
    layout["epoch_0"]["data_offsets"], layout["epoch_1"]["data_offsets"] = second, first
    path.write_bytes(with_description(layout, tensors))
    assert "epoch_0 has another checksum" in outcome(path, content(plan))


def test_only_the_epoch_that_is_used_is_checked(plan, path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in the last epoch
    path.write_bytes(data)
    loaded = Plan.load(path)
    assert [batch.tolist() for batch in loaded.batches(0)] == [batch.tolist() for batch in plan.batches(0)]
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged one .epoch_2 has another checksum.: '.*plan.bse'"):
            loaded.batches(2)


FOREIGN = {
    "another checksum": {"right_checksum": False, "header": {"batch_size": 6}},
    "old version": {"version": 1},
    "no version": {"version": None},
    "no instances": {"header": {"num_instances": 0}},
    "fewer instances": {"header": {"num_instances": NUM_INSTANCES - 1}},
    "more epochs": {"header": {"num_epochs": NUM_EPOCHS + 1}},
    "endless epochs": {"header": {"num_epochs": 10**12}},
    "text": {"header": {"batch_size": "12"}},
    "negative": {"header": {"batch_size": -12}},
    "no info": {"header": {"info": 5}},
    "other tensors": {"tensors": {}},
    "tensors of another kind": {"tensors": [1, 2]},
    "no tensors": {"tensors": None},
    "described as others": {"tensors": {f"epoch_{i}": ["torch.int32", [1], 0] for i in range(NUM_EPOCHS)}},
    "badly described": {"tensors": {f"epoch_{i}": [5] for i in range(NUM_EPOCHS)}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_changed_descriptions_are_refused(name, plan, path):
    path.write_bytes(changed(path.read_bytes(), **FOREIGN[name]))
    assert outcome(path, content(plan)) != "equal"


@pytest.mark.parametrize("text", ["[]", "5", "null", "{", '{"version": 2, "header": []}', '{"version": 2}'])
def test_descriptions_of_another_kind_are_refused(text, plan, path):
    layout, tensors = description(path.read_bytes())
    layout["__metadata__"] = {"plan": text, "checksum": str(zlib.crc32(text.encode()))}
    path.write_bytes(with_description(layout, tensors))
    assert outcome(path, content(plan)) != "equal"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda ids: ids + 1, r"epoch_1 has instances outside \[0, 100\)"),
        (lambda ids: ids - 1, r"epoch_1 has instances outside \[0, 100\)"),
        (lambda ids: torch.cat([ids[:-1], ids[:1]]), "epoch_1 has an instance twice"),
        (lambda ids: torch.cat([ids, ids[:1]]), "epoch_1 is torch.int32 .101., not int32 with at most 100"),
        (lambda ids: ids.long(), "epoch_1 is torch.int64"),
    ],
)
def test_contents_are_checked_after_the_checksum(wrong, message, plan, path):
    with_epochs(plan, path, [plan._epochs[0], wrong(plan._epochs[1]), plan._epochs[2]])
    loaded = Plan.load(path)
    loaded.batches(0)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"got one whose {message}.*plan.bse"):
            loaded.batches(1)


def test_epochs_of_two_dimensions_are_refused(plan, path):
    with_epochs(plan, path, [plan._epochs[0], plan._epochs[1].view(2, 50), plan._epochs[2]])
    with pytest.raises(
        ValueError, match=r"got one whose epoch_1 has shape \[2, 50\], expected one dimension: .*plan.bse"
    ):
        Plan.load(path)


def test_other_files_are_refused(plan, path):
    safetensors.torch.save_file({"epoch_0": torch.arange(4, dtype=torch.int32)}, path)
    assert "another safetensors file" in outcome(path, [])
    safetensors.torch.save_file({}, path)
    assert "another safetensors file" in outcome(path, [])
    torch.save(plan._epochs, path)
    assert "damaged" in outcome(path, [])
    assert "got a directory" in outcome(path.parent, [])
    os.mkfifo(path.parent / "pipe")  # opening it would wait for a writer
    for other in (path.parent / "pipe", Path("/dev/null")):
        assert "got a device or pipe" in outcome(other, [])
    with pytest.raises(FileNotFoundError, match="absent"):
        Plan.load(path.parent / "absent")


def test_a_failed_save_leaves_the_old_file(plan, path, monkeypatch):
    data = path.read_bytes()
    count = []

    def fail(tensor):
        count.append(tensor)
        if len(count) > 1:  # the first tensor was written
            raise KeyboardInterrupt
        return tensor.numpy().data.cast("B")

    monkeypatch.setattr(plan_file, "_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        plan.save(path)
    assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def large_plan(num_instances: int) -> Plan:
    epochs = [torch.randperm(num_instances, dtype=torch.int32) for _ in range(3)]
    return Plan(epochs, num_instances, 1024, {})


def test_a_large_file_opens_without_reading_it(tmp_path):
    large_plan(1_000_000).save(tmp_path / "plan.bse")
    start = time.perf_counter()
    loaded = Plan.load(tmp_path / "plan.bse")
    loaded._digest()
    assert loaded._num_drawn(2) == 1_000_000
    assert time.perf_counter() - start < 0.1  # a millisecond; the checksums alone would take more
    assert loaded.batches(2)[5].tolist() == loaded._epochs[2][5 * 1024 : 6 * 1024].tolist()


def test_saving_does_not_hold_the_data_twice(tmp_path):
    """In a process of its own, whose peak memory is that of this test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the unit of ru_maxrss differs")
    code = (
        "import resource, sys, torch\n"
        "from batchsampler_ext import Plan\n"
        "plan = Plan(torch.arange(24_000_000, dtype=torch.int32).view(3, -1), 8_000_000, 1024, {})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "plan.save(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "plan.bse")], capture_output=True, text=True, check=True
    )
    assert int(output.stdout) < 20_000  # KiB, of 96 MB
    assert (tmp_path / "plan.bse").stat().st_size == pytest.approx(96_000_000, rel=0.001)
