"""The tables of a bank: in memory, or in memory-mapped files that outlive the process.

PATH holds the embeddings, PATH.documents those of the second tower, PATH.last_update the steps, and PATH.checksums a
checksum of each row (csrc/cpu/bank/bank_update.h). PATH.json is written last and describes them. Without it, the files
are incomplete or do not belong to a bank. PATH.replaced is there while a state is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch

from .._engine.arrays import TORCH_DTYPES, address
from .._engine.backend import core
from .._engine.files import as_path, atomic_write, check_output, locks_at_once, reserve
from .._engine.requests import BankTables
from .._engine.warn import warn

_FORMAT = 2
MAX_STEP = 2**62
_MAX_UNFINISHED = 256  # rows that threads of a stopped process may have been storing
_BYTES_AT_ONCE = 1 << 26  # of rows whose checksums are computed; Ctrl-C waits for these


class Tables(NamedTuple):
    data: torch.Tensor  # [N, D]
    documents: torch.Tensor | None  # [N, D], of the second tower
    last_update: torch.Tensor  # int64 [N], step of the last update; -1: no embedding


def new_tables(shape: tuple[int, int], dtype: torch.dtype, has_documents: bool, device: torch.device) -> Tables:
    """Returns tables without embeddings, in memory of ``device``."""
    data, *documents = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(1 + has_documents))
    return Tables(
        data, documents[0] if documents else None, torch.full(shape[:1], -1, dtype=torch.int64, device=device)
    )


def described(tables: Tables, checksums: torch.Tensor | None = None) -> BankTables:
    """Returns the tables as engines take them. checksums: int64 [N], of a bank in files."""
    data, documents, last_update = tables
    return BankTables(
        address(data),
        address(documents),
        TORCH_DTYPES[data.dtype],
        len(data),
        data.shape[1],
        address(last_update),
        address(checksums),
    )


class BankFiles:
    """The open files of a bank. Created if there are none.

    Rows whose checksum is wrong have no embedding, with a warning. They are damaged, or a process was stopped while it
    stored them.

    Attributes:
        tables: mapped into memory.
        checksums: int64 [N], of each row.
        path: as given.

    Raises:
        OSError: a file cannot be opened, or the disk is full.
        ValueError: the files are incomplete or of another bank, or another process has opened them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int],
        dtype: torch.dtype,
        has_documents: bool,
        normalize: bool,
    ) -> None:
        parts: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "": (shape, dtype),
            ".last_update": (shape[:1], torch.int64),
            ".checksums": (shape[:1], torch.int64),
        }
        if has_documents:
            parts[".documents"] = (shape, dtype)
        self.path = name = as_path(path)
        self._marker = f"{name}.replaced"
        check_output(name, "path")
        content = {
            "format": _FORMAT,
            "num_instances": shape[0],
            "dim": shape[1],
            "dtype": str(dtype).removeprefix("torch."),
            "has_documents": has_documents,
            "normalize": normalize,
        }
        is_first = not os.path.exists(name) and not os.path.exists(f"{name}.json")
        self.lock = _Lock.of(name, may_create=is_first)
        is_new = not os.path.exists(f"{name}.json")
        if is_new:
            found = [name + suffix for suffix in parts if os.path.exists(name + suffix)][is_first:]
            if found:
                if is_first:
                    os.remove(name)
                raise ValueError(
                    f"path: expected no files or all files of a bank, got {found} without {name}.json. If a process "
                    "was stopped while it created the bank, remove them"
                )
        else:
            _check_content(f"{name}.json", content)
        try:
            tables = {suffix: _map(name + suffix, size, kind, is_new) for suffix, (size, kind) in parts.items()}
            self.tables = Tables(tables[""], tables.get(".documents"), tables[".last_update"])
            self.checksums = tables[".checksums"]
            if is_new:
                self.tables.last_update.fill_(-1)
                first = self.checksums[:1]
                core.bank_row_checksums(described(self._rows(slice(1))), out=address(first))
                self.checksums.fill_(int(first))  # all rows are equal, and reading them all would take long
                with atomic_write(f"{name}.json") as file:
                    file.write(json.dumps(content).encode())
        except BaseException:
            for suffix in parts if is_new else ():
                with contextlib.suppress(OSError):
                    os.remove(name + suffix)
            raise
        if not is_new:
            self._repair()
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._marker)

    def refuse_copy(self) -> None:
        """Raises ``TypeError``: a copy would have other rows than the files."""
        raise TypeError(
            f"FeatureBank: expected a bank in memory to copy or pickle, got one in files at {self.path!r}. Load its "
            "state_dict() into a bank without path"
        )

    def require_owner(self) -> None:
        """Raises ``RuntimeError`` in a process that was forked from the one that has opened the files."""
        if not self.lock.is_held:
            raise RuntimeError(
                f"bank: expected changes by the process that has opened the files at {self.path!r}, got one by a fork "
                "of it. Give each process a bank with its own path"
            )

    @contextlib.contextmanager
    def replaced(self) -> Iterator[None]:
        """In this context, other code writes to all tables. If that is interrupted, rows are repaired at opening."""
        with open(self._marker, "wb"):
            yield
        self._write_checksums(self.checksums)
        os.remove(self._marker)

    def _rows(self, part: slice) -> Tables:
        return Tables(*(None if table is None else table[part] for table in self.tables))  # type: ignore

    def _write_checksums(self, out: torch.Tensor) -> None:
        data = self.tables.data
        rows_at_once = max(1, _BYTES_AT_ONCE // (data.shape[1] * data.element_size()))
        for first in range(0, len(out), rows_at_once):
            part = slice(first, first + rows_at_once)
            core.bank_row_checksums(described(self._rows(part)), out=address(out[part]))

    def _repair(self) -> None:
        """Removes the embeddings of rows with wrong checksums, unless these are most of those with one."""
        data, documents, last_update = self.tables
        expected = torch.empty_like(self.checksums)
        self._write_checksums(expected)
        is_wrong = (expected != self.checksums) | (last_update < -1) | (last_update >= MAX_STEP)
        wrong = is_wrong.nonzero()[:, 0]
        if not len(wrong):
            return
        most = max(_MAX_UNFINISHED, int((is_wrong | (last_update >= 0)).sum()) // 2)
        if len(wrong) > most and not os.path.exists(self._marker):
            raise ValueError(
                f"path: expected files whose rows agree with {self.path}.checksums, got {len(wrong)} of {len(data)} "
                "rows that do not. A file is damaged or of another bank. Remove the files to begin with an empty bank"
            )
        for table in (data, documents):
            if table is not None:
                table[wrong] = 0
        last_update[wrong] = -1
        self._write_checksums(self.checksums)
        warn(
            f"FeatureBank: {len(wrong)} of {len(data)} rows in the files at {self.path!r} have wrong checksums, the "
            f"first is row {int(wrong[0])}. They are damaged, or a process was stopped while it stored them. They "
            "count as rows without an embedding now"
        )


class _Lock:
    """Keeps other processes from opening a file, as long as it lives. This process may open the file several times."""

    _all: ClassVar[weakref.WeakValueDictionary[tuple[int, int], _Lock]] = weakref.WeakValueDictionary()  # by inode

    def __init__(self, file: int) -> None:
        self.is_held = True
        self._file = file
        self._close = weakref.finalize(self, os.close, file)

    @classmethod
    def of(cls, path: str, *, may_create: bool) -> _Lock:
        """Raises ``ValueError`` if another process has locked the file."""
        file = os.open(path, os.O_RDWR | (os.O_CREAT if may_create else 0), 0o666)
        status = os.fstat(file)
        known = cls._all.get((status.st_dev, status.st_ino))
        if known is not None:
            os.close(file)
            return known
        if not locks_at_once(file) or not _is_at(path, file):
            os.close(file)
            raise ValueError(
                f"path: expected files that no other process has open, got {path!r}, whose bank another process uses. "
                "Give each process its own path"
            )
        lock = cls._all[status.st_dev, status.st_ino] = cls(file)
        return lock

    @classmethod
    def _forget(cls) -> None:
        """In a forked process: the locks stay with the process that has opened the files, and end with it."""
        for lock in list(cls._all.values()):
            lock.is_held = False
            lock._close()
        cls._all.clear()


os.register_at_fork(after_in_child=_Lock._forget)


def _is_at(path: str, file: int) -> bool:
    """Whether a path still names an open file. Another process may have removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _check_content(path: str, expected: dict[str, Any]) -> None:
    with open(path, encoding="utf-8") as file:
        try:
            found = json.load(file)
        except (RecursionError, ValueError) as error:
            raise ValueError(
                f"path: expected the JSON description of a bank in {path!r}, got other content ({error})"
            ) from None
    for name, value in expected.items():
        if not isinstance(found, dict) or found.get(name) != value:
            got = found.get(name) if isinstance(found, dict) else found
            raise ValueError(f"path: expected files of a bank with {name} {value!r}, got {got!r} in {path!r}")


def _map(name: str, shape: tuple[int, ...], dtype: torch.dtype, is_new: bool) -> torch.Tensor:
    size = torch.Size(shape).numel()
    num_bytes = size * dtype.itemsize
    found = 0 if is_new or not os.path.exists(name) else os.path.getsize(name)
    if not is_new and found != num_bytes:
        raise ValueError(f"path: expected {num_bytes} bytes in {name!r}, got {found}")
    file = os.open(name, os.O_RDWR | (os.O_CREAT if is_new else 0), 0o666)
    try:
        if os.fstat(file).st_blocks * 512 < num_bytes:  # new, or copied with holes
            reserve(file, num_bytes, name)
    finally:
        os.close(file)
    return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
