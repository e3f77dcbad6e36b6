"""Writes the generated parts of docs/performance.md: tables of results/cpu-*.json and curves of results/charts-*.json.

python -m benchmarks.report [--check]

Each file is one machine. A part stands between the comments <!-- NAME: ... --> and <!-- end of NAME -->. All other text
is kept. The curves are drawn to docs/performance-<machine>.svg. --check writes nothing. It fails if the page, or the
set of drawings, differs from what would be written.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import machine
from .cases import OURS

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
COMMAND = "written by python -m benchmarks.report"
GROUPS = {  # how the titles of a group's cases begin
    "graphs": "proximity graph of ",
    "nearest neighbors": "exact kNN graph of ",
    "walks": "random walks on ",
    "epochs": "epochs of ",
}
PEAKS = {
    "fma": "FMA",
    "bf16": "BF16",
    "copy": "copy",
    "random_reads": "random reads",
    "random_reads, one thread": "random reads",
}

Content = dict[str, Any]  # what benchmarks.run or benchmarks.charts wrote
Machines = dict[str, Content]  # by label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    charts = sorted(RESULTS.glob("charts-*.json"))
    before = PAGE.read_text()
    after = with_parts(before, parts(loaded(RESULTS.glob("cpu-*.json")), charts))
    drawings = {drawing_of(path): path for path in charts}
    unwanted = set(PAGE.parent.glob("performance-*.svg")) - set(drawings)
    if options.check:
        missing = [str(path) for path in drawings if not path.exists()]
        if before != after or unwanted or missing:
            raise SystemExit("docs/performance.md differs from benchmarks/results; run python -m benchmarks.report")
        return
    for path in unwanted:
        path.unlink()
    PAGE.write_text(after)
    if drawings:
        from .charts import save_figure  # needs matplotlib

        for drawing, path in drawings.items():
            save_figure(json.loads(path.read_text()), drawing)
    print("\n".join(f"wrote {path}" for path in (PAGE, *drawings)))


def loaded(paths: Iterable[Path]) -> Machines:
    """Returns the results by label, fastest machine first. Machines with the same label are told apart by cores."""
    contents = sorted((json.loads(path.read_text()) for path in sorted(paths)), key=lambda c: -c["peaks"]["fma"])
    labels = [machine.label(content["machine"]) for content in contents]
    return {
        label if labels.count(label) == 1 else f"{label}, {content['machine']['cores']} cores": content
        for label, content in zip(labels, contents, strict=True)
    }


def drawing_of(charts: Path) -> Path:
    return PAGE.with_name(f"performance-{charts.stem.removeprefix('charts-')}.svg")


def with_parts(page: str, texts: dict[str, str]) -> str:
    """Returns the page with each text between the comments of its name."""
    for name, text in texts.items():
        between = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page, count = between.subn(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)
        if count != 1:
            raise SystemExit(f"{PAGE}: expected the comments of {name!r} once, found them {count} times")
    return page


def parts(machines: Machines, charts: Sequence[Path]) -> dict[str, str]:
    return {
        "machines": machine_table(machines),
        **{group: case_table(machines, start) for group, start in GROUPS.items()},
        "batches": batch_table(machines),
        "curves": "\n\n".join(curves_of(path) for path in charts),
    }


# --- parts -----------------------------------------------------------------------------------------------------------
def machine_table(machines: Machines) -> str:
    columns = ["machine", "CPU", "cores", "threads", "FMA [GFLOP/s]", "BF16 [GFLOP/s]", "copy [GB/s]"]
    columns += ["random reads [M/s]", "of one thread", "load", "commit", "date", "torch"]
    rows = []
    for label, content in machines.items():
        about, peaks = content["machine"], content["peaks"]
        rows.append(
            [
                label,
                *(str(about[name]) for name in ("cpu", "cores", "threads")),
                f"{peaks['fma'] / 1e9:,.0f}",
                f"{peaks['bf16'] / 1e9:,.0f}" if peaks["bf16"] else "none",
                f"{peaks['copy'] / 1e9:,.0f}",
                f"{peaks['random_reads'] / 1e6:,.0f}",
                f"{peaks['random_reads, one thread'] / 1e6:,.0f}",
                *(str(about[name]) for name in ("load", "commit", "date", "torch")),
            ]
        )
    return table(columns, rows)


def case_table(machines: Machines, start: str) -> str:
    """Returns a table with a row per case and machine, and a column per contestant."""
    found = [(label, case) for label, content in machines.items() for case in cases_of(content, start)]
    names = list(dict.fromkeys(name for _, case in found for name in contestants_of(case)))
    ours, *peers = names
    rows = []
    for title in dict.fromkeys(case["title"] for _, case in found):
        shown_title = title.removeprefix(start)
        for label, case in found:
            if case["title"] == title:
                contestants = contestants_of(case)
                own = contestants[ours]
                cells = [ratio(contestants[name]) if name in contestants else "" for name in peers]
                rows.append([shown_title, label, milliseconds(own["median_ms"]), share(own), *cells])
                shown_title = ""
    return table(["", "machine", f"{'ours' if ours == OURS else ours} [ms]", "share of peak", *map(short, peers)], rows)


def batch_table(machines: Machines) -> str:
    """Returns a table of the batches of epochs, from the first machine that has any."""
    start = GROUPS["epochs"]
    label, cases = next((label, cases_of(c, start)) for label, c in machines.items() if cases_of(c, start))
    rows = []
    for case in cases:
        title = case["title"].removeprefix(start)
        for name, row in contestants_of(case).items():
            quality = row["quality"]
            if quality:
                false_negatives = f"{quality['false negatives']:.1%}" if "false negatives" in quality else ""
                similarity = [f"{quality[key]:.3f}".replace("-0.000", "0.000") for key in ("similarity", "its p10")]
                sizes = f"{quality['least size']:,} to {quality['largest']:,}"
                rows.append([title, name, *similarity, false_negatives, sizes])
                title = ""
    columns = ["", "batches of", "similarity", "its p10", "false negatives", "sizes"]
    return f"Measured on {label}.\n\n{table(columns, rows)}"


def curves_of(charts: Path) -> str:
    about = json.loads(charts.read_text())["machine"]
    label = machine.label(about)
    drawing = drawing_of(charts).name
    return f"{label}, {about['threads']} threads, commit {about['commit']}, {about['date']}:\n\n![{label}]({drawing})"


# --- cells -----------------------------------------------------------------------------------------------------------
def cases_of(content: Content, start: str) -> list[Content]:
    return [case for case in content["cases"] if case["title"].startswith(start)]


def contestants_of(case: Content) -> dict[str, Content]:
    """Returns the contestants by name, ours first, without our other instruction sets."""
    other_isa = re.compile(rf"{OURS}, [a-z0-9_]+")
    return {row["name"]: row for row in case["contestants"] if not other_isa.fullmatch(row["name"])}


def short(name: str) -> str:
    return name.removeprefix(f"{OURS}, ")


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(row: Content) -> str:
    return f"{row['share_of_peak']:.{1 if row['share_of_peak'] < 0.1 else 0}%} of {PEAKS[row['peak']]}"


def ratio(row: Content) -> str:
    """Returns the time relative to ours as median (p10 to p90), and the recall if it is not 1."""
    low, median, high = (two_digits(value) for value in row["ratio_p10_median_p90"])
    recall = f"{row['quality'].get('recall', 1.0):.3f}"
    spread = f"({low} to {high})" if row["num_rounds"] > 1 else "(one round)"
    return f"{median}x {spread}{'' if recall == '1.000' else f', recall {recall}'}"


def two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") for cells in lines)


if __name__ == "__main__":
    main()
