"""The next window, made beside training: by a thread, from a copy of the bank's tables, on a CUDA stream of its own.

What the window is does not depend on when it is ready, nor on who makes it: if the thread was stopped (the iteration
was left, Ctrl-C) or is not in this process (after a fork), whoever asks for the window makes it, from the same copy.
"""

from __future__ import annotations

import copy
import os
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple

import torch

from ._bank_store import BankCopy
from ._cuda_engine import SideStream
from ._window_maker import MadeWindow, Progress, WindowMaker, WindowRequest


class _StoppedError(Exception):
    """Ends the thread's work."""


class _Task(NamedTuple):
    maker: WindowMaker
    request: WindowRequest
    bank: BankCopy
    side: SideStream
    progress: Progress | None

    def run(self, go_on: Callable[[], None]) -> tuple[MadeWindow, bool]:
        """The window, and whether an update before the copy was refused. go_on: may raise to end it."""

        def step(done: int, total: int) -> None:
            go_on()
            if self.progress is not None:
                self.progress(done, total)

        with self.side:
            has_refused = self.bank.has_refused()
            return self.maker.make(self.request, self.bank.tables, step), has_refused


class WindowAhead:
    """Prepared by :meth:`of` and begun by :meth:`start`, or made already (``made``). Copied and pickled as made: that
    waits for it.

    It keeps the copy of the bank until the window is made, or cannot be, or nobody refers to it any more.

    has_refused: whether an update before the copy was refused; known when the window is. seconds_to_start: that the
    caller spent on beginning it.
    """

    def __init__(self, made: MadeWindow | None = None) -> None:
        self.has_refused = False
        self.seconds_to_start = 0.0
        self._made = made
        self._task: _Task | None = None  # as long as the window may have to be made
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._is_stopped = False
        self._is_over = threading.Event()

    @classmethod
    def of(cls, maker: WindowMaker, request: WindowRequest, bank: BankCopy, progress: Progress | None) -> WindowAhead:
        """To be made after what has been queued on the caller's current stream, the copy among it."""
        options = {name: _cloned(value) for name, value in request.graph_options.items()}
        side = SideStream(bank.device)
        for tensor in (*bank.tables, *options.values()):
            if isinstance(tensor, torch.Tensor):
                side.borrow(tensor)
        ahead = cls()
        ahead._task = _Task(maker, request._replace(graph_options=options), bank, side, progress)
        return ahead

    def start(self) -> None:
        """Whoever calls this refers to it by then: if Ctrl-C comes in here, the thread has to be stopped."""
        self._thread = threading.Thread(target=self._run, name="batchsampler_ext refresh")
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Making it has raised, or it was discarded."""
        return self._made is None and self._task is None

    def is_made(self) -> bool:
        """Waits for the window. False: making it has raised, which :meth:`get` does then. Ctrl-C ends the waiting, not
        the window."""
        self._wait()
        if self._task is not None:
            self._make(lambda: None)
        return self._made is not None

    def get(self) -> MadeWindow:
        """Waits for the window; raises what making it has raised."""
        if not self.is_made():
            assert self._error is not None
            raise self._error
        assert self._made is not None
        return self._made

    def stop(self) -> None:
        """Ends the thread and waits for that: on the CPU for the chunk of the graph in hand, or for the batches if they
        are being drawn; on a CUDA device, where a graph is queued at once, for the window."""
        self._is_stopped = True
        if threading.current_thread() is not self._thread:  # where the garbage collector may close an iteration
            self._wait()

    def discard(self) -> None:
        """Stops it for good: the window is not wanted any more."""
        self.stop()
        self._release()

    def __reduce__(self) -> tuple[type[WindowAhead], tuple[MadeWindow | None]]:
        self.is_made()
        return WindowAhead, (self._made,)

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.bank.give_back()

    def _wait(self) -> None:
        thread = self._thread
        # One that has not begun, since Ctrl-C came first, will end at once.
        if thread is not None and thread.ident is not None and self._process == os.getpid():
            self._is_over.wait()  # Thread.join() takes the thread for ended when it is interrupted
            thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            self._go_on()
            self._make(self._go_on)
        except (_StoppedError, KeyboardInterrupt):
            pass  # whoever asks for the window makes it
        finally:
            self._is_over.set()

    def _make(self, go_on: Callable[[], None]) -> None:
        """Once, unless it is stopped."""
        assert self._task is not None
        try:
            self._made, self.has_refused = self._task.run(go_on)
        except (_StoppedError, KeyboardInterrupt):
            raise
        except BaseException as error:  # for whoever asks for the window
            traceback.clear_frames(error.__traceback__)  # they hold the copy
            self._error = error
        self._release()

    def _go_on(self) -> None:
        if self._is_stopped or not threading.main_thread().is_alive():  # the interpreter waits for threads as it exits
            raise _StoppedError


def _cloned(option: object) -> object:
    """Arrays may be changed in place by who passed them."""
    return option.clone() if isinstance(option, torch.Tensor) else copy.copy(option)
