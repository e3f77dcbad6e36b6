"""Mutual edges by the CPU engine equal those of the oracle. tests/kernels/mutual_test.cpp compares the CUDA engine."""

import numpy as np
import pytest
import torch

from batchsampler_ext import ProximityGraph, proximity_graph, reference


def awkward_graph(rng, num_rows, num_neighbors, *, subset=False) -> ProximityGraph:
    """Many mutual edges, short and empty rows, self-loops and repeats. subset: a third of the instances have rows."""
    num_instances = 3 * num_rows + 1 if subset else num_rows
    reach = max(2, num_neighbors)
    rows = np.arange(num_rows)[:, None] + rng.integers(-reach, reach + 1, (num_rows, num_neighbors))
    ids = rng.permutation(num_instances)[:num_rows]
    table = (ids if subset else np.arange(num_rows))[rows % num_rows].astype(np.int32)
    if subset:  # some neighbors have no row
        is_other = rng.random(table.shape) < 0.2
        table[is_other] = rng.integers(0, num_instances, int(is_other.sum()))
    degrees = rng.integers(0, num_neighbors + 1, num_rows)
    degrees[rng.random(num_rows) < 0.5] = num_neighbors
    is_past = np.arange(num_neighbors) >= degrees[:, None]
    table[is_past] = -1
    scores = rng.standard_normal(table.shape).astype(np.float32)
    scores[is_past] = -np.inf
    return ProximityGraph(table, torch.from_numpy(scores), torch.from_numpy(ids) if subset else None, num_instances)


def assert_equals_oracle(graph: ProximityGraph, mutual: ProximityGraph) -> None:
    ids = None if graph.ids is None else graph.ids.cpu().numpy()
    scores = None if graph.scores is None else graph.scores.cpu().numpy()
    neighbors, expected_scores = reference.mutual_edges(graph.neighbors.cpu().numpy(), scores, ids)
    np.testing.assert_array_equal(mutual.neighbors.cpu().numpy(), neighbors)
    if expected_scores is None:
        assert mutual.scores is None
    else:
        np.testing.assert_array_equal(mutual.scores.cpu().numpy(), expected_scores)
    np.testing.assert_array_equal(mutual.degrees().cpu().numpy(), (neighbors >= 0).sum(axis=1))
    assert mutual.degrees().dtype == torch.int32
    assert mutual.num_instances == graph.num_instances
    assert (mutual.ids is None) == (graph.ids is None)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("num_neighbors", [1, 2, 7, 32, 33, 100, 300])
def test_mutual_edges_equal_the_oracle(rng, num_neighbors, subset, num_threads):
    graph = awkward_graph(rng, 450, num_neighbors, subset=subset)
    mutual = graph.mutual(num_threads)
    assert_equals_oracle(graph, mutual)
    assert 0 < int(mutual.degrees().sum()) < int(graph.degrees().sum())
    without_scores = ProximityGraph(graph.neighbors, None, graph.ids, graph.num_instances)
    assert_equals_oracle(without_scores, without_scores.mutual(num_threads))


@pytest.mark.parametrize("num_neighbors", [1, 3, 40])
def test_mutual_edges_of_many_rows_equal_the_oracle(rng, num_neighbors):
    """There are more rows than a thread processes at once."""
    graph = awkward_graph(rng, 40_000 if num_neighbors == 1 else 5000, num_neighbors)
    assert_equals_oracle(graph, graph.mutual(2))


def test_mutual_edges_of_small_graphs():
    table = torch.tensor([[1, 0, 2, 1], [0, 2, -1, -1], [-1, -1, -1, -1], [3, 3, 0, -1]], dtype=torch.int32)
    mutual = ProximityGraph(table).mutual()
    assert mutual.neighbors.tolist() == [[1, 0, 1, -1], [0, -1, -1, -1], [-1] * 4, [3, 3, -1, -1]]
    assert mutual.degrees().tolist() == [3, 1, 0, 2]
    loop = ProximityGraph(torch.zeros((1, 1), dtype=torch.int32)).mutual()
    assert loop.neighbors.tolist() == [[0]]


def test_an_edge_to_an_instance_without_a_row_is_not_mutual():
    table = torch.tensor([[7, 5], [9, 2]], dtype=torch.int32)
    graph = ProximityGraph(table, ids=torch.tensor([9, 7]), num_instances=12)
    assert graph.mutual().neighbors.tolist() == [[7, -1], [9, -1]]
    assert graph.mutual().ids.tolist() == [9, 7]


def test_mutual_edges_of_a_built_graph_are_mutual_again():
    features = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    graph = proximity_graph(features, 12, num_candidates=60, rows=torch.arange(299, 20, -1), return_scores=True)
    mutual = graph.mutual()
    assert_equals_oracle(graph, mutual)
    again = mutual.mutual()
    assert torch.equal(again.neighbors, mutual.neighbors)
    assert torch.equal(again.scores, mutual.scores)


@pytest.mark.parametrize(
    ("row", "message"),
    [([1, 3], r"expected neighbors in \[-1, 3\), got another value in row 1"), ([-1, 2], "got -1 before a neighbor")],
)
def test_bad_ids_are_errors(row, message):
    table = torch.tensor([[1, 2], row, [0, -1]], dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        ProximityGraph(table).mutual()
    with pytest.raises(ValueError, match="num_threads"):
        ProximityGraph(table).mutual(0)


def test_degrees_are_found_again_after_a_change_in_place():
    mutual = ProximityGraph(torch.tensor([[1, 1], [0, 0]], dtype=torch.int32)).mutual()
    assert mutual.degrees().tolist() == [2, 2]
    mutual.neighbors[0, 1] = -1
    assert mutual.degrees().tolist() == [1, 2]
    mutual.neighbors[0, 0] = 2
    with pytest.raises(ValueError, match="got another value in row 0"):
        mutual.mutual()


def test_mutual_edges_in_inference_mode():
    with torch.inference_mode():
        mutual = ProximityGraph(torch.tensor([[1, 2], [0, -1], [1, -1]], dtype=torch.int32)).mutual()
        assert mutual.neighbors.tolist() == [[1, -1], [0, -1], [-1, -1]]
        assert mutual.degrees().tolist() == [1, 1, 0]
