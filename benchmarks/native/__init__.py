"""C++ that only the benchmark needs, compiled for this machine at first use."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
from pathlib import Path

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
BUILD = Path(__file__).parents[2] / "build" / "benchmarks"
FLAGS = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]


@functools.cache
def library() -> ctypes.CDLL:
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:12]
    path = BUILD / f"native-{digest}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *FLAGS, "-o", str(path), *map(str, SOURCES)], check=True)
    loaded = ctypes.CDLL(str(path))
    for name in ("peak_fma", "peak_bf16", "peak_copy", "peak_random_reads"):
        getattr(loaded, name).restype = ctypes.c_double
    loaded.plain_walks.restype = ctypes.c_int64
    return loaded
