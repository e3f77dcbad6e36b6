"""The code of the benchmarks runs, and its statistics are right. Timings are not tested."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(path: str):
    """Imports a module by its file. The root must not be importable: its package is not the installed one."""
    name = f"benchmarks_{Path(path).stem}"  # not that of a module of the standard library
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def test_partition_quality_of_digits_grows_with_hardness(tmp_path):
    digits = load_digits()
    np.save(tmp_path / "features.npy", (digits.data - digits.data.mean(0)).astype(np.float32))
    np.save(tmp_path / "labels.npy", digits.target)
    command = [sys.executable, "-m", "benchmarks.partition_quality", str(tmp_path / "features.npy")]
    command += ["--labels", str(tmp_path / "labels.npy"), "--batch-size", "64", "-k", "50", "--epochs", "1"]
    out = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True).stdout
    rows = {line[:20].strip(): [float(word.rstrip("%")) for word in line[20:].split()] for line in out.splitlines()[1:]}
    mean, keeps, _, _, false_negatives, repeated, _ = np.array(list(rows.values())[:5]).T
    assert list(rows)[:5] == [
        "uniform", "independent walks", "partition, soft", "partition, default", "partition, hard",
    ]  # fmt: skip
    assert keeps[:2].tolist() == [0, 1]
    assert mean[0] < mean[2] < mean[3] < mean[4]
    assert false_negatives[0] == pytest.approx(10, abs=0.5)  # percent, with ten classes
    assert repeated[0] == pytest.approx(63 / 1796, rel=0.1)


def test_interleaved_timing_runs_every_contestant_each_round(monkeypatch):
    timing = load("timing.py")
    clock = iter(range(10**6))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in ("ours", "theirs")}
    timings = timing.interleave(contestants, "ours", num_rounds=3, budget_seconds=100)
    assert [sorted(calls[i : i + 2]) for i in range(0, len(calls), 2)] == [["ours", "theirs"]] * 4
    assert timings["theirs"].seconds.tolist() == [1, 1, 1]
    assert timings["theirs"].ratios.tolist() == [1, 1, 1]
    calls.clear()
    timings = timing.interleave(contestants, "ours", num_rounds=3, budget_seconds=0.5)
    assert sorted(calls) == ["ours", "ours", "theirs", "theirs"]  # one round to warm up, and one that counts


def test_cases_run_and_report_a_share_of_the_peak(tmp_path):
    """Our row comes first, and every row has a share of a measured peak."""
    if importlib.util.find_spec("tqdm") is None:
        pytest.skip("needs tqdm")
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--cases", "walk", "--seed", "3", "--out", str(out)]
    shown = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True).stdout
    assert "Results equal the oracle's" in shown
    report = json.loads(out.read_text())
    assert report["seed"] == 3
    assert report["machine"]["cpu"]
    for case in report["cases"]:
        rows = case["contestants"]
        assert [row["name"] for row in rows[:4]] == [
            "batchsampler_ext", "batchsampler_ext, graph given as a tensor", "C++, one walk at a time", "Python loop",
        ]  # fmt: skip
        assert all(row["share_of_peak"] > 0 for row in rows)
        assert rows[0]["ratio_p10_median_p90"] == [1, 1, 1]


def test_composing_is_timed_and_its_memory_measured(tmp_path):
    command = [sys.executable, "-m", "benchmarks.compose_scale", "--num-instances", "3000", "--num-window", "500"]
    out = tmp_path / "scale.json"
    subprocess.run([*command, "--folder", str(tmp_path), "--out", str(out)], cwd=BENCHMARKS.parent, check=True)
    content = json.loads(out.read_text())
    assert content["walks"]["peak_beyond_results_mib"] < 100
    assert content["window"]["ours"]["ratio_to_ours_p10_median_p90"] == [1, 1, 1]


def test_ranks_are_timed_against_one_process(tmp_path):
    command = [sys.executable, "-m", "benchmarks.shards", "--num-instances", "600", "--rounds", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "shards.json")], cwd=BENCHMARKS.parent, check=True)
    cases = json.loads((tmp_path / "shards.json").read_text())["cases"]
    assert [case["title"] for case in cases[::3]] == [
        "N = 600, d = 128, M = 599, K = 100, float32", "N = 600, d = 128, M = 599, K = 100, bfloat16",
    ]  # fmt: skip
    assert all(case["exchange_s"] > 0 for case in cases)


def test_communities_are_compared_on_the_same_graphs(tmp_path):
    np.save(tmp_path / "queries.npy", np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32))
    command = [sys.executable, "-m", "benchmarks.compose", "--queries", str(tmp_path / "queries.npy")]
    command += ["--sizes", "8", "50", "--rounds", "1", "--generated", "250", "--out", str(tmp_path / "compose.json")]
    subprocess.run(command, cwd=BENCHMARKS.parent, check=True)
    graphs = json.loads((tmp_path / "compose.json").read_text())["graphs"]
    assert [graph["num_rows"] for graph in graphs] == [300, 250]
    for graph in graphs:
        rows = [row for row in graph["rows"] if row["name"] != "METIS"]
        assert [(row["size"], row["name"]) for row in rows] == [
            (size, name) for size in (8, 50) for name in ("ours", "hard partition", "RCM", "greedy chains")
        ]
        assert all(row["smallest"] == row["largest"] == row["size"] for row in rows)
        assert all(0 < row["share"] < 1 and row["seconds"] > 0 for row in rows)
        assert rows[0]["share"] > max(row["share"] for row in rows[2:4])


def test_charts_are_drawn_and_their_numbers_written(tmp_path):
    command = [sys.executable, "-m", "benchmarks.charts", "--quick", "--out", str(tmp_path)]
    subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True)
    numbers = next(tmp_path.glob("partial-charts-*.json"))
    report = json.loads(numbers.read_text())
    assert report["machine"]["threads"] >= 1
    points = report["points"]
    panels = {point["panel"]: (point["panel"].split(":")[0], point["varied"]) for point in points}
    assert sorted(panels.values()) == [
        ("knn_graph", "N"),
        *(("proximity_graph", name) for name in "KMNd"),
        ("random_walk_with_restart", "N"),
        ("sample_batches", "B"),
    ]
    assert {point["line"] for point in points if "graph" in point["panel"]} == {"float32", "bfloat16"}
    texts = [text.text for text in ElementTree.parse(numbers.with_suffix(".svg")).iter() if text.tag.endswith("}text")]
    assert {*panels, machine_label(report["machine"])} <= set(texts)
    assert all(point["share_of_peak"] > 0 for point in points)
    assert all(point["p10_median_p90_seconds"] == sorted(point["p10_median_p90_seconds"]) for point in points)


def machine_label(about: dict) -> str:
    return in_root(f"from benchmarks.machine import label; print(label({about}))").strip()


def test_results_are_named_after_the_machine():
    """The names of results and of rows, for the names of processors as /proc/cpuinfo gives them."""
    cpus = {
        "AMD EPYC": ("EPYC, AVX-512 BF16", "epyc"),
        "AMD EPYC 7B13 64-Core Processor": ("EPYC 7B13, AVX-512 BF16", "epyc-7b13"),
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz": ("Xeon Platinum 8481C, AVX-512 BF16", "xeon-platinum-8481c"),
    }
    abouts = [{"cpu": cpu, "isa": "avx512_bf16", "cores": 2} for cpu in cpus]
    code = "from benchmarks.machine import *; import json; "
    code += f"print(json.dumps([[label(a), file_name('cpu', a)] for a in {abouts}]))"
    expected = [[label, f"cpu-{slug}-avx512bf16-2c.json"] for label, slug in cpus.values()]
    assert json.loads(in_root(code)) == expected
    for path in (BENCHMARKS / "results").glob("c[ph]*-*.json"):
        kind, about = path.name.split("-")[0], json.loads(path.read_text())["machine"]
        assert in_root(f"from benchmarks.machine import *; print(file_name({kind!r}, {about}))").strip() == path.name


def test_performance_page_equals_the_committed_results():
    command = [sys.executable, "-m", "benchmarks.report", "--check"]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_report_replaces_its_parts_only():
    page = "a\n<!-- walks: x -->\nold\n<!-- end of walks -->\nb\n"
    code = f"from benchmarks.report import with_parts; print(with_parts({page!r}, {{'walks': 'new'}}), end='')"
    assert in_root(code) == page.replace("old\n", "\nnew\n\n")
    with pytest.raises(subprocess.CalledProcessError):
        in_root(code.replace("x -->", "x"))


def in_root(code: str) -> str:
    """Returns what the code prints where the benchmarks can be imported."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True).stdout


