"""The file of a plan: safetensors, so that other programs can read it, with checksums in its metadata.

Metadata: "plan" is a JSON object with a version, the header of the plan, and dtype, shape and CRC-32 of each tensor.
"checksum" is the CRC-32 of that text. The text is checked when the file is opened, and a tensor when it is first used,
so that a large file opens at once.

Layout (safetensors): the length of the description in 8 bytes, little-endian; the description as JSON, padded with
spaces to a multiple of 8 bytes; the tensors.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from .._engine.checked_file import checksum_of_tensor as checksum
from .._engine.files import as_input, atomic_write

_VERSION = 2
_NAMES = {torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL", torch.float32: "F32"}


def write_plan(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Writes a file that appears complete or not at all. Tensors are written in place, without a copy of the data.

    tensors: contiguous, on the CPU. header: what JSON can hold.
    """
    described = {name: [*_description(tensor), checksum(tensor)] for name, tensor in tensors.items()}
    text = json.dumps({"version": _VERSION, "header": header, "tensors": described}, sort_keys=True)
    layout: dict[str, Any] = {"__metadata__": {"plan": text, "checksum": str(zlib.crc32(text.encode()))}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        layout[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    description = json.dumps(layout).encode()
    description += b" " * (-len(description) % 8)
    with atomic_write(path) as file:
        file.write(len(description).to_bytes(8, "little") + description)
        for tensor in tensors.values():
            file.write(_bytes(tensor))


class PlanFile:
    """An open file of a plan.

    Attributes:
        header: as it was written.
        checksums: name of each tensor -> CRC-32 of its data, as written.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, of another version, or no plan. The message names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = as_input(path)
        if os.path.isdir(self._path):
            raise self.error("a directory")
        with open(self._path, "rb"):  # raises OSError by name
            pass
        import safetensors  # here, because GPU checks run where it is not installed

        try:
            self._file = safetensors.safe_open(self._path, framework="pt")
        except safetensors.SafetensorError as error:
            raise self.error(f"a damaged one ({error})") from error
        metadata = self._file.metadata() or {}
        text = metadata.get("plan", "")
        if not text:
            raise self.error("another safetensors file")
        if metadata.get("checksum") != str(zlib.crc32(text.encode())):
            raise self.error("a damaged one (its description has another checksum)")
        try:
            content = json.loads(text)
            version = content["version"]
            self.header: dict[str, Any] = dict(content["header"])
            described = dict(content["tensors"])
            self.checksums: dict[str, int] = {name: value for name, (_, _, value) in described.items()}
            self._descriptions = {name: (dtype, list(shape)) for name, (dtype, shape, _) in described.items()}
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise self.error(f"one with another description ({error!r:.100})") from error
        if version != _VERSION:
            raise self.error(f"version {version!r:.20}, expected {_VERSION}")
        self._unchecked = set(self.checksums)
        if set(self._file.keys()) != self._unchecked:
            raise self.error("a damaged one (its tensors are not those described)")

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._path, self.header, self.checksums)

    def __contains__(self, name: str) -> bool:
        return name in self.checksums

    def shape(self, name: str) -> list[int]:
        return self._descriptions[name][1]

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor, which is mapped into memory. Its data are checked when they are first read."""
        tensor = self._file.get_tensor(name)
        if _description(tensor) != self._descriptions[name]:
            raise self.error(f"a damaged one ({name} has another type or shape than described)")
        if name in self._unchecked and checksum(tensor) != self.checksums[name]:
            raise self.error(f"a damaged one ({name} has another checksum)")
        self._unchecked.discard(name)
        return tensor

    def error(self, found: str) -> ValueError:
        return ValueError(f"path: expected a file written by Plan.save, got {found}: {self._path!r}")


def _reopened(path: str, header: dict[str, Any], checksums: dict[str, int]) -> PlanFile:
    """Opens the file of a plan that was pickled. The file must still be the same."""
    file = PlanFile(path)
    if (file.header, file.checksums) != (header, checksums):
        raise file.error("another plan than the one that was pickled")
    return file


def _bytes(tensor: torch.Tensor) -> memoryview | bytes:
    return tensor.numpy().data.cast("B") if tensor.numel() else b""


def _description(tensor: torch.Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype), list(tensor.shape)
