"""How much memory the process needs beyond the files it has mapped."""

from __future__ import annotations

import re
import threading

__all__ = ["PrivateMemoryPeak"]

_STATUS = "/proc/self/status"
_INTERVAL = 0.01  # seconds


class PrivateMemoryPeak:
    """Samples the process's private memory every 10 ms while the ``with`` block runs; Linux only.

    The usual high-water marks (``ru_maxrss``, VmHWM) count the resident pages of mapped files too: for a memory-mapped
    input they say how much of it happened to stay in memory, not what the work needs. RssAnon + RssShmem leave file
    pages out, but the kernel keeps no high-water mark of them; hence the samples. A peak shorter than the interval can
    be missed; the kernels' buffers live longer.

    Attributes:
        before, peak: bytes when the block began, and at most since then; None where /proc does not tell.
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
        """Bytes from ``before`` to ``peak``."""
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
