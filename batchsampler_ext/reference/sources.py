"""The oracle of epochs over sources: short code over Python lists.

The fast code is in batchsampler_ext/_plan. An epoch is made from communities of each source, which a partition or a
permutation gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from ..reference import ROOT_ORDER, keyed_permutation, philox4x32

# Streams of words that no purpose in csrc/common/random_stream.h has.
SOURCE, INTERLEAVE, MIXED, SINGLES, CHOICE = 245, 244, 243, 242, 241


def derived_seed(seed: int, stream: int, value: int = 0, epoch: int = 0) -> int:
    low, high = (int(word) for word in philox4x32(seed, (stream << 24 | epoch, value & 0xFFFFFFFF, value >> 32, 0))[:2])
    return high << 32 | low


def flat(lists: Iterable[Sequence]) -> list:
    return [item for items in lists for item in items]


def shuffled(items: Sequence, seed: int, epoch: int) -> list:
    return [items[i] for i in keyed_permutation(len(items), seed, ROOT_ORDER, epoch)] if items else []


def interleaved(counts: Sequence[int], seed: int, epoch: int) -> list[tuple[int, int]]:
    """Returns (source, k) in the order of the batches. Batch k of n is at a random time in [k / n, (k + 1) / n)."""
    pairs = [(source, k) for source, count in enumerate(counts) for k in range(count)]
    places = shuffled(range(len(pairs)), derived_seed(seed, INTERLEAVE), epoch)
    times = [(k + (place + 0.5) / len(pairs)) / counts[s] for (s, k), place in zip(pairs, places)]
    return [pair for _, pair in sorted(zip(times, pairs))]


def counts_of_blocks(available: Sequence[int], per_batch: int) -> tuple[int, list[int]]:
    """Returns the most batches of ``per_batch`` blocks of different sources, and how many blocks each source gives."""
    num_batches = max(
        t for t in range(sum(available) // per_batch + 1) if sum(min(n, t) for n in available) >= per_batch * t
    )
    counts = [min(n, num_batches) for n in available]
    while sum(counts) > per_batch * num_batches:
        counts[counts.index(max(counts))] -= 1
    return num_batches, counts


def chosen_sources(counts: Sequence[int], per_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Returns the sources of each batch: systematic samples, with probabilities in proportion to what is left."""
    left, result = list(counts), []
    num_batches = sum(counts) // per_batch
    for batch in range(num_batches):
        remaining = num_batches - batch
        order = shuffled(range(len(counts)), derived_seed(seed, CHOICE, batch), epoch)
        word = int(philox4x32(seed, (CHOICE << 24 | epoch, batch, 0, 1))[0])
        first, end, chosen = word * remaining >> 32, 0, []
        for source in order:
            begin, end = end, end + left[source]
            if any(begin <= first + i * remaining < end for i in range(per_batch)):
                chosen.append(source)
        result.append(sorted(chosen))
        for source in chosen:
            left[source] -= 1
    return result


def epoch_of_sources(
    communities: Sequence[Sequence[Sequence[int]]],
    singles: Sequence[Sequence[int]],
    batch_size: int,
    *,
    leftovers: str = "mixed",
    num_batches: Sequence[int] | None = None,
    sources_per_batch: int = 1,
    seed: int = 0,
    epoch: int = 0,
) -> list[list[int]]:
    """Returns the batches of an epoch: full ones, then shorter ones.

    communities: those of each source, in the order in which they are united.
    singles: the instances of each source that are in no community.
    num_batches: how many batches each source has. Default: all that it fills.
    """
    block = batch_size // sources_per_batch
    blocks, communities_left = [], []
    for groups in communities:
        per_block = block // len(groups[0]) if groups else 1
        full = len(groups) // per_block
        blocks.append([flat(groups[i * per_block : (i + 1) * per_block]) for i in range(full)])
        communities_left.append(list(groups[full * per_block :]))
    if num_batches is not None:
        batches = [own[:count] for own, count in zip(blocks, num_batches)]
        return [batches[s][k] for s, k in interleaved(num_batches, seed, epoch)]
    full_batches = blocks
    if sources_per_batch > 1:
        _, counts = counts_of_blocks([len(own) for own in blocks], sources_per_batch)
        remaining = [iter(own) for own in blocks]
        united = [
            flat(next(remaining[source]) for source in chosen)
            for chosen in chosen_sources(counts, sources_per_batch, seed, epoch)
        ]
        for own, own_left, groups in zip(remaining, communities_left, communities):
            size = len(groups[0]) if groups else 1
            own_left[:0] = [part[i : i + size] for part in own for i in range(0, block, size)]
        full_batches = [united]
    shorter: list[list[int]] = []
    if leftovers == "mixed":
        pairs = shuffled(flat(communities_left), derived_seed(seed, MIXED), epoch)
        rest = flat(pairs) + shuffled(flat(singles), derived_seed(seed, SINGLES), epoch)
        num_full = len(rest) // batch_size
        full_batches = [*full_batches, [rest[i * batch_size : (i + 1) * batch_size] for i in range(num_full)]]
        shorter = [rest[num_full * batch_size :]]
    elif leftovers == "short":
        shorter = [flat(groups) + list(own) for groups, own in zip(communities_left, singles)]
    order = interleaved([len(own) for own in full_batches], seed, epoch)
    return [full_batches[s][k] for s, k in order] + [batch for batch in shorter if batch]


def weighted_counts(available: Sequence[int], weights: Mapping[int, int]) -> list[int]:
    """Returns floor(t w) batches of each source of weight w, with the largest t for which every source has them."""
    shares = [weights[source] for source in sorted(weights)]
    scale = min(Fraction(count, share) for count, share in zip(available, shares))
    return [int(scale * share) for share in shares]


def stable_assignment(scores: np.ndarray, capacities: Sequence[int]) -> list[int]:
    """Returns the cluster of each row by deferred acceptance (Gale and Shapley 1962), rows propose.

    scores: [R, C]. Rows and clusters prefer larger scores, ties by the lower number. Capacities sum to R at least.
    """
    num_rows, num_clusters = scores.shape
    wishes = [sorted(range(num_clusters), key=lambda c: (-scores[row, c], c)) for row in range(num_rows)]
    members: list[list[int]] = [[] for _ in capacities]
    waiting = list(range(num_rows))
    while waiting:
        row = waiting.pop()
        cluster = wishes[row].pop(0)
        members[cluster].append(row)
        if len(members[cluster]) > capacities[cluster]:
            worst = min(members[cluster], key=lambda r: (scores[r, cluster], -r))
            members[cluster].remove(worst)
            waiting.append(worst)
    result = [-1] * num_rows
    for cluster, rows in enumerate(members):
        for row in rows:
            result[row] = cluster
    return result
