"""Targets that take states, arrays and options of callers."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from batchsampler_ext import (
    FeatureBank,
    PlannedBatchSampler,
    ProximityBatchSampler,
    ProximityGraph,
    compose,
    knn,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)

from .calls import fuzzed_calls, of_graph, of_plan
from .checks import B, D, N, embeddings, refusing, same, valid_bank, valid_plan
from .source import Source


def sampler_state(data: bytes, folder: Path) -> None:
    source = Source(data)
    bank = valid_bank()
    make: list[Callable[[], Any]] = [
        lambda: ProximityBatchSampler(N, B, bank=bank),
        lambda: ProximityBatchSampler(range(2, 20), B, bank=bank, planner="walks", refresh_every=2),
        lambda: ProximityBatchSampler(N, B, bank=bank, margin=0.1, unique=[*range(22), 3, 3], drop_last=True),
        lambda: PlannedBatchSampler(compose(embeddings(), batch_size=5, preset="uniform")),
        lambda: ProximityBatchSampler(N, B, bank=bank, planner="cover_by_walks"),
        lambda: bank,
    ]
    chosen = source.choice(make)
    sampler = chosen()
    if sampler is not bank:
        batches = iter(sampler)
        for _ in range(source.below(4)):
            next(batches)
        del batches
    state: Any = copy.deepcopy(sampler.state_dict())
    for _ in range(1 + source.below(3)):
        state = source.edited(state)
    other = valid_bank() if sampler is bank else chosen()
    before = copy.deepcopy(other.state_dict())
    with refusing("state", "state: .*", "epoch") as refused:
        other.load_state_dict(state)
    if refused:
        assert same(before, other.state_dict()), "changed by a state that was refused"
    elif other is not bank and not isinstance(other, FeatureBank):
        again = copy.deepcopy(other.state_dict())
        rest = [batch for batch, _ in zip(other, range(20), strict=False)]
        assert all(0 <= i < N for batch in rest for i in batch)
        other.load_state_dict(again)
        assert rest == [batch for batch, _ in zip(other, range(20), strict=False)]


# --- arguments --------------------------------------------------------------------------------------------------------
def arrays(data: bytes, folder: Path) -> None:
    """Arrays in any container and layout: they are refused, or mean what they mean to torch."""
    source = Source(data)
    dtype = source.choice([torch.float32, torch.float16, torch.bfloat16])
    features, width = embeddings().to(dtype), 1 + source.below(D)
    features = features[:, :width].contiguous()
    ids = torch.arange(N).roll(source.below(N))[: 2 + source.below(N - 2)]
    table = knn_graph(embeddings(), 3).neighbors
    is_ids, few = source.below(2), embeddings()[: len(ids)]
    value: Any = (ids if is_ids else features) if source.below(8) else source.tensor()
    is_known = value is ids or value is features
    given = source.odd(value)
    calls: list[tuple[str, Callable[[Any], Any]]] = (
        [
            ("rows", lambda part: of_graph(proximity_graph(features, 1, num_candidates=1, rows=part))),
            ("rows", lambda part: of_graph(knn_graph(features, 1, rows=part))),
            ("labels", lambda part: of_graph(proximity_graph(features[: len(ids)], 1, labels=part))),
            ("roots", lambda part: random_walk_with_restart(table, part, B).nodes.tolist()),
            ("indices", lambda part: _of_bank(part, few)),
            ("indices", lambda part: valid_plan().negative_mask(part).tolist()),
            ("unique", lambda part: of_plan(compose(few, batch_size=2, preset="uniform", unique=part))),
            ("ids", lambda part: of_graph(ProximityGraph(table[: len(ids)], ids=part, num_instances=N))),
            ("sources", lambda part: of_plan(compose(few, batch_size=2, preset="uniform", sources=part))),
        ]
        if is_ids
        else [
            ("features", lambda part: of_graph(proximity_graph(part, 2, return_scores=True))),
            ("features", lambda part: of_graph(knn_graph(part, 2))),
            ("documents", lambda part: of_graph(proximity_graph(features, 2, documents=part, return_scores=True))),
            ("queries|base", lambda part: [found.tolist() for found in knn(part, part, 2)]),
            ("embeddings|indices", lambda part: _of_bank(range(N), part, width)),
            ("queries", lambda part: of_plan(compose(part, batch_size=B, rank_window=(0, 3), community_size=2))),
            ("graph", lambda part: [b.tolist() for b in sample_batches(part, B)]),
            ("neighbors|scores", lambda part: of_graph(ProximityGraph(table[:, :1], part))),
        ]
    )  # fmt: skip
    names, call = source.choice(calls)
    of_sizes = ("num_neighbors", "num_candidates", "batch_size", "community_size", "rank_window")
    with refusing(*names.split("|"), "embeddings", *of_sizes) as refused:
        found = call(given)
    if is_known and not refused and not names.startswith(("labels", "scores")):
        assert repr(found) == repr(call(value)), "another result than for a plain tensor"


def _of_bank(ids: Any, rows: Any, width: int = D) -> Any:
    bank = FeatureBank(N, width, dtype=torch.float32)
    bank.update(ids, rows)
    return bank.data.tolist(), bank.last_update.tolist()


def arguments(data: bytes, folder: Path) -> None:
    """Options of any type and value, with valid arrays."""
    source = Source(data)
    call, options = source.choice(fuzzed_calls())
    names = [*map(re.escape, options), *OTHERS]
    for _ in range(1 + source.below(3)):
        name = source.choice(list(options))
        options = {**options, name: source.edited(options[name])}
    if any(most < as_number(options.get(name)) < 2**40 for name, most in MOST.items()):
        return  # their memory and time are asked for
    with refusing(*names):
        call(**options)


MOST = {name: 64 for name in ("batch_size", "num_instances", "dim", "num_epochs", "sampler", "num_batches")}
MOST["num_threads"] = 16  # each has a stack


def as_number(value: Any) -> int:
    try:
        return operator.index(value)  # also of a tensor
    except Exception:
        return 0


# Errors may also name these, if an option does not fit to them.
OTHERS = (
    *("features", "queries", "neighbors", "graph", "bank", "sampler", "order", "rank, num_replicas"),
    *("margin, relative_margin", "num_epochs", "rank_window", "num_candidates", "num_neighbors", "community_size"),
)
