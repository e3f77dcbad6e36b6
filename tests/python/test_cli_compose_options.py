"""Options of the commands compose and export: the same as the arguments, named in errors, and no input overwritten."""

from __future__ import annotations

import os

import numpy as np
import pytest

from batchsampler_ext import Plan, ProximityGraph, compose, knn_graph
from batchsampler_ext.cli import main

NUM_INSTANCES = 300
RNG = np.random.default_rng(0)
QUERIES, DOCUMENTS = (RNG.standard_normal((NUM_INSTANCES, 8)).astype("f4") for _ in range(2))
SOURCES, IDS = np.arange(NUM_INSTANCES) % 2, RNG.integers(-1, 200, (NUM_INSTANCES, 2))
PAIRS = RNG.integers(0, NUM_INSTANCES, (40, 2))
NEIGHBORS = knn_graph(QUERIES, 20).neighbors.numpy()


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {"q": QUERIES, "d": DOCUMENTS, "s": SOURCES, "u": IDS, "p": PAIRS, "n": NEIGHBORS.astype("i8")}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    ProximityGraph(NEIGHBORS).save("n.npz")


def run(command: str) -> Plan:
    assert main([*command.split(), "--out", "plan.bse"]) == 0
    return Plan.load("plan.bse")


def error_of(capsys, command: str) -> str:
    capsys.readouterr()
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("--unique u.npy --max-per-batch 2", {"unique": IDS, "max_per_batch": 2}),
        ("--positives p.npy", {"positives": PAIRS}),
        ("--max-score 0.5", {"max_score": 0.5}),
        ("--graph n.npy --mutual", {"graph": NEIGHBORS, "mutual": True}),
        ("--graph n.npz", {"graph": NEIGHBORS}),
        ("--sources s.npy --sources-per-batch 2 --rank-window 2 9", {"sources": SOURCES, "sources_per_batch": 2}),
        ("--sources s.npy --interleave 0=2,1=1", {"sources": SOURCES, "interleave": {0: 2, 1: 1}}),
        (
            "--sources s.npy --source-window 0=2,9 --source-window 1=none",
            {"sources": SOURCES, "rank_window": {0: (2, 9), 1: None}},
        ),
    ],
)
def test_the_plan_is_that_of_the_arguments(options, arguments):
    if "--rank-window" in options:
        arguments["rank_window"] = (2, 9)
    expected = compose(QUERIES, DOCUMENTS, batch_size=32, **arguments)
    found = run(f"compose q.npy d.npy --batch-size 32 {options}")
    assert found._digest() == expected._digest()
    assert found.info == {**expected.info, **{name: found.info[name] for name in ("interleave",)}}
    batch = np.arange(NUM_INSTANCES)
    assert np.array_equal(found.negative_mask(batch), expected.negative_mask(batch))


def test_batches_per_cluster():
    pytest.importorskip("sklearn")
    expected = compose(QUERIES, batch_size=32, preset="clusters", batches_per_cluster=2)
    assert (
        run("compose q.npy --batch-size 32 --preset clusters --batches-per-cluster 2")._digest() == expected._digest()
    )


