"""The learning study: its plan, its resumption, and its tables of the CSV. Nothing is trained here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import batchsampler_ext  # noqa: F401  the installed one, before the root becomes importable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    """study(name): a module of benchmarks/learning."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.learning.{name}")


@pytest.fixture
def systems(study):
    return {**study("systems").profile_systems("cpu")}


def fake_result(task, value: float) -> dict:
    """Returns a result as a program writes it. The metric grows over the epochs, and the last value is the result."""
    num_epochs = 0 if task.num_epochs == 0 else 4
    history = [
        {"train_seconds": 1.0 + epoch, "in_batch_similarity": 0.1, "false_negative_share": 0.01, "m": value - 3 + epoch}
        for epoch in range(num_epochs)
    ]
    return {
        "metrics": {"m": value}, "history": history, "num_steps": 10 * num_epochs, "train_seconds": 4.0,
        "sampler_seconds": 0.2,
    }  # fmt: skip


def complete(study, system, path: Path, value_of) -> None:
    """Writes a CSV of all phases."""
    results = study("results")
    for phase in study("plan").PHASES:
        for task in study("study").pending_tasks(system, phase, results.read(path)):
            study("runner").append(path, results.make_row(task, "m", fake_result(task, value_of(task)), 5.0, "c0de"))


def test_tasks_are_distinct_and_samplers_share_common_parameters(study, systems):
    plan = study("plan")
    for system in systems.values():
        best = {sampler: plan.draw_parameters(system, sampler, 0) for sampler in plan.SAMPLERS}
        later = (task for phase in plan.PHASES[1:] for task in plan.tasks(system, phase, best))
        all_tasks = [*plan.tune_tasks(system), *later]
        assert len({task.key() for task in all_tasks}) == len(all_tasks)
        assert system.tune.num_seeds == 1
        for trial in range(system.num_trials):
            drawn = [plan.draw_parameters(system, sampler, trial) for sampler in plan.SAMPLERS]
            assert len({json.dumps(plan.common(system, parameters)) for parameters in drawn}) == 1


def test_study_resumes_where_it_stopped(study, systems, tmp_path):
    system, path = systems["graphcl"], tmp_path / "study.csv"
    pending, read = study("study").pending_tasks, study("results").read

    def append(task, value: float) -> None:
        row = study("results").make_row(task, "m", fake_result(task, value), 5.0, "c0de")
        study("runner").append(path, row)

    searched = list(pending(system, "tune", read(path)))
    assert list(pending(system, "confirm", read(path))) == []  # its parameters are not known yet
    for i, task in enumerate(searched):
        assert len(list(pending(system, "tune", read(path)))) == len(searched) - i
        append(task, i / 100)
    confirmed = list(pending(system, "confirm", read(path)))
    best = json.loads(next(task for task in reversed(searched) if task.sampler == "knn").parameters)
    assert {task.parameters for task in confirmed if task.arm == "knn"} == {json.dumps(best, sort_keys=True)}
    append(confirmed[0], 0.5)
    assert list(pending(system, "confirm", read(path))) == confirmed[1:]
    text = path.read_text("utf-8")
    path.write_text(text[:-20], "utf-8")  # as if the machine had stopped during the write
    assert list(pending(system, "confirm", read(path))) == confirmed
    append(confirmed[0], 0.5)
    assert path.read_text("utf-8") == text


def test_tables_and_figures_show_the_csv(study, systems, tmp_path):
    gain = {"uniform": 0.0, "knn": -0.02, "proximity": 0.01}
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.001, 1000)
    system, path = systems["retrieval"], tmp_path / "study.csv"
    complete(study, system, path, lambda t: 0.5 + gain[t.sampler] + noise[t.seed % 1000] + 0.01 * (t.loss == "hcl"))
    rows = study("results").read(path)
    text = study("tables").all_tables(rows, {"retrieval": system})
    lines = [line for line in text.splitlines() if line.startswith("| proximity |")]
    num_seeds = system.confirm[0].num_seeds
    assert f"| proximity | {num_seeds} | " in lines[0]
    assert 3 * "| +1.00 (+1.00 to +1.00) " in lines[0]
    assert "| 5.0% | 0.100 | 1.000% |" in lines[0]
    for arm in ("labels never linked", "the paper's epoch", "bfs", "alpha=0.9", "M=64"):
        assert f"| {arm} | {system.num_dissection_seeds} | " in text
    hcl = next(line for line in text.splitlines() if line.startswith("| hcl | proximity |"))
    assert hcl.count("| +1.00 (+1.00 to +1.00) ") == 2  # over uniform batches, and over InfoNCE
    files = study("figures").draw(tmp_path / "figures", rows, {"retrieval": system})
    assert len(files) == len(system.confirm)
    assert all(file.stat().st_size > 10_000 for file in files)


def test_time_to_reach_counts_to_the_final_value_of_uniform_batches(study):
    plan, results, tables = study("plan"), study("results"), study("tables")

    def rows_of(sampler: str, value: float) -> list:
        tasks = [plan.make_task("retrieval", "x", "confirm", sampler, sampler, seed, {}) for seed in range(3)]
        return [results.make_row(t, "m", fake_result(t, value + t.seed - 1), 5.0, "c0de") for t in tasks]

    uniform = rows_of("uniform", 5.0)
    assert tables.time_to_reach(uniform, uniform) == "1.00x"
    assert tables.time_to_reach(rows_of("proximity", 6.0), uniform) == "0.75x"
    assert tables.time_to_reach(rows_of("knn", 4.0), uniform) == "not reached"


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_programs_accept_the_arguments_of_the_plan(study, profile, monkeypatch):
    """The parser of each program reads the arguments that the study passes."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    plan, words_of = study("plan"), study("study").program_arguments
    for system in study("systems").profile_systems(profile).values():
        program = pytest.importorskip(system.name, reason="needs the extra 'examples'", exc_type=ImportError)
        best = {sampler: plan.draw_parameters(system, sampler, 0) for sampler in plan.SAMPLERS}
        for phase in plan.PHASES[1:]:
            for task in plan.tasks(system, phase, best):
                if task.arm in plan.RETIRED:
                    continue
                parsed = program.parse(words_of(task, system))
                assert (parsed.sampler, parsed.seed) == (task.sampler, task.seed)
                for name, value in json.loads(task.parameters).items():
                    assert getattr(parsed, name) == value


def test_command_prints_its_usage(study, capsys):
    with pytest.raises(SystemExit):
        study("study").main(["run", "--help"])
    assert "--minutes" in capsys.readouterr().out
    assert "benchmarks.learning.study" in sys.modules


def test_report_shows_the_results_that_it_is_given(study, systems, tmp_path):
    results, tables = study("results"), study("tables")
    system = next(iter(systems.values()))
    complete(study, system, tmp_path / "new.csv", lambda task: 50.0)
    study("study").main(["report", "--results", str(tmp_path / "new.csv"), "--folder", str(tmp_path)])
    shown = (tmp_path / "STUDY.md").read_text("utf-8")
    assert tables.all_tables(results.read(tmp_path / "new.csv"), systems) in shown
    assert list((tmp_path / "figures").iterdir())


def test_recorded_results_stay_in_the_report(study, systems):
    """Results of options that were renamed or removed stay as well."""
    results = study("results")
    rows = results.read(results.RESULTS["cpu"])
    assert results.planned(rows, systems) == rows
