"""The commands compose and export: what they print and write, which files they read, and how they fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from batchsampler_ext import Plan, compose
from batchsampler_ext.cli import main
from batchsampler_ext.cli.inputs import load_matrix

NUM_INSTANCES = 300


@pytest.fixture
def towers(rng, tmp_path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Writes q.npy and d.npy to the working directory: four classes, and documents near their queries."""
    centers = 2 * rng.standard_normal((4, 16))
    queries = (centers[rng.integers(0, 4, NUM_INSTANCES)] + rng.standard_normal((NUM_INSTANCES, 16))).astype("f4")
    documents = (queries + 0.3 * rng.standard_normal(queries.shape)).astype("f4")
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", queries)
    np.save("d.npy", documents)
    return queries, documents


def composed(*arguments: str) -> Plan:
    assert main(["compose", *arguments, "--out", "plan.bse"]) == 0
    return Plan.load("plan.bse")


def content(plan: Plan) -> list[list[int]]:
    return [batch.tolist() for epoch in range(plan.num_epochs) for batch in plan.batches(epoch)]


def error_of(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# --- compose ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--rank-window", "3", "20"], {"rank_window": (3, 20)}),
        (
            ["--rank-window", "3", "20", "--no-mutual", "--metric", "ip", "--community-size", "8", "--epochs", "2"],
            {"rank_window": (3, 20), "mutual": False, "metric": "ip", "community_size": 8, "num_epochs": 2},
        ),
        (
            ["--preset", "walks", "--num-candidates", "50", "--num-neighbors", "9", "--mutual", "--seed", "4"],
            {"preset": "walks", "num_candidates": 50, "num_neighbors": 9, "mutual": True, "seed": 4},
        ),
        (["--preset", "uniform", "--drop-last"], {"preset": "uniform", "drop_last": True}),
    ],
)
def test_the_plan_is_that_of_compose(towers, options, arguments):
    expected = compose(*towers, batch_size=32, **arguments)
    found = composed("q.npy", "d.npy", "--batch-size", "32", "--num-threads", "2", *options)
    assert content(found) == content(expected)
    assert found.info == json.loads(json.dumps(expected.info))


def test_the_tables_compare_with_uniform_batches(towers, capsys):
    composed("q.npy", "d.npy", "--batch-size", "32", "--rank-window", "0", "20")
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("  ")}
    similarity, accuracy, edges = zip(lines["planned"], lines["uniform"], strict=True)
    assert float(similarity[0]) > float(similarity[1]) + 0.1
    for planned, uniform in (accuracy, edges):
        assert planned.endswith("%")
        assert uniform.endswith("%")
    assert float(edges[0][:-1]) > 2 * float(edges[1][:-1])
    assert float(accuracy[0][:-1]) <= float(accuracy[1][:-1])
    assert lines["graph"][1] == lines["epochs"][1] == "s"
    assert out.endswith("wrote plan.bse\n")
    composed("q.npy", "--batch-size", "32", "--preset", "uniform")
    out = capsys.readouterr().out
    assert "accuracy" not in out
    assert "edges inside" not in out


def test_the_report_is_that_of_a_simple_computation(towers):
    queries, documents = (torch.from_numpy(tower).double() for tower in towers)
    plan = compose(*towers, batch_size=32, rank_window=(0, 20))
    found = plan.report(*towers)["planned"]
    queries, documents = (torch.nn.functional.normalize(tower, dim=1) for tower in (queries, documents))
    scores = [queries[ids] @ documents[ids].T for ids in plan.batches(0)]
    others = [batch[~torch.eye(len(batch), dtype=torch.bool)] for batch in scores]
    assert found["in_batch_similarity"] == pytest.approx(np.mean([part.mean() for part in others]), abs=1e-6)
    own = [(batch.argmax(1) == torch.arange(len(batch))).double().mean() for batch in scores]
    assert found["in_batch_accuracy"] == pytest.approx(np.mean(own), abs=1e-6)
    batch_of = {int(i): number for number, ids in enumerate(plan.batches(0)) for i in ids}
    edges = [(i, j) for i, row in enumerate(plan.graph.neighbors.tolist()) for j in row if j >= 0]
    inside = [batch_of[i] == batch_of[j] for i, j in edges]
    assert found["edges_inside"] == pytest.approx(np.mean(inside))
    for metric in ("ip", "l2"):
        other = compose(*towers, batch_size=32, rank_window=(0, 20), metric=metric).report(*towers)["planned"]
        assert (other["in_batch_similarity"] < 0) == (metric == "l2")
    with pytest.raises(ValueError, match="queries: expected the 300 instances that the plan was composed for, got 299"):
        plan.report(towers[0][1:])
    with pytest.raises(ValueError, match="documents: expected the 300 instances"):
        plan.report(towers[0], towers[1][1:])
    with pytest.raises(ValueError, match="epoch: expected an integer from 0 to 0"):
        plan.report(*towers, epoch=1)


