"""Prints progress to stderr: one changing line in a terminal, otherwise a line every five seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .._engine.validate import Progress

__all__ = ["Progress", "Stage", "shown_stages"]

Stage = Callable[[str], Progress]  # announces a stage of the work and returns its progress(num_done, total)

_TERMINAL_INTERVAL = 0.1  # seconds between two lines
_LOG_INTERVAL = 5.0


@contextmanager
def shown_stages() -> Iterator[Stage]:
    """Yields a :data:`Stage` whose progress is printed. Outside a terminal, the first five seconds print nothing."""
    is_terminal = sys.stderr.isatty()
    shown_at = time.monotonic() - (_LOG_INTERVAL if is_terminal else 0.0)

    def show(name: str, done: int, total: int) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at < (_TERMINAL_INTERVAL if is_terminal else _LOG_INTERVAL):
            return
        shown_at = now
        line = f"{name}: {done / max(1, total):.0%}"
        print(f"\r\x1b[K{line}" if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield lambda name: lambda done, total: show(name, done, total)
    finally:
        if is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
