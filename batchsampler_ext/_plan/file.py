"""The file of a plan: safetensors, so that other programs can read it, with checksums in its metadata.

Metadata: "plan" is a JSON object with a version, the header of the plan, and dtype, shape and CRC-32 of each tensor.
"checksum" is the CRC-32 of that text. The text is checked when the file is opened, and a tensor when it is first used,
so that a large file opens at once.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import safetensors
import safetensors.torch
import torch

from .._engine.files import atomic_write

_VERSION = 1


def write_plan(path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    """tensors: contiguous, on the CPU. header: what JSON can hold."""
    described = {name: [*_description(tensor), _checksum(tensor)] for name, tensor in tensors.items()}
    text = json.dumps({"version": _VERSION, "header": header, "tensors": described}, sort_keys=True)
    metadata = {"plan": text, "checksum": str(zlib.crc32(text.encode()))}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))


class PlanFile:
    """An open file of a plan.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, of another version, or no plan.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        with open(path, "rb"):  # raises OSError by name
            pass
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except safetensors.SafetensorError as error:
            raise self._error(f"a damaged one ({error})") from error
        text = metadata.get("plan", "")
        if not text:
            raise self._error("another safetensors file")
        if metadata.get("checksum") != str(zlib.crc32(text.encode())):
            raise self._error("a damaged one (its description has another checksum)")
        content = json.loads(text)
        if content["version"] != _VERSION:
            raise self._error(f"version {content['version']}, expected {_VERSION}")
        self.header: dict[str, Any] = content["header"]
        self._checksums = {name: checksum for name, (_, _, checksum) in content["tensors"].items()}
        found = {name: _description(tensor) for name, tensor in self._tensors.items()}
        if found != {name: (dtype, shape) for name, (dtype, shape, _) in content["tensors"].items()}:
            raise self._error("a damaged one (its tensors are not those described)")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor, which is mapped into memory. It is checked when it is first read."""
        tensor = self._tensors[name]
        if name in self._checksums and _checksum(tensor) != self._checksums.pop(name):
            raise self._error(f"a damaged one ({name} has another checksum)")
        return tensor

    def _error(self, found: str) -> ValueError:
        return ValueError(f"path: expected a file written by Plan.save, got {found}: {self._path!r}")


def _description(tensor: torch.Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype), list(tensor.shape)


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.numpy().data.cast("B")) if tensor.numel() else 0
