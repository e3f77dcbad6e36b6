"""The file of results. It is written anew each time and then takes the place of the old one, so it is never partial."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Results:
    path: Path
    machine: dict[str, Any] = field(default_factory=dict)
    equality: list[Any] = field(default_factory=list)  # EqualityRow
    peaks: dict[str, float] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)  # measure.Row
    kernel_times: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by case
    beside_training: dict[str, Any] | None = None
    cpu_ms_by_threads: dict[str, float] = field(default_factory=dict)
    clocks: dict[str, str] = field(default_factory=dict)  # by the step that began then
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    errors: dict[str, str] = field(default_factory=dict)  # of steps that failed as a whole
    left_out: list[str] = field(default_factory=list)  # steps for which no time was left
    running: str | None = None  # the step that was cut, if there is one

    def save(self) -> None:
        content = {name: value for name, value in vars(self).items() if name != "path"}
        content["equality"] = [asdict(row) for row in self.equality]
        content["rows"] = [asdict(row) for row in self.rows]
        content["date"] = time.strftime("%Y-%m-%d %H:%M:%S")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}")
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(unfinished, self.path)
