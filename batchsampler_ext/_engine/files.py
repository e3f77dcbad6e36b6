"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_write", "check_output"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields a binary file to write. It replaces ``path`` if the block ends without error, and is removed otherwise.

    Permissions are those of any new file (those of ``tempfile`` are private). A symbolic link at ``path`` stays one.
    """
    check_output(path, "path")
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    file = open(partial, "xb")  # noqa: SIM115 (only what this call created may be removed)
    try:
        with file:
            yield file
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_output(path: str | os.PathLike[str], name: str) -> None:
    """Raises ``ValueError`` if ``path`` cannot become a file. A device must not be replaced, not even by root."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{name}: expected a file, got {os.fspath(path)!r}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: expected a path in a writable directory, got {os.fspath(path)!r}")
