"""Windows made beside training: the sequence is a matter of what the bank held when windows began, not of the clock."""

from __future__ import annotations

import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from batchsampler_ext import FeatureBank, IndexedDataset, ProximityBatchSampler

NAN = float("nan")
EVERY = 4  # batches a window


def drift(bank: FeatureBank, batch: list[int]) -> None:
    """What training does: the embeddings of a batch move, as a function of the step."""
    generator = torch.Generator().manual_seed(bank.step)
    noise = torch.randn(len(batch), bank.dim, generator=generator)
    bank.update(batch, bank.data.cpu()[batch].float() + 0.5 * noise)


def make(device: torch.device | str = "cpu", count: int = 230, **arguments) -> ProximityBatchSampler:
    bank = FeatureBank(count, 8, device=device)
    bank.update(range(count), torch.randn(count, 8, generator=torch.Generator().manual_seed(1)))
    options = {"async_refresh": True, "refresh_every": EVERY, "num_candidates": 40, "num_neighbors": 8, "seed": 3}
    return ProximityBatchSampler(count, 10, bank=bank, **{**options, **arguments})


def trained(sampler: ProximityBatchSampler, num_epochs: int = 2) -> list[list[int]]:
    batches = []
    for _ in range(num_epochs):
        for batch in sampler:
            batches.append(batch)
            drift(sampler.bank, batch)
    return batches


def num_threads() -> int:
    return sum(thread.name == "batchsampler_ext refresh" for thread in threading.enumerate())


def wait_for_thread() -> None:
    while num_threads():
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert num_threads() == 0


@pytest.mark.parametrize("mode", ["partition", "independent", "paper"])
def test_windows_are_of_the_bank_as_it_was_one_window_before(mode):
    """The same batches as without, when the bank is what it was when the window before began."""
    sampler, other = make(epoch_mode=mode), make(epoch_mode=mode, async_refresh=False)
    for _ in range(2):
        states: list[bytes] = []  # of the bank, when each window began
        expected = iter(other)
        for i, batch in enumerate(sampler):
            if i % EVERY == 0:
                states.append(pickle.dumps(sampler.bank.state_dict()))
                other.bank.load_state_dict(pickle.loads(states[-2] if i else states[-1]))
            assert batch == next(expected)
            drift(sampler.bank, batch)
        assert len(states) >= 3
        assert next(expected, None) is None
    assert (sampler.refreshes, sampler.epoch) == (other.refreshes, other.epoch)


def test_every_instance_once_and_later_epochs_see_training():
    sampler = make(count=233)
    for _ in range(2):
        assert sorted(itertools.chain.from_iterable(trained(sampler, 1))) == list(range(233))
    still = make(count=233)
    still.set_epoch(1)
    assert list(still)[: 2 * EVERY] != trained(make(count=233))[24 : 24 + 2 * EVERY]


@pytest.mark.parametrize("drop_last", [False, True])
def test_later_graphs_of_a_partition_know_nothing_newer(drop_last):
    """Training moves what was drawn, they are over what was not: so why refresh_every is an epoch by default."""
    ahead, now = (make(async_refresh=on, drop_last=drop_last, count=233) for on in (True, False))
    assert trained(ahead) == trained(now)


def test_the_clock_does_not_matter():
    expected = trained(make())

    def slow(done: int, total: int) -> None:
        time.sleep(0.02)

    assert trained(make(progress=slow)) == expected
    sampler = make()
    batches = []
    for _ in range(2):
        for batch in sampler:
            batches.append(batch)
            wait_for_thread()  # the window ahead is ready before the bank changes
            drift(sampler.bank, batch)
    assert batches == expected
    assert trained(make(graph_options={"num_threads": 1})) == expected


def test_what_is_waited_for_is_told():
    sampler = make(progress=lambda done, total: time.sleep(0.05))
    for i, _ in enumerate(sampler):
        if i == EVERY - 1:
            wait_for_thread()
        elif i == EVERY:
            break
    stats = sampler.stats()
    assert stats["refresh_ms"] > 49
    assert 0 < stats["refresh_wait_ms"] < 40  # it was ready
    waiting = make(async_refresh=False, progress=lambda done, total: time.sleep(0.05))
    next(iter(waiting))
    assert waiting.stats()["refresh_wait_ms"] > waiting.stats()["refresh_ms"] > 49


