"""Small pieces that several parts of composing share: lengths of batches, and rows of a graph that lose edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_GATHERED_AT_ONCE = 1 << 21


def sizes_of(num_members: int, batch_size: int, tail_sizes: Sequence[int] | None = None) -> np.ndarray:
    """Returns the lengths of batches that are full, but for the last ones. int64 [number of batches].

    tail_sizes: lengths of these, shorter than batch_size. None: the last batch has what is left.
    """
    if tail_sizes is None:
        tail = num_members % batch_size
        tail_sizes = [tail] if tail else []
    num_full = (num_members - sum(tail_sizes)) // batch_size
    full = np.full(num_full, min(batch_size, num_members), np.int64)  # the size may be beyond int64: of many ranks
    return np.concatenate([full, np.array(tail_sizes, np.int64)])


def gathered(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Returns ``values[order]`` as int32. Some at a time, because Ctrl-C is answered between calls of torch."""
    result = torch.empty(len(order), dtype=torch.int32, device=values.device)
    for first in range(0, len(order), _GATHERED_AT_ONCE):
        part = slice(first, first + _GATHERED_AT_ONCE)
        result[part] = values[order[part]]
    return result


def kept_first(table: torch.Tensor, keeps: torch.Tensor, order: torch.Tensor, fill: float) -> torch.Tensor:
    """Returns each row's entries that are kept, in their order, then ``fill``. order: :func:`order_of_kept`."""
    return torch.where(keeps, table, fill).gather(1, order)


def order_of_kept(keeps: torch.Tensor) -> torch.Tensor:
    """Returns int64 [R, K], for each row the places of what is kept, then the others. keeps: bool [R, K]."""
    return (~keeps).to(torch.int8).argsort(dim=1, stable=True)
