"""Command line: ``batchsampler-ext {compose,advise,export,inspect,bench,info}``, also ``python -m batchsampler_ext``.

Each command is a file with ``add_parser`` and ``run``. The rest of the package does not import this folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .._engine.text_tables import in_one_line
from . import advise, bench, compose, export, info, inspect

__all__ = ["main"]

_COMMANDS = (compose, advise, export, inspect, bench, info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 for success, 2 for bad input, 130 after Ctrl-C."""
    options = _parse(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"error: {in_one_line(str(error))}", file=sys.stderr)  # messages of libraries have lines
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="batchsampler-ext",
        description="Composes mini-batches of hard negatives, and measures how hard they are and what they cost.",
    )
    commands = parser.add_subparsers(required=True, metavar="{compose,advise,export,inspect,bench,info}")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser.parse_args(arguments)
