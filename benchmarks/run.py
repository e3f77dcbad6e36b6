"""The engine against its peers, side by side in one process. ``make bench`` runs all of it.

python -m benchmarks.run [--cases graph knn walk partition] [--rounds 7] [--num-threads 2] [--out results.json]

See benchmarks/README.md for what the columns mean.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from . import machine
from .cases import CASES, Case
from .timing import Timing, interleave

BUDGET_SECONDS = 40.0  # for each contestant of a case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/results.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    content: dict[str, Any] = {"machine": machine.describe(options.num_threads), "cases": []}
    content["peaks"] = {
        **machine.measure_peaks(options.num_threads),
        **{f"{name}, one thread": value for name, value in machine.measure_peaks(1).items()},
    }
    console = Console(width=120)
    console.print({**content["machine"], **{f"peak {k}": f"{v:.4g}/s" for k, v in content["peaks"].items()}})
    makers = [maker for name in options.cases for maker in CASES[name]]
    for maker in tqdm(makers, leave=False):
        case = maker(options.num_threads)
        ours = next(iter(case.contestants))
        timings = interleave(case.contestants, ours, num_rounds=options.rounds, budget_seconds=BUDGET_SECONDS)
        console.print(table_of(case, timings, content["peaks"]))
        content["cases"].append(summary_of(case, timings, content["peaks"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    console.print(f"wrote {options.out}")


def table_of(case: Case, timings: dict[str, Timing], peaks: dict[str, float]) -> Table:
    summary = summary_of(case, timings, peaks)
    table = Table(title=case.title, title_justify="left", caption="\n".join(case.notes), caption_justify="left")
    table.add_column("")
    for name in (
        "best [ms]",
        "median [ms]",
        "slower than ours, median (p10 to p90)",
        f"share of peak {case.peak or ''}",
    ):
        table.add_column(name, justify="right")
    for row in summary["contestants"]:
        low, middle, high = row["ratio_p10_median_p90"]
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        table.add_row(row["name"], f"{row['best_ms']:.2f}", f"{row['median_ms']:.2f}", ratio, share)
    return table


def summary_of(case: Case, timings: dict[str, Timing], peaks: dict[str, float]) -> dict[str, Any]:
    rows = []
    for name, timing in timings.items():
        scale = 1 / case.scaled.get(name, 1.0)
        rows.append(
            {
                "name": name,
                "best_ms": 1e3 * scale * timing.best,
                "median_ms": 1e3 * scale * timing.median,
                "ratio_p10_median_p90": [scale * float(q) for q in np.quantile(timing.ratios, [0.1, 0.5, 0.9])],
                "num_rounds": len(timing.seconds),
                "share_of_peak": None
                if case.peak is None or not peaks[case.peak]
                else case.work / (scale * timing.best) / peaks[case.peak],
            }
        )
    return {"title": case.title, "contestants": rows, "notes": case.notes}


if __name__ == "__main__":
    main()
