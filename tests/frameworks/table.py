"""Writes the rows of the matrix as a table into docs/frameworks/README.md.

python -m tests.frameworks.table
"""

from __future__ import annotations

from pathlib import Path

from tests.frameworks.frameworks import FRAMEWORKS
from tests.frameworks.matrix import CHECKS, KINDS, REFUSED, Framework

PATH = Path(__file__).parents[2] / "docs" / "frameworks" / "README.md"
BEGIN, END = "<!-- written by python -m tests.frameworks.table -->\n", "<!-- end of the table -->\n"
HEAD = """\
| framework | one process, a bank | one process, a plan | two processes, a bank | two processes, a plan |
|---|---|---|---|---|
"""


def cell(framework: Framework, kind: str, num_ranks: int) -> str:
    """Returns "yes", what is missing in words, or "refused"."""
    found = framework.expected(kind, num_ranks)
    if found == REFUSED:
        return "refused"
    missing = [
        words for letter, words in CHECKS.items() if letter in dict(framework.missing).get((kind, num_ranks), "")
    ]
    return "all but: " + "; ".join(missing) if missing else "yes"


def table() -> str:
    """Returns the table, with the reasons below it."""
    rows, notes = "", ""
    for framework in FRAMEWORKS:
        mark = ""
        if framework.reason:
            mark = f" ({notes.count(chr(10)) + 1})"
            notes += f"{notes.count(chr(10)) + 1}. {framework.reason}\n"
        cells = [cell(framework, kind, num_ranks) for num_ranks in (1, 2) for kind in KINDS]
        marked = [text if text == "yes" else text + mark for text in cells]
        rows += f"| {framework.name} | {' | '.join(marked)} |\n"
    return HEAD + rows + ("\n" + notes if notes else "")


def with_table(document: str) -> str:
    """Returns the document with the table in its place."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PATH.write_text(with_table(PATH.read_text(encoding="utf-8")), encoding="utf-8")
