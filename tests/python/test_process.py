"""Behavior within a user's process: reproducible, interruptible, fork-safe and quiet."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import batchsampler_ext
from batchsampler_ext import FeatureBank, ProximityGraph, compose, knn, knn_graph, proximity_graph, sample_batches
from batchsampler_ext._engine.backend import core
from batchsampler_ext._engine.random import permutation

EPOCH = """
import hashlib, sys
import torch
from sklearn.datasets import load_digits
from batchsampler_ext import proximity_graph, sample_batches

def epoch_hash(num_threads):
    features = torch.from_numpy(load_digits().data).to(torch.bfloat16)
    digest = hashlib.sha256()
    for metric, candidate_group_size in [("cosine", 256), ("l2", 1)]:
        graph = proximity_graph(features, 20, num_candidates=300, metric=metric,
                                candidate_group_size=candidate_group_size, return_scores=True, seed=77,
                                num_threads=num_threads)
        digest.update(graph.neighbors.numpy().tobytes() + graph.scores.numpy().tobytes())
        for planner in ("partition", "walks", "cover_by_walks"):
            batches = sample_batches(graph, 64, planner=planner, seed=77, epoch=5, num_threads=num_threads)
            for ids in (batches.indices, batches.tail):
                digest.update(ids.int().numpy().tobytes())
    return digest.hexdigest()
