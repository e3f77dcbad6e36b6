"""Valid calls of the public API, whose arguments are then exchanged: by the fuzzer, and by a test of each argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from batchsampler_ext import (
    Batches,
    CoverByWalksPlanner,
    FeatureBank,
    GraphConfig,
    IndexedDataset,
    PartitionPlanner,
    Plan,
    PlannedBatchSampler,
    ProximityBatchSampler,
    ProximityGraph,
    WalkPlanner,
    batch_stats,
    compose,
    knn,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)
from batchsampler_ext.metrics import equal_label_share, mean_cosine

from .checks import B, D, N, embeddings, require_batches, require_graph, valid_bank, valid_plan


class Call(NamedTuple):
    function: Callable[..., Any]
    options: dict[str, Any]


def of_graph(graph: ProximityGraph) -> Any:
    graph.degrees()  # checks what users give
    require_graph(graph)
    return [None if part is None else part.tolist() for part in (graph.neighbors, graph.scores, graph.ids)]


def of_plan(plan: Plan) -> Any:
    return [batch.tolist() for batch in plan.batches(0)]


def _composed(**options: Any) -> Any:
    return of_plan(compose(embeddings(), **options))


def _drawn(**options: Any) -> list[int]:
    return [len(batch) for batch in ProximityBatchSampler(**{"sampler": N, "batch_size": B, **options})]


def fuzzed_calls() -> list[Call]:
    """Returns calls whose arguments the fuzzer changes. An input chooses by number, so new ones go to the end."""
    features, table = embeddings(), knn_graph(embeddings(), 3).neighbors
    walk: dict[str, Any] = {"restart_prob": 0.2, "seed": 1, "epoch": 2, "num_threads": 1}
    graph = {
        "num_neighbors": 3, "metric": "l2", "max_score": 0.5, "range_min": 1, "compute_dtype": torch.float32,
        "return_scores": True, "num_threads": 1, "max_memory": 2**30, "labels": [0] * N, "rows": list(range(N)),
        "documents": None, "progress": None,
    }  # fmt: skip
    return [
        Call(
            lambda **given: random_walk_with_restart(table, **given),
            {**walk, "roots": [0, 3], "batch_size": B, "first_walk": 5},
        ),
        Call(
            lambda **given: require_batches(sample_batches(table, **given), N, False),
            {**walk, "batch_size": B, "planner": "walks", "drop_last": True, "num_batches": 2},
        ),
        Call(
            lambda **given: of_graph(proximity_graph(features, **given)),
            {**graph, "num_candidates": 9, "candidate_group_size": 8, "sort": True, "seed": 1},
        ),
        Call(lambda **given: of_graph(knn_graph(features, **given)), graph),
        Call(
            lambda **given: FeatureBank(**given).check(),
            {"num_instances": N, "dim": D, "two_towers": False, "dtype": torch.float16, "device": "cpu",
             "normalize": True, "momentum": 0.5, "gather": False, "nonfinite": "skip"},
        ),
        Call(
            lambda **given: _drawn(bank=valid_bank(), **given),
            {"sampler": N, "batch_size": B, "drop_last": True, "planner": "partition", "scope": "global", "rank": 0,
             "num_replicas": 2, "refresh_every": None, "restart_prob": 0.2, "unique": [*range(N)], "max_per_batch": 1,
             "positives": [[0, 1]], "margin": 0.1, "relative_margin": None, "seed": 3, "progress": None},
        ),
        Call(
            _composed,
            {"documents": embeddings(1), "batch_size": B, "preset": "b3", "community_size": 2, "rank_window": (1, 5),
             "mutual": True, "neighbors": "exact", "metric": "ip", "unique": [*range(N)], "max_per_batch": 1,
             "positives": [[0, 1]], "margin": 0.1, "max_score": 5.0, "num_hard_negatives": 2, "num_epochs": 2,
             "drop_last": True, "seed": 0, "num_threads": 1, "max_memory": 2**30, "progress": None},
        ),
        Call(
            _composed,
            {"batch_size": B, "preset": "uniform", "sources": [0] * 9 + [1] * 15, "leftovers": "mixed",
             "interleave": {0: 1.0, 1: 2.0}, "sources_per_batch": 1, "unique": [*range(N)]},
        ),
        Call(
            _composed,
            {"batch_size": B, "preset": "walks", "num_candidates": 9, "num_neighbors": 3, "graph": None,
             "labels": None},
        ),
        Call(
            _composed,
            {"batch_size": B, "graph": table, "community_size": [2, 4], "mutual": False, "num_hard_negatives": 1,
             "num_epochs": 2},
        ),
        Call(
            lambda **given: of_graph(ProximityGraph(**given)),
            {"neighbors": table[:9], "scores": torch.zeros(9, 3), "ids": torch.arange(9) * 2, "num_instances": 30},
        ),
        Call(
            _composed,
            {"batch_size": B, "rank_window": {0: (1, 3), 1: (0, 5)}, "sources": [0] * 9 + [1] * 15, "mutual": False,
             "community_size": 2, "sources_per_batch": 2, "interleave": "proportional"},
        ),
    ]  # fmt: skip


def more_calls() -> list[Call]:
    """Returns calls for the arguments that the others lack. The files "bank", "graph" and "plan" exist."""
    features, table = embeddings(), knn_graph(embeddings(), 3).neighbors
    config = GraphConfig()
    graph_options = {name: getattr(config, name) for name in config.__dataclass_fields__}
    plan, graph = valid_plan(), knn_graph(features, 3)
    return [
        Call(
            lambda **given: knn(**given),
            {"queries": features, "base": embeddings(1), "num_neighbors": 3, "metric": "l2", "num_threads": 1,
             "compute_dtype": torch.float32, "max_memory": 2**30, "progress": None},
        ),
        Call(proximity_graph, {"features": features, "num_neighbors": 3, "config": None, "documents": embeddings(1)}),
        Call(knn_graph, {"features": features, "num_neighbors": 3, "documents": embeddings(1)}),
        Call(random_walk_with_restart, {"graph": table, "roots": [0, 3], "batch_size": B}),
        Call(sample_batches, {"graph": table, "batch_size": B}),
        Call(_drawn, {"bank": valid_bank(), "graph": config, "rank": None, "num_replicas": None, "planner": "walks"}),
        Call(_drawn, {"bank": valid_bank(), "relative_margin": 0.1, "scope": "local", "sampler": range(N)}),
        Call(lambda **given: _drawn(bank=valid_bank(), graph=GraphConfig(**given)), graph_options),
        Call(lambda **given: _drawn(bank=valid_bank(), planner=WalkPlanner(**given)), {"order": "rwr"}),
        Call(
            lambda **given: _drawn(bank=valid_bank(), planner=CoverByWalksPlanner(**given)),
            {"order": "dfs", "restart_prob": 0.1},
        ),
        Call(
            lambda **given: _drawn(bank=valid_bank(), planner=PartitionPlanner(**given)),
            {"hardness": "soft", "restart_prob": 0.1},
        ),
        Call(
            lambda **given: ProximityBatchSampler(N, B, bank=valid_bank(), unique=[*range(N)]).negative_mask(**given),
            {"indices": [0, 1]},
        ),
        Call(lambda **given: ProximityBatchSampler(N, B, bank=valid_bank()).set_epoch(**given), {"epoch": 1}),
        Call(lambda **given: ProximityBatchSampler(N, B, bank=valid_bank()).state_dict(**given), {"num_trained": 0}),
        Call(lambda **given: list(PlannedBatchSampler(**given)), {"plan": plan, "dataset": N}),
        Call(lambda **given: list(PlannedBatchSampler(plan, **given)), {"rank": 0, "num_replicas": 2}),
        Call(lambda **given: list(PlannedBatchSampler(plan, **given)), {"num_replicas": None}),
        Call(lambda **given: PlannedBatchSampler(plan).set_epoch(**given), {"epoch": 1}),
        Call(lambda **given: PlannedBatchSampler(plan).state_dict(**given), {"num_trained": 0}),
        Call(lambda **given: FeatureBank(N, D, two_towers=True).update(**given),
             {"indices": [1, 2], "embeddings": features[:2], "documents": features[2:4]}),
        Call(lambda **given: FeatureBank(N, D).fill_from(**given),
             {"encode_fn": lambda _: (range(2), features[:2]), "loader": [], "progress": None}),
        Call(lambda **given: FeatureBank(N, D, **given), {"path": None}),
        Call(valid_bank().save, {"path": "bank"}),
        Call(lambda **given: valid_bank().load(**given), {"path": "bank"}),
        Call(graph.save, {"path": "graph"}),
        Call(ProximityGraph.load, {"path": "graph"}),
        Call(plan.save, {"path": "plan"}),
        Call(Plan.load, {"path": "plan"}),
        Call(graph.mutual, {"num_threads": 1}),
        Call(graph.to, {"device": "cpu"}),
        Call(plan.batches, {"epoch": 0}),
        Call(plan.sources, {"epoch": 0}),
        Call(plan.negative_mask, {"indices": [0, 1]}),
        Call(plan.hard_negatives, {"num_hard_negatives": 2}),
        Call(
            plan.report, {"queries": features, "documents": embeddings(1), "epoch": 0, "progress": None}
        ),
        Call(batch_stats, {"batches": [[0, 1], [2, 3]], "features": features, "labels": [0] * N, "graph": graph}),
        Call(IndexedDataset, {"dataset": [1, 2]}),
        Call(mean_cosine, {"rows": features}),
        Call(equal_label_share, {"labels": [0, 1]}),
        Call(
            lambda **given: list(Batches(**given)),
            {"indices": torch.arange(8).view(2, 4), "tail": torch.arange(3), "tail_sizes": [1, 2], "stats": None},
        ),
        Call(_composed, {"batch_size": B, "preset": "walks", "num_candidates": 9, "labels": [0] * N}),
        Call(_composed, {"batch_size": B, "preset": "clusters", "batches_per_cluster": 2}),
        Call(_composed, {"batch_size": B, "documents": embeddings(1), "relative_margin": 0.1, "preset": "uniform"}),
        Call(compose, {"queries": features, "batch_size": B, "preset": "uniform"}),
    ]  # fmt: skip


@cache
def all_calls() -> list[Call]:
    return [*fuzzed_calls(), *more_calls()]
