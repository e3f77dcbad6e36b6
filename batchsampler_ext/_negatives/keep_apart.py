"""Repairs batches in which instances meet that must not, by swaps between batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .._engine.arrays import address
from .._engine.backend import core
from .._engine.random import Stream, derived_seed
from .._engine.requests import KeepApartRequest


class Apart(NamedTuple):
    """What may not meet in a batch.

    ids: int64 [N, C] array. Of each column, a batch holds at most max_per_batch instances with equal id; -1 is no id.
    positives: int64 [P, 2] array of pairs that are kept apart where that is possible.
    """

    ids: np.ndarray
    max_per_batch: int
    positives: np.ndarray

    @property
    def is_empty(self) -> bool:
        return self.ids.shape[1] == 0 and len(self.positives) == 0


class Repaired(NamedTuple):
    """Batches after the repair, and what it took."""

    members: torch.Tensor  # int32 [L]
    num_moved: int  # instances that are in another batch than before
    num_met: int  # pairs of ``positives`` in one batch; a pair that is given twice counts twice


def keep_apart(
    members: torch.Tensor,
    sizes: np.ndarray,
    apart: Apart,
    neighbors: torch.Tensor | None,
    *,
    seed: int,
    epoch: int,
    part: int = 0,
    what: str = "batches",
) -> Repaired:
    """Returns the batches with instances swapped between them, so that they keep ``apart``. Sizes stay as they are.

    Swaps are among the batches given. To keep sources apart, call this once for the batches of each source.

    Args:
        members: int32 [L] on the CPU, distinct instances, one batch after the other.
        sizes: int64 [number of batches], lengths of the batches. Their sum is L.
        apart: ids and pairs of all N instances.
        neighbors: int32 [N, K] on the CPU, edges that the swaps should keep inside batches, or None.
        seed, epoch, part: name the random choices. part: number of the call in this epoch, 0 to 2**32 - 1.
        what: names the batches in errors.

    Raises:
        ValueError: an id is on more instances than the batches can hold, or no way was found to keep all ids apart.

    Determinism: a function of the arguments. :mod:`batchsampler_ext.reference.keep_apart` defines it.
    """
    ids = apart.ids[members.numpy()]
    require_room(ids, sizes, apart.max_per_batch, what)
    codes = codes_of_repeated(ids, apart.max_per_batch)
    num_codes = int(codes.max(initial=-1)) + 1
    offsets, partners = partners_of(apart.positives, len(apart.ids))
    result = members.clone()
    if len(members) == 0 or (num_codes == 0 and len(partners) == 0):
        return Repaired(result, 0, 0)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    request = KeepApartRequest(
        members=address(result),
        num_members=len(result),
        starts=starts.ctypes.data,
        num_batches=len(sizes),
        codes=codes.ctypes.data,
        num_columns=codes.shape[1],
        num_codes=num_codes,
        max_per_batch=apart.max_per_batch,
        partner_offsets=offsets.ctypes.data,
        partners=partners.ctypes.data,
        neighbors=address(neighbors),
        num_neighbors=0 if neighbors is None else neighbors.shape[1],
        num_instances=len(apart.ids),
        key=derived_seed(seed, Stream.KEEP_APART, part, epoch),
    )
    num_left, num_met = core.keep_apart(request)
    if num_left:
        proof = (
            "no assignment to batches of these lengths exists"
            if codes.shape[1] == 1
            else "each id fits by its count, but no way was found to place all columns together"
        )
        raise ValueError(
            f"unique: expected ids that can be kept apart, got ids of which {num_left} instances could not be placed "
            f"in the {len(sizes)} {what} of epoch {epoch} with max_per_batch {apart.max_per_batch} ({proof})"
        )
    batch_before = np.empty(len(apart.ids), np.int32)
    batch_of_position = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    batch_before[members.numpy()] = batch_of_position
    return Repaired(result, int((batch_before[result.numpy()] != batch_of_position).sum()), num_met)


class Repairs:
    """Repairs the batches of epochs, and counts what that takes.

    Attributes:
        num_moved: of each epoch, instances that are in another batch than before.
        num_met: of each epoch, pairs of ``positives`` in one batch.
    """

    def __init__(
        self, apart: Apart, neighbors: torch.Tensor | None, seed: int, sources: Sequence[int] | None = None
    ) -> None:
        """neighbors, seed: as in :func:`keep_apart`. sources: all, ascending, for errors. None: there are none."""
        self._apart, self._neighbors, self._seed, self._sources = apart, neighbors, seed, sources
        self.num_moved: list[int] = []
        self.num_met: list[int] = []

    def of_epoch(self, epoch: int) -> Callable[[torch.Tensor, np.ndarray, int], torch.Tensor]:
        """Returns ``repair(members, sizes, part)``, which returns the batches of a part of the epoch after swaps.

        part: 0, or 1 + the number of the source that the batches are of. Epochs are repaired in ascending order.
        """
        self.num_moved.append(0)
        self.num_met.append(0)

        def repair(members: torch.Tensor, sizes: np.ndarray, part: int) -> torch.Tensor:
            if self._apart.is_empty:
                return members
            what = "batches"
            if self._sources is not None:
                what += f" of source {self._sources[part - 1]}" if part else " of several sources"
            result = keep_apart(
                members, sizes, self._apart, self._neighbors, seed=self._seed, epoch=epoch, part=part, what=what
            )
            self.num_moved[-1] += result.num_moved
            self.num_met[-1] += result.num_met
            return result.members

        return repair


def require_room(ids: np.ndarray, sizes: np.ndarray, max_per_batch: int, what: str = "batches") -> None:
    """Raises ``ValueError`` if an id is on more instances than batches of these sizes may hold. ids: int64 [L, C]."""
    room = int(np.minimum(sizes, max_per_batch).sum())
    for column in range(ids.shape[1]):
        values, counts = np.unique(ids[:, column], return_counts=True)
        counts[values == -1] = 0
        most = int(counts.argmax()) if len(counts) else 0
        if len(counts) and counts[most] > room:
            raise ValueError(
                f"unique: expected each id on at most {room} instances ({len(sizes)} {what}, "
                f"max_per_batch {max_per_batch}), got id {values[most]} of column {column} on {counts[most]}"
            )


def require_assignment(ids: np.ndarray, sizes: np.ndarray, max_per_batch: int) -> None:
    """Raises ``ValueError`` if no assignment to batches of these sizes exists for some column. ids: int64 [L, C].

    L is the sum of the sizes. By the theorem of Gale and Ryser, an assignment for one column exists if and only if, for
    each k, the k largest batches have at most sum over ids of min(instances with the id, k * max_per_batch) places.
    """
    places = np.cumsum(-np.sort(-sizes))
    for column in range(ids.shape[1]):
        values, counts = np.unique(ids[:, column], return_counts=True)
        num_without = int(counts[values == -1].sum())
        counts = np.sort(counts[values != -1])
        limits = np.arange(1, len(sizes) + 1, dtype=np.int64) * max_per_batch
        num_below = counts.searchsorted(limits)
        sums = np.concatenate([[0], np.cumsum(counts)])
        usable = sums[num_below] + (len(counts) - num_below) * limits + num_without
        if (usable < places).any():
            k = int((usable < places).argmax())
            raise ValueError(
                f"unique: expected ids that can be kept apart, got ids of column {column} of which the {k + 1} largest "
                f"of {len(sizes)} batches can hold {usable[k]} instances and must hold {places[k]}, with max_per_batch "
                f"{max_per_batch} (no assignment to batches of these lengths exists)"
            )


def codes_of_repeated(ids: np.ndarray, max_per_batch: int) -> np.ndarray:
    """Returns int32 [L, C]: numbers of the ids, distinct over all columns, and -1 for an id that cannot be too often.

    Columns without a repeated id are left out.
    """
    columns, first = [], 0
    for column in ids.T:
        values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        is_kept = (counts > max_per_batch) & (values != -1)
        if not is_kept.any():
            continue
        numbers = np.where(is_kept, np.cumsum(is_kept) - 1 + first, -1)
        first += int(is_kept.sum())
        columns.append(numbers[inverse].astype(np.int32))
    return np.ascontiguousarray(np.stack(columns, 1)) if columns else np.empty((len(ids), 0), np.int32)


def partners_of(positives: np.ndarray, num_instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns CSR offsets int64 [N + 1] and the int32 instances that each should not meet, from both ends of pairs."""
    pairs = positives[positives[:, 0] != positives[:, 1]]
    if not len(pairs):
        return np.zeros(num_instances + 1, np.int64), np.empty(0, np.int32)
    source, target = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.argsort(source, kind="stable")
    offsets = np.searchsorted(source[order], np.arange(num_instances + 1)).astype(np.int64)
    return offsets, np.ascontiguousarray(target[order].astype(np.int32))


