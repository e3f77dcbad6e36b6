"""What may not meet in the batches of a sampler, and which pairs are no negatives: as in plans, but for each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .._engine import validate
from .._engine.arrays import as_matrix
from .._engine.random import permutation
from .._negatives.keep_apart import (
    Apart,
    as_ids_of_columns,
    as_pairs,
    keep_apart,
    left_out_places,
    require_assignment,
)
from .._negatives.negatives import (
    Demands,
    MarginRule,
    Margins,
    Negatives,
    as_labels,
    groups_of,
    labels_of,
    neighbors_of_instances,
    without_positives,
)
from .._negatives.padding import padding
from ..bank import FeatureBank
from ..graph import ProximityGraph
from ..graph_builders import GraphConfig
from ..planners import BatchPlanner
from .epoch_cursor import Plan


@dataclass(frozen=True, eq=False)
class Contract:
    """Checked arguments that name pairs which are no negatives, for the N instances of the bank."""

    apart: Apart
    margin_rule: MarginRule | None
    labels: Any  # of GraphConfig

    @classmethod
    def check(
        cls,
        bank: FeatureBank,
        config: GraphConfig,
        planner: BatchPlanner,
        *,
        unique: Any,
        max_per_batch: Any,
        positives: Any,
        margin: Any,
        relative_margin: Any,
    ) -> Contract:
        """Raises errors that name the argument."""
        apart = Apart(
            as_ids_of_columns(unique, bank.num_instances, "the bank"),
            validate.integer(max_per_batch, "max_per_batch", 1),
            as_pairs(positives, bank.num_instances),
        )
        if apart.ids.shape[1] and not planner.covers_once:
            raise ValueError(
                f"unique: expected None with planner {planner.name!r}, whose batches overlap, so instances cannot be "
                "swapped between them. Use planner='partition'"
            )
        rule = MarginRule.check(margin, relative_margin, has_documents=bank.documents is not None)
        return cls(apart, rule, config.labels)

    @cached_property
    def groups(self) -> torch.Tensor:
        return groups_of(self.apart.ids, as_labels(self.labels, len(self.apart.ids)))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be equal when a state is loaded. Empty without arguments that a state depends on."""
        result: dict[str, Any] = {}
        if self.apart.ids.shape[1]:
            digest = hashlib.sha256(np.ascontiguousarray(self.apart.ids).data).hexdigest()[:16]
            result |= {"unique": digest, "max_per_batch": self.apart.max_per_batch}
        return result if self.margin_rule is None else {**result, **self.margin_rule._asdict()}

    def require_possible(self, instances: torch.Tensor, sizes: np.ndarray, batch_size: int) -> None:
        """Raises ``ValueError`` if batches of these sizes cannot keep the ids of the instances apart.

        If the batches hold fewer instances, any others may be left out. For one column the answer is exact. For
        several, a repair of random batches is tried.
        """
        validate.integer(self.apart.max_per_batch, "max_per_batch", 1, batch_size, because=" (the batch size)")
        if not self.apart.ids.shape[1] or not len(sizes):
            return
        ids, num_drawn = self.apart.ids[instances.numpy()], int(sizes.sum())
        others = left_out_places(len(instances) - num_drawn, "drop_last")
        require_assignment(ids, sizes, self.apart.max_per_batch, elsewhere=others)
        if ids.shape[1] > 1:
            order = permutation(len(instances), 0, 0)
            self.left_out(instances[order[:num_drawn]], sizes, instances[order[num_drawn:]], 0, 0)

    def left_out(
        self, members: torch.Tensor, sizes: np.ndarray, others: torch.Tensor, seed: int, epoch: int
    ) -> torch.Tensor:
        """Returns which instances an epoch leaves out: the others, if batches of the members can keep ids apart.

        If not, some change places with members. For several columns, a repair of batches is tried.
        """
        ids = self.apart.ids
        if ids.shape[1] == 1:
            try:
                require_assignment(ids[members.numpy()], sizes, self.apart.max_per_batch)
                return others
            except ValueError:
                pass
        members, others = members.to(torch.int32), others.to(torch.int32)
        apart = self.apart._replace(positives=self.apart.positives[:0])
        return keep_apart(members, sizes, apart, None, seed=seed, epoch=epoch, left_out=others).left_out.long()

    def graph_config(self, config: GraphConfig) -> GraphConfig:
        """Returns the options of the graph, so that ids count as labels, and scores are there for margins."""
        if config.labels is None:
            config = replace(config, labels=labels_of(self.apart))
        return config if self.margin_rule is None else replace(config, return_scores=True)

    def margins(self, bank: FeatureBank, config: GraphConfig) -> Margins | None:
        """Returns the limits by the bank's present embeddings."""
        if self.margin_rule is None:
            return None
        rows = bank.rows_for_graph()
        return self.margin_rule.limits(
            as_matrix(rows.features, "features"),
            as_matrix(rows.documents, "documents"),
            config.metric,
            validate.num_threads(config.num_threads),
            config.compute_dtype,
        )

    def thinned(self, graph: ProximityGraph, margins: Margins | None) -> ProximityGraph:
        """Returns the graph without edges that join no negatives. Its builder has kept to ``labels``."""
        if self.apart.is_empty and margins is None:
            return graph
        return without_positives(graph, Demands(self.apart, self.groups, margins, None))

    def repaired(
        self, members: torch.Tensor, sizes: np.ndarray, graph: ProximityGraph | None, seed: int, epoch: int
    ) -> torch.Tensor:
        """Returns the batches after swaps. members: int32 [L], distinct, one batch after the other."""
        if self.apart.is_empty:
            return members
        has_edges = graph is not None and graph.num_neighbors > 0
        neighbors = neighbors_of_instances([graph], len(self.apart.ids)) if graph is not None and has_edges else None
        return keep_apart(members, sizes, self.apart, neighbors, seed=seed, epoch=epoch).members

    def padding(
        self, batch: torch.Tensor, instances: torch.Tensor, size: int, num_ranks: int, is_local: bool
    ) -> torch.Tensor:
        """Returns the instances that pad a ragged batch, in this order. They keep ids apart where that is possible.

        Args:
            batch: ids of the batch. Each rank draws ``size`` of them, with padding.
            instances: int64, from which to choose.
            is_local: ids are kept apart within the part of each rank, not in the whole batch.
        """
        if not self.apart.ids.shape[1]:
            return instances
        spare = instances[~torch.isin(instances, batch)]
        return padding(batch, spare, self.apart.ids, self.apart.max_per_batch, size, num_ranks, is_local).instances

    def negatives(self, plans: Sequence[Plan]) -> Negatives:
        """Returns which pairs count as negatives in the batches of these plans."""
        pairs = [plan.pairs.numpy() for plan in plans if plan.pairs is not None]
        return Negatives.of(len(self.apart.ids), self.groups, [self.apart.positives, *pairs])
