"""Damaged files cause an error of one line that names the option, and never a traceback."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from batchsampler_ext import compose, knn_graph
from batchsampler_ext.cli import main

N = 24
NUM_FILES = 1000  # about 12 seconds
MATRICES = ("x.npy", "x.safetensors", "x.pt", "x.parquet", "zstd.parquet")
IDS = ("y.npy", "y.parquet")
COMPOSE = "--batch-size 8 --rank-window 1 4 --community-size 4 --num-threads 1 --out out"
GIVEN = "--batch-size 8 --community-size 4 --num-threads 1 --out out"


@pytest.fixture
def files(rng, tmp_path, monkeypatch) -> None:
    """Writes one small file of each kind to the working directory."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.chdir(tmp_path)
    features = rng.standard_normal((N, 8)).astype(np.float32)
    ids = np.arange(N) % 2
    np.save("x.npy", features)
    np.save("y.npy", ids)
    np.save("n.npy", rng.integers(0, N, (N, 6)).astype(np.int32))
    np.save("p.npy", rng.integers(0, N, (6, 2)))
    safetensors.save_file({"x": torch.from_numpy(features)}, "x.safetensors")
    torch.save({"x": torch.from_numpy(features)}, "x.pt")
    vectors = pyarrow.table({"x": list(features)})
    parquet.write_table(vectors, "x.parquet", compression="none")
    parquet.write_table(vectors, "zstd.parquet", compression="zstd")
    parquet.write_table(pyarrow.table({"y": ids}), "y.parquet")
    parquet.write_table(pyarrow.table({"t": [[1, 2]] * N}), "t.parquet", compression="none")
    knn_graph(features, 5).save("g.npz")
    compose(features, batch_size=8, rank_window=(1, 4), community_size=4, num_hard_negatives=2).save("plan.bse")


def commands() -> list[tuple[str, str, str]]:
    """Returns files, commands that read a file named FILE, and how errors name it."""
    pairs = [(file, f"--{name}") for file in IDS for name in ("labels", "sources")]
    return [
        *[(file, f"compose FILE {COMPOSE}", "QUERIES") for file in MATRICES],
        *[(file, f"compose x.npy FILE {COMPOSE}", "DOCUMENTS") for file in MATRICES],
        *[(file, "inspect FILE --batch-size 8 --num-threads 1", "FEATURES") for file in MATRICES],
        *[(file, f"compose x.npy {option} FILE {COMPOSE}", option) for file, option in pairs],
        *[(file, f"compose x.npy --unique FILE --max-per-batch 8 {COMPOSE}", "--unique") for file in IDS],
        ("p.npy", f"compose x.npy --positives FILE {COMPOSE}", "--positives"),
        ("n.npy", f"compose x.npy --graph FILE {GIVEN}", "--graph"),
        ("g.npz", f"compose x.npy --graph FILE {GIVEN}", "--graph"),
        ("y.npy", "inspect x.npy --labels FILE --batch-size 8 --num-threads 1", "--labels"),
        *[("plan.bse", f"export FILE --format {name} --out out.{name}", "PLAN") for name in ("npy", "jsonl")],
        ("plan.bse", "export FILE --format parquet --out out.parquet --hard-negatives", "PLAN"),
        ("t.parquet", "export plan.bse --format arctic --queries-file FILE --documents-file t.parquet --out",
         "--queries-file"),
    ]  # fmt: skip


def flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def change_header(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(min(len(content), 200))] = rng.randrange(256)


def change_end(content: bytearray, rng: random.Random) -> None:
    content[-1 - rng.randrange(min(len(content), 400))] = rng.randrange(256)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def replace(content: bytearray, rng: random.Random) -> None:
    first = rng.randrange(len(content))
    content[first : first + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [flip, change_header, change_end, cut, replace]


def test_damaged_files_cause_errors_of_one_line(files, capsys):
    rng, choices, num_refused = random.Random(0), commands(), 0
    for number in range(NUM_FILES):
        file, command, option = rng.choice(choices)
        content, mutate = bytearray(Path(file).read_bytes()), rng.choice(MUTATIONS)
        for _ in range(rng.choice([1, 1, 2, 8])):
            if content:
                mutate(content, rng)
        damaged = f"damaged{Path(file).suffix}"
        Path(damaged).write_bytes(content)
        is_folder = command.endswith("--out")
        arguments = command.replace("FILE", damaged).split() + [f"folder{number}"] * is_folder
        code = main(arguments)
        error = capsys.readouterr().err
        if code == 0:
            continue
        num_refused += 1
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        # Values may be damaged so that another option does not fit them, such as the smallest source.
        assert option in error or "--rank-window" in error, (arguments, error)
    assert num_refused > NUM_FILES // 2
    assert not list(Path().glob(".*.tmp"))


def test_whatever_a_library_raises_is_named(files, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("one\ntwo\x07three")

    for name, arguments in (
        ("numpy.load", "inspect x.npy"),
        ("safetensors.safe_open", "inspect x.safetensors"),
        ("torch.load", "inspect x.pt"),
        ("pyarrow.parquet.ParquetFile", "inspect x.parquet"),
        ("pyarrow.parquet.read_schema", f"compose x.npy --labels y.parquet {COMPOSE}"),
        ("pyarrow.parquet.read_table", f"compose x.npy --labels y.parquet {COMPOSE}"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            assert main(arguments.split()) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.isprintable() or error[:-1].isprintable()
        file = next(word for word in arguments.split()[::-1] if word[0] in "xy" and "." in word)
        file = "y.parquet" if "--labels" in arguments else file
        assert ("--labels" if file == "y.parquet" else "FEATURES") in error
        assert repr(file) in error


@pytest.mark.parametrize("names", [("out", "json"), ("json", "figure"), ("out", "figure")])
def test_two_outputs_are_two_files(files, capsys, names, tmp_path):
    pytest.importorskip("matplotlib")
    first, second = names
    Path("before").write_bytes(b"kept")
    os.symlink("before", "link")
    for paths in (("same.png", "same.png"), ("same.png", "./same.png"), ("before", "link"), ("link", "before")):
        kept = {path.name for path in tmp_path.iterdir()}
        command = ["inspect", "x.npy", "--batch-size", "8", f"--{first}", paths[0], f"--{second}", paths[1]]
        assert main(command) == 2
        expected = f"error: --{second}: expected another file than --{first}, got {paths[1]!r}, which would be "
        assert capsys.readouterr().err == f"{expected}overwritten\n"
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert Path("before").read_bytes() == b"kept"


def test_batches_are_written_under_the_very_name(files):
    assert main(["inspect", "x.npy", "--batch-size", "8", "--out", "b.png"]) == 0
    assert sorted(np.load("b.png").ravel().tolist()) == list(range(N))
    assert not Path("b.png.npy").exists()


def test_a_parquet_file_with_more_rows_than_it_claims_is_refused(files, capsys, monkeypatch, rng):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"x": list(rng.standard_normal((300, 4)).astype(np.float32))}), "long.parquet")
    content = Path("long.parquet").read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    at = content.index(b"\xd8\x04", footer)  # 300 as a varint, which says the number of rows
    Path("long.parquet").write_bytes(content[:at] + b"\x90\x03" + content[at + 2 :])  # 200
    for rows_at_once in (100, 1 << 14):
        monkeypatch.setattr("batchsampler_ext.cli.inputs._ROWS_AT_ONCE", rows_at_once)
        assert main(["inspect", "long.parquet", "--batch-size", "8"]) == 2
        assert "FEATURES: expected a parquet file, got a damaged one" in capsys.readouterr().err
