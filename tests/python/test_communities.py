"""Communities of a graph: equal to the oracle's, of exact size, and with many edges inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import batchsampler_ext as bse
from batchsampler_ext._engine.random import Stream, derived_seed
from batchsampler_ext._plan.communities import communities_of
from batchsampler_ext.reference.communities import communities as oracle


def table(rows: list[list[int]]) -> torch.Tensor:
    width = max(1, *map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int32)


def near_and_far(num_rows: int, rng: np.random.Generator) -> list[list[int]]:
    """About 4 mutual edges per row, half of them to any row: heavy clusters have edges, but do not fit together."""
    edges: list[list[int]] = [[] for _ in range(num_rows)]
    for row in range(num_rows):
        for _ in range(2):
            other = int(rng.integers(num_rows)) if rng.random() < 0.5 else (row + int(rng.integers(1, 6))) % num_rows
            edges[row].append(other)
            edges[other].append(row)
    return edges


def clustered_graph(num_rows: int, rng: np.random.Generator) -> list[list[int]]:
    """Rows with some mutual edges each, mostly to rows that are near in number, some of them repeated."""
    edges: list[list[int]] = [[] for _ in range(num_rows)]
    for row in range(num_rows):
        for _ in range(int(rng.integers(0, 4))):
            other = int(row + rng.integers(1, 8)) % num_rows if rng.random() < 0.8 else int(rng.integers(num_rows))
            edges[row].append(other)
            edges[other].append(row)
    return edges


GRAPHS = {
    "clustered": clustered_graph(203, np.random.default_rng(0)),
    "random": [list(map(int, np.random.default_rng(i).integers(0, 150, 6))) for i in range(150)],  # one way, self-loops
    "near and far": near_and_far(600, np.random.default_rng(0)),
    "no edges": [[] for _ in range(50)],
    "few edges": [[(row + 1) % 90] if row % 9 == 0 else [] for row in range(90)],
    "complete": [[other for other in range(40) if other != row] for row in range(40)],
    "one edge to all": [[0] if row else [] for row in range(70)],
    "same neighbor often": [[row ^ 1] * 5 for row in range(64)],
    "one row": [[]],
}


def found(neighbors: torch.Tensor, size: int, seed: int = 0, epoch: int = 0, num_threads: int = 2) -> list[list[int]]:
    full, tail = communities_of(bse.ProximityGraph(neighbors), size, seed=seed, epoch=epoch, num_threads=num_threads)
    return [*full.tolist(), tail.tolist()]


def edge_share(neighbors: torch.Tensor, communities: list[list[int]]) -> float:
    owner = torch.empty(len(neighbors), dtype=torch.int64)
    for number, members in enumerate(communities):
        owner[torch.tensor(members, dtype=torch.int64)] = number
    is_edge = neighbors >= 0
    return float((owner[neighbors.clamp(min=0).long()] == owner[:, None])[is_edge].float().mean())


@pytest.mark.parametrize("size", [1, 2, 3, 8, 17, 64, 300])
@pytest.mark.parametrize("name", GRAPHS)
def test_equal_to_the_oracle_on_any_number_of_threads(name, size):
    neighbors = table(GRAPHS[name])
    full, tail = oracle(neighbors.tolist(), size, derived_seed(3, Stream.COMMUNITIES, epoch=5))
    for num_threads in (1, 2, 5):
        assert found(neighbors, size, 3, 5, num_threads) == [*full, tail]
    assert sorted(row for members in [*full, tail] for row in members) == list(range(len(neighbors)))
    assert {len(members) for members in full} <= {size}
    assert len(tail) == len(neighbors) % size


def test_threads_share_a_graph_of_many_ranges():
    neighbors = table(clustered_graph(20_011, np.random.default_rng(1)))
    assert found(neighbors, 32, num_threads=1) == found(neighbors, 32, num_threads=5)


def test_epochs_and_seeds_cut_differently():
    neighbors = table(GRAPHS["clustered"])
    cuts = [found(neighbors, 8, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert cuts[0] != cuts[1]
    assert cuts[0] != cuts[2]


def test_groups_without_edges_to_others_are_found():
    """The numbers of rows say nothing about the groups."""
    size, num_groups = 16, 40
    rows = np.random.default_rng(2).permutation(size * num_groups).reshape(num_groups, size)
    edges: list[list[int]] = [[] for _ in range(size * num_groups)]
    for group in rows.tolist():
        for row in group:
            edges[row] = [other for other in group if other != row]
    assert sorted(found(table(edges), size)[:-1]) == sorted(sorted(group) for group in rows.tolist())


def test_rows_of_a_subset_keep_their_ids():
    neighbors = table(GRAPHS["clustered"])
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[: len(neighbors)]
    given = torch.where(neighbors < 0, neighbors, ids[neighbors.clamp(min=0).long()].to(torch.int32))
    graph = bse.ProximityGraph(given, ids=ids, num_instances=1000)
    full, tail = communities_of(graph, 8, seed=0, epoch=0, num_threads=1)
    expected = found(neighbors, 8)
    assert [*full.tolist(), tail.tolist()] == [ids[torch.tensor(rows)].tolist() for rows in expected]


@pytest.mark.parametrize("size", [8, 32, 128])
def test_more_edges_stay_inside_than_with_hard_partitions(size):
    features = torch.from_numpy(load_digits().data.astype(np.float32))
    graph = bse.knn_graph(features - features.mean(0), num_neighbors=40, range_min=10).mutual()
    hard = bse.sample_batches(graph, size, planner=bse.PartitionPlanner("hard"), seed=1)
    share = edge_share(graph.neighbors, found(graph.neighbors, size, seed=1))
    assert share > edge_share(graph.neighbors, [batch.tolist() for batch in hard])
