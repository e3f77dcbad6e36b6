"""Mutual edges by the CUDA engine equal those of the CPU engine (see test_cuda_graph.py for where they run)."""

import numpy as np
import pytest
import torch

from batchsampler_ext import ProximityGraph, proximity_graph, reference


@pytest.mark.parametrize("num_neighbors", [1, 2, 7, 32, 33, 100, 300])
def test_mutual_edges_equal_the_oracle(device_engine, random_table, rng, num_neighbors):
    table = random_table(60, num_neighbors)
    scores = np.where(table >= 0, rng.standard_normal(table.shape), -np.inf).astype(np.float32)
    expected, expected_scores = reference.mutual_edges(table, scores)
    with device_engine() as device:
        mutual = ProximityGraph(torch.from_numpy(table).to(device), torch.from_numpy(scores).to(device)).mutual()
        np.testing.assert_array_equal(mutual.neighbors.cpu().numpy(), expected)
        np.testing.assert_array_equal(mutual.scores.cpu().numpy(), expected_scores)
        np.testing.assert_array_equal(mutual.degrees().cpu().numpy(), (expected >= 0).sum(axis=1))


@pytest.mark.parametrize("return_scores", [False, True])
def test_mutual_edges_of_a_subset_equal_the_cpu(device_engine, no_host_reads, return_scores):
    features = torch.randn(150, 5, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(149, 30, -1)
    expected = proximity_graph(features, 9, num_candidates=40, rows=rows, return_scores=return_scores).mutual()
    with device_engine() as device:
        features, rows = features.to(device), rows.to(device)
        graph = proximity_graph(features, 9, num_candidates=40, rows=rows, return_scores=return_scores)
        with no_host_reads():
            mutual = graph.mutual()
        mutual.check()
        assert mutual.neighbors.device.type == device.type
        assert torch.equal(mutual.neighbors.cpu(), expected.neighbors)
        assert torch.equal(mutual.degrees().cpu(), expected.degrees())
        assert torch.equal(mutual.ids.cpu(), expected.ids)
        if return_scores:
            assert torch.equal(mutual.scores.cpu(), expected.scores)


@pytest.mark.parametrize(
    ("row", "message"),
    [([1, 5], r"expected neighbors in \[-1, 3\), got another value in row 1"), ([-1, 2], "got -1 before a neighbor")],
)
def test_bad_ids_are_reported_when_the_result_is_read(device_engine, row, message):
    table = torch.tensor([[1, 2], row, [0, -1]], dtype=torch.int32)
    with device_engine() as device:
        mutual = ProximityGraph(table.to(device)).mutual()
        for read in (mutual.check, mutual.degrees, mutual.stats):
            with pytest.raises(ValueError, match=message):
                read()