def as_ids_of_columns(value: Any, num_instances: int, owner: str = "queries") -> np.ndarray:
    """Returns ``unique=`` as int64 [N, C], C = 0 for None. Raises errors that name it. owner: has N instances."""
    if value is None:
        return np.empty((num_instances, 0), np.int64)
    array = _integers(value, "unique")
    if array.ndim not in (1, 2) or len(array) != num_instances:
        raise ValueError(
            f"unique: expected shape [{num_instances}] or [{num_instances}, C] as {owner} has, got {list(array.shape)}"
        )
    if array.size and int(array.min()) < -1:
        raise ValueError(f"unique: expected ids that are not negative, or -1 for none, got {int(array.min())}")
    return array.reshape(num_instances, -1)


def as_pairs(value: Any, num_instances: int) -> np.ndarray:
    """Returns ``positives=`` as int64 [P, 2], P = 0 for None. Raises errors that name it."""
    if value is None:
        return np.empty((0, 2), np.int64)
    array = _integers(value, "positives")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"positives: expected pairs [P, 2], got shape {list(array.shape)}")
    wrong = array[(array < 0) | (array >= num_instances)]
    if len(wrong):
        raise ValueError(f"positives: expected values in [0, {num_instances}), got {int(wrong[0])}")
    return array


def _integers(value: Any, name: str) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    return np.ascontiguousarray(array.astype(np.int64))
