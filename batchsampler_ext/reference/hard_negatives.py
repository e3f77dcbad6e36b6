"""The oracle of ``Plan.hard_negatives``."""

from __future__ import annotations

import numpy as np


def hard_negatives(scores, num_kept, is_ranked, is_excluded, window) -> np.ndarray:
    """Returns int32 [N, h], the best documents of each query in a window of ranks, then -1.

    scores: [N, N] of queries with documents. is_ranked: bool [N, N], the documents that count for the ranks of a query;
    its own never does. is_excluded: bool [N, N], documents that are no negatives of a query. window: (p, q), ranks
    p + 1 to q by descending score, ties by lower id.
    """
    size = len(scores)
    result = np.full((size, num_kept), -1, dtype=np.int32)
    for i in range(size):
        ranked = sorted((j for j in range(size) if j != i and is_ranked[i, j]), key=lambda j: (-scores[i, j], j))
        kept = [j for j in ranked[window[0] : window[1]] if not is_excluded[i, j]][:num_kept]
        result[i, : len(kept)] = kept
    return result
