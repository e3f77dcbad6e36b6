"""Chooses the instances that pad a ragged batch, so that each rank draws equally many."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch


class Padding(NamedTuple):
    """instances: int64, the chosen ones in order, then others. num_met: how often a chosen one has an id too often."""

    instances: torch.Tensor
    num_met: int


def padding(
    batch: torch.Tensor,
    spare: torch.Tensor,
    ids: np.ndarray,
    max_per_batch: int,
    size: int,
    num_ranks: int,
    is_local: bool = False,
) -> Padding:
    """Returns the instances that pad a ragged batch. They keep ids apart where that is possible.

    Each is the first spare instance that has an id too often in the fewest columns.

    Args:
        batch: ids of the batch. Each rank draws ``size`` of them, with padding.
        spare: int64, from which to choose. They are not in the batch.
        ids: int [N, C], as in :class:`Apart`.
        is_local: ids are kept apart within the part of each rank, not in the whole batch.
    """
    members, others = batch.long().numpy(), spare.numpy()
    chosen, num_met = [], 0
    while len(members) < size * num_ranks and len(others):
        start = len(members) // size * size if is_local else 0
        num_full = _num_full(others, members[start:], ids, max_per_batch)
        place = int(num_full.argmin())
        num_met += int(num_full[place])
        chosen.append(int(others[place]))
        members, others = np.append(members, others[place]), np.delete(others, place)
    found = torch.tensor([*chosen, *others[: size * num_ranks].tolist()], dtype=torch.int64, device="cpu")
    return Padding(found, num_met)


def _num_full(candidates: np.ndarray, members: np.ndarray, ids: np.ndarray, max_per_batch: int) -> np.ndarray:
    """Returns in how many columns each candidate has an id that the members have max_per_batch times."""
    result = np.zeros(len(candidates), dtype=np.int64)
    for column in ids.T:
        values, counts = np.unique(column[members], return_counts=True)
        full = values[(counts >= max_per_batch) & (values != -1)]
        result += np.isin(column[candidates], full)
    return result
