"""A digest of embeddings, so that a plan tells what it was made from."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from .._engine.arrays import TORCH_DTYPES, Matrix
from .._engine.validate import Progress

_ROWS_AT_ONCE = 1 << 16
_EXPONENTS = {torch.float32: 0x7F800000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}  # all ones: NaN or inf


def digest_of_matrix(matrix: Matrix, name: str, progress: Progress | None = None) -> str:
    """Returns the first 16 hex digits of the SHA-256 of shape, dtype and the bits of all rows.

    name: of the argument, for errors. progress: called as ``progress(rows done, rows)``.

    Raises:
        ValueError: a value is NaN or inf.
    """
    exponent = next(_EXPONENTS[dtype] for dtype, code in TORCH_DTYPES.items() if code == matrix.dtype_code)
    digest = hashlib.sha256(f"{matrix.num_rows} {matrix.dim} {matrix.dtype_code}".encode())
    for first in range(0, matrix.num_rows, _ROWS_AT_ONCE):
        ids = torch.arange(first, min(first + _ROWS_AT_ONCE, matrix.num_rows), device=matrix.device)
        bits = matrix.row_bits(ids).cpu().numpy()
        wrong = (bits & exponent) == exponent
        if wrong.any():
            row, column = (int(place) for place in np.argwhere(wrong)[0])
            raise ValueError(f"{name}[{first + row}, {column}]: expected finite values, got nan or inf")
        digest.update(bits.data)
        if progress is not None:
            progress(min(first + _ROWS_AT_ONCE, matrix.num_rows), matrix.num_rows)
    return digest.hexdigest()[:16]
