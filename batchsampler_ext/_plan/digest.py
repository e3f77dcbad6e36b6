"""A digest of embeddings, so that a plan tells what it was made from."""

from __future__ import annotations

import hashlib

import torch

from .._engine.arrays import Matrix
from ..graph_builders import Progress

_ROWS_AT_ONCE = 1 << 16


def digest_of_matrix(matrix: Matrix, progress: Progress | None = None) -> str:
    """Returns the first 16 hex digits of the SHA-256 of shape, dtype and the bits of all rows.

    progress: called as ``progress(rows done, rows)``.
    """
    digest = hashlib.sha256(f"{matrix.num_rows} {matrix.dim} {matrix.dtype_code}".encode())
    for first in range(0, matrix.num_rows, _ROWS_AT_ONCE):
        ids = torch.arange(first, min(first + _ROWS_AT_ONCE, matrix.num_rows), device=matrix.device)
        digest.update(matrix.row_bits(ids).cpu().numpy().data)
        if progress is not None:
            progress(min(first + _ROWS_AT_ONCE, matrix.num_rows), matrix.num_rows)
    return digest.hexdigest()[:16]
