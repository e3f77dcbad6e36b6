"""``bench``: computes the cost of a step from measurements, prints and writes it, and refuses bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from batchsampler_ext import FeatureBank
from batchsampler_ext.cli import costs, main, timing
from batchsampler_ext.cli.costs import Costs, Settings, cheaper_settings
from batchsampler_ext.cli.costs_report import advice
from batchsampler_ext.planners import PLANNERS

SMALL = ["--num-instances", "300", "--dim", "8", "--batch-size", "16"]


@pytest.fixture(autouse=True)
def few_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "MAX_CALLS", 3)
    monkeypatch.setattr(costs, "MAX_REFRESHES", 2)
    monkeypatch.chdir(tmp_path)


def constant(seconds: float) -> timing.Timing:
    return timing.Timing(np.array([seconds]))


def settings_of(planner: str, refresh_every: int | None) -> Settings:
    """Settings of epochs with 100 batches of 10."""
    return Settings(1000, 4, 10, refresh_every, 50, 5, "float32", planner)


def partition_costs(refresh_seconds: float = 1.0) -> Costs:
    """Costs of 1 ms of updates, 2 ms of draws and a hundredth of a refresh per step."""
    return Costs(settings_of("partition", None), constant(1e-3), constant(2e-3), constant(refresh_seconds), {})


@pytest.mark.parametrize(("planner", "refresh_every", "steps"), [
    ("partition", None, 100), ("walks", 30, 25), ("walks", 500, 100), ("cover_by_walks", 30, 30),
])  # fmt: skip
def test_steps_per_refresh_depend_on_the_planner(planner, refresh_every, steps):
    assert settings_of(planner, refresh_every).steps_per_refresh == steps


def test_step_cost_is_its_calls_plus_its_share_of_a_refresh():
    cost = partition_costs()
    assert cost.call_seconds == pytest.approx(0.003)
    assert cost.refresh_seconds_per_step == pytest.approx(0.01)
    assert cost.summary()["step"]["seconds"] == pytest.approx(0.013)


@pytest.mark.parametrize(("planner", "refresh_every"), [("partition", None), ("walks", 5), ("walks", 100)])
def test_refresh_count_equals_that_of_a_sampler(planner, refresh_every):
    settings = Settings(61, 4, 8, refresh_every, 5, 2, "float32", planner)
    bank = FeatureBank(61, 4)
    bank.update(torch.arange(61), torch.randn(61, 4))
    sampler = costs.make_sampler(bank, settings, lambda done, total: None)
    num_batches = len(list(sampler))
    assert settings.num_batches == num_batches
    assert settings.steps_per_refresh == num_batches / sampler.refreshes


def test_advice_names_options_that_were_measured_to_help():
    measured = replace(partition_costs(), remedies={"--num-candidates 12": partition_costs(0.25)})
    assert "below 1% if a step takes 1.30 s or longer" in advice(measured, None)[0]
    judgment, remedy = advice(measured, 0.5)
    assert judgment == "Bank and sampler add 13.0 ms to a step of 500 ms. This is 2.60%, above 1%."
    assert remedy == (
        "With --num-candidates 12, a refresh takes 250 ms instead of 1.00 s, and a step takes 5.50 ms longer (1.10%). "
        "The batches are then somewhat easier."
    )
    assert advice(measured, 10.0) == ["Bank and sampler add 13.0 ms to a step of 10.0 s. This is 0.13%, below 1%."]
    useless = replace(partition_costs(), remedies={"--num-candidates 12": partition_costs(0.95)})
    assert advice(useless, 0.5)[1] == "None of the options that were tried saves a tenth of this time."
    expected = "Most of this time goes into updates and draws, which no option makes faster."
    assert advice(partition_costs(0.1), 0.1)[1] == expected


def test_cheaper_settings_are_tried_only_if_they_can_help():
    options = {planner: [option for option, _ in cheaper_settings(settings_of(planner, every))] for planner, every in (
        ("partition", None), ("walks", 30), ("cover_by_walks", 30),
    )}  # fmt: skip
    assert options["partition"] == ["--num-candidates 12"]
    assert options["walks"] == options["cover_by_walks"] == ["--num-candidates 12", "--refresh-every 120"]
    few = replace(settings_of("walks", 100), num_candidates=8)
    assert cheaper_settings(few) == []


@pytest.mark.parametrize("planner", sorted(PLANNERS))
def test_bench_measures_every_planner_and_writes_json(planner, capsys):
    refresh_every = [] if PLANNERS[planner].covers_once else ["--refresh-every", "5"]
    options = ["--planner", planner, *refresh_every, "--num-neighbors", "10", "--step-ms", "0.001"]
    assert main(["bench", *SMALL, *options, "--json", "r.json"]) == 0
    with open("r.json") as file:
        report = json.load(file)
    assert report["settings"]["num_candidates"] == 299
    assert report["settings"]["num_neighbors"] == 10
    assert {name: report[name]["runs"] for name in ("update", "draw")} == {"update": 3, "draw": 3}
    assert report["refresh"]["runs"] == 2
    step = report["step"]
    assert step["seconds"] == pytest.approx(step["update_and_draw_seconds"] + step["refresh_seconds"])
    assert step["refresh_seconds"] == pytest.approx(report["refresh"]["median_seconds"] / step["steps_per_refresh"])
    assert list(report["remedies"]) == [
        "--num-candidates 74",
        *([] if PLANNERS[planner].covers_once else ["--refresh-every 20"]),
    ]
    assert report["step_ms"] == 0.001
    assert report["memory_bytes"]["bank"] >= 300 * 8 * 2
    out = capsys.readouterr().out
    for word in ("update, one batch", "draw, one batch", "refresh, per", "share of 1.00 us", "above 1%"):
        assert word in out
    assert ("per epoch (19 steps)" in out) == PLANNERS[planner].covers_once


def test_no_cheaper_settings_are_measured_if_a_refresh_costs_little(capsys):
    assert main(["bench", *SMALL, "--step-ms", "1e9", "--json", "r.json"]) == 0
    with open("r.json") as file:
        assert json.load(file)["remedies"] == {}
    assert "below 1%" in capsys.readouterr().out


@pytest.mark.parametrize(("planner", "refresh_every"), [("partition", None), ("walks", 100), ("cover_by_walks", 100)])
def test_bench_has_the_default_refresh_interval_of_a_sampler(planner, refresh_every):
    assert main(["bench", *SMALL, "--planner", planner, "--json", "r.json"]) == 0
    with open("r.json") as file:
        assert json.load(file)["settings"]["refresh_every"] == refresh_every


@pytest.mark.parametrize("planner", sorted(PLANNERS))
@pytest.mark.parametrize(("num_instances", "batch_size"), [(2, 1), (2, 2), (3, 2), (9, 9)])
def test_bench_runs_on_few_instances(num_instances, batch_size, planner):
    sizes = ["--num-instances", str(num_instances), "--dim", "3", "--batch-size", str(batch_size)]
    assert main(["bench", *sizes, "--planner", planner]) == 0


def test_bench_uses_num_threads_and_restores_the_previous_number(capsys):
    before = torch.get_num_threads()
    assert main(["bench", *SMALL, "--num-threads", str(before + 1)]) == 0
    assert torch.get_num_threads() == before
    assert f"threads = {before + 1}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-instances", "1"], "num_instances: expected an integer from 2 to 2147483647, got 1"),
        (["--num-instances", "2000000000"], "num_instances: expected bank and graph to fit into"),
        (["--dim", "0"], "dim: expected an integer at least 1, got 0"),
        (["--batch-size", "301"], "batch_size: expected an integer from 1 to 300 (num_instances), got 301"),
        (
            ["--planner", "cover_by_walks", "--refresh-every", "0"],
            "refresh_every: expected an integer at least 1, got 0",
        ),
        (["--refresh-every", "5"], "refresh_every: expected None with planner 'partition'"),
        (["--num-candidates", "300"], "num_candidates: expected an integer from 1 to 299 (num_instances - 1), got 300"),
        (["--num-neighbors", "300"], "num_neighbors: expected an integer from 1 to 299 (num_candidates), got 300"),
        (["--dtype", "float64"], "dtype: expected one of 'float32', 'bfloat16', 'float16', got 'float64'"),
        (["--planner", "x"], "planner: expected one of"),
        (["--step-ms", "nan"], "--step-ms: expected a positive number, got nan"),
        (["--num-threads", "0"], "num_threads: expected an integer from 1 to"),
        (["--json", "no/where.json"], "json: expected a path in a writable directory"),
    ],
)
def test_bad_input_is_refused_before_the_bank_is_filled(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(costs, "fill", lambda *_: pytest.fail("the bank was filled"))
    assert main(["bench", *SMALL, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err, captured.err


def test_timing_excludes_the_preparation_and_respects_run_limits(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def advance(seconds: float) -> None:
        clock[0] += seconds

    def runs(min_runs: int, max_runs: int) -> list[float]:
        found = timing.measure(
            lambda _: advance(2.0), lambda: advance(5.0), min_runs=min_runs, max_runs=max_runs, budget_seconds=20.0
        )
        return found.seconds.tolist()

    assert runs(1, 10) == [2.0] * 3  # 3 * 7 s are beyond the budget
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
    assert timing.duration(seconds) == text
