"""The oracle: computes every result of the kernels, to the bit, by short NumPy code that can be checked by eye.

The code is slow, and the rest of the package does not import it. Each function is one definition. The tests compare the
C++ kernels with it by ``==``. Arrays are NumPy arrays. Graphs are int32 [R, K] arrays, whose rows list ids and then -1.

Source: Yang et al., "BatchSampler: Sampling Mini-Batches for Contrastive Learning in Vision, Language, and Graphs",
KDD 2023 (arXiv 2306.03355). Partitions are in :mod:`batchsampler_ext.reference.partition`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Purposes of the random streams in csrc/common/random_stream.h.
CANDIDATES, GROUPS, WALK, REROOT, FILL, ROOTS, ROOT_ORDER, PARTITION_WALK, PARTITION_HASH = range(1, 10)
MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


# --- random words ----------------------------------------------------------------------------------------------------
def philox4x32(key: int, counter: tuple[Any, Any, Any, Any]) -> np.ndarray:
    """Returns uint32 [..., 4] words of Philox4x32-10 (Salmon et al. 2011). counter: four scalars or arrays."""
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = key & MASK32, key >> 32
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            product1 & np.uint64(MASK32),
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            product0 & np.uint64(MASK32),
        )
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


class WordStream:
    """The words of one stream: blocks 0, 1, 2, ... of counter (purpose << 24 | epoch, major, minor, block)."""

    def __init__(self, seed: int, purpose: int, epoch: int = 0, major: int = 0, minor: int = 0) -> None:
        self._seed, self._counter = seed, (purpose << 24 | epoch, major, minor)
        self._words: list[int] = []
        self._position = 0

    def next(self) -> int:
        if self._position == len(self._words):
            first_block = len(self._words) // 4
            blocks = np.arange(first_block, first_block + 4 + first_block)
            self._words.extend(philox4x32(self._seed, (*self._counter, blocks)).ravel().tolist())
        self._position += 1
        return self._words[self._position - 1]

    def next_below(self, n: int) -> int:
        """Returns an exactly uniform integer in [0, n). Skips words whose product has a low half below 2**32 mod n."""
        while True:
            product = self.next() * n
            if product & MASK32 >= 2**32 % n:
                return product >> 32


def mix(x: int, mask: int, shifts: tuple[int, int, int], factors: tuple[int, int]) -> int:
    """The hash of csrc/common/hash.h, for words of the mask's width."""
    x = (x ^ x >> shifts[0]) * factors[0] & mask
    x = (x ^ x >> shifts[1]) * factors[1] & mask
    return x ^ x >> shifts[2]


def mix32(x: int) -> int:
    return mix(x, MASK32, (16, 15, 16), (0x7FEB352D, 0x846CA68B))


