"""The batch sampler that training loops use: epochs of hard batches from the freshest embeddings."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from ._engine import validate
from ._engine.arrays import require_countable
from ._engine.cuda import to_device_async, to_host
from ._engine.warn import warn
from ._negatives.negatives import Negatives
from ._sampler.base import EpochSampler
from ._sampler.contract import Contract
from ._sampler.epoch_cursor import EpochCursor, Plan, load_cursor
from ._sampler.index_set import index_set
from ._sampler.iterations import Iteration
from ._sampler.plan_maker import MadePlan, PlanMaker, on_device
from ._sampler.ranks import checked_ranks, is_group_awaited, ranks_of
from .bank import FeatureBank
from .graph import ProximityGraph
from .graph_builders import GraphConfig, proximity_graph
from .metrics import batch_stats
from .planners import BatchPlanner, find_planner
from .walk import check_batch_size

__all__ = ["ProximityBatchSampler", "SamplerStats"]

_SCOPES = ("global", "local")
_NUM_MEASURED = 8  # batches of a plan whose similarity is measured
_DEFAULT_REFRESH_EVERY = 100  # the authors' interval


class SamplerStats(NamedTuple):
    """Cost of sampling, and properties of the latest plan. A value that is not known yet is nan."""

    graph_ms: float  # time for building the graph of the plan; nan if it needed none
    plan_us: float  # time for planning, per batch
    in_batch_similarity: float  # mean cosine of two members, in the first 8 batches, from the bank's present embeddings
    random_fill_share: float  # share of the plan's instances that were assigned at random
    missing_embedding_share: float  # share of instances that had no embedding when the plan was made
    graph_age: int  # number of batches drawn from the plan; 0 before the first
    total_seconds: float  # time that this object has spent on graphs, plans and batches


class ProximityBatchSampler(EpochSampler):
    """Mini-batches of hard negatives for a DataLoader: ``DataLoader(dataset, batch_sampler=...)``.

    At the start of an epoch, a proximity graph is built from the bank's embeddings, and a planner composes the batches
    from it. By default they are a partition: each instance is in exactly one batch of the epoch. Instances without an
    embedding are dealt out at random, so the first epoch is uniform unless ``bank.fill_from`` was called.

    Args:
        sampler: the instances to draw, as the number N or the dataset of N instances (all of them), ids (a range, list,
            array or tensor of integers) or a torch sampler (those that it draws, in whatever order). An id is the
            position of a sample in the dataset that the loader gets, the row of its embedding in the bank, and the
            place of its label (docs/guide.md, "Which ids").
        batch_size: B, per rank.
        drop_last: leave out the ragged global batch. In a partition, as many random instances take no part in the
            epoch, and others if ``unique`` needs that. Otherwise every rank draws an equal part of it, padded with at
            most num_replicas - 1 instances.
        bank: :class:`FeatureBank` of N instances, which training updates by the same ids. Graphs and batches are
            computed on the bank's device. They are equal on all devices.
        graph: :class:`GraphConfig` of the graphs. Its labels are moved to the bank's device.
        planner: a name or a :class:`BatchPlanner`, see :func:`sample_batches`. Epochs of "cover_by_walks" vary in
            length (``len`` is then the number of batches of a uniform epoch).
        scope: "global" composes hard batches of num_replicas * B instances, of which each rank draws a part: right for
            losses that gather embeddings from all ranks. "local" composes a hard batch of B instances for each rank.
        rank, num_replicas: this process and the number of processes. None: those of the default process group, when
            batches are drawn. All ranks compute the same batches, if their banks are equal, without communication.
        refresh_every: number of batches between graphs, by default 100. Only for planners that do not plan whole
            epochs, such as those that walk. A partition needs one graph per epoch: training updates only drawn
            instances, so the embeddings of the undrawn ones do not change. If something else updates the bank too, call
            ``refresh()``.
        restart_prob: alpha, or a function that returns it for an epoch (the authors decrease it from 0.2 to 0.05).
        unique: int [N] or [N, C], ids of texts, products or patients, in the order of the bank. -1 is none. No batch of
            any epoch holds more than ``max_per_batch`` instances with an equal id in a column: the batch of all ranks
            with scope "global", that of each rank with "local". Instances are swapped between batches for this, and
            none is dropped. Instances that pad a ragged batch are chosen by the ids, too, but may repeat one if all
            others do. Equal ids get no edge, and with one column and without labels, candidates do not count them.
            Only for planners that cover each instance once, such as "partition".
        max_per_batch: how many instances with an equal id a batch may hold.
        positives: int [P, 2], pairs (query i, document of j) that are further positives. They are no edges. Planners
            that cover each instance once keep them apart where few swaps can do that.
        margin: document j is no negative of query i if s(i, j) >= s(i, i) - margin, with the exact scores of the
            graph's metric, by the bank's embeddings when a plan is made. Such pairs are no edges. Needs a bank with two
            towers.
        relative_margin: likewise, if s(i, j) >= s(i, i) - relative_margin * abs(s(i, i)). It is between 0 and 1.
            :meth:`negative_mask` knows all pairs that ``unique``, ``positives``, margins and ``graph.labels`` exclude.
        seed: 0 to 2**64 - 1. Batches are a function of the bank's contents at each graph, arguments, seed and epoch.
        progress: called while a graph is built, see :func:`proximity_graph`.

    Attributes:
        bank: the argument.
        planner: the argument, as an object.
        graph_config: the argument ``graph``.
        refresh_every: number of batches between graphs. None: one graph per epoch.
        graph: the graph of the latest plan, or None if it needed none.
        refreshes: number of graphs built so far.

    Raises:
        TypeError, ValueError: a bad argument, named. ``unique``: an id is on more instances than the batches may hold,
            or no way was found to keep all ids apart. With ``drop_last``, some choice of what is left out must do. If
            the ranks are not known yet, this is checked when they are, before the first batch.

    Source: Yang et al., KDD 2023, algorithm 1; partitions are ours. Margins are those of :func:`compose`.

    Example:
        >>> import torch
        >>> bank = FeatureBank(10, 4)
        >>> sampler = ProximityBatchSampler(10, 4, bank=bank)
        >>> len(sampler), sorted(i for batch in sampler for i in batch)
        (3, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    _FIXED = ("bank", "batch_size", "drop_last", "graph_config", "planner", "refresh_every", "scope")

    def __init__(
        self,
        sampler: int | Sized | Sampler[int],
        batch_size: int,
        drop_last: bool = False,
        *,
        bank: FeatureBank,
        graph: GraphConfig = GraphConfig(),  # noqa: B008  (frozen)
        planner: str | BatchPlanner = "partition",
        scope: str = "global",
        rank: int | None = None,
        num_replicas: int | None = None,
        refresh_every: int | None = None,
        restart_prob: float | Callable[[int], float] = 0.2,
        unique: Any = None,
        max_per_batch: int = 1,
        positives: Any = None,
        margin: float | None = None,
        relative_margin: float | None = None,
        seed: int = 0,
        progress: validate.Progress | validate.ProgressBar | None = None,
    ) -> None:
        if not isinstance(bank, FeatureBank):
            raise TypeError(f"bank: expected a FeatureBank, got {type(bank).__name__}")
        if not isinstance(graph, GraphConfig):
            raise TypeError(f"graph: expected a GraphConfig, got {type(graph).__name__}")
        self.bank = bank
        self.batch_size = check_batch_size(batch_size)
        self.drop_last = validate.flag(drop_last, "drop_last")
        self.graph_config = graph
        self.planner = find_planner(planner)
        self.scope = validate.choice(scope, "scope", _SCOPES)
        if scope == "local" and self.planner.length_varies:
            raise ValueError(f"scope: expected 'global' with planner {self.planner.name!r}, got 'local'")
        given, split = checked_ranks(rank, num_replicas), ranks_of(sampler)
        if split is not None and given not in (None, split):
            raise ValueError(
                f"rank, num_replicas: expected {tuple(split)} as the sampler has, got {rank}, {num_replicas}"
            )
        super().__init__(given or split, self.planner.covers_once, has_bank=True)
        self.refresh_every = _checked_interval(refresh_every, self.planner)
        self._restart_prob = restart_prob
        validate.restart_threshold(self._alpha(0))
        contract = Contract.check(
            bank,
            graph,
            self.planner,
            unique=unique,
            max_per_batch=max_per_batch,
            positives=positives,
            margin=margin,
            relative_margin=relative_margin,
        )
        instances = index_set(sampler, bank.num_instances)
        self._instances_digest = hashlib.sha256(instances.numpy().data).hexdigest()[:16]
        self._maker = PlanMaker(
            instances,
            self.batch_size,
            self.drop_last,
            self.planner,
            self.refresh_every,
            validate.seed(seed),
            contract,
            scope,
        )
        self._possible_ranks = 0  # number of ranks whose batches were found to be able to keep the contract
        self._negatives: tuple[tuple[Plan, ...], Negatives] | None = None
        self._progress = validate.progress(progress)
        self._find_ranks()
        self._check_graph_config()

        self.graph: ProximityGraph | None = None
        self.refreshes = 0
        self._made: MadePlan | None = None

    def __len__(self) -> int:
        self._find_ranks()
        return self._maker.num_batches()

    def refresh(self) -> None:
        """Ends the current plan. The next batch comes from a new graph; in a partition, over the undrawn instances."""
        self._refresh_wanted = True

    def plan_epoch(self) -> None:
        """Plans the next epoch now, together with the other ranks. Each builds a share of the graph's rows.

        Call this on all ranks of ``bank.process_group`` between two epochs, after ``set_epoch`` if you call that. It is
        optional: otherwise each rank builds the whole graph when the epoch begins. The batches are the same.
        """
        if self._resume is not None:
            return
        builders = None
        if self._find_ranks().num_replicas > 1 and self._given_ranks is None:
            builders = self.bank.process_group or dist.group.WORLD
        epoch = self._epochs.next()
        plan = self._make_plan(epoch, 0, self._maker.left_out(epoch), builders)
        self._refresh_wanted = False
        self._resume = EpochCursor(epoch, (plan,))

    def state_dict(self, num_trained: int | None = None) -> dict[str, Any]:
        """Returns epoch, position and plans. The plans are references, so this is cheap enough for every batch. A saved
        state takes 4 bytes per instance of the epoch.

        The position is that of training: after the batch whose embeddings ``bank.update`` has stored last. Batches that
        a loader has drawn ahead are drawn again after loading. If training has never updated the bank, all drawn
        batches count as trained. Save the bank's state separately.

        Args:
            num_trained: number of batches of this epoch that training has finished. Needed only if the loader draws
                ahead, and training does not update the bank after each batch, stores instances of other batches too, or
                draws overlapping batches of a few instances by walks.

        Raises:
            ValueError: num_trained exceeds the batches drawn; the errors of :meth:`FeatureBank.check`.
        """
        return super().state_dict(num_trained)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue where the state was taken. If that epoch was finished, it begins the next.

        Load the bank's state too. Tensors of both may be on any device.

        Raises:
            TypeError, ValueError: the state is incomplete, or comes from a sampler with other instances, batch_size,
                drop_last, planner, seed, unique, max_per_batch or margins. The sampler stays as it was.
        """
        super().load_state_dict(state)

    def negative_mask(self, indices: Any) -> torch.Tensor:
        """Returns which pairs of a batch count as negatives, for the loss: the contract of :meth:`Plan.negative_mask`.

        Query i and document j are no negatives if they are the same instance, have an equal id in a column of
        ``unique`` or an equal label, are a pair of ``positives``, or are within the margin. Margins are known for pairs
        of two instances with an embedding that meet in a planned batch of the epoch drawn last, by the embeddings that
        its plan was made from. For other pairs, and for instances that pad a ragged batch, they do not count.

        Args:
            indices: int [B], instances of a batch: a tensor on any device, an array or a list.

        Returns:
            bool [B, B] on the device of ``indices``. Rows are queries, columns are documents, in the order of
            ``indices``.

        Raises:
            TypeError, ValueError: ``indices`` are no integers in one dimension, or out of range.

        Complexity: O(B**2), and O(P log B) for the P known pairs of these queries.

        Example:
            >>> sampler = ProximityBatchSampler(4, 2, bank=FeatureBank(4, 2), unique=[7, 7, -1, -1])
            >>> sampler.negative_mask([0, 1, 2]).int().tolist()
            [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
        """
        contract, latest = self._maker.contract, self._iterations.latest()
        plans = () if latest is None or contract.margin_rule is None else latest.cursor.plans
        known = self._negatives
        if known is None or [*map(id, known[0])] != [*map(id, plans)]:
            known = self._negatives = (plans, contract.negatives(plans))
        return known[1].mask(indices)

    def stats(self) -> SamplerStats:
        """Returns numbers about the latest plan, and the total time."""
        nan = float("nan")
        made, latest = self._made, self._iterations.latest()
        cursor = None if latest is None else latest.cursor
        plan = None if cursor is None else cursor.plans[-1]
        return SamplerStats(
            nan if made is None else made.graph_ms,
            nan if made is None else made.plan_us,
            nan if plan is None else self._in_batch_similarity(plan),
            nan if made is None else made.random_fill_share,
            nan if made is None else made.missing_embedding_share,
            0 if cursor is None or plan is None else cursor.num_drawn - plan.first,
            self._seconds,
        )

    def _in_batch_similarity(self, plan: Plan) -> float:
        rows = self.bank.rows_for_graph()
        size = self._maker.planned_batch_size
        first = [part for i in range(min(_NUM_MEASURED, plan.num_batches)) for part in plan.batch(i).long().split(size)]
        first = first[:_NUM_MEASURED]
        is_known = to_host(rows.has_embedding[to_device_async(torch.cat(first), self.bank.device)])
        parts = is_known.split([len(ids) for ids in first])
        known = [ids[part] for ids, part in zip(first, parts, strict=True)]
        return float(batch_stats(known, rows.features)["in_batch_similarity"])

    def _num_left_out(self) -> int:
        return self._maker.num_ragged if self.drop_last else 0

    def _settings(self) -> dict[str, Any]:
        """Returns the settings that must be equal when a state is loaded."""
        options: dict[str, Any] = dataclasses.asdict(self.planner) if dataclasses.is_dataclass(self.planner) else {}
        return {
            "num_instances": len(self._maker.instances),
            "instances": self._instances_digest,
            "scope": self.scope,
            **({"batch_size": self.batch_size} if self.scope == "local" else {}),
            "drop_last": self.drop_last,
            "planner": self.planner.name,
            **options,
            "seed": self._maker.seed,
            **self._maker.contract.settings,
        }

    def _check_graph_config(self) -> None:
        """Raises errors in the graph's options now, because the first graph is often built an epoch later."""
        config, size = self._planned_graph_config(), self.bank.num_instances
        if config is None:
            return
        labels = config.labels
        if isinstance(labels, range):
            require_countable(labels, "labels")
        if isinstance(labels, Sized) and getattr(labels, "ndim", 1) == 1 and len(labels) != size:
            raise ValueError(
                f"labels: expected one for each of {size} instances of the bank (bank.num_instances), in the order of "
                f"their ids, got {len(labels)}"
            )
        if size < 2:
            return
        if config.range_min >= config.num_candidates:
            raise ValueError(
                f"range_min: expected less than num_candidates, {config.num_candidates}, got {config.range_min}"
            )
        rows = self.bank.rows_for_graph()
        two = torch.arange(2, device=self.bank.device)
        config = on_device(config, self.bank.device)
        proximity_graph(rows.features, 1, num_candidates=1, config=config, documents=rows.documents, rows=two).check()

    def _process_group(self) -> dist.ProcessGroup | None:
        return self.bank.process_group

    def _set_num_replicas(self, num_replicas: int) -> None:
        if num_replicas != self._maker.num_replicas:
            self._maker = dataclasses.replace(self._maker, num_replicas=num_replicas)
        is_known = self._given_ranks is not None or not is_group_awaited()
        if is_known and num_replicas != self._possible_ranks:
            self._maker.require_possible()
            self._possible_ranks = num_replicas

    def _loaded(self, state: Any) -> EpochCursor:
        cursor = load_cursor(state, self._settings(), self.bank.num_instances)
        self._require_own_instances(cursor)
        if self._given_ranks is not None or not is_group_awaited():
            self._require_size(cursor)
        return cursor

    def _spare(self, batch: torch.Tensor) -> torch.Tensor:
        return self._maker.spare(batch)

    def _require_size(self, cursor: EpochCursor) -> None:
        """Raises ``ValueError`` if a loaded cursor has plans of another global batch size, or ends where none does."""
        expected = self._maker.global_batch_size
        for plan in cursor.plans:
            if plan.indices.shape[1] != expected:
                raise ValueError(
                    f"state: expected a global batch size (batch_size * num_replicas) of {expected} as this sampler "
                    f"has, got {plan.indices.shape[1]}"
                )
            if len(plan.tail) >= expected:
                raise ValueError(f"state: expected a tail of less than {expected} instances, got {len(plan.tail)}")
        if cursor.plans and not self.planner.length_varies:
            self._require_end(cursor, self._maker.num_batches())

    def _require_own_instances(self, cursor: EpochCursor) -> None:
        """Raises ``ValueError`` if a loaded cursor draws other instances than this sampler, or one of them twice."""
        is_own = torch.zeros(self.bank.num_instances, dtype=torch.bool, device="cpu")
        is_own[self._maker.instances] = True
        for plan in cursor.plans:
            ids = torch.cat([plan.indices.reshape(-1), plan.tail]).long()
            others = ids[~is_own[ids]]
            if len(others):
                raise ValueError(f"state: expected instances that this sampler draws, got {int(others[0])}")
            if self.planner.covers_once and _has_duplicates(ids, len(is_own)):
                raise ValueError("state: expected each instance at most once in a plan, got one twice")
        if self.planner.covers_once and cursor.plans and _has_duplicates(cursor.drawn().long(), len(is_own)):
            raise ValueError("state: expected each instance to be drawn at most once, got one twice")

    # --- an epoch ----------------------------------------------------------------------------------------------------
    def _first_cursor(self, epoch: int) -> EpochCursor:
        return EpochCursor(epoch, (self._make_plan(epoch, 0, self._maker.left_out(epoch)),))

    def _is_repeatable(self) -> bool:
        return self._planned_graph_config() is None

    def _at_plan(self, cursor: EpochCursor) -> EpochCursor:
        """Returns the cursor with a plan of the next batch. Makes a plan if there is none, or after ``refresh()``.

        If this fails (for example by Ctrl-C), the next iteration continues the epoch at this batch.
        """
        plan, latest = cursor.plan(), cursor.plans[-1]
        is_cut_short = self._refresh_wanted and plan is latest and cursor.num_drawn > latest.first
        if plan is not None and not is_cut_short:
            return cursor
        try:
            plan = self._make_plan(cursor.epoch, cursor.num_drawn, self._drawn_after(cursor))
        except BaseException:
            position = self._iterations.position(self.bank) or cursor  # a loader may have drawn ahead of training
            self._resume = position if position.epoch == cursor.epoch else cursor
            self._epochs.current, self._epochs.is_set = cursor.epoch, True
            raise
        self._refresh_wanted = False
        return cursor.with_plan(plan)

    def _updates(self) -> FeatureBank:
        return self.bank

    def _ragged_sizes(self) -> tuple[int, ...] | None:
        if self.planner.length_varies:
            return None
        size = self._maker.num_ragged
        return (size,) if size and not self.drop_last else ()

    def _is_finished(self, cursor: EpochCursor) -> bool:
        """Whether the epoch ends here, where its latest plan ends or later."""
        if not self.planner.length_varies:
            return cursor.num_drawn >= self._maker.num_batches()
        if cursor.num_drawn < cursor.plans[-1].end:
            return False
        num_left = int((~self._drawn_after(cursor)).sum())
        return num_left == 0 or (self.drop_last and num_left <= self._maker.num_ragged)

    def _drawn_after(self, cursor: EpochCursor) -> torch.Tensor:
        """Returns bool [num_listed], the instances that are drawn so far, or take no part in the epoch."""
        is_member = torch.zeros(self.bank.num_instances, dtype=torch.bool, device="cpu")
        is_member[cursor.drawn().long()] = True
        return self._maker.left_out(cursor.epoch) | is_member[self._maker.instances]

    def _make_plan(
        self, epoch: int, first: int, drawn: torch.Tensor, builders: dist.ProcessGroup | None = None
    ) -> Plan:
        """Makes a plan from the bank's present embeddings."""
        if self._maker.num_replicas > 1 and self._planned_graph_config() is not None:
            self.bank._mark_plan()
        self.bank._traps.is_drawn = True
        self.graph = None  # frees the memory before the next graph is built
        config = on_device(self.graph_config, self.bank.device)
        alpha = self._alpha(epoch)
        made = self._maker.make(self.bank, config, alpha, epoch, first, drawn, self._progress, builders)
        is_later_epoch = self._made is not None and first == 0
        if is_later_epoch and made.missing_embedding_share == 1 and self._planned_graph_config() is not None:
            self._warn_once(
                "no embedding",
                f"ProximityBatchSampler: none of the {len(self._maker.instances)} instances that it draws has an "
                f"embedding yet, so epoch {epoch} is uniform, too. Call bank.update with the indices that the loader "
                "returns; IndexedDataset adds them to the samples",
            )
        self.graph, self._made = made.graph, made._replace(graph=None)
        self.refreshes += made.graph is not None
        return made.plan

    def _finish(self, iteration: Iteration) -> None:
        """Warns if updates in a finished epoch have gone to other instances than those drawn."""
        cursor, first, bank = iteration.cursor, iteration.first_batch, self.bank
        num_batches = (cursor.num_drawn - first) // 2  # the rest may not be trained yet
        drawn = cursor.rewound(first + num_batches).drawn()[len(cursor.rewound(first).drawn()) :].long()
        is_updated = (bank.last_update >= iteration.first_step).cpu()
        missed = drawn[~is_updated[drawn]]
        if not len(missed):
            return
        how_to = (
            "Call it with the indices that the loader returns. IndexedDataset adds them to the samples, and must be "
            "the loader's outermost dataset"
        )
        num_known, ids = len(drawn) - len(missed), bank.latest_ids
        is_updated[self._maker.instances] = False
        others = is_updated.nonzero().ravel()
        if len(others):
            warn(
                f"ProximityBatchSampler: in epoch {cursor.epoch}, bank.update stored instance {int(others[0])}, which "
                f"is never drawn, and not instance {int(missed[0])}, which was drawn. {how_to}"
            )
            return
        if ids is None or bank.step - iteration.first_step < num_batches or num_known >= len(missed):
            return
        if iteration.count_matched(ids, bank.step, is_exact=False) == 0:
            warn(
                f"ProximityBatchSampler: in epoch {cursor.epoch}, bank.update stored {num_known} of the "
                f"{len(drawn)} instances of the first {num_batches} batches, and its latest ids are of no batch. "
                f"{how_to}"
            )

    def _planned_graph_config(self) -> GraphConfig | None:
        """Returns the options of graphs over all instances, or None if the planner needs no graph."""
        maker = self._maker
        return self.planner.graph_config(self.graph_config, maker.planned_batch_size, len(maker.instances))

    def _alpha(self, epoch: int) -> float:
        return self._restart_prob(epoch) if callable(self._restart_prob) else self._restart_prob


def _has_duplicates(ids: torch.Tensor, num_instances: int) -> bool:
    """ids: int64, from 0 to num_instances - 1."""
    is_member = torch.zeros(num_instances, dtype=torch.bool, device="cpu")
    is_member[ids] = True
    return int(is_member.count_nonzero()) != len(ids)


def _checked_interval(refresh_every: int | None, planner: BatchPlanner) -> int | None:
    if not planner.covers_once:
        return _DEFAULT_REFRESH_EVERY if refresh_every is None else validate.integer(refresh_every, "refresh_every", 1)
    if refresh_every is not None:
        raise ValueError(
            f"refresh_every: expected None with planner {planner.name!r}, which plans whole epochs, got {refresh_every}"
        )
    return None
