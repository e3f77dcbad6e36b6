"""The GPU check leaves useful results wherever it is cut, and its benchmark runs on the emulated engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("build", "native", "benchmark", "tests", "sanitizer")
ROW = {
    "work": "a graph", "contestant": "batchsampler_ext", "status": "ok", "check": "", "warm_up_s": 1.0, "peak_mib": 3.0,
    "num_rounds": 7, "median_ms": 2.5, "p10_ms": 2.4, "p90_ms": 2.6, "slower_than_ours": 1.0,
    "share_of_matrix_peak": 0.5, "share_of_copy": None, "gigascores_per_s": None,
}  # fmt: skip
UNTIMED = dict.fromkeys(ROW) | {"work": "a graph", "contestant": "cuVS", "status": "not installed", "check": "no cuvs"}
RESULTS = {
    "machine": {"gpu": "a GPU", "torch": "2.11"},
    "equality": [{"call": "knn", "result": "equal"}, {"call": "walks", "result": "output 0 differs"}],
    "peaks": {"matrix": 1e15, "copy": 4e12},
    "rows": [ROW, UNTIMED],
    "kernel_times": {"a graph": [{"kernel": "fused_topk_kernel<64>(int)", "launches": 2, "total_us": 1234.5}]},
    "beside_training": None,
    "cpu_ms_by_threads": {},
    "clocks": {"equality": "1980 MHz"},
    "seconds": {"equality": 3.0},
    "errors": {},
    "left_out": ["torch.compile"],
    "running": "knn",
}  # fmt: skip
LOGS = {
    "build": "Successfully installed",
    "native": "program selftest: ok in 0.1 s\\nprogram graph_test: FAILED (exit status 1) in 2.0 s",
    "benchmark": "graph: 3 s",
    "tests": "tests/conftest.py::test_a[x y] PASSED [ 50%]\\ntests/conftest.py::test_b FAILED [100%]",
    "sanitizer": "program memcheck:graph_test: ok in 3 s",
}


@pytest.fixture
def check(tmp_path):
    """check(STEP, SECONDS): starts run_gpu_check.sh with steps that write a log. STEP then sleeps, other steps end."""
    started = []
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))

    def start(slow: str | None, seconds: int = 350) -> subprocess.Popen:
        lines = [f"step_{name}() {{ printf '%b\\n' '{log}'; " for name, log in LOGS.items()]
        lines[STEPS.index("benchmark")] += f"cp {tmp_path}/results.json $results/benchmark.json; "
        lines = [line + ("sleep 60; }" if name == slow else "}") for name, line in zip(STEPS, lines, strict=True)]
        (tmp_path / "steps.sh").write_text("\n".join(lines) + "\nstep_native() { false; }" * (slow is None))
        settings = {"OUT": str(tmp_path / "out"), "BSE_GPU_CHECK_SECONDS": str(seconds), "BSE_COMMIT": "c0ffee"}
        process = subprocess.Popen(
            [ROOT / "tests/tools/run_gpu_check.sh", sys.executable, tmp_path / "steps.sh"],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        kill_session(process)


def kill_session(process: subprocess.Popen) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if session == process.pid:
                os.kill(int(entry.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass
    process.wait()
    process.stdout.close()


def summarize(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Returns the summary, and the words of each step's line. Neither torch nor the package may be imported."""
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.gpu", "--summarize", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "batchsampler_ext"}
    lines = [line.split() for line in done.stdout.splitlines()]
    return done.stdout, {words[0]: words[1:] for words in lines if words and words[0] in STEPS}


@pytest.mark.parametrize("cut", STEPS)
def test_a_check_that_is_cut_leaves_results_of_all_steps_before(check, tmp_path, cut):
    process = check(cut)
    log = tmp_path / "out" / f"{cut}.log"
    end = time.monotonic() + 20
    while not (log.exists() and log.read_text() and (cut != "benchmark" or (tmp_path / "out/benchmark.json").exists())):
        assert time.monotonic() < end
        time.sleep(0.02)
    kill_session(process)
    shown, lines = summarize(tmp_path / "out")
    position = STEPS.index(cut)
    assert [words[0] for words in lines.values()] == ["ok"] * position + ["cut"] + ["not"] * (4 - position)
    if position >= 1:
        assert "1 of 2 programs ok" in shown
        assert "native: graph_test FAILED (exit status 1)" in shown
    if position >= 2:
        assert "1 of 2 calls equal, 1 of 2 rows timed, cut in knn" in shown
        assert "walks: output 0 differs" in shown
        assert "not installed no cuvs" in shown
        assert "1234.5 us      2 x fused_topk_kernel<64>" in shown
    if position >= 3:
        assert "1 passed, 1 failed" in shown
        assert "tests: tests/conftest.py::test_b" in shown
    assert shown.startswith("commit c0ffee, gpu ")
    assert len(list((tmp_path / "out").iterdir())) <= 8


def test_a_step_that_fails_does_not_keep_the_others_from_running(check, tmp_path):
    process = check(None)
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    _, lines = summarize(tmp_path / "out")
    assert [words[0] for words in lines.values()] == ["ok", "failed", "ok", "ok", "ok"]
    assert (tmp_path / "out/summary.txt").read_text() in shown


def test_the_time_of_all_steps_is_limited(check, tmp_path):
    start = time.monotonic()
    check("build", 16).communicate(timeout=30)
    assert time.monotonic() - start < 16
    _, lines = summarize(tmp_path / "out")
    assert lines["build"][:2] == ["timed", "out"]
    assert all(words[:2] == ["not", "reached"] for name, words in lines.items() if name != "build")


def test_benchmark_runs_on_the_emulated_engine_and_may_be_cut(tmp_path):
    """Results can be read at any time, and name what is running."""
    pytest.importorskip("batchsampler_ext._cuda_emulated", reason="built without BSE_EMULATED_CUDA")
    out = tmp_path / "benchmark.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--emulated", "--rounds", "1", "--out", str(out)]
    seen = set()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            if out.exists():
                seen.add(json.loads(out.read_text())["running"])
            time.sleep(0.01)
        shown = process.stdout.read()
    assert process.returncode == 0
    assert {"equality", "graph", "knn"} <= seen
    results = json.loads(out.read_text())
    assert {row["result"] for row in results["equality"]} == {"equal"}
    assert not results["errors"]
    statuses = {row["contestant"]: row["status"] for row in results["rows"]}
    assert statuses["torch, product + topk"] == "ok"
    assert all(status in ("ok", "not installed") for status in statuses.values())
    assert results["rows"][0]["slower_than_ours"] == 1
    assert "17 of 17 calls are equal" in shown
