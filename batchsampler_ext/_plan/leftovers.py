"""Exchanges instances between the mixed batches of all sources and the batches of one, so that ids can be kept apart.

Few batches hold the leftovers of all sources. Near instances often have equal ids and are left over together, so these
batches cannot always keep them apart, although batches of their sources could.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import numpy as np
import torch

from .._engine.random import Stream, derived_seed, permutation
from .._negatives.keep_apart import Apart

_TRIES = 256  # partners that are tried for an instance
_NOTHING = np.empty(0, np.int64)


def exchanged(
    ids: torch.Tensor,
    sizes: np.ndarray,
    batch_sources: torch.Tensor,
    sources: torch.Tensor,
    apart: Apart,
    *,
    seed: int,
    epoch: int,
) -> tuple[torch.Tensor, int]:
    """Returns the batches after exchanges between instances of one source, and the number of instances moved.

    The batches of a source then hold an id no more often than they can keep apart. Mixed batches hold it half as often,
    which leaves room for several columns. Both are kept where a partner is found.

    ids: int32 [L], one batch after the other. sizes: int64, of the batches. batch_sources: the source of each batch, -1
    if of several. sources: of all instances.
    """
    members, kinds = ids.numpy().copy(), np.repeat(batch_sources.numpy(), sizes)
    values, numbers = np.unique(batch_sources.numpy(), return_inverse=True)
    found = np.bincount(numbers, np.minimum(sizes, apart.max_per_batch), minlength=len(values)).astype(np.int64)
    rooms = dict(zip(values.tolist(), found.tolist(), strict=True))
    if -1 not in rooms or not apart.ids.shape[1]:
        return ids, 0
    caps = {**rooms, -1: max(rooms[-1] // 2, apart.max_per_batch)}
    places_of = _places_of_values(kinds)
    excess = {kind: _excess(apart.ids[members[places_of[kind]]], cap) for kind, cap in caps.items()}
    counts: dict[int, Counter[tuple[int, int]]] = {}
    own_sources = sources.numpy()[members]
    mixed_of = {key: places_of[-1][own] for key, own in _places_of_values(own_sources[places_of[-1]]).items()}

    def known(place: int) -> list[tuple[int, int]]:
        return [(column, number) for column, number in enumerate(apart.ids[members[place]].tolist()) if number != -1]

    def counts_of(kind: int) -> Counter[tuple[int, int]]:
        if kind not in counts:
            counts[kind] = _count(apart.ids[members[places_of[kind]]])
        return counts[kind]

    def fits(place: int, kind: int, leaving: int, limit: int) -> bool:
        gone = set(known(leaving))
        return all(counts_of(kind)[key] - (key in gone) < limit for key in known(place))

    waiting: dict[tuple[int, int], deque[int]] = {}

    def next_partners(kind: int, source: int) -> Iterator[int]:
        """Yields places with instances of a source, in a random order that later calls continue."""
        if (kind, source) not in waiting:
            places = (mixed_of.get(source, _NOTHING) if kind == -1 else places_of.get(kind, _NOTHING)).copy()
            order = permutation(len(places), derived_seed(seed, Stream.EXCHANGE, source), epoch).numpy()
            waiting[kind, source] = deque(places[order].tolist())
        queue = waiting[kind, source]
        for _ in range(min(_TRIES, len(queue))):
            queue.rotate(-1)
            yield queue[-1]

    for kind, places_of_kind in excess.items():
        for place in places_of[kind][places_of_kind].tolist():
            if all(counts_of(kind)[key] <= caps[kind] for key in known(place)):
                continue
            other = int(own_sources[place]) if kind == -1 else -1
            for partner in next_partners(other, int(own_sources[place])):
                if fits(place, other, partner, rooms[other]) and fits(partner, kind, place, caps[kind]):
                    for moved, origin, target in ((place, kind, other), (partner, other, kind)):
                        counts_of(origin).subtract(known(moved))
                        counts_of(target).update(known(moved))
                    members[[place, partner]] = members[[partner, place]]
                    break
    return torch.from_numpy(members), int((members != ids.numpy()).sum())


def _places_of_values(values: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the places of each value, ascending."""
    order = np.argsort(values, kind="stable")
    found, firsts = np.unique(values[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, firsts[1:]), strict=True))


def _excess(ids: np.ndarray, cap: int) -> np.ndarray:
    """Returns the rows with an id that is on more than ``cap`` rows, ascending. ids: int64 [L, C]."""
    is_excess = np.zeros(len(ids), dtype=bool)
    for column in ids.T:
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        is_excess |= (counts[inverse] > cap) & (column != -1)
    return np.flatnonzero(is_excess)


def _count(ids: np.ndarray) -> Counter[tuple[int, int]]:
    """Returns (column, id) -> number of rows. ids: int64 [L, C], -1 is none."""
    result: Counter[tuple[int, int]] = Counter()
    for column, values in enumerate(ids.T):
        found, counts = np.unique(values[values != -1], return_counts=True)
        result.update({(column, number): count for number, count in zip(found.tolist(), counts.tolist(), strict=True)})
    return result
