"""Checks before timing that our results equal the oracle's, to the bit, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

import batchsampler_ext as bse
from batchsampler_ext import reference
from batchsampler_ext._engine.backend import core
from batchsampler_ext.reference import partition as reference_partition


def check_results(features: torch.Tensor, num_rows: int = 300) -> None:
    """Checks num_rows random rows. Raises AssertionError, with the function and the instruction set that differ."""
    x = features[torch.randperm(len(features))[:num_rows]]
    m, k, batch_size = min(200, len(x) - 1), 20, 24
    rows = x.numpy()
    graph = reference.proximity_graph(rows, k, num_candidates=m, seed=1)[0]
    exact = reference.knn_graph(rows, k)[0]
    roots = torch.arange(0, len(x), 40)
    walks = [
        reference.random_walk_with_restart(graph, int(root), batch_size, restart_prob=0.2, walk=walk)[0]
        for walk, root in enumerate(roots)
    ]
    partition, tail = reference_partition.partition(graph, batch_size, seed=1)
    table = torch.from_numpy(graph)
    for isa in core.supported_isas():
        with instruction_set(isa):
            batches = bse.sample_batches(table, batch_size, seed=1)
            found = {
                "proximity_graph": (bse.proximity_graph(x, k, num_candidates=m, seed=1).neighbors.numpy(), graph),
                "knn_graph": (bse.knn_graph(x, k).neighbors.numpy(), exact),
                "random_walk_with_restart": (
                    bse.random_walk_with_restart(table, roots, batch_size).nodes.numpy(),
                    np.array(walks),
                ),
                "sample_batches": (batches.indices.numpy(), np.array(partition)),
                "sample_batches, the last": (batches.tail.numpy(), np.array(tail)),
            }
        for name, (ours, expected) in found.items():
            assert np.array_equal(ours, expected), f"{name} on {isa} differs from the oracle"


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    before = core.isa()
    core.use_isa(name)
    try:
        yield
    finally:
        core.use_isa(before)
