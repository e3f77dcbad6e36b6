"""Arrays on a device that is not the current one: all work runs there, and the current device stays current."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from batchsampler_ext import (
    FeatureBank,
    ProximityBatchSampler,
    knn,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)

pytestmark = pytest.mark.needs_cuda


@pytest.fixture
def other_device() -> Iterator[torch.device]:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    with torch.cuda.device(0):
        before = torch.cuda.memory_allocated(0)
        yield torch.device("cuda", 1)
        assert torch.cuda.current_device() == 0
        assert torch.cuda.memory_allocated(0) == before


def test_graphs_and_neighbors_are_computed_on_the_device_of_the_features(other_device):
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    moved = features.to(other_device)
    for build, options in [
        (proximity_graph, {"num_candidates": 50}),
        (proximity_graph, {"num_candidates": 50, "candidate_group_size": 1}),
        (knn_graph, {}),
    ]:
        expected, found = build(features, 5, **options), build(moved, 5, **options)
        assert found.device == other_device
        assert torch.equal(found.neighbors.cpu(), expected.neighbors)
    assert torch.equal(knn(moved[:9], moved, 4).ids.cpu(), knn(features[:9], features, 4).ids)


def test_walks_and_epochs_are_computed_on_the_device_of_the_graph(other_device):
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    graphs = [proximity_graph(part, 8, num_candidates=50) for part in (features, features.to(other_device))]
    for options in ({}, {"planner": "walks"}, {"planner": "cover_by_walks"}):
        expected, found = (sample_batches(graph, 16, **options) for graph in graphs)
        assert found.indices.device == other_device
        assert torch.equal(found.indices.cpu(), expected.indices)
    roots = torch.arange(0, 200, 9)
    expected, found = (random_walk_with_restart(graph, roots.to(graph.device), 16) for graph in graphs)
    assert torch.equal(found.nodes.cpu(), expected.nodes)


def test_banks_and_samplers_on_another_device_equal_the_cpu(other_device):
    rows = torch.randn(160, 8, generator=torch.Generator().manual_seed(0))
    epochs = []
    for device in (torch.device("cpu"), other_device):
        bank = FeatureBank(160, 8, device=device)
        bank.update(torch.arange(160), rows)
        sampler = ProximityBatchSampler(160, 16, bank=bank, planner="walks", refresh_every=3)
        epochs.append([])
        for batch in sampler:
            epochs[-1].append(batch)
            bank.update(batch, rows[batch].to(device) + len(epochs[-1]))
        del sampler, bank
    assert epochs[0] == epochs[1]
