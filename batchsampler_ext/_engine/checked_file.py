"""Files of torch.save with a checksum: what is loaded is what was saved, or a ``ValueError``."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .files import atomic_write, stored_members

__all__ = ["checksum_of_tensor", "load_checked", "save_checked"]

_VERSION = 1
_KEYS = {"version", "content", "checksum"}


def save_checked(path: str | os.PathLike[str], content: Any) -> None:
    """Writes dicts, lists and tuples of tensors, numbers, strings, bools and None. They appear complete or not at all.

    Tensors are read as CPU tensors, and numbers of NumPy as those of Python.
    """
    content = _on_host(content)
    with atomic_write(path) as file:
        torch.save({"version": _VERSION, "content": content, "checksum": _checksum(content)}, file)


def load_checked(path: str | os.PathLike[str]) -> Any:
    """Reads what :func:`save_checked` has written, without unpickling arbitrary objects.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, or was not written by :func:`save_checked`. The message begins with what is wrong.
    """
    with open(path, "rb") as file:
        try:
            sizes = _record_sizes(file)
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch and zipfile raise many types for damaged files
            raise ValueError(f"a damaged file or another one ({error!s:.200})") from error
    if not isinstance(saved, dict) or saved.keys() != _KEYS or saved["version"] != _VERSION:
        raise ValueError(f"no file of version {_VERSION} with a checksum; it may be of an older version")
    try:
        storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in _tensors(saved)}
        if sorted(storages.values()) != sizes:
            raise ValueError("tensors of other sizes than its data")
        is_equal = _checksum(saved["content"]) == saved["checksum"]
    except (TypeError, ValueError) as error:
        raise ValueError(f"a damaged file ({error})") from error
    if not is_equal:
        raise ValueError("a damaged file (its content has another checksum)")
    return saved["content"]


def checksum_of_tensor(tensor: torch.Tensor) -> int:
    """Returns the CRC-32 of the data of a tensor on the CPU."""
    flat = tensor.detach().contiguous().reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if len(flat) else 0


def _record_sizes(file: Any) -> list[int]:
    """Returns the sizes of the storages in a file of torch.save, ascending, without those that are empty.

    Raises ``ValueError`` if they exceed the file, so that nothing is allocated for what is not there.
    """
    with zipfile.ZipFile(file) as archive:
        members = stored_members(archive, os.fstat(file.fileno()).st_size)
    file.seek(0)
    return sorted(member.file_size for member in members if "/data/" in member.filename and member.file_size)


def _on_host(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        return content.cpu()
    if isinstance(content, np.generic):  # torch.load reads none
        return content.item()
    if isinstance(content, dict):
        return {name: _on_host(part) for name, part in content.items()}
    return type(content)(map(_on_host, content)) if isinstance(content, (list, tuple)) else content


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        if content.untyped_storage().nbytes():
            yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)


def _checksum(content: Any) -> int:
    """Returns the CRC-32 of a text that tells one content from another."""
    return zlib.crc32(repr(_described(content)).encode())


def _described(content: Any) -> Any:
    """Returns the content with a description in the place of each tensor."""
    if isinstance(content, torch.Tensor):
        return str(content.dtype), list(content.shape), checksum_of_tensor(content)
    if isinstance(content, dict):
        return {_described(name): _described(part) for name, part in content.items()}
    if isinstance(content, (list, tuple)):
        return list(map(_described, content))
    if content is None or isinstance(content, (bool, int, float, str)):
        return content
    raise TypeError(f"expected tensors, numbers and strings, got {type(content).__name__}")
