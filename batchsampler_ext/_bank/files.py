"""The tables of a bank: in memory, or in memory-mapped files that outlive the process.

PATH holds the embeddings, PATH.documents those of the second tower, PATH.last_update the steps. PATH.json is written
last and describes them. Without it, the files are incomplete or do not belong to a bank.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import torch

from .._engine.files import atomic_write, check_output


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


def open_tables(
    path: str | os.PathLike[str], shape: tuple[int, int], dtype: torch.dtype, has_documents: bool, normalize: bool
) -> Tables:
    """Returns the tables in the files at ``path``. Creates the files if there are none."""
    parts: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "": (shape, dtype),
        ".last_update": (shape[:1], torch.int64),
    }
    if has_documents:
        parts[".documents"] = (shape, dtype)
    name = os.fspath(path)
    check_output(name, "path")
    content = {
        "format": 1,
        "num_instances": shape[0],
        "dim": shape[1],
        "dtype": str(dtype).removeprefix("torch."),
        "has_documents": has_documents,
        "normalize": normalize,
    }
    is_new = not os.path.exists(f"{name}.json")
    if is_new:
        found = [name + suffix for suffix in parts if os.path.exists(name + suffix)]
        if found:
            raise ValueError(f"path: expected no files or all files of a bank, got {found} without {name}.json")
    else:
        _check_content(f"{name}.json", content)
    tables = {suffix: _map(name + suffix, size, kind, is_new) for suffix, (size, kind) in parts.items()}
    if is_new:
        tables[".last_update"].fill_(-1)
        with atomic_write(f"{name}.json") as file:
            file.write(json.dumps(content).encode())
    return Tables(tables[""], tables.get(".documents"), tables[".last_update"])


def _check_content(path: str, expected: dict[str, Any]) -> None:
    with open(path, encoding="utf-8") as file:
        try:
            found = json.load(file)
        except ValueError as error:
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
    return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)  # a new file is zeros, and sparse
