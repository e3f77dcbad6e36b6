"""Saved graphs are read back equal, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from batchsampler_ext import FeatureBank, ProximityGraph, proximity_graph


@pytest.fixture
def graph(rng) -> ProximityGraph:
    features = rng.standard_normal((60, 5)).astype(np.float32)
    return proximity_graph(features, 6, rows=np.arange(3, 53), return_scores=True, max_score=0.3)


def equal(first: ProximityGraph, second: ProximityGraph) -> bool:
    return (
        first.num_instances == second.num_instances
        and torch.equal(first.neighbors, second.neighbors)
        and all(
            (a is None and b is None) or torch.equal(a, b)
            for a, b in [(first.scores, second.scores), (first.ids, second.ids)]
        )
    )


def test_saved_graph_is_loaded_unchanged(graph, tmp_path):
    path = tmp_path / "graph.bin"  # the name is kept as it is
    graph.save(path)
    assert os.listdir(tmp_path) == ["graph.bin"]
    assert equal(ProximityGraph.load(path), graph)
    plain = ProximityGraph(torch.tensor([[1], [0]], dtype=torch.int32))
    plain.save(str(path))
    assert equal(ProximityGraph.load(str(path)), plain)


def test_truncated_files_are_refused(graph, tmp_path):
    path = tmp_path / "graph.npz"
    graph.save(path)
    content = path.read_bytes()
    for size in [0, 1, 10, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="path: expected an intact graph"):
            ProximityGraph.load(path)


def load_or_refusal(path: Path) -> ProximityGraph | str:
    try:
        return ProximityGraph.load(path)
    except ValueError as error:
        return str(error)


def test_flipped_bits_are_refused_or_harmless(graph, tmp_path):
    """A checksum or a check catches a flipped bit, unless it is in a field without effect, such as a date."""
    path = tmp_path / "graph.npz"
    graph.save(path)
    content = path.read_bytes()
    num_refused = 0
    for position in range(0, len(content), 7):
        for bit in (0, 6):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            loaded = load_or_refusal(path)
            if isinstance(loaded, str):
                assert loaded.startswith("path: expected an intact graph")
                num_refused += 1
            else:
                assert equal(loaded, graph)
    assert num_refused > 0.9 * 2 * len(content) / 7


def test_foreign_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", neighbors=np.zeros((3, 2), np.int32))
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    neighbors = np.full((3, 2), 3, np.int32)  # out of range
    np.savez(tmp_path / "range.npz", format=1, num_instances=3, neighbors=neighbors)
    np.savez(tmp_path / "pickle.npz", format=1, num_instances=3, neighbors=np.array([None, 1], dtype=object))
    np.savez(tmp_path / "future.npz", format=2, num_instances=3, neighbors=np.zeros((3, 2), np.int32))
    for name in ("other", "array", "range", "pickle", "future"):
        with pytest.raises(ValueError, match="path: expected an intact graph"):
            ProximityGraph.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        ProximityGraph.load(tmp_path / "absent.npz")


def test_failed_save_leaves_the_old_file(graph, tmp_path, monkeypatch):
    path = tmp_path / "graph.npz"
    graph.save(path)
    content = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        graph.save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["graph.npz"]


def test_stats_equal_their_definition(graph):
    stats = graph.stats()
    degrees = graph.degrees()
    assert stats.num_rows == 50
    assert stats.num_edges == int(degrees.sum()) == int((graph.neighbors >= 0).sum())
    assert stats.min_degree == int(degrees.min())
    assert stats.mean_score == pytest.approx(float(graph.scores[graph.neighbors >= 0].mean()), abs=1e-6)
    reached = set(graph.neighbors.unique().tolist()) - {-1}
    assert stats.unreached_rows == 50 - len(reached)
    assert repr(graph) == "ProximityGraph(num_instances=60, num_neighbors=6, rows=50)"


@pytest.mark.parametrize("load", [ProximityGraph.load, lambda path: FeatureBank(3, 2).load(path)])
def test_devices_and_pipes_are_not_read(load, tmp_path):
    """A pipe would be waited for, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="path: expected a file, got a device or pipe: "):
            load(path)
