"""The command line: what it prints and writes, and how it fails."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from batchsampler_ext._engine.text_tables import table
from batchsampler_ext.cli import inspection, main, progress


@pytest.fixture
def data(rng, tmp_path, monkeypatch) -> dict[str, str]:
    """Writes 300 features in four classes, and their labels. Changes to an empty working directory."""
    labels = rng.integers(0, 4, 300)
    centers = 2 * rng.standard_normal((4, 16))
    np.save(tmp_path / "x.npy", (centers[labels] + rng.standard_normal((300, 16))).astype(np.float32))
    np.save(tmp_path / "y.npy", labels)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return {"features": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}


def test_info_prints_the_instruction_set(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "instruction set" in out
    assert "scalar" in out


def test_info_prints_the_kind_of_cuda_engine(capsys, monkeypatch):
    emulated = pytest.importorskip("batchsampler_ext._cuda_emulated", reason="built without BSE_EMULATED_CUDA")
    monkeypatch.setattr("batchsampler_ext.cli.info.cuda_module", emulated)
    assert main(["info"]) == 0
    assert "CUDA engine       emulated" in capsys.readouterr().out


def test_info_prints_the_compute_capability(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert main(["info"]) == 0
    assert "CUDA device       a GPU, compute capability 9.0" in capsys.readouterr().out


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
        "--figure",
        "f.png",
    ]
    assert main(["inspect", *arguments]) == 0
    work = tmp_path / "work"
    assert sorted(path.name for path in work.iterdir()) == ["b.npy", "f.png", "r.json"]
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
    assert (work / "f.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for word in (
        "uniform",
        "proximity",
        "kNN",
        "in-batch similarity",
        "false negatives",
        "times as many as in uniform",
    ):
        assert word in out
    assert "\x1b" not in out


def test_inspect_works_without_labels_or_figure(data, tmp_path, capsys):
    assert main(["inspect", data["features"], "--batch-size", "32", "--drop-last", "--out", "b.npy"]) == 0
    assert np.load("b.npy").shape == (9, 32)
    assert "false negatives" not in capsys.readouterr().out.split("Cost")[0]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["b.npy"]


def test_excluding_equal_labels_lowers_the_false_negative_share(data, capsys):
    options = [
        "inspect",
        data["features"],
        "--labels",
        data["labels"],
        "--batch-size",
        "16",
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
def test_inspect_covers_few_instances(tmp_path, num_rows, planner, capsys):
    np.save(tmp_path / "x.npy", np.eye(num_rows, dtype=np.float16))
    arguments = [str(tmp_path / "x.npy"), "--planner", planner, "--out", str(tmp_path / "b.npy")]
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
        ([str(tmp_path / "nan.npy")], "FEATURES[0, 0]: expected finite values, got nan"),
        ([x, "--labels", str(tmp_path / "short.npy")], "--labels: expected one for each of 300 instances, got 7"),
        ([x, "--labels", str(tmp_path / "text.npy")], "--labels: expected a .npy array of integers"),
        ([x, "--exclude-same-label"], "--exclude-same-label: expected --labels as well"),
        ([x, "--batch-size", "0"], "--batch-size: expected an integer from 1 to"),
        ([x, "--num-neighbors", "0"], "--num-neighbors:"),
        ([x, "--num-candidates", "300"], "--num-candidates: expected an integer from 1 to 299"),
        ([x, "--restart-prob", "1"], "--restart-prob: expected a float in [0, 1)"),
        ([x, "--metric", "dot"], "--metric: expected one of"),
        ([x, "--out", str(tmp_path / "no" / "where.npy")], "--out: expected a path in a writable directory"),
        ([x, "--json", str(tmp_path)], "--json: expected a file"),
        ([x, "--labels", "absent.npy"], "--labels: expected a readable file, got 'absent.npy'"),
        (
            [x, "--batch-size", "301", "--drop-last"],
            "--batch-size: expected at most 300 with --drop-last, the number of instances, got 301",
        ),
        ([str(tmp_path / "fortran.npy")], "FEATURES: expected row-major order"),
    ]
    for arguments, message in cases:
        assert main(["inspect", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert message in captured.err, captured.err


def test_module_runs_and_usage_errors_come_from_argparse(data):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "batchsampler_ext", "inspect", data["features"]],
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
def test_undefined_values_are_null_in_json_and_never_nan_in_the_table(data, options, capsys):
    np.save("unknown.npy", np.full(300, -1))
    assert main(["inspect", data["features"], *options, "--json", "r.json"]) == 0
    with open("r.json") as file:
        json.load(file, parse_constant=refuse_json_constant)
    out = capsys.readouterr().out
    assert "nan" not in out
    assert ("exceeds the 300 instances" in out) == (options[1] == "999")
    assert ("unknown without --labels" in out) == (options[0] != "--labels")


def test_bad_sizes_and_outputs_are_refused_before_the_graph_is_built(data, monkeypatch, capsys):
    monkeypatch.setattr(inspection, "proximity_graph", lambda *_, **__: pytest.fail("the graph was built"))
    for option in (["--batch-size", "0"], ["--restart-prob", "2"], ["--epoch", "-1"], ["--out", "no/where.npy"]):
        assert main(["inspect", data["features"], *option]) == 2, option


def test_figure_without_matplotlib_is_refused_before_the_graph_is_built(data, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(inspection, "proximity_graph", lambda *_, **__: pytest.fail("the graph was built"))
    assert main(["inspect", data["features"], "--figure", "f.png"]) == 2
    message = "--figure: expected matplotlib to be installed, got none; run pip install 'batchsampler_ext[cli]'"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_inspect_and_bench_need_numpy_and_torch_only(data):
    """Other packages cannot be imported, as after a plain ``pip install .``."""
    code = """
