"""Refuses ids that no composing can keep apart, before the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .epochs import EpochRequest
from .keep_apart import Apart, require_room
from .sources import Part, SourceOptions
from .tables import sizes_of


def require_room_of_parts(apart: Apart, parts: Sequence[Part], options: SourceOptions, request: EpochRequest) -> None:
    """Raises ``ValueError`` if no composing can keep ids apart. For epochs of all instances.

    The repair checks what these counts cannot tell.
    """
    if options.sources_per_batch > 1 and not apart.is_empty:
        raise ValueError("sources_per_batch: expected 1 with unique or positives, because swaps would mix the sources")
    leftovers, batch_size = options.leftovers, request.batch_size
    if request.drop_last or leftovers == "drop":
        return
    num_instances = sum(len(part.rows) for part in parts)
    if leftovers == "mixed":
        require_room(apart.ids, sizes_of(num_instances, batch_size), apart.max_per_batch)
    if leftovers == "mixed" and len(parts) == 1:
        return
    mixed = sizes_of(sum(len(part.rows) % batch_size for part in parts), batch_size)
    for part in parts:
        sizes = sizes_of(len(part.rows), batch_size)
        if leftovers == "mixed":
            sizes = np.concatenate([sizes[sizes == batch_size], mixed])
        require_room(apart.ids[part.rows.numpy()], sizes, apart.max_per_batch, f"batches of source {part.source}")
