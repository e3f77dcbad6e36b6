"""Repairs batches in which instances meet that must not, by swaps between batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from .._engine.arrays import address, as_int64
from .._engine.backend import core
from .._engine.random import Stream, derived_seed
from .._engine.requests import KeepApartRequest
from .tables import kept_first, order_of_kept

_MAX_ATTEMPTS = 8  # repairs with other random choices, if several columns are hard to place
_ROWS_AT_ONCE = 1 << 15


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


class Elsewhere(NamedTuple):
    """Places outside the batches that instances may also take: among those left out, or in batches of other kinds."""

    num_places: int
    most_per_id: int  # instances with an equal id that fit there
    what: str  # names the places in errors


def left_out_places(num_places: int, reason: str) -> Elsewhere | None:
    """Returns the places of instances that take no part in an epoch, where ids may meet. reason: of errors."""
    return Elsewhere(num_places, num_places, f"{num_places} left out ({reason})") if num_places else None


class Repaired(NamedTuple):
    """Batches after the repair, and what it took."""

    members: torch.Tensor  # int32 [L]
    num_moved: int  # members that were in another batch, or in none
    num_met: int  # pairs of ``positives`` in one batch; a pair that is given twice counts twice
    left_out: torch.Tensor  # int32, the instances in no batch


class Lookup:
    """What repairs of several parts share: partners of all N instances, and a table of N rows."""

    def __init__(self, apart: Apart) -> None:
        self._apart = apart

    @cached_property
    def partners(self) -> tuple[np.ndarray, np.ndarray]:
        """The result of :func:`partners_of`."""
        return partners_of(self._apart.positives, len(self._apart.ids))

    @cached_property
    def row_of(self) -> torch.Tensor:
        """int32 [N], all -1 between uses."""
        return torch.full((len(self._apart.ids),), -1, dtype=torch.int32, device="cpu")


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
    left_out: torch.Tensor | None = None,
    num_mixed: int = 0,
    lookup: Lookup | None = None,
) -> Repaired:
    """Returns the batches with instances swapped between them, so that they keep ``apart``. Sizes stay as they are.

    Swaps are among the batches given. If these alone cannot keep ids apart, swaps with instances left out are allowed,
    too. To keep sources apart, call this once for the batches of each source. If several columns are hard to place, it
    is tried anew with other random choices.

    Args:
        members: int32 [L] on the CPU, distinct instances, one batch after the other.
        sizes: int64 [number of batches], lengths of the batches. Their sum is L.
        apart: ids and pairs of all N instances.
        neighbors: int32 [N, K] on the CPU, edges that the swaps should keep inside batches, or None.
        seed, epoch, part: name the random choices. part: number of the call in this epoch, 0 to 2**32 - 1.
        what: names the batches in errors.
        left_out: int32, other instances that may take the place of a member. None: there are none.
        num_mixed: number of further batches that could have taken some of the instances, for errors.
        lookup: for several calls with the same ``apart``.

    Raises:
        ValueError: an id is on more instances than the batches can hold, or no way was found to keep all ids apart.

    Determinism: a function of the arguments. :mod:`batchsampler_ext.reference.keep_apart` defines it. An instance left
    out is a batch of its own there.
    """
    nothing = members[:0]
    left_out = nothing if left_out is None else left_out
    if len(members) == 0 or apart.is_empty:
        return Repaired(members.clone(), 0, 0, left_out)
    lookup = Lookup(apart) if lookup is None else lookup
    ids = apart.ids[members.numpy()]
    fits = _shortage(ids, sizes, apart.max_per_batch, what) is None
    num_attempts = _MAX_ATTEMPTS if ids.shape[1] > 1 else 1
    roads = [(nothing, 1 if len(left_out) else num_attempts)] if fits else []
    if len(left_out):
        elsewhere = left_out_places(len(left_out), "drop_last, leftovers='drop' or weights")
        all_ids = apart.ids[torch.cat([members, left_out]).numpy()]
        if fits or _shortage(all_ids, sizes, apart.max_per_batch, what, elsewhere) is None:
            roads.append((left_out, num_attempts))
    num_left, attempt = 0, 0
    for others, num_tries in roads:
        for _ in range(num_tries):
            key = derived_seed(seed, Stream.KEEP_APART, part + (attempt << 32), epoch)
            result, num_left, num_met = _repaired_once(members, others, sizes, apart, neighbors, key, lookup)
            if num_left == 0:
                kept = result[: len(members)]
                outside = result[len(members) :] if len(others) else left_out
                return Repaired(kept, _num_moved(members, kept, sizes, lookup.row_of), num_met, outside)
            attempt += 1
    if num_mixed == 0:  # the counts tell why
        if len(left_out):
            require_assignment(all_ids, sizes, apart.max_per_batch, what, elsewhere)
        else:
            require_assignment(ids, sizes, apart.max_per_batch, what)
    others_too = f", or in the {num_mixed} batches of several sources" if num_mixed else ""
    others_too += f", or outside of them ({len(left_out)} instances are left out)" if len(left_out) else ""
    count = f"{num_left} instances" if num_left else "some instances"
    raise ValueError(
        f"unique: expected ids that can be kept apart, got ids of which {count} could not be placed in the "
        f"{len(sizes)} {what} of epoch {epoch} with max_per_batch {apart.max_per_batch}{others_too} (no way was found "
        f"to place all ids{' of all columns together' if ids.shape[1] > 1 else ''}; it may be that none exists)"
    )


def _repaired_once(
    members: torch.Tensor,
    left_out: torch.Tensor,
    sizes: np.ndarray,
    apart: Apart,
    neighbors: torch.Tensor | None,
    key: int,
    lookup: Lookup,
) -> tuple[torch.Tensor, int, int]:
    """Returns (members and then instances left out, after swaps; excess that is left; pairs of partners that met)."""
    everyone = torch.cat([members, left_out])
    sizes = np.concatenate([sizes, np.ones(len(left_out), np.int64)])
    codes = codes_of_repeated(apart.ids[everyone.numpy()], apart.max_per_batch)
    num_codes = int(codes.max(initial=-1)) + 1
    if num_codes == 0 and len(apart.positives) == 0:
        return everyone, 0, 0
    offsets, partners = lookup.partners
    num_instances, result = len(apart.ids), everyone.clone()
    is_small = 4 * len(everyone) < num_instances  # the work of a call should not grow with N
    if is_small:
        offsets, partners, neighbors = _among(everyone, offsets, partners, neighbors, lookup.row_of)
        num_instances, result = len(everyone), torch.arange(len(everyone), dtype=torch.int32, device="cpu")
    if num_codes == 0 and len(partners) == 0:
        return everyone, 0, 0
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
        num_instances=num_instances,
        key=key,
    )
    num_left, num_met = core.keep_apart(request)
    return everyone[result.long()] if is_small else result, num_left, num_met


def _among(
    members: torch.Tensor,
    offsets: np.ndarray,
    partners: np.ndarray,
    neighbors: torch.Tensor | None,
    row_of: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray, torch.Tensor | None]:
    """Returns partners and neighbors among the members, by their places in ``members``. row_of: as in Lookup."""
    ids = members.long()
    row_of[ids] = torch.arange(len(ids), dtype=torch.int32, device="cpu")
    rows, places = row_of.numpy(), ids.numpy()
    counts = offsets[places + 1] - offsets[places]
    firsts = np.repeat(offsets[places] - (np.cumsum(counts) - counts), counts)
    found = rows[partners[firsts + np.arange(len(firsts))]]
    counts = np.bincount(np.repeat(np.arange(len(ids)), counts)[found >= 0], minlength=len(ids))
    table = None
    if neighbors is not None:
        table = torch.empty(len(ids), neighbors.shape[1], dtype=torch.int32, device="cpu")
        for first in range(0, len(ids), _ROWS_AT_ONCE):
            part = neighbors[ids[first : first + _ROWS_AT_ONCE]]
            local = torch.where(part >= 0, row_of[part.clamp(min=0).long()], -1)
            keeps = local >= 0
            table[first : first + _ROWS_AT_ONCE] = kept_first(local, keeps, order_of_kept(keeps), -1)
    row_of[ids] = -1
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.ascontiguousarray(found[found >= 0]), table


def _num_moved(before: torch.Tensor, after: torch.Tensor, sizes: np.ndarray, table: torch.Tensor) -> int:
    """Returns how many members of the batches were in another batch before, or in none. table: Lookup.row_of."""
    batches = torch.from_numpy(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    table[before.long()] = batches
    result = int((table[after.long()] != batches).sum())
    table[before.long()] = -1
    return result


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
        self._lookup = Lookup(apart)
        self.num_moved: list[int] = []
        self.num_met: list[int] = []

    def of_epoch(self, epoch: int) -> Callable[..., torch.Tensor]:
        """Returns ``repair(members, sizes, part, left_out=None, num_mixed=0)``.

        It returns the batches of a part of the epoch after swaps. part: 0, or 1 + the number of the source that the
        batches are of. The others: as in :func:`keep_apart`. Epochs are repaired in ascending order.
        """
        self.num_moved.append(0)
        self.num_met.append(0)

        def repair(
            members: torch.Tensor,
            sizes: np.ndarray,
            part: int,
            left_out: torch.Tensor | None = None,
            num_mixed: int = 0,
        ) -> torch.Tensor:
            what = "batches"
            if self._sources is not None:
                what += f" of source {self._sources[part - 1]}" if part else " of several sources"
            result = keep_apart(
                members, sizes, self._apart, self._neighbors, seed=self._seed, epoch=epoch, part=part, what=what,
                left_out=left_out, num_mixed=num_mixed, lookup=self._lookup,
            )  # fmt: skip
            self.num_moved[-1] += result.num_moved
            self.num_met[-1] += result.num_met
            return result.members

        return repair


def require_assignment(
    ids: np.ndarray, sizes: np.ndarray, max_per_batch: int, what: str = "batches", elsewhere: Elsewhere | None = None
) -> None:
    """Raises ``ValueError`` if no assignment to batches of these sizes exists for some column. ids: int64 [L, C].

    L is the sum of the sizes and of the places ``elsewhere``, which all are taken. what: names the batches in errors.

    An assignment for one column is a flow from ids to batches, and to the places elsewhere as one more node. By the
    theorem of Gale and Ryser, it exists if and only if these hold for each k. The k largest batches have at most sum
    over ids of min(instances with the id, k * max_per_batch) places. With the places elsewhere they have at most sum of
    min(instances with the id, k * max_per_batch + most_per_id).
    """
    message = _shortage(ids, sizes, max_per_batch, what, elsewhere)
    if message is not None:
        raise ValueError(f"unique: expected {message}")


def _shortage(
    ids: np.ndarray, sizes: np.ndarray, max_per_batch: int, what: str, elsewhere: Elsewhere | None = None
) -> str | None:
    """Returns why no assignment exists for some column, or None."""
    num_places, most_per_id, other = (0, 0, "") if elsewhere is None else elsewhere
    room = int(np.minimum(sizes, max_per_batch).sum()) + most_per_id
    places = np.concatenate([[0], np.cumsum(-np.sort(-sizes))])
    limits = np.arange(len(sizes) + 1, dtype=np.int64) * max_per_batch
    also = f" and {other}" if elsewhere is not None else ""
    columns = []
    for column in range(ids.shape[1]):
        values, counts = np.unique(ids[:, column], return_counts=True)
        known = counts[values != -1]
        if known.max(initial=0) > room:
            most = int(np.where(values == -1, 0, counts).argmax())
            return (
                f"each id on at most {room} instances ({len(sizes)} {what}{also}, max_per_batch {max_per_batch}), got "
                f"id {values[most]} of column {column} on {counts[most]}"
            )
        columns.append((np.sort(known), int(counts.sum() - known.sum())))
    for column, (known, num_without) in enumerate(columns):
        sums = np.concatenate([[0], np.cumsum(known)])
        for extra_limit, extra_places in ((0, 0), (most_per_id, num_places))[: 1 if elsewhere is None else 2]:
            per_id = limits + extra_limit
            num_below = known.searchsorted(per_id)
            usable = sums[num_below] + (len(known) - num_below) * per_id + num_without
            lacks = usable < places + extra_places
            if lacks.any():
                k = int(lacks.argmax())
                return (
                    f"ids that can be kept apart, got ids of column {column} of which the {k} largest of {len(sizes)} "
                    f"{what}{also if extra_places else ''} can hold {usable[k]} instances and must hold "
                    f"{places[k] + extra_places}, with max_per_batch {max_per_batch} (no assignment to batches of "
                    "these lengths exists)"
                )
    return None


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
    array = as_int64(value, "unique")
    if array.ndim not in (1, 2) or len(array) != num_instances:
        raise ValueError(
            f"unique: expected shape [{num_instances}] or [{num_instances}, C] as {owner} has, got {list(array.shape)}"
        )
    if array.size and int(array.min()) < -1:
        raise ValueError(f"unique: expected ids that are not negative, or -1 for none, got {int(array.min())}")
    return array.reshape(num_instances, array.size // num_instances)


def as_pairs(value: Any, num_instances: int) -> np.ndarray:
    """Returns ``positives=`` as int64 [P, 2], P = 0 for None. Raises errors that name it."""
    if value is None:
        return np.empty((0, 2), np.int64)
    array = as_int64(value, "positives")
    if array.shape == (0,):
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"positives: expected pairs [P, 2], got shape {list(array.shape)}")
    wrong = array[(array < 0) | (array >= num_instances)]
    if len(wrong):
        raise ValueError(f"positives: expected values in [0, {num_instances}), got {int(wrong[0])}")
    return array
