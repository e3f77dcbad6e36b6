"""The batch sampler that training loops use: epochs of hard batches from the freshest embeddings."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, Sampler

from ._engine import validate
from ._engine.cuda import to_device_async, to_host
from ._sampler.epoch_count import EpochCount
from ._sampler.epoch_cursor import EpochCursor, Plan, load_cursor, save_cursor
from ._sampler.index_set import index_set
from ._sampler.iterations import BatchIterator, Iteration, Iterations
from ._sampler.plan_maker import MadePlan, PlanMaker, on_device
from ._sampler.ranks import (
    Ranks,
    checked_ranks,
    current_ranks,
    is_group_awaited,
    rank_slice,
    ranks_of,
    warn_without_group,
)
from ._sampler.wrappers import check_sharing, is_called_by_stateful_loader, num_skipped_batches
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


class ProximityBatchSampler(BatchSampler):
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
            epoch. Otherwise every rank draws an equal part of it, padded with at most num_replicas - 1 instances.
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
        seed: 0 to 2**64 - 1. Batches are a function of the bank's contents at each graph, arguments, seed and epoch.
        progress: called while a graph is built, see :func:`proximity_graph`.

    Attributes:
        bank, planner, graph_config: the arguments, with the planner as an object.
        refresh_every: number of batches between graphs. None: one graph per epoch.
        graph: the graph of the latest plan, or None if it needed none.
        refreshes: number of graphs built so far.

    Raises:
        TypeError, ValueError: a bad argument, named.

    Source: Yang et al., KDD 2023, algorithm 1; partitions are ours.

    Example:
        >>> import torch
        >>> bank = FeatureBank(10, 4)
        >>> sampler = ProximityBatchSampler(10, 4, bank=bank)
        >>> len(sampler), sorted(i for batch in sampler for i in batch)
        (3, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

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
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
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
        self._given_ranks = checked_ranks(rank, num_replicas)
        split = ranks_of(sampler)
        if split is not None and self._given_ranks not in (None, split):
            raise ValueError(
                f"rank, num_replicas: expected {tuple(split)} as the sampler has, got {rank}, {num_replicas}"
            )
        self._given_ranks = self._given_ranks or split
        self.refresh_every = _checked_interval(refresh_every, self.planner)
        self._restart_prob = restart_prob
        validate.restart_threshold(self._alpha(0))
        instances = index_set(sampler, bank.num_instances)
        self._instances_digest = hashlib.sha256(instances.numpy().data).hexdigest()[:16]
        self._maker = PlanMaker(
            instances, self.batch_size, self.drop_last, self.planner, self.refresh_every, validate.seed(seed), scope
        )
        self._progress = validate.progress(progress)
        self._find_ranks()
        self._check_graph_config()

        self.graph: ProximityGraph | None = None
        self.refreshes = 0
        self._epochs = EpochCount()
        self._refresh_wanted = False
        self._iterations = Iterations(self.planner.covers_once)  # that may be trained now, or a loaded one
        self._resume: EpochCursor | None = None  # where the next iteration begins
        self._seconds = 0.0  # spent in this object so far
        self._made: MadePlan | None = None

    @property
    def sampler(self) -> ProximityBatchSampler:  # type: ignore[override]
        """Returns this object, because Lightning and Accelerate look for ``set_epoch`` here."""
        return self

    @property
    def epoch(self) -> int:
        """The epoch being drawn, or drawn last. After loading a state, the epoch that the next iteration draws.

        It advances by itself unless ``set_epoch`` is called.
        """
        return self._epochs.current

    @property
    def num_replicas(self) -> int:
        """Number of processes that share each global batch."""
        return self._find_ranks().num_replicas

    def __len__(self) -> int:
        self._find_ranks()
        return self._maker.num_batches()

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration draw this epoch, or the rest of it if a loaded state stands in the middle of it.

        Some trainers count from 0 again after they have loaded a state. A number that would go back behind the loaded
        epoch is therefore taken for that epoch (or for the next one, once it is drawn), with a warning. Later numbers
        are counted from there.
        """
        self._epochs.set(epoch)
        if self._resume is not None and self._resume.epoch != self.epoch:
            self._resume = None
        self._iterations.announce(self.epoch, self.bank)

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

    def __iter__(self) -> BatchIterator:
        return BatchIterator(self._draw, self._state, self.load_state_dict)

    def _draw(self, begun: list[Iteration]) -> Iterator[list[int]]:
        """Yields batches. Adds the iteration to a list when it begins, that is, with the first batch."""
        if len(self) == 0:
            return
        start = time.perf_counter()
        ranks = self._find_ranks()
        if self._given_ranks is None and ranks.num_replicas == 1:
            warn_without_group()
        check_sharing(ranks.num_replicas)
        cursor = self._begin()
        iteration = Iteration(cursor, cursor.num_drawn, self.bank.step, is_open=True)
        begun.append(iteration)
        self._iterations.begin(iteration, self.bank)
        try:
            while not iteration.cursor.is_finished:
                cursor = self._at_plan(iteration.cursor)
                ids = rank_slice(cursor.batch(cursor.num_drawn), self._maker.instances, ranks)
                cursor = cursor._replace(num_drawn=cursor.num_drawn + 1)
                iteration.cursor = cursor._replace(is_finished=self._is_finished(cursor))
                self._iterations.drew(iteration)
                self._follow_latest()
                self._seconds += time.perf_counter() - start
                yield ids.tolist()
                start = time.perf_counter()
            self._warn_of_other_ids(iteration)
        finally:
            if not sys.is_finalizing():
                self._iterations.close(iteration, self.bank)
                self._follow_latest()

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
        latest = self._iterations.latest()
        if num_trained is None and latest is not None and is_called_by_stateful_loader():
            return self._state(latest.cursor)  # without waiting for the bank's device
        return self._state(self._iterations.position(self.bank, num_trained))

    def _state(self, cursor: EpochCursor | None) -> dict[str, Any]:
        """Returns the state at a position. None: before the next epoch, or where a loaded state continues."""
        cursor = cursor or self._resume or EpochCursor(self._epochs.next(), ())
        return save_cursor(
            cursor,
            self._settings(),
            refresh_wanted=self._refresh_wanted,
            is_informed=self._iterations.is_informed,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue where the state was taken. If that epoch was finished, it begins the next.

        Load the bank's state too.

        Raises:
            ValueError: the state is incomplete, or comes from a sampler with other instances, batch_size, drop_last,
                planner or seed.
        """
        self._find_ranks()
        cursor = load_cursor(state, self._settings(), self.bank.num_instances)
        if self._given_ranks is not None or not is_group_awaited():
            self._require_size(cursor)
        self._epochs.load(cursor.epoch, cursor.is_finished)
        self._refresh_wanted = state["refresh_wanted"]
        self._iterations.load(cursor, self.bank.step, state["is_informed"])
        self._resume = cursor if cursor.plans and not cursor.is_finished else None

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
        }

    def _check_graph_config(self) -> None:
        """Raises errors in the graph's options now, because the first graph is often built an epoch later."""
        config, size = self._planned_graph_config(), self.bank.num_instances
        if config is None:
            return
        labels = config.labels
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

    def _require_size(self, cursor: EpochCursor) -> None:
        """Raises ``ValueError`` if a loaded cursor has plans of another global batch size."""
        expected = self._maker.global_batch_size
        for plan in cursor.plans:
            if plan.indices.shape[1] != expected:
                raise ValueError(
                    f"state: expected a global batch size (batch_size * num_replicas) of {expected} as this sampler "
                    f"has, got {plan.indices.shape[1]}"
                )

    def _find_ranks(self) -> Ranks:
        """Returns the ranks as they are now. A loader is often built before the process group."""
        ranks = current_ranks(self.bank.process_group) if self._given_ranks is None else self._given_ranks
        if ranks.num_replicas != self._maker.num_replicas:
            self._maker = dataclasses.replace(self._maker, num_replicas=ranks.num_replicas)
        return ranks

    # --- an epoch ----------------------------------------------------------------------------------------------------
    def _begin(self) -> EpochCursor:
        """Starts or resumes an epoch. Returns its cursor."""
        is_skipped = self._is_skipped()
        cursor, self._resume = self._resume, None
        if cursor is None:
            cursor = self._iterations.untrained_start(self.bank.step, self._epochs)
        if cursor is not None:
            self._require_size(cursor)
            self._epochs.begin(cursor.epoch)
            return cursor.rewound(0) if is_skipped else cursor
        trained_epoch = self._iterations.trained_epoch(self.bank)
        if trained_epoch is not None and not self._epochs.is_set:
            self._epochs.current = trained_epoch  # epochs that were only looked at do not count
        epoch = self._epochs.next()
        self._epochs.current, self._epochs.is_set = epoch, True  # if planning fails, the next iteration draws it
        plan = self._make_plan(epoch, 0, self._maker.left_out(epoch))
        self._refresh_wanted = False
        self._epochs.begin(epoch)
        return EpochCursor(epoch, (plan,))

    def _is_skipped(self) -> bool:
        """Whether a trainer skips the first batches because it resumes.

        A loaded state then begins with the first batch of its epoch.
        """
        num_skipped = num_skipped_batches()
        if num_skipped == 0 or self._planned_graph_config() is None:
            return num_skipped > 0
        num_loaded = 0 if self._resume is None else self._resume.num_drawn
        if num_loaded == 0:
            raise RuntimeError(
                f"ProximityBatchSampler: expected a loaded state, because the trainer resumes and skips {num_skipped} "
                "batches. Without it the epoch is planned again from other embeddings, so instances would be drawn "
                "twice or never. Call load_state_dict of bank and sampler first"
            )
        if num_loaded != num_skipped:
            warnings.warn(
                f"ProximityBatchSampler: the trainer skips {num_skipped} batches, but the loaded state stands at batch "
                f"{num_loaded}. Training continues at batch {num_skipped}",
                stacklevel=4,
            )
        return True

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

    def _follow_latest(self) -> None:
        """Makes the next iteration draw the epoch after that of the iteration that drew last, unless one was set."""
        latest = self._iterations.latest()
        if latest is not None and not self._epochs.is_set:
            self._epochs.current = latest.cursor.epoch

    def _is_finished(self, cursor: EpochCursor) -> bool:
        """Whether the epoch ends here, where its latest plan ends or later."""
        if not self.planner.length_varies:
            return cursor.num_drawn >= self._maker.num_batches()
        if cursor.num_drawn < cursor.plans[-1].end:
            return False
        num_left = int((~self._drawn_after(cursor)).sum())
        return num_left == 0 or (
            self.drop_last and num_left <= len(self._maker.instances) % self._maker.global_batch_size
        )

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
        self.graph = None  # frees the memory before the next graph is built
        config = on_device(self.graph_config, self.bank.device)
        alpha = self._alpha(epoch)
        made = self._maker.make(self.bank, config, alpha, epoch, first, drawn, self._progress, builders)
        is_later_epoch = self._made is not None and first == 0
        if is_later_epoch and made.missing_embedding_share == 1 and self._planned_graph_config() is not None:
            warnings.warn(
                f"ProximityBatchSampler: none of the {len(self._maker.instances)} instances that it draws has an "
                f"embedding yet, so epoch {epoch} is uniform, too. Call bank.update with the indices that the loader "
                "returns; IndexedDataset adds them to the samples",
                stacklevel=4,
            )
        self.graph, self._made = made.graph, made._replace(graph=None)
        self.refreshes += made.graph is not None
        return made.plan

    def _warn_of_other_ids(self, iteration: Iteration) -> None:
        """Warns if updates in a finished epoch have gone to other instances than those drawn."""
        if len(self._maker.instances) == self.bank.num_instances:
            return
        is_updated = (self.bank.last_update >= iteration.first_step).cpu()
        drawn = (
            iteration.cursor.rewound(iteration.cursor.num_drawn // 2).drawn().long()
        )  # the rest may not be trained yet
        missed = drawn[~is_updated[drawn]]
        is_updated[self._maker.instances] = False
        others = is_updated.nonzero().ravel()
        if len(others) and len(missed):
            warnings.warn(
                f"ProximityBatchSampler: in epoch {iteration.cursor.epoch}, bank.update stored instance "
                f"{int(others[0])}, which is never drawn, and not instance {int(missed[0])}, which was drawn. Call it "
                "with the indices that the loader returns. IndexedDataset adds them to the samples, and must be the "
                "loader's outermost dataset",
                stacklevel=4,
            )

    def _planned_graph_config(self) -> GraphConfig | None:
        """Returns the options of graphs over all instances, or None if the planner needs no graph."""
        maker = self._maker
        return self.planner.graph_config(self.graph_config, maker.planned_batch_size, len(maker.instances))

    def _alpha(self, epoch: int) -> float:
        return self._restart_prob(epoch) if callable(self._restart_prob) else self._restart_prob


def _checked_interval(refresh_every: int | None, planner: BatchPlanner) -> int | None:
    if not planner.covers_once:
        return _DEFAULT_REFRESH_EVERY if refresh_every is None else validate.integer(refresh_every, "refresh_every", 1)
    if refresh_every is not None:
        raise ValueError(
            f"refresh_every: expected None with planner {planner.name!r}, which plans whole epochs, got {refresh_every}"
        )
    return None