import sys
sys.modules.update(dict.fromkeys(("matplotlib", "rich", "scipy", "sklearn", "tqdm")))
from batchsampler_ext.cli import main
sys.exit(main(sys.argv[1:]))
"""
    commands = (
        ["inspect", data["features"]],
        ["bench", "--num-instances", "300", "--dim", "8", "--batch-size", "299"],
    )
    for arguments in commands:
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_tables_are_aligned_and_never_cut():
    text = table("Title", ["", "count"], [["a", "1"], ["b" * 200, "1,000"], ["c"]])
    title, names, rule, *rows = text.splitlines()
    assert title == "Title"
    assert names.endswith("count")
    assert set(rule) == {" ", "-"}
    assert [len(line) for line in (names, rule, *rows[:2])] == [2 + 200 + 2 + 5] * 4
    assert rows[1] == f"  {'b' * 200}  1,000"
    assert rows[2] == "  c"
    assert table("Title", [], [["a", "1"]]) == "Title\n  a  1"


def test_report_ends_with_a_conclusion_and_advice(data, capsys):
    main(["inspect", data["features"], "--labels", data["labels"], "--batch-size", "32"])
    summary = capsys.readouterr().out.split("Summary\n")[1].splitlines()
    assert summary[0].startswith("  Proximity batches are harder than uniform ones: in-batch similarity is 0.")
    assert "of the 31 negatives of an instance have its label and may be false" in summary[1]
    assert "Try --range-min, --max-score, --exclude-same-label or a smaller --num-candidates." in summary[1]


def test_report_without_labels_counts_near_duplicates(rng, tmp_path, capsys):
    features = rng.standard_normal((100, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", np.concatenate([features, 1.01 * features]))
    main(["inspect", str(tmp_path / "x.npy"), "--num-neighbors", "5"])
    found = "20.0% of the edges score above 0.95 and may join false negatives. Try --max-score 0.95."
    assert found in capsys.readouterr().out
    main(["inspect", str(tmp_path / "x.npy"), "--num-neighbors", "5", "--max-score", "0.95"])
    assert "0.0% of the edges score above 0.95 and may join false negatives.\n" in capsys.readouterr().out


def test_report_on_noise_says_that_batches_are_hardly_harder(rng, tmp_path, capsys):
    np.save(tmp_path / "x.npy", rng.standard_normal((2000, 2048)).astype(np.float32))
    main(["inspect", str(tmp_path / "x.npy"), "--num-candidates", "200"])
    assert "barely harder than uniform ones" in capsys.readouterr().out


def test_outputs_replace_regular_files_only_and_keep_symlinks(data, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["inspect", data["features"], "--json", str(tmp_path / "pipe")]) == 2
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert main(["inspect", data["features"], "--json", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert "kinds" in json.loads((tmp_path / "target").read_text())


def test_long_epochs_are_measured_on_evenly_spaced_batches(data, monkeypatch, capsys):
    monkeypatch.setattr(inspection, "MAX_MEASURED", 4)
    assert main(["inspect", data["features"], "--batch-size", "32", "--json", "r.json", "--out", "b.npy"]) == 0
    with open("r.json") as file:
        assert json.load(file)["kinds"]["proximity"]["num_measured"] == 4
    assert len(np.load("b.npy")) == 10
    assert list(inspection.reported(range(10), lambda done, total: None)) == [0, 3, 6, 9]


def test_root_comes_first_and_once_even_if_not_its_own_nearest(rng):
    for features in (np.ones((40, 3), np.float32), np.arange(1, 41, dtype=np.float32)[:, None]):
        arguments = {"metric": "ip", "compute_dtype": torch.float32, "num_threads": 1, "max_memory": None, "seed": 3}
        batches = inspection.knn_batches(features, 8, arguments, lambda done, total: None)
        assert sorted(batch[0] for batch in batches) == list(range(40))
        assert all(len(set(batch)) == 8 for batch in batches)


@pytest.mark.timed
def test_ctrl_c_ends_with_code_130(tmp_path, capsys):
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (60_000, 256)).flush()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGINT may be ignored in the background
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


def test_example_writes_features_and_labels_for_inspect(tmp_path):
    example = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "digits_features.py")
    subprocess.run([sys.executable, example, str(tmp_path / "demo")], check=True)
    features, labels = (np.load(tmp_path / "demo" / f"digits_{name}.npy") for name in ("features", "labels"))
    assert (features.shape, features.dtype) == ((1797, 64), np.float32)
    assert (labels.shape, labels.dtype) == ((1797,), np.int64)


class Stderr(io.StringIO):
    """Collects text, and claims to be a terminal or not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_rewrites_a_terminal_line_or_logs_every_few_seconds(is_terminal, monkeypatch):
    stderr, clock = Stderr(is_terminal), [0.0]
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.shown_stages() as stage:
        report = stage("graph")
        for done in range(10):
            clock[0] = 1.0 * done
            report(done, 10)
    shown = [f"graph: {10 * done}%" for done in range(10)]
    start = "\r\x1b[K"
    expected = start + start.join([*shown, ""]) if is_terminal else f"{shown[5]}\n"
    assert stderr.getvalue() == expected
