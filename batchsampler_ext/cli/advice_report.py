"""Prints what ``advise`` has found as text. Both outputs, text and page, take columns and commands from here."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from .._engine.text_tables import mebibytes, table
from .._plan.advice import MAX_TIMES_UNIFORM, Outcome, is_too_similar, ranks, times_uniform
from .._plan.measures import NEAR_OWN
from .._plan.report import histogram, indented
from .advising import Findings
from .timing import duration

STUDY = "The study is docs/study/PRETRAINED.md of this package."
_WIDTH = 100


def report(findings: Findings, command: str) -> str:
    """Returns lines of text. The recommendation comes last, where a terminal shows it."""
    shown = columns(findings)
    scores = {f"hardest, {kind}": part.hardest for kind, part in findings.hardness.items()}
    lines = [
        data_line(findings),
        "",
        table(
            "Mini-batches of each setting",
            list(shown),
            [[cell(outcome) for cell in shown.values()] for outcome in [findings.uniform, *findings.outcomes]],
        ),
        "",
        *(textwrap.fill(f"{name}: {meaning}", _WIDTH) for name, meaning in meanings(findings).items()),
        *map(_filled, skipped_line(findings)),
        "",
        table("Cost", [], [[name, value] for name, value in costs(findings).items()]),
        "",
        histogram(
            f"{findings.settings['metric']} score of a query with the hardest other instance in the batch, share of "
            "queries",
            {**scores, **({"own document": findings.hardness["uniform"].own} if _has_documents(findings) else {})},
        ),
        "",
        "Recommendation",
        indented(f"{findings.advice.summary}."),
        *map(indented, findings.advice.reasons),
    ]
    lines.append(f"  {STUDY}")
    if findings.advice.outcome.hints:
        lines += ["", "Hints about the recommended setting", *map(indented, findings.advice.outcome.hints)]
    return "\n".join(
        [*lines, "", "Compose with", f"  {command}", "  Set --epochs to the number of epochs that you train."]
    )


def data_line(findings: Findings) -> str:
    settings = findings.settings
    kind = "pairs of a query and a document" if settings["has_documents"] else "instances"
    apart = f", with {' and '.join(settings['excluded_by'])}" if settings["excluded_by"] else ""
    return (
        f"{settings['num_instances']:,} {kind}, {settings['dim']:,} dimensions, metric {settings['metric']}, "
        f"batches of {settings['batch_size']:,}{apart}"
    )


def columns(findings: Findings) -> dict[str, Callable[[Outcome], str]]:
    """Returns the columns of the table: name -> text of a setting's cell. Those without data are left out."""
    metric, uniform = findings.settings["metric"], findings.uniform
    result: dict[str, Callable[[Outcome], str]] = {
        "ranks": lambda outcome: "uniform" if outcome.window is None else ranks(outcome.window).removeprefix("ranks "),
        "community": lambda outcome: str(outcome.community_size),
        "note": lambda outcome: note(findings, outcome),
        "similarity": lambda outcome: f"{outcome.similarity:.3f}",
    }
    if times_uniform(uniform, uniform, metric) is not None:
        result["x uniform"] = lambda outcome: f"{times_uniform(outcome, uniform, metric):.2f}"
    result["hardest"] = lambda outcome: f"{outcome.hardest:.3f}"
    if uniform.accuracy is not None:
        result["accuracy"] = lambda outcome: f"{outcome.accuracy:.1%}"
        result["near own"] = lambda outcome: f"{outcome.near_own:.1f}"
    if uniform.false_negatives is not None:
        result["false negatives"] = lambda outcome: f"{outcome.false_negatives:.1%}"
    result["composing"] = lambda outcome: duration(outcome.seconds)
    return result


def note(findings: Findings, outcome: Outcome) -> str:
    if outcome is findings.advice.outcome:
        return "recommended"
    return "too similar" if is_too_similar(outcome, findings.uniform, findings.settings["metric"]) else ""


def meanings(findings: Findings) -> dict[str, str]:
    """Returns what each column says."""
    other = "another instance's document" if _has_documents(findings) else "another instance"
    result = {
        "ranks": "which neighbors of a query are put into its batch where possible. Uniform batches need none.",
        "community": "number of instances that are near each other. A batch consists of communities.",
        "note": f"too similar: more than {MAX_TIMES_UNIFORM:g} times the similarity of uniform batches.",
        "similarity": f"mean score of a query and {other} of its batch. Higher means harder negatives.",
        "x uniform": "similarity divided by that of uniform batches.",
        "hardest": f"highest score of a query and {other} of its batch, mean over queries.",
        "accuracy": "share of queries whose own document scores highest in the batch.",
        "near own": f"other documents of the batch, per query, that score within {NEAR_OWN:.0%} of the own document's "
        "score or above it. A relative margin would leave them out of the loss.",
        "false negatives": "share of pairs in a batch with equal labels.",
        "composing": "time for the batches of one epoch, without the search.",
    }
    names = columns(findings)
    if "x uniform" not in names:
        del result["note"]
    return {name: text for name, text in result.items() if name in names}


def skipped_line(findings: Findings) -> list[str]:
    """Returns a sentence about windows that were not measured, if there are any."""
    if not findings.skipped:
        return []
    windows = ", ".join(map(ranks, findings.skipped))
    return [f"Not measured, because there are only {findings.settings['num_instances']:,} instances: {windows}."]


def costs(findings: Findings) -> dict[str, str]:
    size = findings.costs["plan_bytes"]
    return {
        "search of neighbors, exact": duration(findings.costs["search_seconds"]),
        "composing an epoch": duration(findings.costs["compose_seconds"]),
        "plan of one epoch": mebibytes(size) if size >= 2**20 else f"{size / 2**10:,.0f} KiB",
    }


def command_line(findings: Findings, given: Mapping[str, Any], towers: list[str]) -> str:
    """Returns the command that composes with the recommended setting.

    given: values of further options that both commands have, None if they were not given. towers: files of embeddings.
    """
    parts = ["batchsampler-ext", "compose", *towers, "--batch-size", str(findings.settings["batch_size"])]
    for name, value in findings.advice.arguments.items():
        parts += [option_of(name), *map(str, value if isinstance(value, tuple) else [value])]
    for name, value in given.items():
        parts += [] if value is None else [option_of(name), str(value)]
    return shlex.join([*parts, "--epochs", "1", "--out", "plan.bse"])


def python_call(findings: Findings, given: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Returns Python code that does the same. files: argument of :func:`compose` -> path."""
    lines = ["from batchsampler_ext import compose", ""]
    for name, path in files.items():
        is_array = path.lower().endswith(".npy")
        if is_array and "numpy" not in lines[0]:
            lines.insert(0, "import numpy as np")
        lines.append(f"{name} = np.load({_quoted(path)})" if is_array else f"{name} = ...  # from {_quoted(path)}")
    options = {
        "batch_size": findings.settings["batch_size"],
        **findings.advice.arguments,
        **{name: value for name, value in given.items() if value is not None},
    }
    towers = [name for name in ("queries", "documents") if name in files]
    passed = [*towers, *(f"{name}={_quoted(value)}" for name, value in options.items())]
    passed += [f"{name}={name}" for name in files if name not in towers]
    call = f"plan = compose({', '.join(passed)}, num_epochs=1)"
    return "\n".join([*lines, call, 'plan.save("plan.bse")'])


def _quoted(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def option_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _has_documents(findings: Findings) -> bool:
    return bool(findings.settings["has_documents"])


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH)
