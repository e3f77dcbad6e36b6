"""Walks and epochs by the CUDA engine equal those of the CPU engine (see test_cuda_graph.py for where they run).

This file tests the Python API. tests/kernels/walk_test.cpp compares the kernels on many more graphs.
"""

import pytest
import torch

from batchsampler_ext import (
    CoverByWalksPlanner,
    PartitionPlanner,
    ProximityGraph,
    WalkPlanner,
    batch_stats,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)


def equal(first, second) -> bool:
    return all(torch.equal(a, b.cpu()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("restart_prob", [0.0, 0.2])
@pytest.mark.parametrize("full", [True, False])
def test_walks_equal_the_cpu(device_engine, random_table, restart_prob, full):
    table = torch.from_numpy(random_table(80, 6, full=full))
    roots = torch.arange(0, 80, 9)
    expected = random_walk_with_restart(table, roots, 20, restart_prob=restart_prob, seed=5, epoch=2, first_walk=3)
    with device_engine() as device:
        found = random_walk_with_restart(
            table.to(device), roots.to(device), 20, restart_prob=restart_prob, seed=5, epoch=2, first_walk=3
        )
        assert equal(expected, found)


@pytest.mark.parametrize(
    "planner",
    [WalkPlanner("rwr"), WalkPlanner("rw"), CoverByWalksPlanner("rwr"), CoverByWalksPlanner("rw"), "uniform"],
)
def test_epochs_over_a_subset_equal_the_cpu(device_engine, planner):
    features = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
    options = {"planner": planner, "seed": 4, "epoch": 1}
    rows = torch.arange(89, -1, -1)[:71]
    expected = sample_batches(proximity_graph(features, 8, num_candidates=30, rows=rows), 16, **options)
    with device_engine() as device:
        graph = proximity_graph(features.to(device), 8, num_candidates=30, rows=rows.to(device))
        found = sample_batches(graph, 16, **options)
        assert found.indices.device.type == device.type
        assert torch.equal(expected.indices, found.indices.cpu())
        assert torch.equal(expected.tail, found.tail.cpu())
        assert expected.stats == found.stats


@pytest.mark.parametrize("hardness", ["soft", "default", "hard"])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("subset", [True, False])
def test_partitions_equal_the_cpu(device_engine, hardness, drop_last, subset):
    features = torch.randn(150, 6, generator=torch.Generator().manual_seed(2))
    rows = torch.arange(149, -1, -1)[:131] if subset else None
    planner = PartitionPlanner(hardness)
    options = {"planner": planner, "drop_last": drop_last, "seed": 8, "epoch": 3, "restart_prob": 0.3}
    expected = sample_batches(proximity_graph(features, 6, num_candidates=40, rows=rows), 16, **options)
    with device_engine() as device:
        moved = None if rows is None else rows.to(device)
        graph = proximity_graph(features.to(device), 6, num_candidates=40, rows=moved)
        found = sample_batches(graph, 16, **options)
        assert torch.equal(expected.indices, found.indices.cpu())
        assert torch.equal(expected.tail, found.tail.cpu())
        assert expected.stats == found.stats


def test_batch_stats_equal_the_cpu(device_engine):
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(2))
    labels, rows = torch.arange(60) % 4 - 1, torch.arange(5, 60)
    graph = proximity_graph(features, 6, num_candidates=20, rows=rows)
    expected = batch_stats(sample_batches(graph, 8), features, labels=labels, graph=graph)
    with device_engine() as device:
        features, labels, rows = features.to(device), labels.to(device), rows.to(device)
        graph = proximity_graph(features, 6, num_candidates=20, rows=rows)
        found = batch_stats(sample_batches(graph, 8), features, labels=labels, graph=graph)
        for name in ("in_batch_similarity", "false_negative_share", "edge_share"):
            assert found[name] == pytest.approx(expected[name], abs=1e-12)


@pytest.mark.parametrize(
    ("row", "message"),
    [([1, 5], r"expected neighbors in \[-1, 3\), got another value in row 1"), ([-1, 2], "got -1 before a neighbor")],
)
def test_bad_tables_are_reported_when_results_are_read(device_engine, row, message):
    table = torch.tensor([[1, 2], row, [0, -1]], dtype=torch.int32)
    with device_engine() as device:
        graph = ProximityGraph(table.to(device))
        with pytest.raises(ValueError, match=message):
            graph.degrees()
        for planner in ("walks", "partition", "uniform"):
            with pytest.raises(ValueError, match=message):
                sample_batches(ProximityGraph(table.to(device)), 2, planner=planner)
        with pytest.raises(ValueError, match=message):
            random_walk_with_restart(table.to(device), torch.tensor([0], device=device), 2)


@pytest.mark.parametrize("is_subset", [False, True])
def test_walks_do_not_wait_for_the_device(device_engine, no_host_reads, is_subset):
    """Bad roots are reported when the graph is read. Walks from good roots are right all the same."""
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))
    rows = torch.arange(59, -1, -1)[:40] if is_subset else None
    graph = proximity_graph(features, 5, num_candidates=20, rows=rows)
    roots = torch.tensor([30, 59, 41])
    wrong = torch.tensor([30, 5, 3]) if is_subset else torch.tensor([30, 60, -1])
    message = "roots: expected ids of the graph's rows, got 5" if is_subset else r"roots: .* in \[0, 60\), got -1"
    with pytest.raises(ValueError, match=message):
        random_walk_with_restart(graph, wrong, 8)
    expected = random_walk_with_restart(graph, roots, 8)
    with device_engine() as device:
        moved_rows = None if rows is None else rows.to(device)
        graph = proximity_graph(features.to(device), 5, num_candidates=20, rows=moved_rows)
        roots, wrong = roots.to(device), wrong.to(device)
        random_walk_with_restart(graph, roots, 8)
        with no_host_reads():
            found = random_walk_with_restart(graph, roots, 8)
            bad = random_walk_with_restart(graph, wrong, 8)
        assert equal(expected, found)
        assert torch.equal(bad.nodes[0].cpu(), expected.nodes[0])
        with pytest.raises(ValueError, match=message):
            graph.check()


