"""The batch sampler that training loops use: epochs of hard batches from the freshest embeddings."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, Sampler

from ._engine import validate
from ._engine.cuda import to_device_async, to_host
from ._sampler.epoch_cursor import EpochCursor, Plan, load_cursor, save_cursor
from ._sampler.index_set import index_set
from ._sampler.plan_maker import MadePlan, PlanMaker, on_device
from .bank import FeatureBank
from .graph import ProximityGraph
from .graph_builders import GraphConfig, proximity_graph
from .metrics import batch_stats
from .planners import BatchPlanner, find_planner
from .walk import check_batch_size

__all__ = ["ProximityBatchSampler", "SamplerStats"]

_NUM_MEASURED = 8  # batches of a plan whose similarity is measured
_DEFAULT_REFRESH_EVERY = 100  # the authors' interval


class SamplerStats(NamedTuple):
    """What sampling costs, and what the batches of the latest plan are like. nan where there is nothing yet."""

    graph_ms: float  # building the latest graph
    plan_us: float  # planning, per batch of the latest plan
    in_batch_similarity: float  # mean cosine of the plan's first batches, in the bank as it is now
    random_fill_share: float  # instances of the plan assigned at random
    missing_embedding_share: float  # instances without an embedding when the plan was made
    graph_age: int  # batches drawn from the plan
    total_seconds: float  # of all batches drawn by this object: graphs, planning and drawing


class ProximityBatchSampler(BatchSampler):
    """Mini-batches of hard negatives for a DataLoader: ``DataLoader(dataset, batch_sampler=...)``.

    At the start of an epoch, a proximity graph is built from the bank's embeddings, and a planner composes the batches
    from it. By default they are a partition: each instance is in exactly one batch of the epoch. Instances without an
    embedding are dealt out at random, so the first epoch is uniform unless ``bank.fill_from`` was called.

    Args:
        sampler: which instances: a number N, a sized dataset (all), or a torch sampler, whose index set is taken.
        batch_size: B.
        drop_last: leave the N mod B instances over, drawn at random, out of the epoch.
        bank: :class:`FeatureBank` that training updates; ids are those of the dataset. Graphs and batches are computed
            on its device, and are the same on all of them.
        graph: :class:`GraphConfig` of the graphs; tensors are brought to the bank's device.
        planner: a name or a :class:`BatchPlanner`, see :func:`sample_batches`. Epochs of "cover_by_walks" vary in
            length (``len`` is then the number of batches of a uniform epoch).
        refresh_every: batches between graphs, by default 100. Only for planners that do not plan whole epochs: training
            updates the embeddings of what was drawn, so a later graph of a partition, over the undrawn, would know
            nothing newer. If others update the bank too, call ``refresh()``.
        restart_prob: alpha, or a function of the epoch (the authors decay 0.2 to 0.05).
        seed: the sequence is a function of the bank's contents at each graph, the arguments, seed and epoch.
        progress: of graph building, see :func:`proximity_graph`.

    Attributes:
        epoch: the epoch being drawn, or drawn last. It advances by itself unless ``set_epoch`` is called.
        bank, planner, graph_config, refresh_every (None: an epoch), graph (the latest, None before the first),
        refreshes (graphs built so far).

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
        self.refresh_every = _checked_interval(refresh_every, self.planner)
        self._restart_prob = restart_prob
        validate.restart_threshold(self._alpha(0))
        instances = index_set(sampler, bank.num_instances)
        self._instances_digest = hashlib.sha256(instances.numpy().tobytes()).hexdigest()[:16]
        self._maker = PlanMaker(
            instances, self.batch_size, self.drop_last, self.planner, self.refresh_every, validate.seed(seed)
        )
        self._progress = validate.progress(progress)
        self._check_graph_config()

        self.epoch = 0
        self.graph: ProximityGraph | None = None
        self.refreshes = 0
        self._epoch_is_set = True  # the next iteration is `epoch` itself, not the one after it
        self._refresh_wanted = False
        self._cursor: EpochCursor | None = None  # of the latest iteration, or loaded
        self._resume: EpochCursor | None = None  # where the next iteration begins
        self._seconds = 0.0  # spent in here so far
        self._made: MadePlan | None = None

    @property
    def sampler(self) -> ProximityBatchSampler:  # type: ignore[override]
        """Itself: where Lightning and Accelerate look for ``set_epoch``."""
        return self

    def __len__(self) -> int:
        return self._maker.num_batches()

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws this epoch. Of a loaded state, the rest is drawn if it is the same epoch."""
        epoch = validate.epoch(epoch)
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None
        if self._cursor is not None and (self._cursor.epoch != epoch or self._cursor.is_finished):
            self._cursor = None
        self.epoch, self._epoch_is_set = epoch, True

    def refresh(self) -> None:
        """Ends the current plan: the next batch comes from a new graph over what is not drawn yet."""
        self._refresh_wanted = True

    def __iter__(self) -> Iterator[list[int]]:
        if len(self) == 0:
            return
        start = time.perf_counter()
        cursor = self._begin()
        while not cursor.is_finished:
            cursor, plan = self._at_plan(cursor)
            ids = plan.batch(cursor.num_drawn - plan.first)
            num_drawn = cursor.num_drawn + 1
            is_finished = plan is cursor.plans[-1] and self._is_finished(plan, num_drawn)
            self._cursor = cursor = cursor._replace(num_drawn=num_drawn, is_finished=is_finished)
            self._seconds += time.perf_counter() - start
            yield ids.tolist()
            start = time.perf_counter()

    def state_dict(self, num_trained: int | None = None) -> dict[str, Any]:
        """Epoch, position and plans, by reference: cheap enough to call at every batch. The bank is saved apart.

        Args:
            num_trained: batches of this epoch that training has finished. A DataLoader with worker processes draws
                ahead; without this, the state is that after the batch drawn last, and what lies between is not drawn
                again. At most the plan before the current one can be gone back to.

        Raises:
            ValueError: num_trained out of this range.
        """
        cursor = self._cursor
        if cursor is None:
            cursor = EpochCursor(self.epoch if self._epoch_is_set else self.epoch + 1, ())
        else:
            cursor = cursor.rewound(cursor.num_drawn if num_trained is None else num_trained)
        return save_cursor(cursor, self._settings(), self._refresh_wanted)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration continues where the state was taken, after a finished epoch with the next one. Load the
        bank's state too.

        Raises:
            ValueError: not a whole state, or of a sampler with another index set, batch_size, drop_last, planner or
                seed.
        """
        cursor = load_cursor(state, self._settings(), len(self._maker.instances), self.bank.num_instances)
        self.epoch, self._epoch_is_set = cursor.epoch, not cursor.is_finished
        self._refresh_wanted = state["refresh_wanted"]
        self._cursor = cursor if cursor.plans else None
        self._resume = None if cursor.is_finished else self._cursor

    def stats(self) -> SamplerStats:
        """Of the latest plan, and in all; see :class:`SamplerStats`."""
        nan = float("nan")
        made, cursor = self._made, self._cursor
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
        first = [plan.batch(i).long() for i in range(min(_NUM_MEASURED, plan.num_batches))]
        is_known = to_host(rows.has_embedding[to_device_async(torch.cat(first), self.bank.device)])
        parts = is_known.split([len(ids) for ids in first])
        known = [ids[part] for ids, part in zip(first, parts, strict=True)]
        return float(batch_stats(known, rows.features)["in_batch_similarity"])

    def _settings(self) -> dict[str, Any]:
        """What must be equal for a state to make sense."""
        options: dict[str, Any] = dataclasses.asdict(self.planner) if dataclasses.is_dataclass(self.planner) else {}
        return {
            "instances": self._instances_digest,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "planner": self.planner.name,
            **options,
            "seed": self._maker.seed,
        }

    def _check_graph_config(self) -> None:
        """Finds now what a graph would complain of an epoch later."""
        config = self.planner.graph_config(self.graph_config, self.batch_size, len(self._maker.instances))
        if config is None or self.bank.num_instances < 2:
            return
        if config.range_min >= config.num_candidates:
            raise ValueError(
                f"range_min: expected less than num_candidates, {config.num_candidates}, got {config.range_min}"
            )
        rows = self.bank.rows_for_graph()
        two = torch.arange(2, device=self.bank.device)
        config = on_device(config, self.bank.device)
        proximity_graph(rows.features, 1, num_candidates=1, config=config, documents=rows.documents, rows=two).check()

    # --- an epoch ----------------------------------------------------------------------------------------------------
    def _begin(self) -> EpochCursor:
        """A new iteration."""
        if self._resume is not None:
            cursor, self._resume = self._resume, None
            self.epoch, self._epoch_is_set = cursor.epoch, False
            return cursor
        if not self._epoch_is_set:
            self.epoch += 1
        self._epoch_is_set = True  # stays so if what follows fails: the epoch is then begun again
        plan = self._make_plan(self.epoch, 0, self._maker.left_out(self.epoch))
        self._epoch_is_set = self._refresh_wanted = False
        return EpochCursor(self.epoch, (plan,))

    def _at_plan(self, cursor: EpochCursor) -> tuple[EpochCursor, Plan]:
        """The plan that has the next batch, made now if there is none or ``refresh()`` asks for it.

        If that fails (Ctrl-C, say), the next iteration takes up the epoch here.
        """
        plan, latest = cursor.plan(), cursor.plans[-1]
        is_cut_short = self._refresh_wanted and plan is latest and cursor.num_drawn > latest.first
        if plan is not None and not is_cut_short:
            return cursor, plan
        try:
            plan = self._make_plan(cursor.epoch, cursor.num_drawn, self._drawn_after(latest, cursor.num_drawn))
        except BaseException:
            self.epoch, self._epoch_is_set, self._resume = cursor.epoch, True, cursor
            raise
        self._refresh_wanted = False
        return cursor.with_plan(plan), plan

    def _is_finished(self, plan: Plan, num_drawn: int) -> bool:
        if not self.planner.length_varies:
            return num_drawn >= len(self)
        if num_drawn < plan.end:
            return False
        num_left = int((~self._drawn_after(plan, num_drawn)).sum())
        return num_left == 0 or (self.drop_last and num_left <= len(self._maker.instances) % self.batch_size)

    def _drawn_after(self, plan: Plan, num_drawn: int) -> torch.Tensor:
        """bool [num_instances]: drawn in the first num_drawn batches of the epoch, of which the plan has the last."""
        is_member = torch.zeros(self.bank.num_instances, dtype=torch.bool, device="cpu")
        for i in range(num_drawn - plan.first):
            is_member[plan.batch(i).long()] = True
        return plan.drawn | is_member[self._maker.instances]

    def _make_plan(self, epoch: int, first: int, drawn: torch.Tensor) -> Plan:
        """From the bank as it is."""
        self.graph = None  # not two at a time
        config = on_device(self.graph_config, self.bank.device)
        made = self._maker.make(self.bank, config, self._alpha(epoch), epoch, first, drawn, self._progress)
        self.graph, self._made = made.graph, made._replace(graph=None)
        self.refreshes += made.graph is not None
        return made.plan

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