@pytest.mark.parametrize("mode", ["partition", "independent", "paper"])
def test_resume_continues_the_exact_sequence(mode):
    expected = trained(make(epoch_mode=mode))
    for place in (1, EVERY - 1, EVERY, EVERY + 1, 11, 22, 23, 25):
        sampler = make(epoch_mode=mode)
        begun = []
        for _ in range(2):
            for batch in sampler:
                begun.append(batch)
                drift(sampler.bank, batch)
                if len(begun) == place:
                    break
            if len(begun) == place:
                break
        bank_state, state = pickle.loads(pickle.dumps((sampler.bank.state_dict(), sampler.state_dict())))
        resumed = make(epoch_mode=mode)
        resumed.bank.load_state_dict(bank_state)
        resumed.load_state_dict(state)
        rest = trained(resumed, 2 if sampler.epoch == 0 and not state["is_finished"] else 1)
        assert begun + rest == expected, place


def test_what_a_loader_drew_ahead_is_drawn_again():
    expected = list(make())
    for num_trained in (1, EVERY, 6, 2 * EVERY, 11):
        sampler = make()
        iterator = iter(sampler)
        begun = [next(iterator) for _ in range(num_trained + 3)]
        state = sampler.state_dict(num_trained)
        resumed = make()
        resumed.load_state_dict(state)
        assert begun[:num_trained] + list(resumed) == expected
        same = make(async_refresh=False)  # what is in the state is drawn, whatever comes after it
        same.load_state_dict(state)
        kept = state["ahead"]["first"] + EVERY
        assert (begun[:num_trained] + list(same))[:kept] == expected[:kept]
        iterator.close()


@pytest.mark.parametrize("place", range(1, 23))
def test_a_window_that_is_asked_for_is_of_the_bank_as_it_is(place):
    """refresh() gives up the window ahead, at a window's end too, and after a resume."""
    moved = torch.randn(230, 8, generator=torch.Generator().manual_seed(9))
    runs = []
    for refreshes, resumes in ((False, False), (True, False), (True, True)):
        sampler = make()
        batches = []
        for batch in sampler:
            batches.append(batch)
            drift(sampler.bank, batch)
            if len(batches) == place:
                sampler.bank.update(range(230), moved)
                if refreshes:
                    sampler.refresh()
                if resumes:
                    break
        if resumes:
            bank_state, state = pickle.loads(pickle.dumps((sampler.bank.state_dict(), sampler.state_dict())))
            sampler = make()
            sampler.bank.load_state_dict(bank_state)
            sampler.load_state_dict(state)
            batches += trained(sampler, 1)
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(230))
        runs.append(batches)
    without, asked, resumed = runs
    assert resumed == asked
    assert asked[:place] == without[:place]
    assert asked[place:] != without[place:] or place == 22  # when one batch is left, of those that are left


