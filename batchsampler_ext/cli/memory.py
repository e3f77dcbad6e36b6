"""Measures the memory of the process without the files that it has mapped."""

from __future__ import annotations

import re
import threading

__all__ = ["PrivateMemoryPeak"]

_STATUS = "/proc/self/status"
_INTERVAL = 0.01  # seconds


class PrivateMemoryPeak:
    """Samples the private memory of the process every 10 ms while the ``with`` block runs. Linux only.

    The usual maxima (``ru_maxrss``, VmHWM) include resident pages of mapped files. For a memory-mapped input they
    depend on how much of it stayed in memory. RssAnon + RssShmem exclude file pages, but Linux keeps no maximum of
    them, so they are sampled. A peak shorter than the interval can be missed. The buffers of the kernels live longer.

    Attributes:
        before: bytes when the block began; None if /proc does not contain them.
        peak: the maximum since then, likewise.
    """

    def __init__(self) -> None:
        self.before = self.peak = _private_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PrivateMemoryPeak:
        if self.before is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            self._stop.set()
            self._thread.join()
            self._update()

    def growth(self) -> int | None:
        """Returns ``peak - before`` in bytes, or None."""
        return None if self.before is None or self.peak is None else self.peak - self.before

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self._update()

    def _update(self) -> None:
        now = _private_bytes()
        if self.peak is not None and now is not None:
            self.peak = max(self.peak, now)


def _private_bytes() -> int | None:
    try:
        with open(_STATUS) as file:
            pages = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return None
    return sum(map(int, pages)) * 1024 if pages else None
