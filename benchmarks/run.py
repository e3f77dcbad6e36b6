"""Times the engine against its peers in one process. ``make bench`` runs all cases.

python -m benchmarks.run [--cases graph knn walk epoch] [--features X.npy [--labels Y.npy]] [--out results.json]

The default file is named after the machine, so that committing it is a copy to benchmarks/results. If cases are left
out or changed, its name starts with "partial". benchmarks/README.md explains the columns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from batchsampler_ext._engine.text_tables import table

from . import embeddings, machine
from .cases import Case, Inputs, Maker, Work, graph_case, knn_case, noise_graph, text_graph, walk_case
from .checks import check_results
from .epochs import clusters, digits, epoch_case, large_case, text
from .timing import Timing, interleave

BUDGET_SECONDS = 20.0  # for each contestant of a case
QUIET_LOAD = 0.5

CASES: dict[str, list[Maker]] = {
    "graph": [
        graph_case(),
        graph_case(torch.bfloat16),
        graph_case(dim=64),
        graph_case(dim=768),
        graph_case(k=10),
        graph_case(k=500),
        graph_case(num_rows=100_000),
        graph_case(candidate_group_size=1),
        graph_case(is_real=True),
    ],
    "knn": [knn_case(), knn_case(is_real=True)],
    "walk": [walk_case(noise_graph(32)), walk_case(noise_graph(100)), walk_case(text_graph)],
    "epoch": [epoch_case(clusters, 256), epoch_case(text, 128), epoch_case(digits, 64, has_kmeans=True), large_case],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--features", metavar="NPY", help="real embeddings [N, D] instead of text vectors of docstrings"
    )
    parser.add_argument(
        "--labels", metavar="NPY", help="their labels, integers [N]; false negatives are pairs with equal labels"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, help="seed of the random data; default: a new one")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and one round, to check that everything works"
    )
    parser.add_argument("--out", type=Path, help="default: build/benchmarks/cpu-<machine>.json")
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    seed = torch.seed() if options.seed is None else torch.manual_seed(options.seed).initial_seed()
    peaks = measured_peaks(options.num_threads, {})
    content: dict[str, Any] = {"machine": machine.describe(options.num_threads), "seed": seed, "peaks": peaks}
    print({**content["machine"], "seed": seed, **{f"peak {k}": f"{v:.4g}/s" for k, v in peaks.items()}})
    if content["machine"]["load"] > QUIET_LOAD:
        print("This machine is busy. This affects ratios too, most of all those of peers that use OpenMP.")
    inputs = Inputs(options.num_threads, real_embeddings(options), embeddings.digits(), options.quick)
    for data in (torch.randn(300, 24), inputs.text.features):
        check_results(data)
    print("Results equal the oracle's on every instruction set.")
    content["cases"] = []
    makers = [maker for name in options.cases for maker in CASES[name]]
    for maker in tqdm(makers, leave=False):
        if not options.quick:
            peaks |= measured_peaks(options.num_threads, peaks)  # the machine may have been busy before
        case = maker(inputs)
        ours = next(iter(case.contestants))
        num_rounds = 1 if options.quick else options.rounds
        timings = interleave(case.contestants, ours, num_rounds=num_rounds, budget_seconds=BUDGET_SECONDS)
        summary = summary_of(case, timings, peaks)
        print(f"\n{table_of(summary)}", flush=True)
        content["cases"].append(summary)
    is_partial = options.quick or options.features is not None or set(options.cases) != set(CASES)
    name = machine.file_name("partial-cpu" if is_partial else "cpu", content["machine"])
    out = options.out or Path("build/benchmarks") / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {out}")


def measured_peaks(num_threads: int, best: dict[str, float]) -> dict[str, float]:
    """Returns the peaks of all threads and of one thread, or the best so far if that is higher."""
    alone, together = (machine.measure_peaks(threads, num_runs=1) for threads in (1, num_threads))
    found = {**together, **{f"{name}, one thread": value for name, value in alone.items()}}
    return {name: max(value, best.get(name, 0.0)) for name, value in found.items()}


def real_embeddings(options: argparse.Namespace) -> embeddings.Embeddings:
    if options.features is not None:
        return embeddings.from_files(options.features, options.labels)
    return embeddings.digits() if options.quick else embeddings.docstrings()


def summary_of(case: Case, timings: dict[str, Timing], peaks: dict[str, float]) -> dict[str, Any]:
    rows = []
    for name, timing in timings.items():
        scale = 1 / case.done_share.get(name, 1.0)
        work = case.own_work.get(name, case.work)
        rows.append(
            {
                "name": name,
                "best_ms": 1e3 * scale * timing.best,
                "median_ms": 1e3 * scale * timing.median,
                "ratio_p10_median_p90": [scale * float(q) for q in np.quantile(timing.ratios, [0.1, 0.5, 0.9])],
                "num_rounds": len(timing.seconds),
                **share_of_peak(work, scale * timing.best, peaks),
                "quality": case.qualities.get(name, {}),
            }
        )
    return {"title": case.title, "contestants": rows, "notes": case.notes}


def share_of_peak(work: Work | None, seconds: float, peaks: dict[str, float]) -> dict[str, Any]:
    """Returns the peak and the share of it, or None without work. float32 stands in for missing bfloat16 products."""
    if work is None:
        return {"peak": None, "share_of_peak": None}
    peak = work.peak if peaks[work.peak] else "fma"
    return {"peak": peak, "share_of_peak": work.amount / seconds / peaks[peak]}


def table_of(summary: dict[str, Any]) -> str:
    rows = summary["contestants"]
    qualities = list(dict.fromkeys(name for row in rows for name in row["quality"]))
    columns = ["", "best [ms]", "median [ms]", "slower than ours (p10 to p90)", "share of peak", *qualities]
    cells = []
    for row in rows:
        low, middle, high = row["ratio_p10_median_p90"]
        cells.append(
            [
                row["name"],
                f"{row['best_ms']:.2f}",
                f"{row['median_ms']:.2f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                "" if row["peak"] is None else f"{row['share_of_peak']:.1%} {row['peak'].split(',')[0]}",
                *(f"{row['quality'][name]:.4g}" if name in row["quality"] else "" for name in qualities),
            ]
        )
    return "\n".join([table(summary["title"], columns, cells), *summary["notes"]])


if __name__ == "__main__":
    main()
