"""Writes messages about arguments of the package in the words of the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

_OTHER_NAMES = {"num_epochs": "--epochs", "num_hard_negatives": "--hard-negatives"}


class OptionNames:
    """Replaces names of arguments by those of the options that set them.

    Names with an underscore are replaced everywhere. Others are also words, so they are replaced where they begin a
    message or a clause of it, or stand before "=".
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        names = dict(_OTHER_NAMES)
        for action in parser._actions:
            long = [option for option in action.option_strings if option.startswith("--")]
            names[action.dest] = long[0] if long else str(action.metavar)
        self._names = names
        plain = "|".join(name for name in names if "_" not in name)
        compound = "|".join(name for name in names if "_" in name)
        self._pattern = re.compile(
            rf"(?<![\w\-'])(?:({compound})\b|(?:(?<=^)|(?<=; ))({plain})(?=[:\[ ])|({plain})(?==))"
        )

    def written(self, message: str) -> str:
        """Returns the message with names and values as the command line has them."""
        text = re.sub(r"rank_window=\{(\d+): \(p, q\)\}", r"--source-window \1=P,Q", message)
        text = re.sub(r"and \{(\d+): None\}", r"and --source-window \1=none", text)
        text = self._pattern.sub(lambda match: self._names[match[1] or match[2] or match[3]], text)
        text = re.sub(r"(--rank-window)=\((\d+), (\d+)\)", r"\1 \2 \3", text)
        return re.sub(r"(--[a-z-]+)=(?:'(\w+)'|([\d,]+\b)|(?=\W|$))", _spaced, text)

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Raises errors of the block with the names of options."""
        try:
            yield
        except (TypeError, ValueError, ImportError) as error:
            kind = next(kind for kind in (TypeError, ValueError, ImportError) if isinstance(error, kind))
            raise kind(self.written(str(error))) from error


def _spaced(match: re.Match[str]) -> str:
    value = match[2] or (match[3] or "").replace(",", "")
    return f"{match[1]} {value}".rstrip()
