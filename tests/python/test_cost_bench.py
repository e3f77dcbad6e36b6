"""``bench``: the model from measurements to a training step, and what the command prints, writes and refuses."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from batchsampler_ext import FeatureBank, ProximityBatchSampler, _timing
from batchsampler_ext.__main__ import main
from batchsampler_ext.batches import EPOCH_MODES
from batchsampler_ext.costs import measurement
from batchsampler_ext.costs.advice import advice
from batchsampler_ext.costs.model import CallCost, Costs, RefreshCost, Settings

SMALL = ["--num-samples", "300", "--dim", "8", "--batch-size", "16", "--refresh-every", "5"]


@pytest.fixture(autouse=True)
def few_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(measurement, "MAX_CALLS", 3)
    monkeypatch.setattr(measurement, "MAX_REFRESHES", 2)
    monkeypatch.chdir(tmp_path)


def constant(seconds: float) -> _timing.Timing:
    return _timing.Timing(np.array([seconds]))


def costs_of(epoch_mode: str, refreshes: list[RefreshCost], *, num_samples: int = 1000) -> Costs:
    """1 ms for a cold update, 2 ms for a cold draw; batches of 10."""
    settings = Settings(num_samples, 4, 10, 25, 50, 5, "float32", epoch_mode)
    calls = {name: CallCost(constant(1e-6), constant(1e-3 * ms)) for name, ms in (("update", 1), ("draw", 2))}
    return Costs(settings, calls, refreshes, {})


def partition_costs() -> Costs:
    """c(u) = 1 ms an instance from 200 on, 200 ms below."""
    return costs_of("partition", [RefreshCost(n, 25, n == 1000, constant(1e-3 * n), 0.5) for n in (1000, 500, 200)])


def test_refreshes_of_a_partition_are_interpolated_over_the_undrawn():
    costs = partition_costs()
    assert costs.settings.num_batches == 100
    assert costs.settings.undrawn(25).tolist() == [1000, 750, 500, 250]
    assert costs.refresh_seconds(25) == pytest.approx((1.0 + 0.75 + 0.5 + 0.25) / 100)
    assert costs.refresh_seconds(90) == pytest.approx((1.0 + 0.2) / 100)  # 100 left: as below the least measured
    assert costs.step_seconds(100) == pytest.approx(0.003 + 1.0 / 100)


def test_refreshes_of_the_other_modes_build_whole_graphs_and_walk_a_window():
    window = RefreshCost(1000, 25, True, constant(1.0), 0.75)  # 0.75 s of graph, 10 ms a batch
    assert costs_of("independent", [window]).refresh_seconds(30) == pytest.approx(4 * 0.75 / 100 + 0.01)
    assert costs_of("independent", [window]).refresh_seconds(500) == pytest.approx(0.75 / 100 + 0.01)
    assert costs_of("paper", [window]).refresh_seconds(30) == pytest.approx(0.75 / 30 + 0.01)


@pytest.mark.parametrize("num_samples", [64, 61])
@pytest.mark.parametrize("refresh_every", [1, 3, 100])
def test_the_model_counts_the_refreshes_that_a_sampler_does(num_samples, refresh_every):
    settings = Settings(num_samples, 4, 8, refresh_every, 5, 2, "float32", "partition")
    bank = FeatureBank(num_samples, 4)
    bank.update(torch.arange(num_samples), torch.randn(num_samples, 4))
    sampler = ProximityBatchSampler(num_samples, 8, bank=bank, refresh_every=refresh_every)
    sizes = []
    for _ in sampler:
        if sampler.refreshes > len(sizes):
            sizes.append(len(sampler.graph))
    assert settings.num_batches == len(sampler)
    assert sizes == settings.undrawn(refresh_every).tolist()


@pytest.mark.parametrize("limit", [0.0, 0.012, 0.014, 0.02, 0.05, 10.0])
def test_the_least_interval_is_the_first_within_the_limit(limit):
    costs = partition_costs()
    within = [every for every in range(1, 101) if costs.step_seconds(every) <= limit]
    assert costs.least_refresh_every(limit) == (within[0] if within else None)


def test_advice_names_what_keeps_the_cost_below_a_share_of_a_step():
    costs = partition_costs()  # 28 ms at T = 25, 13 ms at T = 100
    assert "steps that take 2.80 s or more" in advice(costs, None)[0]
    assert advice(costs, 0.5)[0].startswith("No --refresh-every")
    assert "every 100 batches comes to 2.60%" in advice(costs, 0.5)[0]
    assert advice(costs, 1.5)[0] == (
        f"From about --refresh-every {costs.least_refresh_every(0.015)} on it stays below 1% of a step."
    )
    assert "stays below 1% of a step down to" in advice(costs, 10.0)[0]


@pytest.mark.parametrize("mode", EPOCH_MODES)
def test_bench_measures_every_mode_and_writes_json(mode, capsys):
    assert main(["bench", *SMALL, "--epoch-mode", mode, "--step-ms", "40", "--json", "r.json"]) == 0
    with open("r.json") as file:
        report = json.load(file)
    assert report["settings"]["num_candidates"] == 299
    assert report["settings"]["num_neighbors"] == 100
    assert report["calls"].keys() == {"update", "draw", "state_dict"}
    assert [refresh["num_left"] for refresh in report["refreshes"]] == (
        [300, 150, 37] if mode == "partition" else [300]
    )
    assert report["refreshes"][0]["num_batches"] == 5
    step = report["step"]
    assert step["seconds"] == pytest.approx(step["call_seconds"] + step["refresh_seconds"])
    assert report["step_ms"] == 40
    assert report["memory_bytes"]["bank"] >= 300 * 8 * 2
    out = capsys.readouterr().out
    for word in ("bank.update", "draw within a window", "first window of an epoch", "share of 40.0 ms"):
        assert word in out
    assert ("within an epoch" in out) == (mode == "partition")


@pytest.mark.parametrize(("mode", "refresh_every", "title"), [
    ("partition", 19, "a refresh an epoch"), ("independent", 100, "a refresh an epoch"),
    ("paper", 100, "refreshes every 100 steps"),
])  # fmt: skip
def test_bench_refreshes_as_a_sampler_does_by_default(mode, refresh_every, title, capsys):
    sizes = ["--num-samples", "300", "--dim", "8", "--batch-size", "16"]
    assert main(["bench", *sizes, "--epoch-mode", mode, "--json", "r.json"]) == 0
    with open("r.json") as file:
        assert json.load(file)["settings"]["refresh_every"] == refresh_every
    out = " ".join(capsys.readouterr().out.split())
    assert title in out
    assert ("An epoch has one refresh, over all instances" in out) == (mode == "partition")


@pytest.mark.parametrize("mode", EPOCH_MODES)
@pytest.mark.parametrize(("num_samples", "batch_size"), [(2, 1), (2, 2), (3, 2), (9, 9)])
def test_bench_of_few_instances(num_samples, batch_size, mode):
    sizes = ["--num-samples", str(num_samples), "--dim", "3", "--batch-size", str(batch_size)]
    assert main(["bench", *sizes, "--epoch-mode", mode]) == 0


def test_bench_uses_the_threads_it_is_told_and_gives_them_back(capsys):
    before = torch.get_num_threads()
    assert main(["bench", *SMALL, "--num-threads", str(before + 1)]) == 0
    assert torch.get_num_threads() == before
    assert f"{before + 1} threads" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-samples", "1"], "num_samples: expected an integer from 2 to 2147483647, got 1"),
        (["--num-samples", "2000000000"], "num_samples: expected bank and graph to fit into"),
        (["--dim", "0"], "dim: expected an integer at least 1, got 0"),
        (["--batch-size", "301"], "batch_size: expected an integer from 1 to 300 (num_samples), got 301"),
        (["--refresh-every", "0"], "refresh_every: expected an integer at least 1, got 0"),
        (["--num-candidates", "300"], "num_candidates: expected an integer from 1 to 299 (num_samples - 1), got 300"),
        (["--num-neighbors", "300"], "num_neighbors: expected an integer from 1 to 299 (num_candidates), got 300"),
        (["--dtype", "float64"], "dtype: expected one of 'float32', 'bfloat16', 'float16', got 'float64'"),
        (["--epoch-mode", "x"], "epoch_mode: expected one of"),
        (["--step-ms", "nan"], "--step-ms: expected a positive number, got nan"),
        (["--num-threads", "0"], "num_threads: expected an integer from 1 to"),
        (["--json", "no/where.json"], "json: expected a path in a writable directory"),
    ],
)
def test_bad_input_is_refused_before_the_work(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(measurement, "fill", lambda *_: pytest.fail("the bank was filled"))
    assert main(["bench", *SMALL, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err, captured.err


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find_spec(name))
    assert main(["bench", *SMALL]) == 2
    assert capsys.readouterr().err == 'error: bench needs rich: pip install "batchsampler_ext[cli]"\n'


def test_only_the_work_is_timed_and_as_often_as_asked(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: clock[0])

    def advance(seconds: float) -> None:
        clock[0] += seconds

    def runs(min_runs: int, max_runs: int) -> list[float]:
        timing = _timing.measure(
            lambda _: advance(2.0), lambda: advance(5.0), min_runs=min_runs, max_runs=max_runs, budget_seconds=20.0
        )
        return timing.seconds.tolist()

    assert runs(1, 10) == [2.0] * 3  # 21 s
    assert runs(1, 2) == [2.0] * 2
    assert runs(4, 10) == [2.0] * 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.234e-6, "1.23 us"),
        (99.94e-6, "99.9 us"),
        (99.96e-6, "100 us"),
        (0.9994e-3, "999 us"),
        (0.9996e-3, "1.00 ms"),
        (0.9996, "1.00 s"),
        (12345.6, "12,346 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds, text):
    assert _timing.duration(seconds) == text
