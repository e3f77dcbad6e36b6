"""The next window, made beside training: by a thread, from a copy of the bank's tables, on a CUDA stream of its own.

What the window is does not depend on when it is ready, nor on who makes it: if the thread was stopped (the iteration
was left, Ctrl-C) or is not in this process (after a fork), whoever asks for the window makes it, from the same copy.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import torch

from ._bank_store import BankCopy
from ._cuda_engine import SideStream
from ._window_maker import MadeWindow, Progress, WindowMaker, WindowRequest


class _StoppedError(Exception):
    """Ends the thread's work."""


class WindowAhead:
    """Begun by :meth:`start`, or made already (``made``).

    has_refused: whether an update before the copy was refused; known when the window is. seconds_to_start: that the
    caller of :meth:`start` spent.
    """

    def __init__(self, made: MadeWindow | None = None) -> None:
        self.has_refused = False
        self.seconds_to_start = 0.0
        self._made = made
        self._make: Callable[[Progress], MadeWindow] | None = None
        self._give_back: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._is_stopped = False
        self._is_over = threading.Event()

    @classmethod
    def start(
        cls, maker: WindowMaker, request: WindowRequest, bank: BankCopy, progress: Progress | None
    ) -> WindowAhead:
        """Begins after what has been queued on the caller's current stream, the copy among it."""
        ahead = cls()
        side = SideStream(bank.device)
        for tensor in (*bank.tables, *request.graph_options.values()):
            if isinstance(tensor, torch.Tensor):
                side.borrow(tensor)

        def make(go_on: Progress) -> MadeWindow:
            def step(done: int, total: int) -> None:
                go_on(done, total)
                if progress is not None:
                    progress(done, total)

            with side:
                ahead.has_refused = bank.has_refused()
                return maker.make(request, bank.tables, step)

        ahead._make, ahead._give_back = make, bank.give_back
        ahead._thread = threading.Thread(target=ahead._run, name="batchsampler_ext refresh")
        ahead._thread.start()
        return ahead

    @property
    def is_failed(self) -> bool:
        """Making it has raised."""
        return self._error is not None

    def get(self) -> MadeWindow:
        """Waits for the window; raises what making it has raised. Ctrl-C ends the waiting, not the window."""
        self._wait()
        if self._error is not None:
            raise self._error
        if self._made is None:
            assert self._make is not None
            self._made = self._make(lambda done, total: None)
        if self._give_back is not None:
            self._give_back()
            self._make = self._give_back = None
            if self._made.graph is not None:
                self._made.graph.hand_over()
        return self._made

    def stop(self) -> None:
        """Ends the thread, soon."""
        self._is_stopped = True
        self._wait()

    def _wait(self) -> None:
        if self._thread is not None and self._process == os.getpid():
            self._is_over.wait()  # Thread.join() takes the thread for ended when it is interrupted
            self._thread.join()
        self._thread = None

    def _run(self) -> None:
        assert self._make is not None
        try:
            self._made = self._make(self._go_on)
        except _StoppedError:
            pass
        except BaseException as error:  # for whoever asks for the window
            self._error = error
        finally:
            self._is_over.set()

    def _go_on(self, done: int, total: int) -> None:
        if self._is_stopped:
            raise _StoppedError
