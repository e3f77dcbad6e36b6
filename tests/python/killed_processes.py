"""Kills processes that write files: ``killed_processes.py TASK FOLDER COUNT SEED`` prints what was found, as JSON.

A fork of this process works until it is killed by SIGKILL, after a random time. Then its files are opened. A count of
"old or new" is all that is expected of files that appear complete or not at all, "repaired" of banks in files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from batchsampler_ext import FeatureBank, Plan, ProximityBatchSampler, ProximityGraph, compose
from batchsampler_ext.cli import main

N, D, B = 600, 64, 128
LONGEST = 0.03  # seconds until a process is killed
MAPPED = {"two_towers": True, "dtype": torch.float32, "normalize": False}
EMBEDDINGS = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))


def constant(value: int, num_rows: int = N) -> torch.Tensor:
    return torch.full((num_rows, D), float(value))


def save(folder: Path, number: int) -> None:
    bank = FeatureBank(N, D, dtype=torch.float32, normalize=False)
    bank.update(range(N), constant(number))
    bank.save(folder / "bank.pt")
    neighbors = torch.full((N, 4), number % N, dtype=torch.int32)
    ProximityGraph(neighbors).save(folder / "graph.npz")


def check_save(folder: Path) -> str:
    bank = FeatureBank(N, D, dtype=torch.float32, normalize=False)
    bank.load(folder / "bank.pt")
    graph = ProximityGraph.load(folder / "graph.npz")
    assert len(bank.data.unique()) == len(graph.neighbors.unique()) == 1
    return "old or new"


def update(folder: Path, number: int) -> None:
    global bank
    if number == 0:
        bank = FeatureBank(N, D, path=folder / "bank", **MAPPED)
    rows = constant(bank.step, B)
    bank.update(torch.randint(N, (B,)), rows, rows)


def refresh(folder: Path, number: int) -> None:
    """Trains by plans from the bank, with a new graph every second batch, and saves the state of the sampler."""
    if number == 0:
        update(folder, 0)
    sampler = ProximityBatchSampler(N, B, bank=bank, planner="walks", refresh_every=2, seed=number)
    for ids in sampler:
        rows = constant(bank.step, len(ids))
        bank.update(ids, rows, rows)


def check_update(folder: Path) -> str:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        again = FeatureBank(N, D, path=folder / "bank", **MAPPED)
    messages = [str(warning.message) for warning in found]
    assert all(message.startswith(f"FeatureBank: 1 of {N} rows") for message in messages), messages
    known = again.last_update >= 0
    for table in (again.data, again.documents):
        assert torch.equal(table[known], again.last_update[known, None].float().expand(-1, D))
    again.update([0], constant(again.step, 1), constant(again.step, 1))
    return "repaired" if messages else "old or new"


def composed(seed: int) -> Plan:
    return compose(EMBEDDINGS, batch_size=12, preset="uniform", num_epochs=20, seed=seed)


def batches_of(plan: Plan) -> list[list[int]]:
    return [batch.tolist() for epoch in range(plan.num_epochs) for batch in plan.batches(epoch)]


def compose_plan(folder: Path, number: int) -> None:
    composed(number % 2).save(folder / "plan.bse")


def check_compose(folder: Path) -> str:
    plan = Plan.load(folder / "plan.bse")
    assert batches_of(plan) == batches_of(composed(plan.info["seed"]))
    return "old or new"


def export(folder: Path, number: int) -> None:
    if number == 0:
        for seed in (0, 1):
            composed(seed).save(folder / f"plan_{seed}.bse")
    for suffix in ("npy", "jsonl"):
        command = ["export", str(folder / f"plan_{number % 2}.bse"), "--format", suffix]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main([*command, "--out", str(folder / f"batches.{suffix}")])


def check_export(folder: Path) -> str:
    for suffix in ("npy", "jsonl"):
        found = (folder / f"batches.{suffix}").read_bytes()
        if suffix not in expected_exports:
            for seed in (0, 1):
                (folder / "expected").mkdir(exist_ok=True)
                export(folder / "expected", 0)
                export(folder / "expected", seed)
                content = (folder / "expected" / f"batches.{suffix}").read_bytes()
                expected_exports.setdefault(suffix, []).append(content)
        assert found in expected_exports[suffix]
    return "old or new"


bank: FeatureBank
expected_exports: dict[str, list[bytes]] = {}
TASKS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], str]]] = {
    "save": (save, check_save),
    "update": (update, check_update),
    "refresh": (refresh, check_update),
    "compose": (compose_plan, check_compose),
    "export": (export, check_export),
}


def kill_while_it_works(work: Callable[[Path, int], None], folder: Path, seconds: float) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            work(folder, number)
            if number == 1:  # each file exists
                os.write(writing, b"!")
            number += 1
    os.close(writing)
    if os.read(reading, 1) != b"!":
        raise RuntimeError(f"{work.__name__}: the process has ended")
    os.close(reading)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def kill_often(task: str, root: Path, count: int, seed: int) -> Counter[str]:
    work, check = TASKS[task]
    rng, found = random.Random(seed), Counter[str]()
    folder = root / task
    folder.mkdir()
    for _ in range(count):
        kill_while_it_works(work, folder, rng.uniform(0, LONGEST))
        found["abandoned"] += any(name.endswith(".tmp") for name in os.listdir(folder))
        found[check(folder)] += 1
    if task in ("save", "compose", "export"):
        for number in (0, 1):
            work(folder, number)
    found["left"] = sum(name.endswith(".tmp") for name in os.listdir(folder))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(kill_often(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