def test_neighbors_changed_after_the_check_are_reported(device_engine):
    with device_engine() as device:
        graph = ProximityGraph(torch.tensor([[1, 2], [2, 0], [0, 1]], dtype=torch.int32, device=device))
        graph.degrees()
        graph.neighbors[1, 0] = 17
        with pytest.raises(ValueError, match=r"graph: expected neighbors"):
            sample_batches(graph, 3, planner="walks")


@pytest.mark.parametrize("make_planner", [WalkPlanner, CoverByWalksPlanner])
@pytest.mark.parametrize("full", [True, False])
def test_uniform_orders_equal_the_cpu(device_engine, random_table, make_planner, full):
    """Graphs with self-loops, repeats, closed components, empty rows, and rows longer than a warp."""
    for num_rows, num_neighbors, batch_size in [(90, 3, 16), (70, 40, 33), (200, 70, 50), (9, 20, 12), (40, 44, 40)]:
        table = torch.from_numpy(random_table(num_rows, num_neighbors, full=full))
        table[: num_rows // 4] %= max(1, num_rows // 8)
        options = {"planner": make_planner("uniform"), "seed": 6, "epoch": 2}
        expected = sample_batches(ProximityGraph(table), batch_size, **options)
        with device_engine() as device:
            found = sample_batches(ProximityGraph(table.to(device)), batch_size, **options)
            assert torch.equal(expected.indices, found.indices.cpu())
            assert torch.equal(expected.tail, found.tail.cpu())
            assert expected.stats == found.stats


@pytest.mark.parametrize("order", ["bfs", "dfs", "knn"])
@pytest.mark.parametrize("make_planner", [WalkPlanner, CoverByWalksPlanner])
def test_orders_for_comparison_run_on_the_cpu_only(device_engine, order, make_planner):
    with device_engine() as device:
        graph = ProximityGraph(torch.tensor([[1, 2], [2, 0], [0, 1]], dtype=torch.int32, device=device))
        with pytest.raises(ValueError, match=r"order: expected 'rwr', 'rw' or 'uniform' .* graph.to\('cpu'\)"):
            sample_batches(graph, 3, planner=make_planner(order))
