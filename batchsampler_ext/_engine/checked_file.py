"""Files of torch.save with a checksum: what is loaded is what was saved, or a ``ValueError``."""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

import numpy as np
import torch

from .files import atomic_write, stored_members

__all__ = ["checksum_of_tensor", "load_checked", "record_sizes", "save_checked"]

_VERSION = 1
_KEYS = {"version", "content", "checksum"}
_GLOBALS = re.compile(r"collections OrderedDict|torch._utils _rebuild_tensor_v2|torch \w+Storage")


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
            sizes, max_parts = record_sizes(file, _GLOBALS)
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch and zipfile raise many types for damaged files
            raise ValueError(f"a damaged file or another one ({error!s:.200})") from error
    if not isinstance(saved, dict) or saved.keys() != _KEYS or saved["version"] != _VERSION:
        raise ValueError(f"no file of version {_VERSION} with a checksum; it may be of an older version")
    try:
        _require_few_parts(saved, max_parts)
        storages = {}
        for part in _tensors(saved):
            storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
            if part.nbytes > part.untyped_storage().nbytes():  # it would take more memory than the file has
                raise ValueError("a tensor that uses its data several times")
        if sorted(storages.values()) != sizes:
            raise ValueError("tensors of other sizes than its data")
        is_equal = _checksum(saved["content"]) == saved["checksum"]
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"a damaged file ({error})") from error
    if not is_equal:
        raise ValueError("a damaged file (its content has another checksum)")
    return saved["content"]


def checksum_of_tensor(tensor: torch.Tensor) -> int:
    """Returns the CRC-32 of the data of a tensor on the CPU."""
    flat = tensor.detach().reshape(-1)
    if flat.stride() != (1,):  # also of a single element, which counts as contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if len(flat) else 0


def record_sizes(file: BinaryIO, allowed: re.Pattern[str]) -> tuple[list[int], int]:
    """Returns the sizes of the storages in an archive of torch.save, ascending, without those that are empty.

    Also returns the length of the pickle, which has at least a byte for each part of the content.

    Raises ``ValueError`` if they exceed the file, and if a pickle names other functions or types than the pattern
    allows, such as a bytearray, which may have any length. So nothing is allocated for what is not there.
    """
    if file.read(4) != b"PK\3\4":  # torch would take it for its old format, which takes the memory that it claims
        raise ValueError("no archive of torch 1.6 or later")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = stored_members(archive, os.fstat(file.fileno()).st_size)
        pickles = [member for member in members if ".pkl" in member.filename.lower()]
        for member in pickles:
            del member.CRC  # which is wrong after torch.serialization.set_crc32_options(False)
            _require_names(io.BytesIO(archive.read(member)), allowed)
    file.seek(0)
    sizes = sorted(member.file_size for member in members if "/data/" in member.filename and member.file_size)
    return sizes, sum(member.file_size for member in pickles)


def _require_names(file: IO[bytes], allowed: re.Pattern[str]) -> None:
    """Reads a pickle from the file, without loading it.

    Raises ``ValueError`` if it names other functions or types, such as a bytearray, which may have any length.

    Args:
        allowed: pattern of "module name".
    """
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not allowed.fullmatch(str(argument)):
            raise ValueError(f"it has an object of another type, {argument!s:.100}")


def _require_few_parts(content: Any, most: int) -> None:
    """Raises ``ValueError`` for lists that contain one another so often that reading all would take forever."""
    num_parts, pending = 0, [content]
    while pending:
        part = pending.pop()
        if isinstance(part, (dict, list, tuple)):
            num_parts += len(part) + 1
            if num_parts > most:
                raise ValueError("lists that contain one another")
            pending.extend(part.values() if isinstance(part, dict) else part)


def _on_host(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        content = content.detach().cpu()
        return content.contiguous() if content.nbytes > content.untyped_storage().nbytes() else content
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
