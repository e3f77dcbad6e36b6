"""Checks of the values of an argument: at once on the CPU, queued on a CUDA device.

A check returns values that are safe to use as indices even if it will find an error, so no call waits for the device.
The errors go with the result, and are raised when the result is read on the host.
"""

from __future__ import annotations

from typing import Any

import torch

from .arrays import as_ids, as_integers, out_of_range, repeated
from .backend import engine
from .cuda import DeviceStatus


class DeferredChecks:
    """Checks of the arguments of one call. statuses: the checks queued on a device, in order; empty on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.statuses: list[DeviceStatus] = []
        self._device = device
        self.is_deferred = engine(device).is_queued

    def ids(self, value: Any, name: str, low: int, high: int) -> torch.Tensor:
        """Returns ids as as_ids() does. On a device, a value out of range is replaced by one in range."""
        if not self.is_deferred:
            return as_ids(value, name, low, high, self._device)
        ids = as_integers(value, name, self._device)
        if len(ids) == 0:
            return ids

        def message(words: torch.Tensor) -> str:
            smallest, largest = words.tolist()
            if smallest >= low and largest < high:
                return ""
            return str(out_of_range(name, low, high, smallest if smallest < low else largest))

        self.statuses.append(DeviceStatus(torch.stack(torch.aminmax(ids)), message))
        return ids.clamp(low, high - 1)

    def are_all(self, ids: torch.Tensor, size: int) -> bool:
        """Returns whether ids are 0 .. size - 1 in order. False if finding out would wait for a device."""
        return not self.is_deferred and len(ids) == size and torch.equal(ids, torch.arange(size, device=ids.device))

    def require_distinct(self, ids: torch.Tensor, name: str) -> None:
        """Raises ``ValueError`` for repeated ids, on a device later. ids: non-negative."""
        if not self.is_deferred and bool((ids[1:] > ids[:-1]).all()):
            return
        ordered = ids.sort().values
        is_repeated = ordered[1:] == ordered[:-1]
        if self.is_deferred:
            none_repeated = torch.iinfo(torch.int64).max
            if len(is_repeated):
                least = torch.where(is_repeated, ordered[1:], none_repeated).min()
                self.statuses.append(
                    DeviceStatus(
                        least, lambda word: "" if int(word) == none_repeated else str(repeated(name, int(word)))
                    )
                )
        elif bool(is_repeated.any()):
            raise repeated(name, int(ordered[1:][is_repeated][0]))

    def require_rows(self, rows: torch.Tensor, ids: torch.Tensor, name: str) -> None:
        """Raises ``ValueError`` for an instance without a row, on a device later. rows: int64 [R] of the ids, or -1."""
        if len(rows) == 0:
            return
        is_wrong = rows < 0
        if self.is_deferred:
            positions = torch.arange(len(rows), device=rows.device)
            first = torch.where(is_wrong, positions, len(rows)).min().clamp(max=len(rows) - 1)[None]
            words = torch.cat([rows.index_select(0, first), ids.index_select(0, first)])
            self.statuses.append(
                DeviceStatus(words, lambda words: "" if int(words[0]) >= 0 else str(_no_row(name, int(words[1]))))
            )
        elif bool(is_wrong.any()):
            raise _no_row(name, int(ids[is_wrong][0]))


def _no_row(name: str, instance: int) -> ValueError:
    return ValueError(f"{name}: expected ids of the graph's rows, got {instance}")
