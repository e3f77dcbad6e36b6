"""The command line: what it prints and writes, and how it fails."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from batchsampler_ext import inspection
from batchsampler_ext.__main__ import main


@pytest.fixture
def data(rng, tmp_path, monkeypatch) -> dict[str, str]:
    """Files of 300 features in four classes, as labels say; the working directory is empty."""
    labels = rng.integers(0, 4, 300)
    centers = 2 * rng.standard_normal((4, 16))
    np.save(tmp_path / "x.npy", (centers[labels] + rng.standard_normal((300, 16))).astype(np.float32))
    np.save(tmp_path / "y.npy", labels)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return {"features": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "instruction set" in out
    assert "scalar" in out


def test_inspect_writes_a_partition_a_report_and_a_figure(data, tmp_path, capsys):
    arguments = [
        data["features"],
        "--labels",
        data["labels"],
        "--batch-size",
        "32",
        "--out",
        "b.npy",
        "--json",
        "r.json",
    ]
    assert main(["inspect", *arguments]) == 0
    work = tmp_path / "work"
    assert sorted(path.name for path in work.iterdir()) == ["b.npy", "inspect.png", "r.json"]
    batches = np.load(work / "b.npy")
    assert batches.shape == (10, 32)
    assert batches.dtype == np.int32
    assert sorted(batches[batches >= 0].tolist()) == list(range(300))
    assert (batches[-1, 12:] == -1).all()
    report = json.loads((work / "r.json").read_text())
    assert report["kinds"]["proximity"]["in_batch_similarity"]["mean"] > (
        report["kinds"]["uniform"]["in_batch_similarity"]["mean"] + 0.1
    )
    assert report["settings"]["num_candidates"] == 299
    assert (work / "inspect.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for word in ("uniform", "proximity", "kNN", "in-batch similarity", "false negatives", "times the false negatives"):
        assert word in out
    assert "\x1b" not in out


def test_inspect_without_labels_or_figure(data, tmp_path, capsys):
    assert (
        main(["inspect", data["features"], "--batch-size", "32", "--drop-last", "--no-figure", "--out", "b.npy"]) == 0
    )
    assert np.load("b.npy").shape == (9, 32)
    assert "false negatives" not in capsys.readouterr().out.split("Cost")[0]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["b.npy"]


def test_excluding_equal_labels_leaves_no_false_link(data, capsys):
    options = [
        "inspect",
        data["features"],
        "--labels",
        data["labels"],
        "--batch-size",
        "16",
        "--no-figure",
        "--json",
        "r",
    ]
    main([*options, "--num-neighbors", "10"])
    with open("r") as file:
        before = json.load(file)["kinds"]["proximity"]["false_negative_share"]["mean"]
    main([*options, "--num-neighbors", "10", "--exclude-same-label"])
    with open("r") as file:
        after = json.load(file)["kinds"]["proximity"]["false_negative_share"]["mean"]
    assert after < before - 0.2


@pytest.mark.parametrize("num_rows", [2, 5])
@pytest.mark.parametrize("planner", ["partition", "walks", "cover_by_walks"])
def test_few_instances(tmp_path, num_rows, planner, capsys):
    np.save(tmp_path / "x.npy", np.eye(num_rows, dtype=np.float16))
    arguments = [str(tmp_path / "x.npy"), "--planner", planner, "--out", str(tmp_path / "b.npy"), "--no-figure"]
    assert main(["inspect", *arguments]) == 0
    batches = np.load(tmp_path / "b.npy")
    assert sorted(batches[batches >= 0].tolist()) == list(range(num_rows))


def test_user_errors_end_with_code_2_and_name_the_argument(data, tmp_path, capsys):
    np.save(tmp_path / "double.npy", np.zeros((4, 2)))
    np.save(tmp_path / "images.npy", np.zeros((4, 2, 2), np.float32))
    np.save(tmp_path / "nan.npy", np.full((4, 2), np.nan, np.float32))
    np.save(tmp_path / "short.npy", np.zeros(7, np.int64))
    np.save(tmp_path / "fortran.npy", np.zeros((4, 2), np.float32, order="F"))
    np.savez(tmp_path / "archive.npz", a=np.zeros(3))
    (tmp_path / "text.npy").write_text("no numbers here")
    (tmp_path / "empty.npy").write_bytes(b"")
    x = data["features"]
    cases = [
        (["absent.npy"], "absent.npy"),
        ([str(tmp_path / "text.npy")], "FEATURES: expected a .npy matrix"),
        ([str(tmp_path / "empty.npy")], "FEATURES: expected a .npy matrix"),
        ([str(tmp_path / "archive.npz")], "FEATURES: expected one array"),
        ([str(tmp_path / "double.npy")], "FEATURES: expected float32 or float16, got float64"),
        ([str(tmp_path / "images.npy")], r"FEATURES: expected a matrix [N, D], got shape [4, 2, 2]"),
        ([str(tmp_path / "nan.npy")], "features[0, 0]: expected finite values, got nan"),
        ([x, "--labels", str(tmp_path / "short.npy")], "labels: expected one for each of 300 instances, got 7"),
        ([x, "--labels", str(tmp_path / "text.npy")], "labels: expected a .npy array of integers"),
        ([x, "--exclude-same-label"], "--exclude-same-label: expected --labels too"),
        ([x, "--batch-size", "0"], "batch_size: expected an integer from 1 to"),
        ([x, "--num-neighbors", "0"], "num_neighbors:"),
        ([x, "--num-candidates", "300"], "num_candidates: expected an integer from 1 to 299"),
        ([x, "--restart-prob", "1"], "restart_prob: expected a float in [0, 1)"),
        ([x, "--metric", "dot"], "metric: expected one of"),
        ([x, "--out", str(tmp_path / "no" / "where.npy")], "out: expected a path in a writable directory"),
        ([x, "--json", str(tmp_path)], "json: expected a file"),
        ([x, "--labels", "absent.npy"], "labels: cannot read 'absent.npy'"),
        ([x, "--batch-size", "301", "--drop-last"], "batch_size: 301 exceeds the 300 instances"),
        ([str(tmp_path / "fortran.npy")], "FEATURES: expected row-major order"),
    ]
    for arguments, message in cases:
        assert main(["inspect", "--no-figure", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert message in captured.err, captured.err


def test_the_module_runs_and_usage_errors_are_argparse_ones(data):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "batchsampler_ext", "inspect", data["features"], "--no-figure"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "proximity" in result.stdout
    usage = subprocess.run([sys.executable, "-m", "batchsampler_ext"], capture_output=True, text=True)
    assert usage.returncode == 2
    assert "usage:" in usage.stderr


def refuse_json_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("options", [["--batch-size", "1"], ["--labels", "unknown.npy"], ["--batch-size", "999"]])
def test_what_is_not_defined_is_null_in_json_and_not_nan_in_the_table(data, options, capsys):
    np.save("unknown.npy", np.full(300, -1))
    assert main(["inspect", data["features"], *options, "--json", "r.json"]) == 0
    with open("r.json") as file:
        json.load(file, parse_constant=refuse_json_constant)
    out = capsys.readouterr().out
    assert "nan" not in out
    assert ("exceeds the 300 instances" in out) == (options[1] == "999")
    assert ("unknown without --labels" in out) == (options[0] != "--labels")


def test_bad_sizes_and_outputs_are_found_before_the_work(data, monkeypatch, capsys):
    monkeypatch.setattr(inspection, "proximity_graph", lambda *_, **__: pytest.fail("the graph was built"))
    for option in (["--batch-size", "0"], ["--restart-prob", "2"], ["--epoch", "-1"], ["--out", "no/where.npy"]):
        assert main(["inspect", data["features"], *option]) == 2, option


@pytest.mark.parametrize("package", ["rich", "matplotlib"])
def test_missing_packages_name_the_extra(data, package, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    assert main(["inspect", data["features"]]) == 2
    assert capsys.readouterr().err == f'error: inspect needs {package}: pip install "batchsampler_ext[cli]"\n'
    assert main(["inspect", data["features"], "--no-figure"]) == (2 if package == "rich" else 0)


def test_only_regular_files_are_replaced_and_links_stay(data, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["inspect", data["features"], "--no-figure", "--json", str(tmp_path / "pipe")]) == 2
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert main(["inspect", data["features"], "--no-figure", "--json", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert "kinds" in json.loads((tmp_path / "target").read_text())


def test_long_epochs_are_measured_on_batches_spread_over_them(data, monkeypatch, capsys):
    monkeypatch.setattr(inspection, "MAX_MEASURED", 4)
    assert main(["inspect", data["features"], "--batch-size", "32", "--json", "r.json", "--out", "b.npy"]) == 0
    with open("r.json") as file:
        assert json.load(file)["kinds"]["proximity"]["num_measured"] == 4
    assert len(np.load("b.npy")) == 10
    assert list(inspection.reported(range(10), lambda done, total: None)) == [0, 3, 6, 9]


def test_a_root_that_is_not_its_own_nearest_comes_first_and_once(rng):
    for features in (np.ones((40, 3), np.float32), np.arange(1, 41, dtype=np.float32)[:, None]):
        arguments = {"metric": "ip", "precision": "fp32", "num_threads": 1, "max_memory": None, "seed": 3}
        batches = inspection.knn_batches(features, 8, arguments, lambda done, total: None)
        assert sorted(batch[0] for batch in batches) == list(range(40))
        assert all(len(set(batch)) == 8 for batch in batches)


@pytest.mark.timed
def test_ctrl_c_ends_with_code_130(tmp_path, capsys):
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (60_000, 256)).flush()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        code = main(["inspect", str(tmp_path / "x.npy"), "--num-candidates", "59999", "--figure", str(tmp_path / "f")])
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)
    assert code == 130
    assert time.monotonic() - start < 5
    assert capsys.readouterr() == ("", "interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_the_example_writes_what_inspect_reads(tmp_path):
    example = os.path.join(os.path.dirname(__file__), "..", "examples", "digits_features.py")
    subprocess.run([sys.executable, example, str(tmp_path / "demo")], check=True)
    features, labels = (np.load(tmp_path / "demo" / f"digits_{name}.npy") for name in ("features", "labels"))
    assert (features.shape, features.dtype) == ((1797, 64), np.float32)
    assert (labels.shape, labels.dtype) == ((1797,), np.int64)