def test_progress_is_counted_for_graph_epochs_and_measures(towers, monkeypatch):
    shown = []
    monkeypatch.setattr("batchsampler_ext.cli.progress._LOG_INTERVAL", -1.0)
    monkeypatch.setattr(sys, "stderr", type("Log", (), {"write": shown.append, "isatty": bool, "flush": bool})())
    composed("q.npy", "--batch-size", "32", "--rank-window", "0", "20", "--epochs", "2")
    text = "".join(shown)
    for part in ("graph: 100%", "epochs: 50%", "epochs: 100%", "planned batches", "uniform batches measured: 100%"):
        assert part in text
    assert "check of queries: 0%\ncheck of queries: 100%" in text
    assert "documents" not in text
    pytest.importorskip("sklearn")
    composed("q.npy", "d.npy", "--batch-size", "32", "--preset", "clusters")
    text = "".join(shown)
    for part in ("clusters: 100%", "check of documents: 100%", "ranks of own documents: 100%"):
        assert part in text


def test_progress_of_the_api_counts_graph_and_epochs_only(towers):
    counted = []
    arguments = {"rank_window": (0, 20), "batch_size": 32, "num_epochs": 2}
    plan = compose(*towers, progress=lambda *numbers: counted.append(numbers), **arguments)
    assert {total for _, total in counted} == {NUM_INSTANCES, 2}
    assert counted[-2:] == [(1, 2), (2, 2)]
    counted.clear()
    plan.report(*towers, progress=lambda *numbers: counted.append(numbers))
    assert counted == [(number, 10) for number in range(1, 11)] * 2


def test_the_report_ends_with_figure_and_hints(towers, capsys):
    composed("q.npy", "d.npy", "--batch-size", "32", "--preset", "walks", "--num-candidates", "2")
    out = capsys.readouterr().out
    assert "cosine score of the hardest other instance in the batch, share of queries\n  score " in out
    assert "\nHints\n  The 2 best of 2 random candidates among 300 instances have ranks from" in out
    composed("q.npy", "--batch-size", "32", "--rank-window", "0", "20")
    assert "Hints" not in capsys.readouterr().out


def test_errors_of_compose_come_before_the_work(towers, capsys):
    def error(*arguments: str) -> str:
        return error_of(capsys, "compose", *arguments)

    assert "out: expected a path in a writable" in error("q.npy", "--batch-size", "8", "--out", "no/where")
    assert "--community-size: expected a divisor of --batch-size 32, got 5" in error(
        "q.npy", "--batch-size", "32", "--community-size", "5", "--out", "p"
    )
    assert "preset: expected one of" in error("q.npy", "--batch-size", "32", "--preset", "b4", "--out", "p")
    np.save("short.npy", np.zeros((7, 16), np.float32))
    assert "DOCUMENTS: expected the shape of queries" in error("q.npy", "short.npy", "--batch-size", "8", "--out", "p")
    assert "DOCUMENTS: expected a readable file, got 'no.npy'" in error(
        "q.npy", "no.npy", "--batch-size", "8", "--out", "p"
    )