def test_an_iteration_that_is_left_ends_its_thread():
    started = threading.Event()

    def slow(done: int, total: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            started.set()
            time.sleep(0.05)

    sampler = make(progress=slow)
    for _ in sampler:
        assert started.wait(10)
        break
    assert num_threads() == 0
    state = sampler.state_dict()  # makes the window ahead after all
    assert state["ahead"]["first"] == EVERY
    resumed = make()
    resumed.load_state_dict(state)
    assert list(resumed) == list(make())[1:]
    iterator = iter(sampler)
    next(iterator)
    del iterator
    assert num_threads() == 0


def test_errors_are_raised_where_the_window_is_due():
    wanted = []

    def progress(done: int, total: int) -> None:
        if wanted:
            raise wanted.pop()

    sampler = make(progress=progress)
    iterator = iter(sampler)
    begun = [next(iterator) for _ in range(EVERY)]
    wait_for_thread()
    wanted.append(RuntimeError("out of memory"))  # in the thread that starts next
    begun += [next(iterator) for _ in range(EVERY)]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(iterator)
    assert sampler.state_dict()["ahead"] is None
    rest = list(sampler)  # the epoch goes on, from the bank as it is
    assert sorted(itertools.chain.from_iterable(begun + rest)) == list(range(230))


def test_rows_that_are_not_finite_are_named():
    bank = FeatureBank(40, 4, dtype=torch.float32)
    bank.update(range(40), torch.randn(40, 4))
    sampler = ProximityBatchSampler(40, 5, bank=bank, refresh_every=2, epoch_mode="independent", async_refresh=True)
    iterator = iter(sampler)
    next(iterator)
    next(iterator)
    wait_for_thread()
    bank.data[7, 1] = NAN
    drawn = [next(iterator), next(iterator)]  # of a window from before; the one ahead of it fails
    assert len(drawn) == 2
    with pytest.raises(ValueError, match=r"features\[7, 1\]: expected finite values"):
        next(iterator)
    bank.data[7, 1] = 0
    assert len(list(sampler)) == 4


def test_ctrl_c_is_answered_while_waiting_and_loses_nothing():
    expected = list(make())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        release = threading.Event()

        def slow(done: int, total: int) -> None:
            if threading.current_thread() is not threading.main_thread() and not release.is_set():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
                release.set()

        sampler = make(progress=slow)
        drawn = []
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            drawn.extend(sampler)
        assert time.monotonic() - start < 5
        assert num_threads() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    if len(drawn) == EVERY:  # it came while the sampler waited: the next iteration goes on there
        assert drawn + list(sampler) == expected


class Cycle:
    """Only the garbage collector frees it."""

    def __init__(self, value: object) -> None:
        self.value, self.itself = value, self


def test_the_collector_may_close_an_iteration_in_its_thread():
    is_garbage, is_collected = threading.Event(), threading.Event()

    def collect(done: int, total: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert is_garbage.wait(10)
            gc.collect()
            is_collected.set()

    gc.disable()
    try:
        sampler = make(progress=collect)
        cycle = Cycle(iter(sampler))
        next(cycle.value)
        del cycle
        is_garbage.set()
        assert is_collected.wait(10)
        deadline = time.monotonic() + 10
        while num_threads() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert num_threads() == 0
    finally:
        gc.enable()


def copies(bank: FeatureBank) -> list[weakref.ref]:
    """Filled with what is copied from now on."""
    found, copy_tables = [], bank.copy_tables

    def watched():
        made = copy_tables()
        found.append(weakref.ref(made.tables.data))
        return made

    bank.copy_tables = watched
    return found


def num_alive(found: list[weakref.ref]) -> int:
    return len({id(ref()) for ref in found if ref() is not None})


@pytest.mark.parametrize("how", ["left", "asked for", "failed", "other epoch"])
def test_one_copy_of_the_bank_at_most(how):
    def progress(done: int, total: int) -> None:
        if how == "failed" and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("failed")

    gc.disable()
    try:
        sampler = make(progress=progress)
        found = copies(sampler.bank)
        for epoch in range(3):
            if how == "other epoch":
                sampler.set_epoch(5 + epoch)
            for i, batch in enumerate(sampler):
                drift(sampler.bank, batch)
                if how == "asked for":
                    sampler.refresh()
                assert num_alive(found) <= 1
                if i == EVERY - 2:
                    break
        assert len(found) >= 3
    finally:
        gc.enable()


def test_a_failed_window_is_not_saved():
    failing = [True]

    def progress(done: int, total: int) -> None:
        if failing and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("failed")

    sampler = make(progress=progress)
    iterator = iter(sampler)
    begun = [next(iterator)]
    state = sampler.state_dict()
    assert state["ahead"] is None
    failing.clear()
    resumed = make()
    resumed.load_state_dict(state)
    assert sorted(itertools.chain.from_iterable(begun + list(resumed))) == list(range(230))
    begun += [next(iterator) for _ in range(EVERY - 1)]
    with pytest.raises(RuntimeError, match="failed"):
        next(iterator)
    assert sorted(itertools.chain.from_iterable(begun + list(sampler))) == list(range(230))


def test_labels_may_change_while_a_window_is_made():
    runs = []
    for changes in (False, True):
        for labels in (torch.zeros(230, dtype=torch.int64), np.zeros(230, dtype=np.int64)):
            labels[:100] = -1
            is_changed = threading.Event()

            def slow(done: int, total: int, is_changed: threading.Event = is_changed) -> None:
                if threading.current_thread() is not threading.main_thread():
                    assert is_changed.wait(10)

            sampler = make(graph_options={"labels": labels}, progress=slow)
            iterator = iter(sampler)
            drawn = [next(iterator)]
            if changes:
                labels[:] = 1
            is_changed.set()
            drawn += [next(iterator) for _ in range(2 * EVERY - 1)]
            iterator.close()
            runs.append(drawn)
    assert all(run == runs[0] for run in runs)


def test_inference_mode_may_come_and_go():
    expected = trained(make(), 1)
    for first in (False, True):
        sampler = make()
        iterator = iter(sampler)
        batches = []
        for i in range(23):
            with torch.inference_mode((i // EVERY % 2 == 0) == first):
                batches.append(next(iterator))
                drift(sampler.bank, batches[-1])
        assert batches == expected
        iterator.close()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda sampler: pickle.loads(pickle.dumps(sampler))])
@pytest.mark.parametrize("place", [1, EVERY, EVERY + 1])
def test_copies_go_on_where_the_sampler_would(duplicate, place):
    sampler = make()
    iterator = iter(sampler)
    begun = [next(iterator) for _ in range(place)]
    other = duplicate(sampler)
    assert other.state_dict()["ahead"]["first"] == sampler.state_dict()["ahead"]["first"]
    other.load_state_dict(other.state_dict())
    assert begun + list(iterator) == begun + list(other)


def test_the_interpreter_exits_without_the_window():
    """A thread that has begun is ended by the main thread's end."""
    code = """
import sys, threading, time
import torch
from batchsampler_ext import FeatureBank, ProximityBatchSampler
bank = FeatureBank(8000, 256)
bank.update(range(8000), torch.randn(8000, 256))
is_begun = threading.Event()
def slow(done, total):
    if threading.current_thread() is not threading.main_thread():
        if is_begun.is_set():
            print("went on", flush=True)
        is_begun.set()
        while threading.main_thread().is_alive():
            time.sleep(0.001)
sampler = ProximityBatchSampler(8000, 10, bank=bank, refresh_every=4, num_candidates=7000, async_refresh=True,
                                progress=slow, graph_options={"num_threads": 1})
iterator = iter(sampler)
next(iterator)
is_begun.wait()
sys.modules["kept"] = iterator
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def draw_the_rest(iterator: Iterator[list[int]], queue: multiprocessing.SimpleQueue) -> None:
    queue.put(list(iterator))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_in_the_middle_gives_the_same():
    expected = list(make())
    hold = threading.Event()
    parent = os.getpid()

    def slow(done: int, total: int) -> None:
        if threading.current_thread() is not threading.main_thread() and os.getpid() == parent:
            hold.wait(10)

    sampler = make(progress=slow)
    iterator = iter(sampler)
    first = next(iterator)  # the thread is held: the child does not have it
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=draw_the_rest, args=(iterator, queue))
    child.start()
    hold.set()
    assert [first, *queue.get()] == expected
    child.join()
    assert [first, *iterator] == expected


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "multiprocessing_context": "fork"}])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loaders(workers):
    sampler = make()
    rows = torch.arange(230.0)
    loader = DataLoader(IndexedDataset(TensorDataset(rows)), batch_sampler=sampler, **workers)
    for _ in range(2):
        drawn = []
        for indices, (batch,) in loader:
            assert torch.equal(batch, rows[indices])
            drift(sampler.bank, indices.tolist())
            drawn += indices.tolist()
        assert sorted(drawn) == list(range(230))


def test_bad_arguments():
    with pytest.raises(TypeError, match="async_refresh: expected True or False, got 1"):
        make(async_refresh=1)
    state = make_state()
    for ahead in (
        {},
        [],
        {**state["ahead"], "first": 9},
        {**state["ahead"], "drawn": torch.zeros(3, dtype=torch.bool)},
    ):
        with pytest.raises((TypeError, ValueError), match="^state"):
            make().load_state_dict({**state, "ahead": ahead})


def make_state() -> dict:
    sampler = make()
    iterator = iter(sampler)
    next(iterator)
    iterator.close()
    return sampler.state_dict()


# --- on a device (see test_cuda_graph.py for where that is) ---
@pytest.mark.parametrize("options", [{}, {"epoch_mode": "independent", "drop_last": True}, {"epoch_mode": "paper"}])
def test_devices_draw_the_same_batches(device_engine, options):
    sizes = {"count": 83, "refresh_every": 3, "num_candidates": 20, **options}
    expected = trained(make(**sizes))
    with device_engine() as device:
        assert trained(make(device, **sizes)) == expected


def test_refused_updates_are_told_where_the_window_after_them_is_due(device_engine):
    with device_engine() as device:
        sampler = make(device, 40, epoch_mode="independent", refresh_every=1)
        iterator = iter(sampler)
        drawn = [next(iterator)]
        sampler.bank.update([1], torch.full((1, 8), NAN))
        drawn.append(next(iterator))  # its window was begun before
        with pytest.raises(ValueError, match="embeddings: .* instance 1"):
            next(iterator)
        drawn += list(sampler)  # goes on where it was
        assert drawn == list(make(device, 40, epoch_mode="independent", refresh_every=1))


@pytest.mark.needs_cuda
def test_the_current_stream_is_not_waited_for():
    """Neither drawing nor the thread waits for what training queues after a window has begun."""
    sampler = make("cuda")
    iterator = iter(sampler)
    drawn = [next(iterator)]
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    after = torch.cuda.Event()
    after.record()
    drawn += [next(iterator) for _ in range(EVERY)]  # the first of the window made beside the sleep
    assert not after.query()
    torch.cuda.synchronize()
    assert drawn == list(make())[: EVERY + 1]
