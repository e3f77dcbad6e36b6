"""Formats tables and lines as plain text, for terminals, logs and files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["in_one_line", "mebibytes", "number", "printable", "table"]


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns lines of text without a final newline: a title, column names, a rule, and the rows.

    Args:
        title: the first line.
        columns: one name per column. If empty, names and rule are left out.
        rows: cells of each row, at most one per column. The first column is aligned to the left, the others to the
            right. Cells are never cut.
    """
    body = [list(row) for row in rows]
    num_columns = max([len(columns), *map(len, body)])
    cells = [[*row, *[""] * (num_columns - len(row))] for row in ([list(columns)] if columns else []) + body]
    widths = [max(len(row[i]) for row in cells) for i in range(num_columns)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]
    if columns:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([title, *(f"  {line}" for line in lines)])


def number(value: float, spec: str) -> str:
    """Returns ``value`` formatted by ``spec``; "n/a" for nan."""
    return "n/a" if value != value else format(value, spec)


def mebibytes(num_bytes: float | None) -> str:
    """Returns ``num_bytes`` as MiB; "unknown" for None."""
    return "unknown" if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"


def printable(text: str) -> str:
    """Returns the text with spaces for control characters, ends of lines and others that cannot be shown."""
    return "".join(c if c.isprintable() else " " for c in text)


def in_one_line(text: str) -> str:
    """Returns the words of the text between single spaces."""
    return " ".join(printable(text).split())
