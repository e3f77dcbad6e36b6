"""Draws the time of graphs, walks and epochs against their sizes: an SVG, and a JSON with numbers and machine.

python -m benchmarks.charts [--quick] [--rounds 7] [--out DIR]

Both files are named after the machine: charts-<machine>.json and .svg, with --quick partial-charts-<machine>.
benchmarks.report draws the SVG of docs/performance.md from a committed JSON.

All points of all panels take turns, round by round, so that a slow minute of the machine affects all alike. Lines are
medians over the rounds, bars the 10th to 90th percentile. Dotted lines, on the right axis, are shares of the machine's
peak, which is measured in the same run: float32 multiply-adds for graphs, reads of random cache lines for walks, and
for partitions copied bytes (the graph is read once).
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure  # pyplot would look for a display
from matplotlib.ticker import LogFormatter

import batchsampler_ext as bse
from batchsampler_ext._engine.files import atomic_write
from batchsampler_ext.cli.progress import shown_stages

from . import machine
from .cases import Work
from .timing import round_robin

FIXED = {"N": 20_000, "M": 1000, "K": 100, "d": 128}
DTYPES = (torch.float32, torch.bfloat16)
NUM_WALKS, WALK_BATCH, WALK_DEGREE = 2000, 256, 32
BUDGET_SECONDS = 10.0  # per point
COLORS = {"float32": "tab:blue", "bfloat16": "tab:orange", "partition": "tab:purple"}
PEAKS = {"fma": "float32", "random_reads": "random reads", "copy": "copy"}
SVG_STYLE = {  # a small file, equal for equal numbers
    "svg.fonttype": "none",  # text stays text
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "svg.hashsalt": "charts",
}


@dataclass(frozen=True)
class Sizes:
    """The points of the lines. Sizes that a panel does not vary are those in ``fixed``, for epochs with their own N."""

    fixed: dict[str, int]
    graph: dict[str, list[int]]  # N, M, K, d
    knn: list[int]
    walk: list[int]
    epoch_rows: int
    batch: list[int]


FULL = Sizes(
    FIXED,
    {
        "N": [2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000],
        "M": [100, 200, 500, 1000, 2000, 5000, 10_000],
        "K": [5, 10, 20, 50, 100, 200, 500, 1000],
        "d": [16, 32, 64, 128, 256, 512, 1024],
    },
    [2000, 5000, 10_000, 20_000, 50_000],
    [1000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000],
    100_000,
    [16, 32, 64, 128, 256, 512, 1024, 2048, 4096],
)
QUICK = Sizes(
    FIXED | {"N": 500, "M": 200, "K": 20},
    {"N": [300, 1000], "M": [50, 400], "K": [5, 100], "d": [16, 64]},
    [300, 1000],
    [1000, 5000],
    1000,
    [16, 64],
)


@dataclass(frozen=True)
class Point:
    panel: str  # its title
    varied: str
    line: str
    x: int
    run: Callable[[], object]
    work: Work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small sizes, two rounds: that it works")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), metavar="DIR")
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    options.out.mkdir(parents=True, exist_ok=True)
    sizes, num_rounds, peak_runs = (QUICK, 2, 1) if options.quick else (FULL, options.rounds, 3)
    content: dict[str, Any] = {
        "machine": machine.describe(options.num_threads),
        "peaks": machine.measure_peaks(options.num_threads, peak_runs),
    }
    points = [*graph_points(sizes), *knn_points(sizes), *walk_points(sizes), *epoch_points(sizes)]
    with shown_stages() as stage:
        seconds = measure(points, num_rounds, stage("rounds over all points"))
    afterwards = machine.measure_peaks(options.num_threads, peak_runs)  # one of the two may have met a busy minute
    content["peaks"] = {name: max(value, afterwards[name]) for name, value in content["peaks"].items()}
    content["points"] = [
        summary_of(point, times, content["peaks"]) for point, times in zip(points, seconds, strict=True)
    ]
    numbers = options.out / machine.file_name("partial-charts" if options.quick else "charts", content["machine"])
    with atomic_write(numbers) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
    save_figure(content, numbers.with_suffix(".svg"))
    for path in (numbers, numbers.with_suffix(".svg")):
        print(f"wrote {path}")


# --- points ----------------------------------------------------------------------------------------------------------
def graph_points(sizes: Sizes) -> list[Point]:
    return [
        graph_point(name, x, dtype, sizes.fixed | {name: x})
        for name, values in sizes.graph.items()
        for dtype in DTYPES
        for x in values
    ]


def graph_point(varied: str, x: int, dtype: torch.dtype, size: dict[str, int]) -> Point:
    features = torch.randn(size["N"], size["d"]).to(dtype)
    num_candidates = min(size["M"], size["N"] - 1)
    num_neighbors = min(size["K"], num_candidates)

    def run() -> object:
        return bse.proximity_graph(features, num_neighbors, num_candidates=num_candidates)

    work = Work(2.0 * size["N"] * num_candidates * size["d"], "fma")
    fixed = {name: value for name, value in size.items() if name != varied}
    return Point(titled("proximity_graph", fixed), varied, name_of(dtype), x, run, work)


def knn_points(sizes: Sizes) -> list[Point]:
    dim, k = sizes.fixed["d"], sizes.fixed["K"]
    title = titled("knn_graph", {"K": k, "d": dim})

    def point(num_rows: int, dtype: torch.dtype) -> Point:
        features = torch.randn(num_rows, dim).to(dtype)
        work = Work(float(num_rows) ** 2 * dim, "fma")  # each pair is scored once
        return Point(title, "N", name_of(dtype), num_rows, lambda: bse.knn_graph(features, k), work)

    return [point(num_rows, dtype) for dtype in DTYPES for num_rows in sizes.knn]


def walk_points(sizes: Sizes) -> list[Point]:
    title = titled("random_walk_with_restart", {"K": WALK_DEGREE, "B": WALK_BATCH})

    def point(num_instances: int) -> Point:
        graph = bse.ProximityGraph(torch.randint(num_instances, (num_instances, WALK_DEGREE), dtype=torch.int32))
        roots = torch.randint(num_instances, (NUM_WALKS,))

        def run() -> bse.Walks:
            return bse.random_walk_with_restart(graph, roots, WALK_BATCH)

        work = Work(float(run().steps.sum()), "random_reads")
        return Point(title, "N", f"{NUM_WALKS:,} walks", num_instances, run, work)

    return [point(num_instances) for num_instances in sizes.walk]


def epoch_points(sizes: Sizes) -> list[Point]:
    m, k = sizes.fixed["M"], sizes.fixed["K"]
    graph = bse.proximity_graph(torch.randn(sizes.epoch_rows, sizes.fixed["d"]), k, num_candidates=m)
    title = titled("sample_batches", {"N": sizes.epoch_rows, "K": k})

    def point(planner: str, batch_size: int) -> Point:
        def run() -> bse.Batches:
            return bse.sample_batches(graph, batch_size, planner=planner)

        if planner == "walks":
            work = Work(run().stats["steps"], "random_reads")
        else:
            work = Work(graph.neighbors.nbytes, "copy")
        return Point(title, "B", planner, batch_size, run, work)

    return [point(planner, batch_size) for planner in ("partition", "walks") for batch_size in sizes.batch]


def titled(function: str, fixed: dict[str, int]) -> str:
    return f"{function}: {' '.join(f'{name}={value:,}' for name, value in fixed.items())}"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- measuring -------------------------------------------------------------------------------------------------------
def measure(points: list[Point], num_rounds: int, progress: Callable[[int, int], object]) -> list[np.ndarray]:
    """Returns the seconds of each round, for each point."""
    num_done = 0

    def counted(run: Callable[[], object]) -> Callable[[], object]:
        def work() -> None:
            nonlocal num_done
            run()
            num_done += 1
            progress(num_done, len(points) * (num_rounds + 1))

        return work

    contestants = {str(i): counted(point.run) for i, point in enumerate(points)}
    return list(round_robin(contestants, num_rounds=num_rounds, budget_seconds=BUDGET_SECONDS).values())


def summary_of(point: Point, seconds: np.ndarray, peaks: dict[str, float]) -> dict[str, Any]:
    low, median, high = (float(q) for q in np.quantile(seconds, [0.1, 0.5, 0.9]))
    return {
        "panel": point.panel,
        "varied": point.varied,
        "line": point.line,
        "x": point.x,
        "p10_median_p90_seconds": [low, median, high],
        "rounds": len(seconds),
        "peak": point.work.peak,
        "share_of_peak": point.work.amount / median / peaks[point.work.peak],
    }


# --- drawing ---------------------------------------------------------------------------------------------------------
def save_figure(content: dict[str, Any], path: Path) -> None:
    panels = list(dict.fromkeys(point["panel"] for point in content["points"]))
    num_rows = (len(panels) + 1) // 2  # one place is left for words
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(11, 3.4 * num_rows), layout="constrained")
        *places, last = figure.subplots(num_rows, 2).flat
        for axes, panel in zip(places, panels, strict=True):
            draw_panel(axes, [point for point in content["points"] if point["panel"] == panel])
        describe_run(last, content)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    shorter = re.sub(r"(\.\d\d)\d+|^ +", r"\1", drawn.getvalue(), flags=re.MULTILINE)  # two digits, no indentation
    with atomic_write(path) as file:
        file.write(shorter.encode())


def describe_run(axes: Any, content: dict[str, Any]) -> None:
    """Fills a place of the grid with words instead of a panel."""
    about, peaks = content["machine"], content["peaks"]
    lines = [
        machine.label(about),
        f"{about['threads']} threads on {about['cores']} cores",
        f"float32 peak {peaks['fma'] / 1e9:,.0f} GFLOP/s",
        f"copy peak {peaks['copy'] / 1e9:,.0f} GB/s",
        f"random reads peak {peaks['random_reads'] / 1e6:,.0f} M/s",
        f"commit {about['commit']}, {about['date']}",
        "",
        f"lines: median of {max(point['rounds'] for point in content['points'])} rounds",
        "bars: 10th to 90th percentile",
        "dotted, right axis: share of peak",
    ]
    axes.set_axis_off()
    axes.text(0.05, 0.95, "\n".join(lines), va="top", linespacing=1.5, transform=axes.transAxes)


def draw_panel(axes: Any, points: list[dict[str, Any]]) -> None:
    shares = axes.twinx()
    for line in dict.fromkeys(point["line"] for point in points):
        own = [point for point in points if point["line"] == line]
        x = [point["x"] for point in own]
        low, median, high = 1e3 * np.array([point["p10_median_p90_seconds"] for point in own]).T
        color = COLORS.get(line, "tab:green")
        axes.errorbar(x, median, [median - low, high - median], color=color, label=line, marker="o", ms=4, capsize=3)
        shares.plot(x, [100 * point["share_of_peak"] for point in own], ":", color=color)
    axes.set_title(points[0]["panel"], fontsize=10)
    axes.set_xlabel(points[0]["varied"])
    axes.set_ylabel("time [ms]")
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = sorted({point["x"] for point in points})
    axes.set_xticks(values, [compact(x) for x in values], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    peaks = dict.fromkeys(PEAKS[point["peak"]] for point in points)
    shares.set_ylabel(f"share of peak [%]: {', '.join(peaks)}")
    shares.set_ylim(0, max(100.0, *(105 * point["share_of_peak"] for point in points)))


def compact(count: int) -> str:
    unit, scale = next((unit, scale) for unit, scale in (("M", 10**6), ("k", 1000), ("", 1)) if count % scale == 0)
    return f"{count // scale}{unit}"


if __name__ == "__main__":
    main()
