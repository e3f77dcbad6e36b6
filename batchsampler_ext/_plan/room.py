"""Refuses ids that no composing can keep apart, before the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._negatives.keep_apart import Apart, Elsewhere, left_out_places, require_assignment
from .._negatives.tables import sizes_of
from .epochs import EpochRequest
from .sources import Part, SourceOptions


def require_room_of_parts(apart: Apart, parts: Sequence[Part], options: SourceOptions, request: EpochRequest) -> None:
    """Raises ``ValueError`` if no composing can keep ids apart. For epochs of all instances.

    For a single column, the answer is exact but for ``leftovers="mixed"`` of several sources: there it is checked that
    all batches together can hold the ids, and the batches of each source with the mixed ones. The repair checks what
    these counts cannot tell.
    """
    if options.sources_per_batch > 1 and not apart.is_empty:
        raise ValueError("sources_per_batch: expected 1 with unique or positives, because swaps would mix the sources")
    if not apart.ids.shape[1]:
        return
    size, most = request.batch_size, apart.max_per_batch
    num_left = [len(part.rows) % size for part in parts]
    if options.leftovers == "mixed":
        mixed = sizes_of(sum(num_left), size)
        num_ragged = int(mixed[-1]) if len(mixed) and mixed[-1] < size and request.drop_last else 0
        mixed = mixed[:-1] if num_ragged else mixed
        num_full = sum(len(part.rows) // size for part in parts)
        all_sizes = np.concatenate([np.full(num_full, size, np.int64), mixed])
        require_assignment(apart.ids, all_sizes, most, elsewhere=left_out_places(num_ragged, "drop_last"))
        if len(parts) == 1:
            return
        room_of_mixed = int(np.minimum(mixed, most).sum()) + num_ragged
        names = [f"{len(mixed)} batches of several sources"] if len(mixed) else []
        what = " and ".join([*names, *([f"{num_ragged} left out (drop_last)"] if num_ragged else [])])
        elsewhere = [Elsewhere(count, min(count, room_of_mixed), what) if count else None for count in num_left]
        sizes = [np.full(len(part.rows) // size, size, np.int64) for part in parts]
    elif options.leftovers == "short":
        sizes, elsewhere = [sizes_of(len(part.rows), size) for part in parts], [None] * len(parts)
    else:
        reason = "leftovers='drop'" if options.num_batches is None else "interleave"
        counts = options.num_batches or [len(part.rows) // size for part in parts]
        sizes = [np.full(count, size, np.int64) for count in counts]
        elsewhere = [
            left_out_places(len(part.rows) - size * count, reason) for part, count in zip(parts, counts, strict=True)
        ]
    for part, own, other in zip(parts, sizes, elsewhere, strict=True):
        what = f"batches of source {part.source}"
        require_assignment(apart.ids[part.rows.numpy()], own, most, what, other)