"""
# Frozen: a change here changes every user's epochs and belongs in the changelog.
EXPECTED_EPOCH = "ddc483d94799b396c7e1df5474a1919c8091ed4cd1e2394503ccfe90c91786e6"


def test_epoch_is_equal_across_processes_threads_and_instruction_sets():
    namespace: dict = {}
    exec(EPOCH, namespace)
    expected = namespace["epoch_hash"](2)
    for isa in core.supported_isas():
        for num_threads in (1, 5):
            result = subprocess.run(
                [sys.executable, "-c", f"{EPOCH}\nprint(epoch_hash({num_threads}))"],
                env={**os.environ, "BSE_ISA": isa}, capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert result.stdout.strip() == expected, (isa, num_threads)
    assert expected == EXPECTED_EPOCH


@pytest.mark.parametrize("name", ["sse9", "AVX2"])
def test_unknown_instruction_sets_are_refused(name):
    result = subprocess.run(
        [sys.executable, "-c", "from batchsampler_ext import _core; _core.isa()"],
        env={**os.environ, "BSE_ISA": name}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert "ValueError: BSE_ISA: expected one of 'scalar'" in result.stderr
    assert f"got '{name}'" in result.stderr
    with pytest.raises(ValueError, match="isa: expected one of"):
        core.use_isa(name)


def slow_call(isa: str, num_threads: int):
    """Returns a call that takes several seconds."""
    core.use_isa(isa)
    features = torch.randn(20_000 if isa == "scalar" else 60_000, 256)
    return lambda: knn_graph(features, 10, num_threads=num_threads)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Installs Python's usual handler. Tests in the background may run with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.timed
@pytest.mark.usefixtures("ctrl_c_raises")
@pytest.mark.parametrize("num_threads", [1, 3])
def test_ctrl_c_interrupts_within_a_fifth_of_a_second(isa, num_threads):
    call = slow_call(isa, num_threads)
    delays = []
    for _ in range(3):
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call()
        delays.append(time.monotonic() - start - 0.5)
        timer.join()
    assert sorted(delays)[1] < 0.2  # the median: the machine may be busy


def update_many() -> None:
    bank = FeatureBank(400_000, 128, momentum=0.9)
    ids, rows = torch.arange(400_000), np.broadcast_to(np.float64(1), (400_000, 128))
    for _ in range(99):
        bank.update(ids, rows)


SLOW_CALLS = {
    "long rows": lambda: knn(torch.randn(20_000, 16), torch.randn(20_000, 16), 8000),
    "long rows of a graph": lambda: knn_graph(torch.randn(16_000, 16), 6000),
    "permutation": lambda: permutation(100_000_000, 0, 0),
    "uniform epochs": lambda: compose(torch.zeros(2_000_000, 1), batch_size=1000, preset="uniform", num_epochs=99),
    "unique": lambda: compose(
        torch.zeros(2_000_000, 1), batch_size=1000, preset="uniform", unique=torch.arange(2_000_000) // 2, num_epochs=99
    ),
    "updates": update_many,
    "stats": lambda: [ProximityGraph(torch.zeros(200_000, 100, dtype=torch.int32)).stats() for _ in range(99)],
}


@pytest.mark.timed
@pytest.mark.usefixtures("ctrl_c_raises")
@pytest.mark.parametrize("name", SLOW_CALLS)
def test_ctrl_c_interrupts_every_part_of_long_calls(name):
    delays = []
    for delay in (0.3, 0.6, 0.9, 1.2, 1.5):
        sent = []

        def interrupt(sent=sent) -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(delay, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            SLOW_CALLS[name]()
        delays.append(time.monotonic() - sent[0])
        timer.join()
    assert sorted(delays)[2] < 0.2, delays  # the median: the machine may be busy


def test_progress_is_reported_and_can_stop_the_call(rng):
    features = rng.standard_normal((20_000, 256)).astype(np.float32)
    seen = []
    proximity_graph(features, 10, num_candidates=1000, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20_000, 20_000)
    assert seen == sorted(seen)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        knn_graph(features, 10, progress=stop)
    assert knn_graph(features[:100], 3).neighbors.shape == (100, 3)  # the next call works


@pytest.mark.timed
@pytest.mark.usefixtures("ctrl_c_raises")
def test_other_python_threads_run_during_a_call():
    call = slow_call(core.isa(), 1)
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.01)

    ticker = threading.Thread(target=tick)
    ticker.start()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        call()
    done.set()
    ticker.join()
    assert ticks > 10


def fork_hash(seed: int) -> str:
    graph = proximity_graph(torch.arange(4000.0).view(1000, 4), 10, num_threads=3, metric="l2", seed=seed)
    return hashlib.sha256(sample_batches(graph, 32, num_threads=3, seed=seed).indices.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_give_the_same_batches(method):
    expected = [fork_hash(seed) for seed in range(4)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(fork_hash, range(4)) == expected


def test_nothing_is_printed():
    code = textwrap.dedent("""
        import torch, batchsampler_ext as b
        graph = b.proximity_graph(torch.randn(100, 8), 5)
        b.sample_batches(graph, 10)
    """)
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == result.stderr == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")
def test_peak_memory_stays_within_max_memory():
    """A fresh process may take results + max_memory + a little for thread stacks and the allocator."""
    code = textwrap.dedent("""
        import re, torch
        from batchsampler_ext import knn_graph, proximity_graph

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

        proximity_graph(torch.randn(2000, 16), 10)  # whatever is loaded at first use
        features = torch.randn(300_000, 16)
        before = peak()
        graph = proximity_graph(features, 10, num_candidates=100, num_threads=2, max_memory=6_000_000)
        print(peak() - before - graph.neighbors.nbytes)
        before = peak()
        graph = knn_graph(features[:20_000], 300, num_threads=2, max_memory=2_000_000)
        print(peak() - before - graph.neighbors.nbytes - graph.scores.nbytes)
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    beyond = [int(line) for line in result.stdout.split()]
    assert beyond[0] < 6_000_000 + 3_000_000
    assert beyond[1] < 2_000_000 + 3_000_000


@pytest.mark.parametrize("is_source", [True, False])
def test_a_package_without_its_engine_says_what_to_do(tmp_path, is_source):
    """In a clone, Python finds the source code before the installed package."""
    shutil.copytree(Path(batchsampler_ext.__file__).parent, tmp_path / "batchsampler_ext")
    for engine in tmp_path.rglob("_co*.so"):
        engine.unlink()
    if is_source:
        (tmp_path / "pyproject.toml").touch()
    code = textwrap.dedent("""
        import sys
        from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, PathFinder]  # without that of an editable install
        sys.path.insert(0, sys.argv[1])
        import batchsampler_ext
    """)
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    remedy = "Change to a folder outside of it" if is_source else "pip install --force-reinstall ."
    assert "the compiled CPU engine, could not be loaded (cannot import name '_core'" in result.stderr
    assert result.stderr.rstrip().endswith(remedy)
