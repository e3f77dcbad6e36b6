"""The CSV of the study: one line per run."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

from .. import runner
from .protocol import Task
from .train import Run

RESULTS = {
    "cpu": Path(__file__).with_name("pretrained.csv"),
    "gpu": Path(__file__).with_name("pretrained_gpu.csv"),
    "smoke": runner.ROOT / "build" / "pretrained_smoke.csv",
}
REPORTS = runner.ROOT / "docs" / "study"
REPORTED = ("PRETRAINED.md", "figures", "PRETRAINED_gpu.md", "figures_gpu")
OUTPUTS = (*RESULTS.values(), *(REPORTS / name for name in REPORTED))


@dataclasses.dataclass(frozen=True)
class Row:
    phase: str
    tier: str
    data: str
    arm: str
    loss: str
    batch_size: int
    lr: float
    temperature: float
    num_steps: int
    seed: int
    mrr_at_10: float  # percent, as the recalls
    recall_at_1: float
    recall_at_10: float
    in_batch_similarity: float  # mean cosine of a query and the other documents; NaN before training
    train_seconds: float
    commit: str
    date: str

    def task(self) -> Task:
        return Task(self.phase, Run(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Run)}))


def read(path: Path) -> list[Row]:
    return runner.read_rows(path, Row)


def make_row(task: Task, result: dict[str, Any]) -> Row:
    return Row(
        task.phase,
        **dataclasses.asdict(task.run),
        **{name: 100 * value for name, value in result["metrics"].items()},
        in_batch_similarity=result["in_batch_similarity"],
        train_seconds=result["train_seconds"],
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
    )


@functools.cache
def commit() -> str:
    return runner.commit(OUTPUTS)
