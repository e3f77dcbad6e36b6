"""Tables as plain text: the same in a terminal, a log and a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["mebibytes", "number", "table"]


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of text without a final newline: a title, column names and a rule, then the rows.

    Args:
        title: the first line.
        columns: one name per column; none at all leaves out names and rule.
        rows: cells of each row, at most as many as there are columns. The first column is aligned to the left, the
            others to the right. No cell is cut, however wide the table gets.
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
    """``value`` formatted; "n/a" for nan."""
    return "n/a" if value != value else format(value, spec)


def mebibytes(num_bytes: float | None) -> str:
    """``num_bytes`` as MiB; "unknown" for None."""
    return "unknown" if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"
