"""Argument types with error messages of one line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SystemExit(message.removeprefix("argument "))


def number(kind: Callable[[str], Any], expected: str, is_good: Callable[[Any], bool]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and is_good(value)):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
        return value

    return parse


positive_int = number(int, "an integer of 1 or more", lambda value: value >= 1)
count = number(int, "an integer of 0 or more", lambda value: value >= 0)
positive = number(float, "a number above 0", lambda value: value > 0)
non_negative = number(float, "a number of 0 or more", lambda value: value >= 0)
share = number(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
share_below_1 = number(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def check_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise SystemExit(f"{name}: expected a file, got {path}")
