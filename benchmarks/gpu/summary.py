"""The table of a folder of results, also of a run that was cut: from steps.tsv, the logs and benchmark.json.

Lines of steps.tsv are "begin STEP TIME", "end STEP TIME STATUS" and "about NAME VALUE", divided by tabs. Only the
standard library is imported, so this runs where neither torch nor the package is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

STEPS = ("build", "native", "benchmark", "tests", "sanitizer")
KILLED = {124, 137}  # exit statuses of timeout
MAX_FAILURES = 40  # that are listed
PROGRAM = re.compile(r"^program (\S+): (.*) in ([\d.]+) s$", re.MULTILINE)
TEST = re.compile(r"^\S+::.* (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
FAILED_TEST = re.compile(r"^(\S+::.*?) (?:FAILED|ERROR)\b", re.MULTILINE)


def of_folder(folder: Path) -> str:
    about, steps = read_steps(folder / "steps.tsv")
    results = read_json(folder / "benchmark.json")
    about = {**about, **{key: str(value) for key, value in results.get("machine", {}).items()}}
    names = ("commit", "gpu", "driver", "cuda", "torch", "cpu", "cores")
    lines = [", ".join(f"{name} {about[name]}" for name in names if name in about) or "nothing is known of the machine"]
    lines += ["", f"{'step':10} {'result':12} {'seconds':>7}  counts"]
    for name in STEPS:
        status, seconds = result_of(steps.get(name, {}))
        counts = counts_of(name, read(folder / f"{name}.log"), results)
        lines.append(f"{name:10} {status:12} {seconds:>7}  {counts}".rstrip())
    lines += failures(folder)
    if results:
        lines += ["", table(results)]
    return "\n".join(lines)


def of_results(path: Path) -> str:
    return table(read_json(path))


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def read_steps(path: Path) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    about: dict[str, str] = {}
    steps: dict[str, dict[str, int]] = {}
    for line in read(path).splitlines():
        kind, name, *values = line.split("\t")
        if kind == "about" and values:
            about[name] = values[0]
        elif kind == "begin" and values:
            steps[name] = {"begin": int(values[0])}
        elif kind == "end" and len(values) == 2:
            steps[name] |= {"end": int(values[0]), "status": int(values[1])}
    return about, steps


def result_of(step: dict[str, int]) -> tuple[str, str]:
    if not step:
        return "not reached", ""
    if "end" not in step:
        return "cut", ""
    status = step["status"]
    word = "ok" if status == 0 else "timed out" if status in KILLED else "failed"
    return word, str(step["end"] - step["begin"])


def counts_of(name: str, log: str, results: dict[str, Any]) -> str:
    if name in ("native", "sanitizer"):
        found = [result == "ok" for _, result, _ in PROGRAM.findall(log)]
        return f"{sum(found)} of {len(found)} programs ok" if found else last_line(log)
    if name == "tests":
        found = TEST.findall(log)
        words = {word: found.count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
        return ", ".join(f"{count} {word.lower()}" for word, count in words.items() if count) or last_line(log)
    if name == "benchmark" and results:
        equal = [row["result"] == "equal" for row in results["equality"]]
        done = [row["median_ms"] is not None for row in results["rows"]]
        cut = f", cut in {results['running']}" if results["running"] else ""
        return f"{sum(equal)} of {len(equal)} calls equal, {sum(done)} of {len(done)} rows timed{cut}"
    return "" if name == "build" else last_line(log)


def last_line(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1][:90] if lines else ""


def failures(folder: Path) -> list[str]:
    """Returns programs and tests that failed, and the end of the log of a build that failed."""
    lines = []
    for name in ("native", "sanitizer"):
        programs = PROGRAM.findall(read(folder / f"{name}.log"))
        lines += [f"  {name}: {program} {result}" for program, result, _ in programs if result != "ok"]
    lines += [f"  tests: {test}" for test in FAILED_TEST.findall(read(folder / "tests.log"))]
    _, steps = read_steps(folder / "steps.tsv")
    if steps.get("build", {}).get("status"):
        lines += [f"  build: {line}" for line in read(folder / "build.log").strip().splitlines()[-8:]]
    if len(lines) > MAX_FAILURES:
        lines[MAX_FAILURES:] = [f"  and {len(lines) - MAX_FAILURES} more"]
    return ["", "failures:", *lines] if lines else []


# --- the benchmark ---------------------------------------------------------------------------------------------------
def table(results: dict[str, Any]) -> str:
    lines = []
    unequal = [row for row in results["equality"] if row["result"] != "equal"]
    lines.append(f"equality: {len(results['equality']) - len(unequal)} of {len(results['equality'])} calls are equal")
    lines += [f"  {row['call']}: {row['result']}" for row in unequal]
    peaks = results["peaks"]
    if peaks:
        lines.append(f"peaks: {peaks['matrix'] / 1e12:.3g} TFLOP/s bfloat16, copy {peaks['copy'] / 1e12:.3g} TB/s")
    work = ""
    for row in results["rows"]:
        if row["work"] != work:
            work = row["work"]
            lines.append(work)
        lines.append("  " + row_line(row))
        lines += kernel_lines(results["kernel_times"].get(work, [])) if row["contestant"] == "batchsampler_ext" else []
    if results["beside_training"]:
        lines.append(beside_training(results["beside_training"]))
    threads = results["cpu_ms_by_threads"]
    if threads:
        lines.append("CPU threads: " + ", ".join(f"{count}: {ms:.0f} ms" for count, ms in threads.items()))
    lines += [f"{step} failed: {error}" for step, error in results["errors"].items()]
    if results["left_out"]:
        lines.append("left out for lack of time: " + ", ".join(results["left_out"]))
    if results["running"]:
        lines.append(f"cut in {results['running']}")
    clocks = list(results["clocks"].items())
    ends = [clocks[0], clocks[-1]] if len(clocks) > 1 else clocks
    lines += [f"clocks at {step} (SM, memory, maximum, temperature, power, state): {state}" for step, state in ends]
    lines.append("seconds: " + ", ".join(f"{step} {seconds}" for step, seconds in results["seconds"].items()))
    return "\n".join(lines)


def row_line(row: dict[str, Any]) -> str:
    name = f"{row['contestant']:42}"
    if row["median_ms"] is None:
        return f"{name} {row['status']} {row['check']}".rstrip()
    parts = [f"{name}{row['median_ms']:10.3f} ms [{row['p10_ms']:.3f}, {row['p90_ms']:.3f}] of {row['num_rounds']}"]
    if row["slower_than_ours"] is not None:
        parts.append(f"x{row['slower_than_ours']:.2f}")
    for label, value in (("matrix", row["share_of_matrix_peak"]), ("copy", row["share_of_copy"])):
        parts += [f"{label} {value:.1%}"] if value is not None else []
    parts += [f"{row['gigascores_per_s']:.1f} Gscore/s"] if row["gigascores_per_s"] is not None else []
    parts += [f"{row['peak_mib']:.0f} MiB"] if row["peak_mib"] is not None else []
    parts += [f"first run {row['warm_up_s']:.2f} s", row["check"], "" if row["status"] == "ok" else row["status"]]
    return "  ".join(part for part in parts if part)


def kernel_lines(kernels: list[dict[str, Any]]) -> list[str]:
    return [f"      {k['total_us']:10.1f} us {k['launches']:6} x {short_name(k['kernel'])}" for k in kernels[:8]]


def short_name(kernel: str) -> str:
    return re.sub(r"\(.*", "", kernel)[:90]


def beside_training(cost: dict[str, Any]) -> str:
    low, high = cost["overhead_p10_p90"]
    return (
        f"beside a ResNet-50 step of {cost['step_ms']:.1f} ms, with a graph every {cost['refresh_every']} steps: "
        f"{cost['overhead']:+.2%} of a step [{low:+.2%}, {high:+.2%}]; the last graph took {cost['graph_ms']:.1f} ms"
    )
