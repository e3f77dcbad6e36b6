"""Describes the machine, names it, and measures its peaks."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import batchsampler_ext
from batchsampler_ext._engine.backend import core

from .native import library


def describe(num_threads: int) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": num_threads,
        "load": round(os.getloadavg()[0], 2),  # of the last minute, by other programs
        "isa": core.isa(),
        "batchsampler_ext": batchsampler_ext.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def label(about: dict[str, Any]) -> str:
    """Returns a name for tables, such as "EPYC, AVX-512 BF16", of what :func:`describe` returned."""
    isa = about["isa"].upper().replace("AVX512", "AVX-512").replace("_", " ")
    return f"{short_cpu(about['cpu'])}, {isa}"


def file_name(kind: str, about: dict[str, Any], suffix: str = ".json") -> str:
    """Returns a name for results of one kind, such as cpu-epyc-avx512bf16-2c.json: one file per machine."""
    cpu = re.sub(r"[^a-z0-9]+", "-", short_cpu(about["cpu"]).lower())
    return f"{kind}-{cpu}-{about['isa'].replace('_', '')}-{about['cores']}c{suffix}"


def short_cpu(name: str) -> str:
    """Returns the model alone: "EPYC 7B13" of "AMD EPYC 7B13 64-Core Processor"."""
    others = r"@.*|\((R|TM)\)|\b(AMD|Intel|CPU|Processor|\d+-Core)\b"
    return " ".join(re.sub(others, " ", name).split()) or "CPU"


def measure_peaks(num_threads: int, num_runs: int = 3) -> dict[str, float]:
    """Returns the best of num_runs: FLOP/s of float32 FMA and bfloat16 dot products, copied bytes/s, random lines/s."""
    native = library()
    table_bytes = ctypes.c_int64(512 << 20)
    return {
        "fma": max(native.peak_fma(num_threads) for _ in range(num_runs)),
        "bf16": max(native.peak_bf16(num_threads) for _ in range(num_runs)),
        "copy": max(native.peak_copy(num_threads) for _ in range(num_runs)),
        "random_reads": max(native.peak_random_reads(num_threads, table_bytes) for _ in range(num_runs)),
    }


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """Returns the commit of the sources. BSE_COMMIT names it where they were copied without git."""
    if os.environ.get("BSE_COMMIT"):
        return os.environ["BSE_COMMIT"]
    here = Path(__file__).parent
    try:
        return subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=here, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