# --- inputs ----------------------------------------------------------------------------------------------------------
def parquet(path: str, kind: str, rows: np.ndarray, name: str = "vector", **others) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    value = {"float16": pyarrow.float16(), "float32": pyarrow.float32(), "float64": pyarrow.float64()}[str(rows.dtype)]
    types = {"list": pyarrow.list_(value), "large": pyarrow.large_list(value)}
    types["fixed"] = pyarrow.list_(value, rows.shape[1])
    columns = {name: pyarrow.array(list(rows), types[kind]), "id": np.arange(len(rows)), **others}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=70)


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_vectors_of_parquet(towers, kind, dtype):
    rows = towers[0].astype(dtype)
    parquet("x.parquet", kind, rows)
    found = load_matrix("x.parquet", "QUERIES")
    assert found.dtype == (np.float16 if dtype == "float16" else np.float32)
    assert np.array_equal(found, rows.astype(found.dtype))


def test_one_of_several_columns(towers):
    pytest.importorskip("pyarrow")
    parquet("x.parquet", "list", towers[0], other=list(towers[1]))
    assert np.array_equal(load_matrix("x.parquet", "QUERIES", column="other"), towers[1])
    with pytest.raises(
        ValueError,
        match="QUERIES: expected one column of vectors in 'x.parquet', got 2 .'vector', 'other'.; choose one with",
    ):
        load_matrix("x.parquet", "QUERIES")
    with pytest.raises(ValueError, match="expected --column to be one of 'vector', 'id', 'other' in .*, got 'none'"):
        load_matrix("x.parquet", "QUERIES", column="none")
    with pytest.raises(
        ValueError, match="expected a column of lists of floats, got int64 in column 'id' of 'x.parquet'"
    ):
        load_matrix("x.parquet", "QUERIES", column="id")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]] * 80 + [[1.0]], "expected vectors of length 2, got 1 in row 80 of 'x.parquet'"),
        ([[1.0, 2.0]] * 20000 + [[1.0]] * 20000, "expected vectors of length 2, got 1 in row"),
        ([[1.0, 2.0]] * 80 + [None], "expected a vector in each row, got none in row 80 of 'x.parquet'"),
        ([[1.0, 2.0]] * 80 + [[1.0, None]], "expected numbers, got a missing value in row 80 of 'x.parquet'"),
    ],
)
def test_ragged_vectors_of_parquet_are_refused(rows, message, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    monkeypatch.chdir(tmp_path)
    table = pyarrow.table({"vector": pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))})
    pyarrow.parquet.write_table(table, "x.parquet", row_group_size=30000)
    with pytest.raises(ValueError, match=f"QUERIES: {message}"):
        load_matrix("x.parquet", "QUERIES")


def test_tensors_of_safetensors_and_torch_files(towers):
    queries, documents = map(torch.from_numpy, towers)
    tensors = {"q": queries, "d": documents.bfloat16(), "ids": torch.arange(NUM_INSTANCES), "text": torch.zeros(1)}
    safetensors.torch.save_file(tensors, "x.safetensors")
    torch.save(tensors, "x.pt")
    torch.save(queries, "alone.pth")
    for path in ("x.safetensors", "x.pt"):
        assert torch.equal(load_matrix(path, "QUERIES", tensor="q"), queries)
        assert torch.equal(load_matrix(path, "QUERIES", tensor="d"), documents.bfloat16())
        with pytest.raises(ValueError, match=f"QUERIES: expected one matrix in '{path}', got 2 "):
            load_matrix(path, "QUERIES")
        with pytest.raises(ValueError, match=f"expected a matrix .N, D., got shape .300. in '{path}'"):
            load_matrix(path, "QUERIES", tensor="ids")
        with pytest.raises(ValueError, match=f"expected --tensor to be one of .* in '{path}', got 'x'"):
            load_matrix(path, "QUERIES", tensor="x")
    assert torch.equal(load_matrix("alone.pth", "QUERIES"), queries)
    plans = [composed("q.npy", "--batch-size", "32", "--rank-window", "3", "20")]
    plans.append(composed("x.safetensors", "--tensor", "q", "--batch-size", "32", "--rank-window", "3", "20"))
    assert content(plans[0]) == content(plans[1])
    assert plans[0].info == plans[1].info


