"""Walks equal the oracle, follow the exact process, and end on every graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from batchsampler_ext import (
    ProximityGraph,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    reference,
    sample_batches,
)
from batchsampler_ext._engine.deferred_checks import DeferredChecks
from batchsampler_ext.planners import CoverByWalksPlanner, WalkPlanner


def check_against_oracle(table: np.ndarray, roots, batch_size: int, *, first_walk: int = 0, **arguments) -> None:
    """Asserts equal batches and counts, on 1, 2 and 5 threads."""
    walks = [
        random_walk_with_restart(
            torch.from_numpy(table), roots, batch_size, first_walk=first_walk, num_threads=num_threads, **arguments
        )
        for num_threads in (1, 2, 5)
    ]
    for w, root in enumerate(roots):
        batch, counts = reference.random_walk_with_restart(table, root, batch_size, walk=first_walk + w, **arguments)
        for result in walks:
            assert result.nodes[w].tolist() == batch
            for name, count in counts.items():
                assert getattr(result, name)[w] == count, name


@pytest.mark.parametrize("restart_prob", [0.0, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("full", [True, False])
def test_walks_equal_the_oracle(rng, random_table, restart_prob, full):
    table = random_table(120, 6, full=full)
    roots = rng.integers(0, 120, 8).tolist()
    for seed, epoch, first_walk in [(0, 0, 0), (2**64 - 1, 2**24 - 1, 2**31)]:
        check_against_oracle(table, roots, 30, restart_prob=restart_prob, seed=seed, epoch=epoch, first_walk=first_walk)


def ended_graphs() -> dict[str, np.ndarray]:
    n = 40
    column = np.arange(n, dtype=np.int32)[:, None]
    star = np.zeros((n, 4), np.int32)
    star[0] = [1, 2, 3, 4]
    return {
        "all -1": np.full((n, 5), -1, np.int32),
        "no columns": np.zeros((n, 0), np.int32),
        "two-node cycles": column ^ 1,
        "star": star,
        "self-loops": np.repeat(column, 3, axis=1),
        "components of four": column // 4 * 4 + np.arange(4, dtype=np.int32),
        "sink": np.full((n, 2), 7, np.int32),
    }


@pytest.mark.parametrize("restart_prob", [0.0, 0.2, 0.99])
@pytest.mark.parametrize("name", ended_graphs())
def test_every_walk_ends(name, restart_prob):
    table = ended_graphs()[name]
    for batch_size in (1, 2, 16, 40, 64):
        walks = random_walk_with_restart(torch.from_numpy(table), [0, 7, 39], batch_size, restart_prob=restart_prob)
        for batch, root in zip(walks.nodes.tolist(), [0, 7, 39], strict=True):
            assert batch[0] == root
            members = batch[:40]
            assert len(set(members)) == len(members)
            assert all(0 <= node < 40 for node in members)
            assert batch[40:] == [-1] * max(0, batch_size - 40)
    if restart_prob < 0.9:  # the oracle is slow on thousands of empty segments
        check_against_oracle(table, [0, 7], 16, restart_prob=restart_prob)


def test_batches_larger_than_the_graph_are_padded():
    single = ProximityGraph(torch.empty((1, 0), dtype=torch.int32))
    assert random_walk_with_restart(single, [0], 3).nodes.tolist() == [[0, -1, -1]]
    pair = torch.tensor([[1], [0]], dtype=torch.int32)
    assert random_walk_with_restart(pair, [1], 4, restart_prob=0.0).nodes.tolist() == [[1, 0, -1, -1]]


def exact_batch_distribution(table: np.ndarray, root: int, size: int, alpha: float) -> dict[tuple[int, ...], float]:
    """Returns the probability of each ordered batch of the uncapped process, by absorbing Markov chains."""
    num_instances = len(table)
    moves = np.zeros((num_instances, num_instances))
    for node, row in enumerate(table):
        for j in row:
            moves[node, j] += (1 - alpha) / len(row)
    restart = np.zeros((num_instances, num_instances))
    restart[:, root] = alpha

    result: dict[tuple[int, ...], float] = {}

    def extend(batch: tuple[int, ...], node: int, probability: float) -> None:
        if len(batch) == size:
            result[batch] = result.get(batch, 0.0) + probability
            return
        seen = list(batch)
        within = (moves + restart)[np.ix_(seen, seen)]
        new = [j for j in range(num_instances) if j not in seen]
        leaving = np.linalg.inv(np.eye(len(seen)) - within) @ moves[np.ix_(seen, new)]
        for j, p in zip(new, leaving[seen.index(node)], strict=True):
            if p > 0:
                extend((*batch, j), j, probability * p)

    extend((root,), root, 1.0)
    return result


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.6])
def test_batches_follow_the_exact_process(alpha):
    """Chi-square of whole ordered batches against the exact random walk with restart."""
    table = np.array([[1, 2], [2, 3], [3, 0], [4, 5], [5, 0], [0, 1]], dtype=np.int32)
    expected = exact_batch_distribution(table, root=0, size=4, alpha=alpha)
    assert sum(expected.values()) == pytest.approx(1)
    num_walks = 40_000
    walks = random_walk_with_restart(torch.from_numpy(table), [0] * num_walks, 4, restart_prob=alpha, seed=5)
    assert walks.reroots.sum() + walks.random_fills.sum() < num_walks / 1000  # the caps hardly ever end a walk here
    observed = dict.fromkeys(expected, 0)
    for batch in map(tuple, walks.nodes.tolist()):
        observed[batch] += 1
    counts, probabilities = np.array(list(observed.values())), np.array(list(expected.values()))
    assert stats.chisquare(counts, probabilities * num_walks).pvalue > 1e-4
    # A segment draws until it restarts, so about alpha of all draws are restarts.
    draws = int(walks.steps.sum() + walks.restarts.sum())
    assert stats.binomtest(int(walks.restarts.sum()), draws, alpha).pvalue > 1e-4


def test_every_move_is_an_edge(rng, random_table):
    table = random_table(300, 5, full=True)
    walks = random_walk_with_restart(torch.from_numpy(table), list(range(50)), 40)
    for w in range(50):
        batch = walks.nodes[w].tolist()
        if walks.reroots[w] + walks.random_fills[w] == 0:
            for i in range(1, 40):
                assert any(batch[i] in table[earlier] for earlier in batch[:i])


def test_epoch_in_pieces_equals_the_whole(rng, random_table):
    table = torch.from_numpy(random_table(200, 8))
    roots = list(range(30))
    whole = random_walk_with_restart(table, roots, 20, seed=3)
    pieces = [random_walk_with_restart(table, roots[i : i + 7], 20, seed=3, first_walk=i) for i in range(0, 30, 7)]
    for name in whole._fields:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(piece, name) for piece in pieces]))


def test_walks_over_a_subset_return_instance_ids(rng, random_table):
    table = random_table(50, 5)
    ids = torch.from_numpy(rng.permutation(500)[:50])
    named = torch.where(torch.from_numpy(table) < 0, -1, ids[torch.from_numpy(table).clamp(min=0).long()]).int()
    graph = ProximityGraph(named, ids=ids, num_instances=500)
    local = random_walk_with_restart(torch.from_numpy(table), [3, 11], 20)
    walks = random_walk_with_restart(graph, ids[[3, 11]], 20)
    assert torch.equal(walks.nodes.long(), ids[local.nodes.long()])
    absent = next(i for i in range(500) if i not in ids)
    with pytest.raises(ValueError, match=f"roots: expected ids of the graph's rows, got {absent}"):
        random_walk_with_restart(graph, [absent], 4)


def test_changes_in_place_are_seen(rng, random_table):
    graph = ProximityGraph(torch.from_numpy(random_table(30, 4, full=True)))
    random_walk_with_restart(graph, [0], 5)
    graph.neighbors[4, 1] = 30
    with pytest.raises(ValueError, match=r"graph: expected neighbors in \[-1, 30\), got another value in row 4"):
        random_walk_with_restart(graph, [0], 5)
    table = np.asarray(graph.neighbors)  # changes that torch does not see: the kernel itself does not follow a bad id
    table[4, 1] = 3
    random_walk_with_restart(graph, [0], 5)
    table[:] = 2**30
    with pytest.raises(ValueError, match="graph: expected neighbors that are rows of the graph, got 1073741824"):
        random_walk_with_restart(graph, [0], 5)


def test_restarts_keep_batches_near_the_root():
    n = 1000
    ring = np.stack([(np.arange(n) + 1) % n, (np.arange(n) - 1) % n], axis=1).astype(np.int32)

    def spread(alpha: float) -> float:
        nodes = random_walk_with_restart(torch.from_numpy(ring), [500] * 1000, 8, restart_prob=alpha).nodes.float()
        return float((nodes - 500).abs().mean())

    assert spread(0.0) > 1.1 * spread(0.2)


@pytest.mark.parametrize("full", [True, False])
def test_walks_on_a_plain_table_equal_those_on_its_graph(rng, random_table, full):
    """On a plain table, the engine finds the degree of a row when a walk visits it."""
    table = torch.from_numpy(random_table(10_000, 7, full=full))
    if not full:
        table[:1000] = -1
    graph = ProximityGraph(table)
    roots = rng.integers(0, 10_000, 60)
    for restart_prob in (0.0, 0.3):
        plain = random_walk_with_restart(table, roots, 24, restart_prob=restart_prob, seed=9)
        checked = random_walk_with_restart(graph, roots, 24, restart_prob=restart_prob, seed=9)
        for name in plain._fields:
            assert torch.equal(getattr(plain, name), getattr(checked, name)), name
    walking = [make(order) for make in (WalkPlanner, CoverByWalksPlanner) for order in ("rwr", "rw", "bfs", "dfs")]
    for planner in ("partition", "uniform", *walking):
        plain, checked = (sample_batches(source, 200, planner=planner, seed=4) for source in (table, graph))
        assert torch.equal(plain.indices, checked.indices)
        assert torch.equal(plain.tail, checked.tail)
        assert plain.stats == checked.stats


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([5, 30_000, 6], r"graph: expected neighbors in \[-1, 30000\), got another value in row 7"),
        ([-2, -2, -2], r"graph: expected neighbors in \[-1, 30000\), got another value in row 7"),
        ([4, 5, -2], r"graph: expected neighbors in \[-1, 30000\), got another value in row 7"),
        ([-1, 4, 5], "graph: expected a valid prefix and then -1, got -1 before a neighbor in row 7"),
    ],
)
def test_bad_row_is_reported_if_a_walk_visits_it(rng, values, message):
    """The error names the first bad row of the table, on any number of threads. Unvisited rows are not read."""
    table = torch.from_numpy(rng.integers(0, 20_000, (30_000, 3)).astype(np.int32))
    table[:20_000, 0] = 7
    table[60:70] = torch.tensor([20, 21, 2**30], dtype=torch.int32)
    table[7] = torch.tensor(values, dtype=torch.int32)
    table[20_000:] = torch.arange(20_000, 30_000, dtype=torch.int32)[:, None].roll(-1, 0)
    for num_threads in (1, 2, 5):
        with pytest.raises(ValueError, match=message):
            random_walk_with_restart(table, list(range(200)), 16, num_threads=num_threads)
        clean = random_walk_with_restart(table, [25_000, 26_000], 4, num_threads=num_threads)
        assert int(clean.reroots.sum() + clean.random_fills.sum()) == 0
    with pytest.raises(ValueError, match=message.split(", got")[0]):
        sample_batches(table, 8)
    with pytest.raises(ValueError, match=message.split(", got")[0]):
        random_walk_with_restart(ProximityGraph(table), [25_000], 8)


def test_rows_of_all_instances_need_no_lookup_tables(rng, monkeypatch):
    """``rows`` or ``ids`` equal to 0 .. N - 1 give the results of a subset to the bit, without its tables."""
    features = torch.from_numpy(rng.standard_normal((300, 8)).astype(np.float32))

    def run() -> list[torch.Tensor]:
        found = []
        for max_score in (None, 0.3):
            graph = proximity_graph(features, 9, num_candidates=60, rows=range(300), max_score=max_score, seed=2)
            exact = knn_graph(features, 5, rows=torch.arange(300), max_score=max_score)
            for built in (graph, exact, ProximityGraph(graph.neighbors, ids=torch.arange(300), num_instances=300)):
                found.append(built.neighbors)
                for planner in ("partition", "walks", "cover_by_walks"):
                    batches = sample_batches(built, 16, planner=planner, seed=5)
                    found += [batches.indices, batches.tail]
                found.append(random_walk_with_restart(built, [7, 299], 12).nodes)
        return found

    plain = run()
    assert proximity_graph(features, 9, rows=range(300)).ids is None
    assert proximity_graph(features, 9, rows=range(299)).ids is not None
    assert proximity_graph(features, 9, rows=range(299, -1, -1)).ids is not None
    monkeypatch.setattr(DeferredChecks, "are_all", lambda *_: False)
    assert proximity_graph(features, 9, rows=range(300)).ids is not None
    for first, second in zip(plain, run(), strict=True):
        assert torch.equal(first, second)