def keyed_permutation(n: int, seed: int, purpose: int, epoch: int = 0, major: int = 0) -> list[int]:
    """Returns the permutation of 0..n-1 in csrc/common/permutation.h: a 12-round Feistel network with cycle walking."""
    words = WordStream(seed, purpose, epoch, major)
    keys = [words.next() for _ in range(12)]
    height = next(h for h in range(1, n + 1) if h * h >= n)
    width = -(-n // height)

    def once(value: int) -> int:
        row, column = divmod(value, width)
        for i in range(0, 12, 2):
            row = (row + (mix32(column ^ keys[i]) * height >> 32)) % height
            column = (column + (mix32(row ^ keys[i + 1]) * width >> 32)) % width
        return row * width + column

    result = []
    for position in range(n):
        value = once(position)
        while value >= n:
            value = once(value)
        result.append(value)
    return result


# --- mutual edges ----------------------------------------------------------------------------------------------------
def mutual_edges(neighbors, scores=None, ids=None) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns neighbors and scores of the edges i -> j whose row j lists i. ids: the instance of each row, or None."""
    ids = range(len(neighbors)) if ids is None else [int(i) for i in ids]
    row_of = {instance: row for row, instance in enumerate(ids)}
    lists = [set(row.tolist()) for row in neighbors]
    mutual = np.full_like(neighbors, -1)
    mutual_scores = None if scores is None else np.full_like(scores, -np.inf)
    for row, instance in enumerate(ids):
        kept = [k for k, j in enumerate(neighbors[row].tolist()) if j in row_of and instance in lists[row_of[j]]]
        mutual[row, : len(kept)] = neighbors[row, kept]
        if mutual_scores is not None:
            mutual_scores[row, : len(kept)] = scores[row, kept]
    return mutual, mutual_scores


# --- candidates ------------------------------------------------------------------------------------------------------
def draw(words: WordStream, num_drawn: int, n: int) -> list[int]:
    """Returns an ordered draw of ``num_drawn`` out of 0..n-1 without replacement, exactly uniform."""
    if 2 * num_drawn <= n:  # the first distinct values of an i.i.d. sequence
        drawn: dict[int, None] = {}
        while len(drawn) < num_drawn:
            drawn.setdefault(words.next_below(n))
        return list(drawn)
    values = list(range(n))  # Fisher-Yates
    for i in range(num_drawn):
        j = i + words.next_below(n - i)
        values[i], values[j] = values[j], values[i]
    return values[:num_drawn]


def candidates(n: int, num_candidates: int, candidate_group_size: int, seed: int) -> np.ndarray:
    """Returns int64 [n, M], the candidates of each row in draw order (paper, section 4.1)."""
    result = np.empty((n, num_candidates), dtype=np.int64)
    if candidate_group_size == 1:
        for row in range(n):
            others = draw(WordStream(seed, CANDIDATES, major=row), num_candidates, n - 1)
            result[row] = [other + (other >= row) for other in others]
        return result
    order = keyed_permutation(n, seed, GROUPS)
    for group in range(-(-n // candidate_group_size)):
        shared = draw(WordStream(seed, CANDIDATES, major=group), num_candidates + 1, n)
        for row in order[group * candidate_group_size : (group + 1) * candidate_group_size]:
            result[row] = [c for c in shared if c != row][:num_candidates]
    return result


# --- scores ----------------------------------------------------------------------------------------------------------
def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Returns unit rows of float32 [B, D]: x * (1 / sqrt(n)) in float64, rounded to float32. A zero row stays zero.

    n is the sum of x^2 in float64, in eight chains. Chain j adds k = j, j + 8, ... in ascending order. Then the chains
    are added pairwise.
    """
    squares = rows.astype(np.float64) ** 2
    chains = np.zeros((len(rows), 8))
    for first in range(0, rows.shape[1], 8):
        part = squares[:, first : first + 8]
        chains[:, : part.shape[1]] += part
    while chains.shape[1] > 1:
        chains = chains[:, 0::2] + chains[:, 1::2]
    scale = np.divide(1, np.sqrt(chains), out=np.zeros_like(chains), where=chains > 0)
    return (rows * scale).astype(np.float32)


def bank_rows(old: np.ndarray, new: np.ndarray, *, normalize: bool, momentum: float) -> np.ndarray:
    """Returns float32 [B, D], the rows that replace ``old`` in a bank, before they are rounded to its dtype."""
    new = unit_rows(new) if normalize else new
    if momentum == 0:
        return new
    kept = np.float32(momentum)
    mixed = kept * old + (np.float32(1) - kept) * new
    return unit_rows(mixed) if normalize else mixed


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns a * b + c, correctly rounded to float32. The float64 sum is rounded to odd to avoid double rounding."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)  # the product is exact
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)  # exact (Knuth's TwoSum)
    even = (total.view(np.int64) & 1) == 0
    inexact = np.isfinite(total) & (error != 0) & even
    total = np.where(inexact, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return total.astype(np.float32)


def dot_chain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the chain of fused multiply-adds over ascending k from +0. Leading dimensions of [..., D] broadcast."""
    acc = np.zeros(np.broadcast_shapes(a.shape, b.shape)[:-1], dtype=np.float32)
    for k in range(a.shape[-1]):
        acc = fma(*np.broadcast_arrays(a[..., k], b[..., k], acc))
    return acc


def distance_chain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the squared distances of [..., D]: t = a[k] - b[k] rounded to float32, acc = fma(t, t, acc), from +0."""
    difference = a - b
    return dot_chain(difference, difference)


def reciprocal_norms(rows: np.ndarray) -> np.ndarray:
    """Returns 1 / sqrt(n) of [..., D], and 0 for rows of zeros. Of other n, cosines would not be accurate."""
    squared, is_zero = dot_chain(rows, rows), ~rows.any(axis=-1)
    if not np.all(is_zero | ((squared >= 2.0**-126) & (squared <= 2.0**126))):
        raise ValueError("cosine: expected rows of zeros, or with Euclidean norms from 2**-63 to 2**63")
    return np.where(is_zero, np.float32(0), np.float32(1) / np.sqrt(squared))


@np.errstate(all="ignore")
def similarity(a: np.ndarray, b: np.ndarray, metric: str = "cosine") -> np.ndarray:
    """Returns the exact scores of float32 [..., D] against float32 [..., D], float32 [...]."""
    if metric == "ip":
        score = dot_chain(a, b)
    elif metric == "cosine":
        score = dot_chain(a, b) * (reciprocal_norms(a) * reciprocal_norms(b))
    elif metric == "l2":
        score = -distance_chain(a, b)
    else:
        raise ValueError(f"metric: expected one that the reference has, got {metric!r}")
    return score + np.float32(0)  # -0 becomes +0


# --- graphs ----------------------------------------------------------------------------------------------------------
def select(
    scores: np.ndarray, ids: np.ndarray, num_neighbors: int, *, tiebreak: np.ndarray, sort: bool, range_min: int = 0
) -> tuple[list[int], list[float]]:
    """Returns ids and scores of ranks range_min .. range_min + K - 1 by (descending score, tiebreak), without NaN."""
    usable = [i for i in range(len(ids)) if not np.isnan(scores[i])]
    chosen = sorted(usable, key=lambda i: (-scores[i], tiebreak[i]))[range_min : range_min + num_neighbors]
    chosen.sort(key=(lambda i: (-scores[i], ids[i])) if sort else (lambda i: i))
    return [int(ids[i]) for i in chosen], [float(scores[i]) for i in chosen]


def proximity_graph(
    features: np.ndarray,
    num_neighbors: int,
    num_candidates: int,
    *,
    documents: np.ndarray | None = None,
    metric: str = "cosine",
    candidate_group_size: int = 256,
    rows: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    max_score: float | None = None,
    range_min: int = 0,
    sort: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (neighbors int32 [R, K], scores float32 [R, K]), then -1 and -inf (paper, section 4.1)."""
    documents = features if documents is None else documents
    subset = np.arange(len(features)) if rows is None else np.asarray(rows)
    drawn = subset[candidates(len(subset), num_candidates, candidate_group_size, seed)]  # [R, M] ids
    return _link(
        features,
        documents,
        subset,
        drawn,
        num_neighbors,
        np.arange(num_candidates),
        metric,
        labels,
        max_score,
        range_min,
        sort,
    )


def knn_graph(
    features: np.ndarray,
    num_neighbors: int,
    *,
    documents: np.ndarray | None = None,
    metric: str = "cosine",
    rows: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    max_score: float | None = None,
    range_min: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (neighbors, scores) of the exact kNN graph, by descending score, ties by lower id."""
    documents = features if documents is None else documents
    subset = np.arange(len(features)) if rows is None else np.asarray(rows)
    others = np.stack([np.sort(subset[subset != i]) for i in subset])
    return _link(features, documents, subset, others, num_neighbors, None, metric, labels, max_score, range_min, True)


def knn_of_lists(
    features: np.ndarray,
    num_neighbors: int,
    lists: np.ndarray,
    *,
    rows: np.ndarray,
    documents: np.ndarray | None = None,
    metric: str = "cosine",
    labels: np.ndarray | None = None,
    max_score: float | None = None,
    range_min: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (neighbors, scores) of rows [R], each among the ids of its own list. lists: int [R, C], -1 is none."""
    documents = features if documents is None else documents
    others = [np.array(sorted({*own.tolist()} - {-1, int(i)}), np.int64) for own, i in zip(lists, rows)]
    return _link(features, documents, rows, others, num_neighbors, None, metric, labels, max_score, range_min, True)


def _link(features, documents, subset, drawn, num_neighbors, tiebreak, metric, labels, max_score, range_min, sort):
    neighbors = np.full((len(subset), num_neighbors), -1, dtype=np.int32)
    scores = np.full((len(subset), num_neighbors), -np.inf, dtype=np.float32)
    for r, (i, others) in enumerate(zip(subset, drawn)):
        row_scores = similarity(features[i][None, :], documents[others], metric)
        if labels is not None and labels[i] >= 0:
            row_scores[labels[others] == labels[i]] = np.nan  # known false negatives
        if max_score is not None:
            row_scores[row_scores > np.float32(max_score)] = np.nan  # suspected false negatives
        order = others if tiebreak is None else tiebreak
        chosen, values = select(row_scores, others, num_neighbors, tiebreak=order, sort=sort, range_min=range_min)
        neighbors[r, : len(chosen)], scores[r, : len(values)] = chosen, values
    return neighbors, scores


def knn(queries: np.ndarray, base: np.ndarray, num_neighbors: int, *, metric: str = "cosine"):
    """Returns (scores float32 [Q, K], ids int32 [Q, K]) of the base rows nearest to each query, ties by lower id."""
    ids = np.arange(len(base))
    rows = [select(similarity(q[None, :], base, metric), ids, num_neighbors, tiebreak=ids, sort=True) for q in queries]
    pad = [(chosen + [-1] * num_neighbors, values + [-np.inf] * num_neighbors) for chosen, values in rows]
    return (
        np.array([values[:num_neighbors] for _, values in pad], dtype=np.float32),
        np.array([chosen[:num_neighbors] for chosen, _ in pad], dtype=np.int32),
    )


# --- walks -----------------------------------------------------------------------------------------------------------
def restart_threshold(restart_prob: float) -> int:
    return int(restart_prob * 2**32)


def walk_limits(batch_size: int, threshold: int) -> tuple[int, int, int]:
    """Returns the maximal (steps of a segment, unproductive segments in a row, segments), as csrc/common/walk.h."""
    unproductive = min(max(256 * threshold // (2**32 - threshold) + 1, 4), 4096)
    segments_per_step = min(1 + threshold // (2**32 - threshold), 4096)
    return max(batch_size, 64), unproductive, min(8 * (batch_size * segments_per_step + unproductive), MASK32)


def segment(
    neighbors: np.ndarray, root: int, seed: int, epoch: int, walk: int, index: int, threshold: int, max_steps: int
):
    """Returns (rows visited after the root, whether a restart ended the segment). A pure function of its arguments."""
    words, node = WordStream(seed, WALK, epoch, walk, index), root
    visited: list[int] = []
    for _ in range(max_steps):
        restart_word, neighbor_word = words.next(), words.next()
        if restart_word < threshold:
            return visited, True
        degree = int((neighbors[node] >= 0).sum())
        if degree == 0:
            break
        node = int(neighbors[node, neighbor_word * degree >> 32])
        visited.append(node)
    return visited, False


def random_walk_with_restart(
    neighbors: np.ndarray,
    root: int,
    batch_size: int,
    *,
    restart_prob: float,
    seed: int = 0,
    epoch: int = 0,
    walk: int = 0,
) -> tuple[list[int], dict[str, int]]:
    """Returns the batch of one walk (paper, section 4.2), padded with -1 if there are too few rows, and its counts."""
    num_instances, threshold = len(neighbors), restart_threshold(restart_prob)
    max_steps, max_unproductive, max_segments = walk_limits(batch_size, threshold)
    target = min(batch_size, num_instances)
    batch, counts = [root], dict(steps=0, restarts=0, reroots=0, random_fills=0)
    members, index, unproductive = {root}, 0, 0
    while len(batch) < target and index < max_segments:
        visited, restarted = segment(neighbors, root, seed, epoch, walk, index, threshold, max_steps)
        size_before = len(batch)
        for node in visited:
            counts["steps"] += 1
            if node not in members:
                members.add(node)
                batch.append(node)
                if len(batch) == target:
                    return batch + [-1] * (batch_size - target), counts
        counts["restarts"] += restarted
        index += 1
        unproductive = unproductive + 1 if len(batch) == size_before else 0
        if unproductive == max_unproductive:
            root, unproductive = WordStream(seed, REROOT, epoch, walk, index).next_below(num_instances), 0
            counts["reroots"] += 1
            if root not in members:
                members.add(root)
                batch.append(root)
    if len(batch) < target:
        for node in keyed_permutation(num_instances, seed, FILL, epoch, walk):
            if node not in members and len(batch) < target:
                batch.append(node)
                counts["random_fills"] += 1
    return batch + [-1] * (batch_size - target), counts


# --- epochs ----------------------------------------------------------------------------------------------------------
def walk_batch(neighbors, root, batch_size, *, strategy, restart_prob, seed, epoch, walk) -> list[int]:
    """Returns one batch from one root, by any strategy of the paper (section 5.4)."""
    if strategy in ("rwr", "rw"):
        alpha = restart_prob if strategy == "rwr" else 0.0
        return random_walk_with_restart(
            neighbors, root, batch_size, restart_prob=alpha, seed=seed, epoch=epoch, walk=walk
        )[0]
    num_instances = len(neighbors)
    target = min(batch_size, num_instances)
    batch: dict[int, None] = {}
    if strategy == "dfs":
        stack = [root]
        while stack and len(batch) < target:
            node = stack.pop()
            if node not in batch:
                batch[node] = None
                stack += [int(j) for j in neighbors[node][::-1] if j >= 0]
    else:
        queue, batch[root] = [root], None
        while strategy in ("bfs", "knn") and queue and len(batch) < target:
            for j in neighbors[queue.pop(0)]:
                if j >= 0 and int(j) not in batch and len(batch) < target:
                    batch[int(j)] = None
                    if strategy == "bfs":
                        queue.append(int(j))
    for node in keyed_permutation(num_instances, seed, FILL, epoch, walk):
        if len(batch) < target:
            batch.setdefault(node)
    return list(batch) + [-1] * (batch_size - target)


def independent_batches(neighbors, batch_size, *, num_batches, strategy="rwr", restart_prob=0.2, seed=0, epoch=0):
    """Returns batches of walks from independent uniform roots. Batches may overlap."""
    roots = [WordStream(seed, ROOTS, epoch, w).next_below(len(neighbors)) for w in range(num_batches)]
    return [
        walk_batch(
            neighbors, r, batch_size, strategy=strategy, restart_prob=restart_prob, seed=seed, epoch=epoch, walk=w
        )
        for w, r in enumerate(roots)
    ]


def covering_batches(neighbors, batch_size, *, strategy="rwr", restart_prob=0.2, seed=0, epoch=0):
    """Returns (full batches, tail) of cover_by_walks (the authors' epoch). Roots are random undrawn instances.

    When at most N mod B instances are not drawn, these are the ragged last batch.
    """
    num_instances = len(neighbors)
    order = keyed_permutation(num_instances, seed, ROOT_ORDER, epoch)
    drawn: set[int] = set()
    batches = []
    for position, root in enumerate(order):
        if len(drawn) >= num_instances // batch_size * batch_size:
            break
        if root not in drawn:
            batches.append(
                walk_batch(
                    neighbors,
                    root,
                    batch_size,
                    strategy=strategy,
                    restart_prob=restart_prob,
                    seed=seed,
                    epoch=epoch,
                    walk=position,
                )
            )
            drawn.update(batches[-1])
    return batches, [node for node in order if node not in drawn]
