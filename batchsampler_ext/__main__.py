"""Command line: ``python -m batchsampler_ext {bench,demo,info,inspect}``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .commands import bench, demo, info, inspect


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 after an error of the user, 130 after Ctrl-C."""
    options = parse(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m batchsampler_ext", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{bench,demo,info,inspect}")
    for command in (bench, demo, info, inspect):
        command.add_parser(commands)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
