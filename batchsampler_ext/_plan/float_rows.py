"""Rows of embeddings for libraries that want float32."""

from __future__ import annotations

import numpy as np
import torch

from .._engine.arrays import TORCH_DTYPES, Matrix


def float_rows(matrix: Matrix, ids: torch.Tensor, metric: str) -> np.ndarray:
    """Returns a float32 copy of rows, [len(ids), D] on the CPU. For cosine, they have length one or are zero.

    ids: int64 on the CPU.
    """
    dtype = next(dtype for dtype, code in TORCH_DTYPES.items() if code == matrix.dtype_code)
    rows: np.ndarray = matrix.row_bits(ids.to(matrix.device)).view(dtype).float().cpu().numpy()
    if metric == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        rows /= np.where(norms > 0, norms, 1)[:, None]
    return rows
