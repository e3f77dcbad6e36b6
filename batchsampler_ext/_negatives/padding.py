"""Chooses the instances that pad a ragged batch, so that each rank draws equally many."""

from __future__ import annotations

import numpy as np
import torch


def padding(
    batch: torch.Tensor,
    spare: torch.Tensor,
    ids: np.ndarray,
    max_per_batch: int,
    size: int,
    num_ranks: int,
    is_local: bool = False,
) -> torch.Tensor:
    """Returns the instances that pad a ragged batch, int64 in this order. They keep ids apart where that is possible.

    Each is the first spare instance that has an id too often in the fewest columns. Further ones follow.

    Args:
        batch: ids of the batch. Each rank draws ``size`` of them, with padding.
        spare: int64, from which to choose. They are not in the batch.
        ids: int [N, C], as in :class:`Apart`.
        is_local: ids are kept apart within the part of each rank, not in the whole batch.
    """
    members, others = batch.long().numpy(), spare.numpy()
    chosen: list[int] = []
    while len(members) < size * num_ranks and len(others):
        start = len(members) // size * size if is_local else 0
        place = int(_num_full(others, members[start:], ids, max_per_batch).argmin())
        chosen.append(int(others[place]))
        members, others = np.append(members, others[place]), np.delete(others, place)
    return torch.tensor([*chosen, *others[: size * num_ranks].tolist()], dtype=torch.int64, device="cpu")


def _num_full(candidates: np.ndarray, members: np.ndarray, ids: np.ndarray, max_per_batch: int) -> np.ndarray:
    """Returns in how many columns each candidate has an id that the members have max_per_batch times."""
    result = np.zeros(len(candidates), dtype=np.int64)
    for column in ids.T:
        values, counts = np.unique(column[members], return_counts=True)
        full = values[(counts >= max_per_batch) & (values != -1)]
        result += np.isin(column[candidates], full)
    return result