def test_seeds_needed_agree_with_a_simulation():
    statistics = load("learning/statistics.py")
    count = statistics.seeds_needed(0.5, 0.5)
    assert count == 10  # textbook value for d = 1, two-sided 5%, power 80%
    rng = np.random.default_rng(0)
    samples = 0.5 + 0.5 * rng.standard_normal((20_000, count))
    statistic = samples.mean(1) / (samples.std(1, ddof=1) / np.sqrt(count))
    critical = statistics.scipy.stats.t.ppf(0.975, count - 1)
    assert 0.79 < (np.abs(statistic) > critical).mean() < 0.82


def test_command_prints_its_usage():
    pytest.importorskip("tqdm")
    command = [sys.executable, "-m", "benchmarks.run", "--help"]
    assert "usage" in subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True).stdout


def test_refresh_cost_is_measured_against_training_steps():
    module = load("refresh_cost.py")
    assert sum(parameter.numel() for parameter in module.resnet50(1000).parameters()) == 25_557_032  # as published
    cost = module.measure(
        torch.device("cpu"),
        num_instances=600,
        dim=16,
        batch_size=8,
        image_size=32,
        width=4,
        refresh_every=4,
        num_blocks=2,
    )
    assert cost.step_ms > 0
    assert cost.graph_ms > 0
    assert cost.overhead_p10_p90[0] <= cost.overhead <= cost.overhead_p10_p90[1]
