"""Sources: which batches an epoch has of each data set, language or domain, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch

from .._engine import validate
from .._engine.arrays import as_ids, on_host
from .._engine.backend import core
from .._engine.cuda import to_device_async
from .._engine.random import Stream, derived_seed, permutation
from .._negatives.tables import kept_first, order_of_kept
from ..graph import ProximityGraph, row_of_instances

_SOURCES_PER_ORDER = 4096
LEFTOVERS = ("mixed", "drop", "short")


class Part(NamedTuple):
    """The instances of one source, among which hard batches are made."""

    source: int
    rows: torch.Tensor  # int64, ascending instance ids
    graph: ProximityGraph | None = None  # over these rows. None: batches are uniform
    clusters: torch.Tensor | None = None  # int64, one for each row: batches are from one cluster


class SourceOptions(NamedTuple):
    """Checked options. Counts are in the order of the parts."""

    leftovers: str = "mixed"
    num_batches: tuple[int, ...] | None = None  # of each source; None: all that it fills
    sources_per_batch: int = 1


def checked_sources(sources: Any, num_instances: int) -> torch.Tensor | None:
    """Returns int64 [N] on the CPU, or None."""
    if sources is None:
        return None
    result = as_ids(on_host(sources, "sources"), "sources", 0, 2**63)
    if len(result) != num_instances:
        raise ValueError(f"sources: expected one for each of {num_instances} instances, got {len(result)}")
    return result


def parts_of(sources: torch.Tensor | None, num_instances: int) -> list[Part]:
    """Returns the rows of each source, by ascending source."""
    if sources is None:
        return [Part(0, torch.arange(num_instances))]
    order = sources.numpy().argsort(kind="stable")
    values, counts = np.unique(sources.numpy(), return_counts=True)
    rows = torch.from_numpy(order).split(counts.tolist())
    return [Part(source, own) for source, own in zip(values.tolist(), rows, strict=True)]


def checked_options(
    parts: Sequence[Part],
    has_sources: bool,
    *,
    batch_size: int,
    drop_last: bool,
    leftovers: Any,
    interleave: Any,
    sources_per_batch: Any,
) -> SourceOptions:
    """Raises errors that name the argument, and the source with its size where one is too small."""
    validate.choice(leftovers, "leftovers", LEFTOVERS)
    per_batch = validate.integer(sources_per_batch, "sources_per_batch", 1)
    is_weighted = isinstance(interleave, Mapping)
    if not is_weighted and not (isinstance(interleave, str) and interleave == "proportional"):
        raise ValueError(f"interleave: expected 'proportional' or a dict of weights, got {validate.shown(interleave)}")
    if not has_sources:
        given = {"leftovers": leftovers != "mixed", "interleave": is_weighted, "sources_per_batch": per_batch > 1}
        for name in (name for name, is_given in given.items() if is_given):
            raise ValueError(f"{name}: expected the default without sources")
        return SourceOptions()
    if batch_size % per_batch:
        raise ValueError(f"sources_per_batch: expected a divisor of batch_size {batch_size}, got {per_batch}")
    if leftovers == "short" and drop_last:
        raise ValueError(
            "drop_last: expected False with leftovers='short', because 'drop' leaves out all short batches"
        )
    if per_batch > 1:
        if leftovers == "short":
            raise ValueError("leftovers: expected 'mixed' or 'drop' with sources_per_batch > 1, got 'short'")
        if is_weighted:
            raise ValueError("interleave: expected 'proportional' with sources_per_batch > 1, got weights")
        block = batch_size // per_batch
        num_large = sum(len(part.rows) >= block for part in parts)
        if num_large < per_batch:
            raise ValueError(
                f"sources_per_batch: expected at most {num_large}, the number of sources with at least batch_size / "
                f"sources_per_batch = {block} instances, got {per_batch}"
            )
    if is_weighted:
        if leftovers == "short":
            raise ValueError("leftovers: expected 'mixed' or 'drop' with weights, got 'short'")
        return SourceOptions("drop", _weighted_counts(parts, interleave, batch_size))
    if leftovers == "drop":
        _require_none(
            [part for part in parts if len(part.rows) < batch_size // per_batch],
            f"leftovers: 'drop' would leave out every instance of sources that do not fill batch_size / "
            f"sources_per_batch = {batch_size // per_batch}; expected 'mixed' or 'short' with",
        )
    return SourceOptions(leftovers, None, per_batch)


def _require_none(parts: Sequence[Part], message: str) -> None:
    if parts:
        raise ValueError(f"{message} {described(parts)}")


def described(parts: Sequence[Part]) -> str:
    """Returns sources and sizes, for error messages."""
    listed = ", ".join(f"source {part.source} ({len(part.rows)} instances)" for part in parts[:5])
    return listed if len(parts) <= 5 else f"{listed} and {len(parts) - 5} more"


def _weighted_counts(parts: Sequence[Part], weights: Mapping[Any, Any], batch_size: int) -> tuple[int, ...]:
    """Returns floor(t w) batches of each source of weight w, with the largest t for which every source has them."""
    expected = [part.source for part in parts]
    if set(weights) != set(expected):
        wrong = sorted(set(weights) ^ set(expected), key=str)[0]
        kind = "no weight of" if wrong in expected else "a weight of the unknown"
        raise ValueError(f"interleave: expected a weight for each source, got {kind} source {wrong!r}")
    _require_none(
        [part for part in parts if len(part.rows) < batch_size],
        f"interleave: expected at least batch_size {batch_size} instances of each source with weights, got",
    )
    shares = [_fraction(weights[source]) for source in expected]
    available = [len(part.rows) // batch_size for part in parts]
    scale = min(count / share for count, share in zip(available, shares, strict=True))
    counts = tuple(int(scale * share) for share in shares)
    _require_none(
        [part for part, count in zip(parts, counts, strict=True) if count == 0],
        "interleave: expected weights that give each source a batch, since no instance is repeated; got no batch of",
    )
    return counts


def _fraction(weight: Any) -> Fraction:
    found = validate.number(weight, "interleave", "numbers as weights")
    if not 0 < found < float("inf"):
        raise ValueError(f"interleave: expected positive weights, got {weight!r}")
    return Fraction(repr(found))  # the decimal number, so that .1 and .3 are as 1 to 3


def parts_of_graph(graph: ProximityGraph, parts: Sequence[Part], sources: torch.Tensor) -> list[Part]:
    """Returns the parts with the edges of a graph over all instances that stay in a source."""
    graph.degrees()  # checks all ids
    sources = to_device_async(sources, graph.device)
    row_of = None if graph.ids is None else row_of_instances(graph.ids, graph.num_instances).long()
    result = []
    for part in parts:
        rows = to_device_async(part.rows, graph.device)
        neighbors = graph.neighbors[rows if row_of is None else row_of[rows]]
        keeps = (neighbors >= 0) & (sources[neighbors.clamp(min=0).long()] == part.source)
        order, scores = order_of_kept(keeps), None
        if graph.scores is not None:
            scores = graph.scores[rows if row_of is None else row_of[rows]]
            scores = kept_first(scores, keeps, order, -torch.inf)
        neighbors = kept_first(neighbors, keeps, order, -1)
        kept = ProximityGraph._from_engine(neighbors, scores, rows, graph.num_instances, [])
        result.append(part._replace(graph=kept))
    return result


# --- random choices --------------------------------------------------------------------------------------------------
def source_seed(seed: int, source: int) -> int:
    """Returns the seed of all choices within a source. It does not depend on other sources."""
    return derived_seed(seed, Stream.SOURCE, source)


# --- the order of batches --------------------------------------------------------------------------------------------
def interleaved(counts: Sequence[int], seed: int, epoch: int) -> torch.Tensor:
    """Returns the order of batches that are listed source by source, int64.

    Batch k of n of a source is at a random time in [k / n, (k + 1) / n). So at any time, each source has had its share
    of batches, up to one.
    """
    sizes = np.asarray(counts, dtype=np.int64)
    total = int(sizes.sum())
    which = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = permutation(total, derived_seed(seed, Stream.INTERLEAVE), epoch).numpy()
    times = (which + (places + 0.5) / total) / np.repeat(sizes, sizes)
    return torch.from_numpy(times.argsort(kind="stable"))


def counts_of_blocks(available: Sequence[int], per_batch: int) -> tuple[int, ...]:
    """Returns how many blocks each source gives to batches of ``per_batch`` blocks of different sources.

    A source gives a batch one block at most. The number of batches is the largest possible.
    """
    sizes = np.asarray(available, dtype=np.int64)
    low, high = 0, int(sizes.sum()) // per_batch  # the largest t with sum(min(sizes, t)) >= per_batch t
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(sizes, middle).sum()) >= per_batch * middle:
            low = middle
        else:
            high = middle - 1
    counts = np.minimum(sizes, low)
    for _ in range(int(counts.sum()) - per_batch * low):  # fewer than per_batch
        counts[counts.argmax()] -= 1
    return tuple(counts.tolist())


def chosen_sources(counts: Sequence[int], per_batch: int, seed: int, epoch: int) -> torch.Tensor:
    """Returns the sources of each batch, int64 [num_batches, per_batch], ascending and different in each batch.

    Each is a systematic sample (Madow 1949) with probabilities in proportion to the blocks that are left. A source with
    as many blocks as there are batches left has probability one, so the last batch needs what is left.

    Each sample takes the sources in a new random order. With more than 4,096 sources S, ceil(S / 4096) batches in
    succession share an order, so that a batch costs O(4096) random numbers, and sums over S that are much cheaper.
    """
    left = np.asarray(counts, dtype=np.int64).copy()
    num_batches = int(left.sum()) // per_batch
    result = np.empty((num_batches, per_batch), dtype=np.int64)
    steps = np.arange(per_batch, dtype=np.int64)
    num_sharing = -(-len(left) // _SOURCES_PER_ORDER)
    for batch in range(num_batches):
        remaining = num_batches - batch
        if batch % num_sharing == 0:
            order = permutation(len(left), derived_seed(seed, Stream.CHOICE, batch), epoch).numpy()
            sums = left[order].cumsum()
        word = core.philox4x32(seed, Stream.CHOICE << 24 | epoch, batch, 0, 1)[0]
        targets = (word * remaining >> 32) + steps * remaining
        places = sums.searchsorted(targets, side="right")
        chosen = order[places]
        for place in places if num_sharing > 1 else ():
            sums[place:] -= 1
        left[chosen] -= 1
        chosen.sort()
        result[batch] = chosen
    return torch.from_numpy(result)


def mixed(communities: torch.Tensor, singles: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """Returns leftovers of all sources in random order: whole communities [m, c], then the others."""
    communities = communities[permutation(len(communities), derived_seed(seed, Stream.MIXED), epoch)]
    singles = singles[permutation(len(singles), derived_seed(seed, Stream.SINGLES), epoch)]
    return torch.cat([communities.reshape(-1), singles])