# --- columns of parquet ----------------------------------------------------------------------------------------------
def test_columns_of_ids_are_chosen_by_name(capsys):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    texts = [str(i) for i in range(NUM_INSTANCES)]
    table = {"s": SOURCES, "a": IDS[:, 0], "b": IDS[:, 1], "text": texts, "__index_level_0__": np.arange(NUM_INSTANCES)}
    pyarrow.parquet.write_table(pyarrow.table(table), "x.parquet")
    pyarrow.parquet.write_table(pyarrow.table({name: table[name] for name in ("a", "__index_level_0__")}), "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"q": PAIRS[:, 0], "d": PAIRS[:, 1], "n": PAIRS[:, 0]}), "p.parquet")
    command = "compose q.npy --batch-size 32 --rank-window 2 9"
    for options, arguments in (
        ("--sources x.parquet:s --unique x.parquet:a,b", {"sources": SOURCES, "unique": IDS}),
        ("--unique x.parquet:b", {"unique": IDS[:, 1]}),
        ("--unique a.parquet --labels x.parquet:s", {"unique": IDS[:, 0], "labels": SOURCES}),
        ("--positives p.parquet:q,d", {"positives": PAIRS}),
    ):
        expected = compose(QUERIES, batch_size=32, rank_window=(2, 9), **arguments)
        assert run(f"{command} {options}")._digest() == expected._digest()
    for options, message in (
        ("--sources x.parquet", "--sources: expected one column of integers in 'x.parquet', got 's', 'a', 'b'; choose "
         "with x.parquet:COLUMN"),
        ("--unique x.parquet", "--unique: expected one column of integers in 'x.parquet', got 's', 'a', 'b'; choose "
         "with x.parquet:COLUMN"),
        ("--labels x.parquet:a,b", "--labels: expected one column of integers in 'x.parquet', got 'a', 'b'"),
        ("--positives p.parquet", "--positives: expected two columns of integers in 'p.parquet', got 'q', 'd', 'n'; "
         "choose with p.parquet:COLUMN"),
        ("--unique x.parquet:text", "--unique: expected integers in column 'text' of 'x.parquet', got other values"),
        ("--unique a.parquet:c", "--unique: expected integers in column 'c' of 'a.parquet', got none; it has 'a', "
         "'__index_level_0__'"),
        ("--unique no.parquet:c", "--unique: expected a parquet file, got 'no.parquet'"),
    ):  # fmt: skip
        assert error_of(capsys, f"{command} --out plan.bse {options}").startswith(message)


# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch-size 32 --hard-negatives 0", "--hard-negatives: expected an integer from 1 to 100 (neighbors of an"),
        ("--batch-size 32 --epochs 0", "--epochs: expected an integer from 1 to 65536, got 0"),
        ("--batch-size 32 --preset b4", "--preset: expected one of 'walks', 'b3'"),
        ("--batch-size 32 --preset uniform --mutual", "--mutual: expected None with --preset uniform, whose batches"),
        ("--batch-size 32 --margin 0.1", "--margin: expected None without documents, because the score of an instance "
         "with itself says nothing about its positive; --max-score limits scores"),
        ("--batch-size 32 --max-per-batch 2", "--max-per-batch: expected 1 without unique, got 2"),
        ("--batch-size 32 --sources s.npy --sources-per-batch 3", "--sources-per-batch: expected a divisor of "
         "--batch-size 32, got 3"),
        ("--batch-size 32 --rank-window 2 900", "--rank-window: expected (p, q) with 0 <= p < q <= 299"),
        ("--batch-size 37", "--community-size: expected a size with --preset b3 and --batch-size 37, which has no "
         "divisor from 2 to 32; pass --community-size 37, or a --batch-size that has one"),
        ("--batch-size 32 --preset curriculum", "--epochs: expected at least 2, because each epoch has one of"),
        ("--batch-size 32 --sources few.npy", "--rank-window: expected (p, q) with 0 <= p < q below the size of each "
         "source, got (30, 130) for source 1 (10 instances); --source-window 1=P,Q gives a source another window, and "
         "--source-window 1=none makes its batches uniform; (30, 130) is the window of preset 'b3'"),
        ("--batch-size 32 --rank-window 2 9 --source-window 1=none --sources s.npy", "--rank-window: expected none"),
        ("--batch-size 32 --graph q.npy", "--graph: expected integers as neighbors, got float32"),
        ("--batch-size 32 --graph no.npy", "--graph: expected a readable file, got 'no.npy'"),
        ("--batch-size 32 --graph bad.npz", "--graph: expected an intact graph written by ProximityGraph.save, got"),
        ("--batch-size 32 --graph no.npz", "--graph: expected a readable file, got 'no.npz'"),
    ],
)  # fmt: skip
def test_errors_name_options(capsys, options, message):
    np.save("few.npy", np.arange(NUM_INSTANCES) // 290)
    with open("bad.npz", "wb") as file:
        file.write(b"no graph")
    assert error_of(capsys, f"compose q.npy {options} --out plan.bse").startswith(message)
    assert not os.path.exists("plan.bse")


def test_small_data_are_told_a_window(capsys):
    np.save("few.npy", QUERIES[:80])
    found = error_of(capsys, "compose few.npy --batch-size 8 --out plan.bse")
    assert found.endswith("the window of preset 'b3'; pass a nearer window, such as --rank-window 5 20")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--community-size", "8,", "expected integers as 32 or 1,2,4, got '8,'"),
        ("--source-window", "1=5", "expected SOURCE=P,Q or SOURCE=none, got '1=5'"),
        ("--interleave", "1:5", "expected SOURCE=WEIGHT,... or proportional, got '1:5'"),
    ],
)
def test_values_that_cannot_be_read_are_shown(capsys, option, value, message):
    with pytest.raises(SystemExit, match="2"):
        main(["compose", "q.npy", "--batch-size", "32", "--out", "p", option, value])
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_hints_name_options(capsys):
    run("compose q.npy d.npy --batch-size 32 --preset walks --num-candidates 2")
    text = " ".join(capsys.readouterr().out.split())
    assert "Set --rank-window 30 130, which is searched exactly, or --num-candidates 10 and --num-neighbors 4," in text


# --- outputs ---------------------------------------------------------------------------------------------------------
def test_no_input_is_overwritten(capsys, tmp_path):
    run("compose q.npy --batch-size 32 --rank-window 2 9")
    os.symlink("q.npy", "link.npy")
    os.link("d.npy", "hard.npy")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    compose_all = (
        "compose q.npy d.npy --batch-size 32 --sources s.npy --unique u.npy --labels s.npy --positives p.npy "
        "--graph n.npy --out"
    )
    for command, name in (
        (f"{compose_all} q.npy", "QUERIES"),
        (f"{compose_all} ./link.npy", "QUERIES"),
        (f"{compose_all} hard.npy", "DOCUMENTS"),
        (f"{compose_all} s.npy", "--sources"),
        (f"{compose_all} u.npy", "--unique"),
        (f"{compose_all} p.npy", "--positives"),
        (f"{compose_all} n.npy", "--graph"),
        ("compose q.npy --batch-size 32 --unique x.parquet:a --out x.parquet", "--unique"),
        ("export plan.bse --format npy --out plan.bse", "PLAN"),
        (f"export plan.bse --format npy --out {tmp_path}/plan.bse", "PLAN"),
        ("inspect q.npy --labels s.npy --batch-size 32 --out q.npy", "FEATURES"),
        ("inspect q.npy --labels s.npy --batch-size 32 --json s.npy", "--labels"),
    ):
        found = error_of(capsys, command)
        assert f": expected another file than {name}, got " in found
        assert found.endswith(", which would be overwritten")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
