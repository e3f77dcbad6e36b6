"""What both studies share: tasks run in a pool, and each result is a line of a CSV, appended when it is ready."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

ROOT = Path(__file__).parents[2]
TaskT = TypeVar("TaskT")
RowT = TypeVar("RowT")


def execute(
    pending: Sequence[TaskT],
    run_one: Callable[[TaskT], Any],
    pool: concurrent.futures.Executor,
    results: Path,
    end: float,
    title: str = "",
) -> None:
    """Runs the tasks in their order, and appends each row when it is ready. No task starts after `end`.

    end: of time.monotonic.
    """
    futures = [pool.submit(run_before, end, run_one, task) for task in pending]
    try:
        for future in tqdm(concurrent.futures.as_completed(futures), title, total=len(futures), disable=None):
            if (row := future.result()) is not None:
                append(results, row)
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def run_before(end: float, run_one: Callable[[TaskT], RowT], task: TaskT) -> RowT | None:
    return None if time.monotonic() > end else run_one(task)


def read_rows(path: Path, kind: type[RowT]) -> list[RowT]:
    """Returns the rows of a CSV. kind: a dataclass with the columns as fields."""
    if not path.exists():
        return []
    fields: Sequence[Any] = dataclasses.fields(kind)  # type: ignore[arg-type]
    parse = {field.name: {"float": float, "int": int}.get(field.type, str) for field in fields}
    text = path.read_text("utf-8")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))  # an interrupted run leaves half a line
    return [kind(**{name: parse[name](value) for name, value in row.items()}) for row in rows]


def append(path: Path, row: Any) -> None:
    """Appends a row in one write, which overwrites half a line of an interrupted run."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    if not path.exists():
        writer.writerow([field.name for field in dataclasses.fields(row)])
    writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in dataclasses.astuple(row)])
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0)
        text = file.read()
        file.truncate(len(text[: text.rfind("\n") + 1].encode()))
        file.write(line.getvalue())


def commit(outputs: Sequence[Path]) -> str:
    """Returns the commit of the code, with "-dirty" if files other than the outputs have changed."""
    own = [f":(exclude,top){path.relative_to(ROOT)}" for path in outputs]
    try:
        name = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":/", *own], cwd=ROOT).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name