class Code:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_are_no_matrix_are_refused(towers, capsys):
    for name in ("x.npy", "x.safetensors", "x.pt", "x.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        for data in (b"", b"no numbers here", b"\x93NUMPY\x01\x00"):
            with open(name, "wb") as file:
                file.write(data)
            with pytest.raises(ValueError, match=f"QUERIES: expected .* got '{name}'"):
                load_matrix(name, "QUERIES")
        with pytest.raises(ValueError, match=f"QUERIES: expected a readable file, got 'no_{name}'"):
            load_matrix(f"no_{name}", "QUERIES")
    torch.save({"x": Code()}, "x.pt")
    with pytest.raises(ValueError, match="QUERIES: expected a file of torch.save with tensors only, got 'x.pt'"):
        load_matrix("x.pt", "QUERIES")
    assert "executed" not in capsys.readouterr().out
    torch.save(torch.zeros(3, 2).double(), "x.pt")
    with pytest.raises(ValueError, match="expected float32, float16 or bfloat16, got torch.float64 in 'x.pt'"):
        load_matrix("x.pt", "QUERIES")
    with pytest.raises(ValueError, match="QUERIES: expected no --column for a .npy file, got 'a' and 'q.npy'"):
        load_matrix("q.npy", "QUERIES", column="a")


def test_inspect_reads_the_same_files(towers, capsys):
    torch.save({"q": torch.from_numpy(towers[0])}, "x.pt")
    assert main(["inspect", "x.pt", "--batch-size", "32"]) == 0
    from_torch = capsys.readouterr().out
    assert main(["inspect", "q.npy", "--batch-size", "32"]) == 0
    assert from_torch.splitlines()[:7] == capsys.readouterr().out.splitlines()[:7]


def test_a_missing_pyarrow_is_named(towers, capsys, monkeypatch):
    composed("q.npy", "--batch-size", "32", "--preset", "uniform")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with open("x.parquet", "wb"):
        pass
    message = "expected pyarrow to be installed, got none; run pip install 'batchsampler_ext[parquet]'"
    assert f"QUERIES: {message}" in error_of(capsys, "compose", "x.parquet", "--batch-size", "8", "--out", "p")
    assert f"--format parquet: {message}" in error_of(
        capsys, "export", "plan.bse", "--format", "parquet", "--out", "p.parquet"
    )


# --- export ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def plan(towers) -> Plan:
    return composed("q.npy", "--batch-size", "32", "--rank-window", "3", "20", "--epochs", "2")


def test_export_to_npy(plan):
    assert main(["export", "plan.bse", "--format", "npy", "--out", "b.npy"]) == 0
    found = np.load("b.npy")
    assert (found.shape, found.dtype) == ((20, 32), np.int32)
    assert [row[row >= 0].tolist() for row in found] == content(plan)
    assert (found[[9, 19], 12:] == -1).all()


def test_export_to_jsonl(plan):
    assert main(["export", "plan.bse", "--format", "jsonl", "--out", "b.jsonl"]) == 0
    with open("b.jsonl") as file:
        lines = [json.loads(line) for line in file]
    assert [line["instances"] for line in lines] == content(plan)
    assert [(line["epoch"], line["batch"]) for line in lines] == [(e, b) for e in range(2) for b in range(10)]


def test_export_to_parquet(plan):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    assert main(["export", "plan.bse", "--format", "parquet", "--out", "b.parquet"]) == 0
    rows = pyarrow.parquet.read_table("b.parquet").to_pylist()
    expected = [
        {"epoch": e, "batch": b, "position": p, "instance": i}
        for e in range(2)
        for b, batch in enumerate(plan.batches(e))
        for p, i in enumerate(batch.tolist())
    ]
    assert rows == expected


def read_arctic_batch(folder) -> tuple[list, list, np.ndarray]:
    """Returns tokens of queries and documents, and the relevance, [n, n], as ArcticTraining's read_batch does."""
    import pyarrow.parquet

    queries, documents, relations = (
        pyarrow.parquet.read_table(folder / f"{name}.parquet") for name in ("queries", "documents", "relations")
    )
    query_ids, document_ids = queries["BATCH_QUERY_ID"].to_pylist(), documents["BATCH_DOCUMENT_ID"].to_pylist()
    assert len(set(query_ids)) == len(query_ids)
    assert len(set(document_ids)) == len(document_ids)
    relevance = np.zeros((len(query_ids), len(document_ids)))
    columns = (relations[name].to_pylist() for name in ("BATCH_QUERY_ID", "BATCH_DOCUMENT_ID", "RELEVANCE"))
    for query, document, value in zip(*columns, strict=True):
        relevance[query_ids.index(query), document_ids.index(document)] = value
    tokens = (queries["QUERY_TOKEN_ID_LIST"], documents["DOCUMENT_TOKEN_ID_LIST"])
    assert all(str(column.type).startswith("large_list") for column in tokens)
    return tokens[0].to_pylist(), tokens[1].to_pylist(), relevance


def test_export_to_arctic(plan, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    texts = {"q": [[i, 1, 2] for i in range(NUM_INSTANCES)], "d": [[i] * (i % 5 + 1) for i in range(NUM_INSTANCES)]}
    for name, tokens in texts.items():
        column = pyarrow.array(tokens, pyarrow.list_(pyarrow.int32()))
        pyarrow.parquet.write_table(pyarrow.table({"tokens": column}), f"{name}.parquet", row_group_size=77)
    arguments = ["export", "plan.bse", "--format", "arctic", "--queries-file", "q.parquet"]
    arguments += ["--documents-file", "d.parquet"]
    assert main([*arguments, "--out", "arctic"]) == 0
    folders = sorted((tmp_path / "arctic" / "data").iterdir())
    assert len(folders) == 20
    for folder, ids in zip(folders, content(plan), strict=True):
        queries, documents, relevance = read_arctic_batch(folder)
        assert queries == [texts["q"][i] for i in ids]
        assert documents == [texts["d"][i] for i in ids]
        assert np.array_equal(relevance, np.eye(len(ids)))
    assert json.loads((tmp_path / "arctic" / "metadata.json").read_text())["batch_size"] == 32

    assert "out: expected a path that does not exist yet, got 'arctic'" in error_of(
        capsys, *arguments, "--out", "arctic"
    )
    pyarrow.parquet.write_table(pyarrow.table({"tokens": column[1:]}), "q.parquet")
    assert "--queries-file: expected a row for each of 300 instances, got 299 in 'q.parquet'" in error_of(
        capsys, *arguments, "--out", "again"
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * NUM_INSTANCES}), "q.parquet")
    assert "--queries-file: expected one column of lists of token ids in 'q.parquet', got []" in error_of(
        capsys, *arguments, "--out", "again"
    )
    assert not [path.name for path in tmp_path.iterdir() if "again" in path.name]  # nor a part of it


def test_errors_of_export(plan, capsys):
    def error(*arguments: str) -> str:
        return error_of(capsys, "export", *arguments)

    assert "--queries-file: expected a file with --format arctic, got none" in error(
        "plan.bse", "--format", "arctic", "--out", "a"
    )
    assert "--documents-file: expected none with --format npy, got d.npy" in error(
        "plan.bse", "--format", "npy", "--out", "a", "--documents-file", "d.npy"
    )
    assert "out: expected a path in a writable directory" in error("plan.bse", "--format", "npy", "--out", "no/where")
    assert "got a damaged one" in error("q.npy", "--format", "npy", "--out", "a.npy")
    assert "No such file" in error("absent", "--format", "npy", "--out", "a.npy")
    with open("plan.bse", "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    assert "epoch_1 has another checksum" in error("plan.bse", "--format", "jsonl", "--out", "a.jsonl")
    assert not Path("a.jsonl").exists()  # neither a part of it
