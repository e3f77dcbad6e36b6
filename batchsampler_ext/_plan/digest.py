"""A digest of embeddings, so that a plan tells what it was made from."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from .._engine.arrays import TORCH_DTYPES, Matrix
from .._engine.validate import Progress

_ROWS_AT_ONCE = 1 << 16
_MIN_NORM, _MAX_NORM = 2.0**-63, 2.0**63
_EXPONENTS = {torch.float32: 0x7F800000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}  # all ones: NaN or inf


def digest_of_matrix(matrix: Matrix, name: str, progress: Progress | None = None, *, metric: str | None = None) -> str:
    """Returns the first 16 hex digits of the SHA-256 of shape, dtype and the bits of all rows.

    name: of the argument, for errors. progress: called as ``progress(rows done, rows)``.

    Raises:
        ValueError: a value is NaN or inf; a row that ``metric`` cannot score.
    """
    dtype = next(dtype for dtype, code in TORCH_DTYPES.items() if code == matrix.dtype_code)
    exponent = _EXPONENTS[dtype]
    digest = hashlib.sha256(f"{matrix.num_rows} {matrix.dim} {matrix.dtype_code}".encode())
    for first in range(0, matrix.num_rows, _ROWS_AT_ONCE):
        ids = torch.arange(first, min(first + _ROWS_AT_ONCE, matrix.num_rows), device=matrix.device)
        bits = matrix.row_bits(ids).cpu().numpy()
        wrong = (bits & exponent) == exponent
        if wrong.any():
            row, column = (int(place) for place in np.argwhere(wrong)[0])
            raise ValueError(f"{name}[{first + row}, {column}]: expected finite values, got nan or inf")
        if metric == "cosine":
            _require_norms(torch.from_numpy(bits).view(dtype), name, first)
        digest.update(bits.data)
        if progress is not None:
            progress(min(first + _ROWS_AT_ONCE, matrix.num_rows), matrix.num_rows)
    return digest.hexdigest()[:16]


def _require_norms(rows: torch.Tensor, name: str, first: int) -> None:
    """Raises the error of engines for rows without accurate cosines (csrc/common/score.h). first: number of rows[0]."""
    norms = torch.linalg.vector_norm(rows.float(), dim=1)
    suspicious = (~((norms > _MIN_NORM) & (norms < _MAX_NORM))).nonzero()[:, 0]
    exact = torch.linalg.vector_norm(rows[suspicious].double(), dim=1)
    wrong = suspicious[(exact > 0) & ~((exact >= _MIN_NORM) & (exact <= _MAX_NORM))]
    if len(wrong):
        norm = float(torch.linalg.vector_norm(rows[wrong[0]].double()))
        raise ValueError(
            f"{name}[{first + int(wrong[0])}]: expected zeros or a Euclidean norm from 2**-63 to 2**63 (1.1e-19 to "
            f"9.2e+18) for metric 'cosine', got {norm:.3g}"
        )
