"""Which GPU architectures a built module holds code for, read from the module itself."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = 0xBA55ED50  # of a fat binary, as nvcc embeds it
_HEADER, _ENTRY = "<IHHQ", "<HHIQIIHHI"  # (magic, version, header size, size); (kind, -, header size, size, ..., arch)
_KIND_PTX, _KIND_NATIVE = 1, 2


def architectures(module: str | os.PathLike[str]) -> list[str]:
    """Sorted: "sm_90" is machine code, "compute_120" is PTX, which newer GPUs compile when the module is loaded."""
    content = Path(module).read_bytes()
    found = {entry for start in _fat_binaries(content) for entry in _entries(content, start)}
    return [name for _, name in sorted(found)]


def _fat_binaries(content: bytes) -> Iterator[int]:
    magic = struct.pack("<I", _MAGIC)
    start = content.find(magic)
    while start >= 0:
        yield start
        start = content.find(magic, start + len(magic))


def _entries(content: bytes, start: int) -> Iterator[tuple[int, str]]:
    """(architecture, its name) of each piece of code; nothing where the magic number was there by chance."""
    if start + struct.calcsize(_HEADER) > len(content):
        return
    _, version, header_size, size = struct.unpack_from(_HEADER, content, start)
    position, end = start + header_size, start + header_size + size
    if version != 1 or header_size != struct.calcsize(_HEADER) or end > len(content):
        return
    while position + struct.calcsize(_ENTRY) <= end:
        kind, _, entry_header_size, entry_size, *_, architecture = struct.unpack_from(_ENTRY, content, position)
        if kind in (_KIND_PTX, _KIND_NATIVE):
            yield architecture, f"{'sm' if kind == _KIND_NATIVE else 'compute'}_{architecture}"
        if entry_header_size + entry_size == 0:
            return
        position += entry_header_size + entry_size
