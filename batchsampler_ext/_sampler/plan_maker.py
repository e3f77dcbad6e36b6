"""Makes a plan: builds a graph over the instances that may still be drawn, then plans batches from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from .._engine import validate
from .._engine.arrays import dense
from .._engine.cuda import to_device_async, to_host
from .._engine.random import Stream, derived_seed, permutation
from .._negatives.negatives import Margins
from .._negatives.tables import sizes_of
from ..bank import FeatureBank
from ..graph import ProximityGraph
from ..graph_builders import GraphConfig, proximity_graph
from ..planners import Batches, BatchPlanner, PlanRequest
from .contract import Contract
from .epoch_cursor import Plan

_LEFT_OUT = 2**32 - 1  # takes the place of a plan's first batch in the seed of what drop_last leaves out


class MadePlan(NamedTuple):
    plan: Plan
    graph: ProximityGraph | None  # None: the planner needs none, or fewer than two instances have an embedding
    graph_ms: float
    plan_us: float  # per batch
    random_fill_share: float
    missing_embedding_share: float


def count_batches(num_instances: int, batch_size: int, drop_last: bool) -> int:
    """Number of batches of an epoch that draws each of num_instances once."""
    return num_instances // batch_size + (not drop_last and num_instances % batch_size > 0)


@dataclass(frozen=True)
class PlanMaker:
    """Checked settings of a sampler. Plans consist of global batches: one per step, of which each rank draws a part."""

    instances: torch.Tensor  # int64, ascending
    batch_size: int  # per rank
    drop_last: bool
    planner: BatchPlanner
    refresh_every: int | None  # global batches of a plan; None for planners that plan whole epochs
    seed: int
    contract: Contract
    scope: str = "global"
    num_replicas: int = 1
    _left_out: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def global_batch_size(self) -> int:
        """Number of instances that all ranks draw together in a step."""
        return self.batch_size * self.num_replicas

    @property
    def planned_batch_size(self) -> int:
        """Number of instances of the batches that the planner composes."""
        return self.batch_size if self.scope == "local" else self.global_batch_size

    @property
    def num_ragged(self) -> int:
        """Number of instances that fill no global batch."""
        return len(self.instances) % self.global_batch_size

    def num_batches(self) -> int:
        return count_batches(len(self.instances), self.global_batch_size, self.drop_last)

    def batch_sizes(self, num_instances: int) -> np.ndarray:
        """Returns the lengths of the batches within which negatives are sought, int64. The list of instances is cut so.

        With scope "local" these are the parts of the ranks, without padding.
        """
        size = self.global_batch_size
        if self.scope == "global":
            return sizes_of(num_instances, size)
        tail = num_instances % size
        full = np.full(num_instances // size * self.num_replicas, self.batch_size, np.int64)
        return full if tail == 0 else np.concatenate([full, sizes_of(tail, -(-tail // self.num_replicas))])

    def require_possible(self) -> None:
        """Raises ``ValueError`` if no epoch of these batches keeps the contract."""
        size, count = self.global_batch_size, len(self.instances)
        sizes = self.batch_sizes(count // size * size if self.drop_last else count)
        self.contract.require_possible(self.instances, sizes, self.planned_batch_size)

    def spare(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns ids to pad a ragged batch with, in this order."""
        size = -(-len(batch) // self.num_replicas)
        return self.contract.padding(batch, self.instances, size, self.num_replicas, self.scope == "local")

    def left_out(self, epoch: int) -> torch.Tensor:
        """Returns bool [len(instances)], the instances that take no part in the epoch."""
        result = torch.zeros(len(self.instances), dtype=torch.bool, device="cpu")
        count = self.num_ragged if self.drop_last else 0
        if count and self.planner.covers_once:
            if epoch not in self._left_out:
                self._left_out.clear()
                self._left_out[epoch] = self._chosen_left_out(epoch, count)
            result[self._left_out[epoch]] = True
        return result

    def _chosen_left_out(self, epoch: int, count: int) -> torch.Tensor:
        """Returns random places in ``instances``. The others can keep the contract."""
        size, seed = len(self.instances), self._plan_seed(epoch, _LEFT_OUT)
        order = permutation(size, seed, epoch)
        if not self.contract.apart.ids.shape[1] or count == size:
            return order[size - count :]
        members, others = self.instances[order[: size - count]], self.instances[order[size - count :]]
        others = self.contract.left_out(members, self.batch_sizes(size - count), others, seed, epoch)
        return torch.searchsorted(self.instances, others)

    def make(
        self,
        bank: FeatureBank,
        config: GraphConfig,
        restart_prob: float,
        epoch: int,
        first: int,
        drawn: torch.Tensor,
        progress: validate.Progress | None,
        builders: dist.ProcessGroup | None = None,
    ) -> MadePlan:
        """Returns the plan that begins at batch ``first``.

        Args:
            drawn: bool [len(instances)], drawn earlier in the epoch.
            builders: ranks that share the work of building the graph. All of them make this call.
        """
        ids = self.instances[~drawn] if self.planner.covers_once else self.instances
        seed = self._plan_seed(epoch, first)
        start = time.perf_counter()
        margins = self.contract.margins(bank, config)
        graph, num_missing = self._build_graph(bank, ids, config, seed, progress, builders, margins)
        built = time.perf_counter()
        num_threads = validate.num_threads(config.num_threads)
        batches = self.planner.plan(
            graph,
            PlanRequest(
                self.planned_batch_size,
                self.drop_last,
                self._num_wanted(first),
                seed,
                epoch,
                restart_prob,
                num_threads,
                drawn,
            ),
        )
        found = self._on_host(batches, ids)
        sizes = self.batch_sizes(len(found))
        if self.planner.covers_once:
            found = self.contract.repaired(found, sizes, graph, seed, epoch)
        indices, tail = self._cut(found)
        has_graph = graph.num_neighbors > 0
        return MadePlan(
            Plan(first, indices, tail, None if margins is None else _pairs(margins, bank, found.split(sizes.tolist()))),
            graph if has_graph else None,
            1e3 * (built - start) if has_graph else float("nan"),
            1e6 * (time.perf_counter() - built) / max(1, len(batches)),
            batches.stats.get("random_fills", 0) / max(1, batches.stats.get("num_instances", 0)),
            num_missing / len(ids),
        )

    def _num_wanted(self, first: int) -> int | None:
        if self.refresh_every is None or self.planner.length_varies:
            return self.refresh_every
        num_global = min(self.refresh_every, self.num_batches() - first)
        if len(self.instances) < self.planned_batch_size:
            return num_global  # the only batch is all instances
        return num_global * self.global_batch_size // self.planned_batch_size

    def _build_graph(
        self,
        bank: FeatureBank,
        ids: torch.Tensor,
        config: GraphConfig,
        seed: int,
        progress: validate.Progress | None,
        builders: dist.ProcessGroup | None,
        margins: Margins | None,
    ) -> tuple[ProximityGraph, int]:
        """Returns a graph with a row for each id, and how many ids have no embedding. Their rows have no edges."""
        rows, own_ids = bank.rows_for_graph(), ids
        ids = to_device_async(own_ids, bank.device)
        is_known = to_host(rows.has_embedding[ids])
        num_known = int(is_known.sum())
        wanted = self.planner.graph_config(config, self.planned_batch_size, num_known)
        num_instances = bank.num_instances
        if num_known < 2 or wanted is None:
            empty = torch.empty((len(ids), 0), dtype=torch.int32, device=bank.device)
            return ProximityGraph(empty, ids=ids, num_instances=num_instances), len(ids) - num_known
        graph = proximity_graph(
            rows.features,
            config=on_device(self.contract.graph_config(wanted), bank.device),
            documents=rows.documents,
            rows=ids if num_known == len(ids) else to_device_async(own_ids[is_known], bank.device),
            seed=seed,
            progress=progress,
            process_group=builders,
        )
        graph.check()
        graph = self.contract.thinned(graph, margins)
        if num_known < len(ids):
            neighbors = torch.full((len(ids), graph.num_neighbors), -1, dtype=torch.int32, device=bank.device)
            neighbors[to_device_async(is_known.nonzero()[:, 0], bank.device)] = graph.neighbors
            graph = ProximityGraph(neighbors, ids=ids, num_instances=num_instances)
        return graph, len(ids) - num_known

    def _on_host(self, batches: Batches, ids: torch.Tensor) -> torch.Tensor:
        """Returns the instances, int32 on the host, one batch after the other."""
        if not isinstance(batches, Batches):
            raise TypeError(f"planner: expected Batches from {self.planner.name!r}, got {type(batches).__name__}")
        found = to_host(torch.cat([batches.indices.reshape(-1), batches.tail]).to(torch.int32))
        self._check(batches, found, ids)
        return found

    def _cut(self, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns global batches and tail. They are copies, because views would put all into every saved state."""
        size = len(found) // self.global_batch_size * self.global_batch_size
        return found[:size].view(-1, self.global_batch_size).clone(), found[size:].clone()

    def _check(self, batches: Batches, found: torch.Tensor, ids: torch.Tensor) -> None:
        """Raises ``ValueError`` for wrong batches of a user's planner, which could make an epoch endless."""
        name = self.planner.name
        width = batches.indices.shape[1]
        expected = self.planned_batch_size
        if len(batches.indices) and width != expected:
            raise ValueError(f"planner: expected batches of {expected} instances from {name!r}, got {width}")
        if len(found) == 0:
            raise ValueError(f"planner: expected batches from {name!r}, got none")
        if self.planner.covers_once and not _is_each_once(found, ids):
            raise ValueError(f"planner: expected each of {len(ids)} instances once from {name!r}, got {len(found)}")

    def _plan_seed(self, epoch: int, first: int) -> int:
        """Returns an unrelated seed for each plan of each epoch."""
        return derived_seed(self.seed, Stream.PLAN, first << 32 | epoch)


def _is_each_once(found: torch.Tensor, ids: torch.Tensor) -> bool:
    """Returns whether ``found`` is a permutation of ``ids``, which are distinct and ascend. Faster than by sorting."""
    if len(found) != len(ids) or int(found.min()) < 0 or int(found.max()) > int(ids[-1]):
        return False
    is_found = torch.zeros(int(ids[-1]) + 1, dtype=torch.bool, device="cpu")
    is_found[found.long()] = True
    return bool(is_found[ids].all())


def _pairs(margins: Margins, bank: FeatureBank, batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns int32 [P, 2], the pairs within the margin that meet in a batch. Both have an embedding."""
    is_known = to_host(bank.rows_for_graph().has_embedding)
    known = [batch[is_known[batch.long()]] for batch in batches]
    found = [margins.pairs(ids) for ids in known if len(ids) > 1]
    return torch.from_numpy(np.concatenate([np.empty((0, 2), np.int32), *found]))


def on_device(config: GraphConfig, device: torch.device) -> GraphConfig:
    """Returns the config with its labels on the device. A bank may get its device after the sampler was made."""
    labels = config.labels
    if not isinstance(labels, torch.Tensor):
        return config
    return replace(config, labels=to_device_async(dense(labels, "labels"), device))
