"""Stores rows in the tables of a bank: at once on the CPU, queued on a CUDA device. Tables are equal to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from .._engine.arrays import TORCH_DTYPES, VALUES_AT_ONCE, address, as_matrix, out_of_range
from .._engine.backend import core, engine, queued_engine
from .._engine.cuda import StreamOrder, to_device_async
from .._engine.requests import BankRows
from .files import BankFiles, Tables, described


class Rule(NamedTuple):
    """How rows are stored."""

    normalize: bool
    momentum: float
    skips: bool  # leaves out rows that are not finite in the bank's dtype, instead of raising an error


def make_store(tables: Tables, rule: Rule, files: BankFiles | None = None) -> HostStore | DeviceStore:
    """files: those that the tables are in."""
    is_queued = engine(tables.data.device).is_queued
    return DeviceStore(tables, rule) if is_queued and files is None else HostStore(tables, rule, files)


class HostStore:
    """Tables on the CPU. An update that raises an error stores nothing."""

    def __init__(self, tables: Tables, rule: Rule, files: BankFiles | None = None) -> None:
        self.tables, self.device, self.num_skipped = tables, tables.data.device, 0
        self._rule, self._files = rule, files

    def __getstate__(self) -> dict[str, Any]:
        if self._files is not None:
            self._files.refuse_copy()
        return self.__dict__

    def check(self) -> None:
        """Does nothing: errors have been raised already."""

    def require_owner(self) -> None:
        """Raises ``RuntimeError`` if this process may not write to the tables, which are in files of another one."""
        if self._files is not None:
            self._files.require_owner()

    def replaced(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which other code than :meth:`store` writes to all tables."""
        return contextlib.nullcontext() if self._files is None else self._files.replaced()

    def prepare(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns rows in the form that :meth:`store` takes. They never share memory with the tables."""
        return _apart(_as_float32(rows.detach(), self.device), self.tables)

    def store(self, ids: torch.Tensor, rows: list[torch.Tensor], step: int) -> None:
        """ids: int64 [B]; rows: [B, D] of each tower, prepared."""
        if self._rule.momentum:
            ids, rows = _keep_last(*self._drop_unstorable(ids, rows))
        error, position = self._update(ids, rows, step)
        if error > 1:
            ids, rows = self._drop_unstorable(ids, rows)
            error, position = self._update(ids, rows, step)
        if error:
            raise out_of_range("indices", 0, len(self.tables.data), int(ids[position]))

    def _update(self, ids: torch.Tensor, rows: list[torch.Tensor], step: int) -> tuple[int, int]:
        """Returns (0, -1), or the code of an error and the position of its row. Nothing is stored then."""
        self.require_owner()
        files = self._files
        return core.update_bank(
            described(self.tables, None if files is None else files.checksums),
            ids=address(ids),
            rows=address(rows[0]),
            document_rows=0 if self.tables.documents is None else address(rows[1]),
            num_rows=len(ids),
            step=step,
            momentum=self._rule.momentum,
            normalize=self._rule.normalize,
        )

    def _drop_unstorable(self, ids: torch.Tensor, rows: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Drops rows that are not finite in the bank's dtype, or raises ``ValueError`` unless the rule skips them."""
        dtype = self.tables.data.dtype
        storable = torch.ones(len(ids), dtype=torch.bool, device="cpu")
        for name, tensor in zip(("embeddings", "documents"), rows, strict=False):
            is_finite = _are_finite(tensor, torch.float32 if self._rule.normalize else dtype)
            if not self._rule.skips and not bool(is_finite.all()):
                wrong = int(torch.nonzero(~is_finite)[0])
                raise ValueError(
                    f"{name}: expected values that are finite in the bank's {dtype}, got "
                    f"{tensor[wrong].abs().max():g} for instance {int(ids[wrong])}"
                )
            storable &= is_finite
        if bool(storable.all()):
            return ids, rows
        self.num_skipped += int((~storable).sum())
        return ids[storable], [tensor[storable] for tensor in rows]


class DeviceStore:
    """Tables on a CUDA device. Updates are queued on the caller's current stream, and the host does not wait for them.

    Errors of an update stay in a log on the device until :meth:`check`. Updates may come from several streams: on the
    device, each use of the tables waits for the update before it.
    """

    def __init__(self, tables: Tables, rule: Rule) -> None:
        self._tables, self.device, self._rule = tables, tables.data.device, rule
        self._claims = torch.zeros(len(tables.data), dtype=torch.int64, device=self.device)
        self._error_log = queued_engine(self.device).new_bank_error_log()
        self._order = StreamOrder(self.device)
        self._update_number = 0
        self._is_read = True  # whether the error log has been read since the latest update
        self._num_skipped = self._num_read = 0  # rows skipped in total; as the error log said when last read

    def __getstate__(self) -> dict[str, Any]:
        """Makes the current stream wait for all updates. A copy of the tensors on this stream then has them."""
        self._order.enter()
        return {name: part for name, part in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = StreamOrder(self.device)  # after the copies

    @property
    def tables(self) -> Tables:
        """Makes the current stream wait for all updates and returns the tables."""
        self._order.enter()
        return self._tables

    @property
    def num_skipped(self) -> int:
        """Waits for the updates and raises their errors, as :meth:`check` does."""
        self.check()
        return self._num_skipped

    @num_skipped.setter
    def num_skipped(self, value: int) -> None:
        self.check()
        self._num_skipped = value

    def check(self) -> None:
        """Waits for the updates. Raises ``ValueError`` for the first one that was refused since the last call."""
        if self._is_read:
            return
        self._order.enter()
        error_log = self._error_log.tolist()
        *_, refused_step, num_skipped = error_log
        self._is_read = True
        self._num_skipped += num_skipped - self._num_read
        self._num_read = num_skipped
        message = self._message(error_log)
        if message:
            self._error_log[:-1].fill_(-1)
            self._order.leave()
            raise ValueError(f"{message}; nothing of that update (step {refused_step}) was stored")

    def _message(self, error_log: list[int]) -> str:
        return str(queued_engine(self.device).bank_message(error_log, len(self._tables.data)))

    def require_owner(self) -> None:
        """Does nothing: no other process has the tables."""

    @contextlib.contextmanager
    def replaced(self) -> Iterator[None]:
        """Returns a context in which other code than :meth:`store` writes to all tables."""
        yield
        self._order.leave()

    def prepare(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns rows in the form that :meth:`store` takes. They never share memory with the tables."""
        rows = rows.detach()
        if rows.dtype not in TORCH_DTYPES:
            rows = rows.to(torch.float32)
        return _apart(to_device_async(rows, self.device), self._tables)

    def store(self, ids: torch.Tensor, rows: list[torch.Tensor], step: int) -> None:
        """ids: int64 [B] on the device; rows: [B, D] of each tower, prepared."""
        if len(ids) == 0:
            return
        matrices = [as_matrix(tensor, "embeddings") for tensor in rows]
        self._order.enter()
        self._update_number += 1
        self._is_read = False
        layouts = [matrix.describe(torch.float32) for matrix in matrices]
        queued_engine(self.device).update_bank(
            described(self._tables),
            claims=address(self._claims),
            ids=address(ids),
            rows=BankRows(layouts[0], layouts[1] if len(layouts) == 2 else None),
            step=step,
            update_number=self._update_number,
            momentum=self._rule.momentum,
            normalize=self._rule.normalize,
            skips=self._rule.skips,
            error_log=address(self._error_log),
        )
        self._order.leave()
        for tensor in (ids, *(matrix.owner for matrix in matrices)):
            if tensor.is_cuda:  # it may come from another stream, which must not reuse its memory yet
                tensor.record_stream(torch.cuda.current_stream(self.device))


def _as_float32(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns contiguous float32 rows on the device, possibly the same ones. Ctrl-C interrupts it between parts."""
    if rows.dtype == torch.float32 and rows.device == device and rows.is_contiguous():
        return rows
    result = torch.empty(rows.shape, dtype=torch.float32, device=device)
    for target, source in zip(_parts(result), _parts(rows), strict=True):
        target.copy_(source)
    return result


def _are_finite(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns bool [N], which rows are finite in a dtype. Ctrl-C interrupts it between parts."""
    return torch.cat([part.to(dtype).isfinite().all(1) for part in _parts(rows)])


def _parts(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return rows.split(max(1, VALUES_AT_ONCE // max(1, rows.shape[1])))


def _keep_last(ids: torch.Tensor, rows: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Keeps the last of equal ids and its rows."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    if len(unique) == len(ids):
        return ids, rows
    places = torch.arange(len(ids), device=ids.device)
    last = torch.zeros_like(unique).scatter_reduce_(0, inverse, places, "amax", include_self=False)
    return unique, [tensor[last] for tensor in rows]


def _apart(rows: torch.Tensor, tables: Tables) -> torch.Tensor:
    storages = {table.untyped_storage().data_ptr() for table in (tables.data, tables.documents) if table is not None}
    return rows.clone() if rows.untyped_storage().data_ptr() in storages else rows
