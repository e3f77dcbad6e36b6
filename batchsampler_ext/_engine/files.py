"""Files that appear complete or not at all, space on the disk, and locks of files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import math
import os
import re
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from .validate import shown

__all__ = [
    "as_input",
    "as_path",
    "atomic_directory",
    "atomic_write",
    "check_output",
    "locks_at_once",
    "npy_content",
    "refuse_pipe",
    "reserve",
    "stored_members",
]

_CHUNK = 1 << 20
_NODE = f"{zlib.crc32(os.uname().nodename.encode()):08x}"  # of this machine, in the names of half written files


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields a binary file to write. It replaces ``path`` if the block ends without error, and is removed otherwise.

    The data are on the disk before the name is. A new file has the permissions of any new file (those of ``tempfile``
    are private), another one keeps those of the file that it replaces. A symbolic link at ``path`` stays one. Files
    that a stopped process has left half written are removed.

    Raises:
        OSError: the disk is full, also if the writer in the block has hidden that behind another error.
    """
    path = as_path(path)
    check_output(path, "path")
    target = Path(os.path.realpath(path))
    _remove_abandoned(target)
    partial, raw = _new_partial(target)
    file = io.BufferedWriter(raw)
    try:
        try:
            _copy_permissions(target, raw.fileno())
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(raw.fileno())
            os.replace(partial, target)  # before it is closed, because the lock ends then
        finally:
            file.close()
        _sync(target.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if raw.error is not None and isinstance(error, Exception) and not isinstance(error, OSError):
            raise raw.error from error
        raise


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a new folder to fill. It becomes ``path`` if the block ends without error, and is removed otherwise."""
    target = Path(path)
    _remove_abandoned(target)
    partial = _partial_name(target)
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    try:
        locks_at_once(lock)
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        os.rename(partial, target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def as_path(value: Any) -> str:
    """Returns a path that a file can have.

    Raises:
        TypeError, ValueError: not a path, such as the number of an open file, or one that the system cannot have.
    """
    try:
        path = os.fsdecode(os.fspath(value))
        os.fsencode(path)
        if "\0" in path:
            raise ValueError("it has a null byte")
    except TypeError:
        raise TypeError(f"path: expected a path, got {shown(value)} of type {type(value).__name__}") from None
    except ValueError as error:
        raise ValueError(f"path: expected a path, got {value!a:.200} ({error})") from None
    return path


def as_input(value: Any) -> str:
    """Returns the path of a file to read. The file need not exist.

    Raises:
        TypeError, ValueError: not a path, or that of a device or pipe.
    """
    path = as_path(value)
    refuse_pipe(path, "path")
    return path


def refuse_pipe(path: str, name: str) -> None:
    """Raises ``ValueError`` for a pipe, which would be waited for, and a device, which may have no end."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise ValueError(f"{name}: expected a file, got a device or pipe: {path!r}")


def check_output(path: str | os.PathLike[str], name: str) -> None:
    """Raises ``ValueError`` if ``path`` cannot become a file. A device must not be replaced, not even by root."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{name}: expected a file, got {os.fspath(path)!r}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: expected a path in a writable directory, got {os.fspath(path)!r}")


def reserve(file: int, num_bytes: int, path: str) -> None:
    """Makes an open file as long, and takes its space from the disk now. New bytes are zeros.

    A mapped file without space would end the process when the disk is full.

    Raises:
        OSError: the disk has less space, or the user may not use as much.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, num_bytes)
            return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # file systems that cannot do it
            raise OSError(error.errno, error.strerror, path) from None
    try:
        for first in range(os.fstat(file).st_size, num_bytes, _CHUNK):
            zeros = memoryview(bytes(min(_CHUNK, num_bytes - first)))
            while zeros:
                num_written = os.pwrite(file, zeros, first)
                first, zeros = first + num_written, zeros[num_written:]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def locks_at_once(file: int) -> bool:
    """Locks an open file or folder until it is closed. False: another process, or another open file, has the lock.

    Where the file system has no locks, returns True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
    return True


def stored_members(archive: zipfile.ZipFile, num_bytes: int) -> list[zipfile.ZipInfo]:
    """Returns the members of an archive of ``num_bytes``, before anything is allocated for them.

    Raises ``ValueError`` if they claim more than the archive has, also by using the same bytes several times, or if one
    is compressed.
    """
    members = archive.infolist()
    for member in members:
        end = member.header_offset + member.file_size
        if member.compress_type != zipfile.ZIP_STORED or end > num_bytes or member.header_offset < 0:
            raise ValueError(f"its member {member.filename!r:.50} is longer than the file, or compressed")
    if sum(member.file_size for member in members) > num_bytes:
        raise ValueError("its members together are longer than the file")
    return members


def npy_content(file: Any, num_bytes: int) -> None:
    """Raises ``ValueError`` unless an open .npy file of ``num_bytes`` has the data that its header claims.

    numpy allocates what is claimed before it reads.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected version 1.0 or 2.0 of .npy, got {version}")
    start = file.tell()
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > num_bytes:
        raise ValueError(f"it claims a header of {length} bytes and has {num_bytes}")
    file.seek(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    claimed = file.tell() + dtype.itemsize * math.prod(shape)
    if not dtype.hasobject and claimed > num_bytes:
        raise ValueError(f"it claims {claimed} bytes and has {num_bytes}")


class _RawFile(io.FileIO):
    """Remembers the error of a failed write, because writers such as that of torch raise another one."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _partial_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_NODE}{secrets.token_hex(4)}.tmp")


def _new_partial(target: Path) -> tuple[Path, _RawFile]:
    """Creates a locked file, so that others see that somebody writes it."""
    while True:
        partial = _partial_name(target)
        file = _RawFile(os.fspath(partial), "xb")
        if locks_at_once(file.fileno()) and partial.exists():  # some file systems count no links
            return partial, file
        file.close()  # another process has just taken it for abandoned


def _remove_abandoned(target: Path) -> None:
    """Removes what stopped processes have left of this file or folder: what has its partial names and no lock.

    What other machines write stays, because many file systems show locks only to the machine that has them.
    """
    names = re.compile(re.escape(f".{target.name}.{_NODE}") + r"[0-9a-f]{8}\.tmp")
    try:
        all_names = os.listdir(target.parent)
    except PermissionError:  # one may write in some folders that one may not list
        return
    for found in filter(names.fullmatch, all_names):
        path = target.with_name(found)
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where there are no locks, too
                if stat.S_ISDIR(os.fstat(file).st_mode):
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(file)


def _copy_permissions(target: Path, file: int) -> None:
    """Gives an open file the permissions of an existing one, and its owner and group if this process may do that."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return
    new = os.fstat(file)
    for owner in (old.st_uid, -1):  # members of a group may set the group only
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            with contextlib.suppress(OSError):
                os.fchown(file, owner, old.st_gid)
                break
    if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):  # some file systems cannot change them
        os.fchmod(file, stat.S_IMODE(old.st_mode))


def _sync(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk. Not every folder can be opened for that."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
