"""The batch sampler that draws the batches of a plan."""

from __future__ import annotations

import os
from collections.abc import Sized
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ._engine import validate
from ._engine.arrays import require_countable
from ._engine.backend import core
from ._engine.random import Stream
from ._negatives.padding import padding
from ._sampler.base import EpochSampler
from ._sampler.epoch_cursor import EpochCursor, load_cursor
from ._sampler.epoch_cursor import Plan as EpochPlan
from ._sampler.ranks import checked_ranks
from .plan import Plan

__all__ = ["PlannedBatchSampler"]


class PlannedBatchSampler(EpochSampler):
    """The batches of a :class:`Plan` for a DataLoader: ``DataLoader(dataset, batch_sampler=...)``.

    An instance id of the plan is the position of a sample in the dataset that the loader gets. Batches are fixed, so
    nothing depends on training: a trainer that resumes may skip the first batches, with or without a loaded state.

    Epochs after the last one of the plan repeat it from its first epoch on, with one warning.

    Args:
        plan: :class:`Plan`, or the path of its file.
        dataset: the dataset of the loader, or its size. It must have as many instances as the plan. None: not checked.
        rank, num_replicas: this process and the number of processes. None: those of the default process group, when
            batches are drawn. A batch of the plan is shared by all ranks, so each draws ``plan.batch_size /
            num_replicas`` instances of it: the r-th part on rank r. A shorter batch is padded, so that all ranks draw
            equally many, with at most num_replicas - 1 other instances from a random place on. They have no id of
            ``unique`` and no label of the batch, unless all others have. They may be of other sources.

    Attributes:
        plan: the plan.

    Raises:
        TypeError, ValueError: a bad argument, named. So is a batch size of the plan that num_replicas does not divide.
        OSError: the file cannot be opened.

    Determinism: batches are those of the plan, in its order, on any number of ranks.

    Example:
        >>> import torch
        >>> from batchsampler_ext import compose
        >>> plan = compose(torch.randn(10, 4), batch_size=4, preset="uniform")
        >>> sampler = PlannedBatchSampler(plan, dataset=10)
        >>> len(sampler), sorted(i for batch in sampler for i in batch)
        (3, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    _FIXED = ("plan",)

    def __init__(
        self,
        plan: Plan | str | os.PathLike[str],
        *,
        dataset: int | Sized | None = None,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        if isinstance(plan, (str, os.PathLike)):
            plan = Plan.load(plan)
        elif not isinstance(plan, Plan):
            raise TypeError(f"plan: expected a Plan or the path of its file, got {type(plan).__name__}")
        self.plan = plan
        _check_dataset(dataset, plan.num_instances)
        super().__init__(checked_ranks(rank, num_replicas))
        self._digest: str | None = None
        self._find_ranks()

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Number of instances that a rank draws at once."""
        return self.plan.batch_size // self.num_replicas

    @property
    def drop_last(self) -> bool:  # type: ignore[override]
        """Whether the first epoch of the plan has full batches only."""
        return not self.plan._tail_sizes_of(0)

    def __len__(self) -> int:
        """Returns the number of batches of the epoch :attr:`epoch`. All epochs of :func:`compose` have equally many."""
        self._find_ranks()
        return self._num_batches(self._epochs.current)

    def state_dict(self, num_trained: int | None = None) -> dict[str, Any]:
        """Returns epoch and position, a few hundred bytes. The plan is not part of it, only its digest.

        All drawn batches count as trained. A loader with worker processes draws ahead, so give num_trained then, or use
        torchdata's StatefulDataLoader, which keeps the position itself.

        Args:
            num_trained: number of batches of this epoch that training has finished.

        Raises:
            ValueError: num_trained exceeds the batches drawn.
        """
        return super().state_dict(num_trained)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue where the state was taken. If that epoch was finished, it begins the next.

        The number of ranks may be another one. If the iteration ends early, the one after it begins there once more,
        because loaders with worker processes may give up their first iterator. ``set_epoch`` prevents this.

        Raises:
            TypeError, ValueError: the state is incomplete, or comes from a sampler with another plan. The sampler stays
                as it was.
        """
        super().load_state_dict(state)

    # --- what an epoch consists of -----------------------------------------------------------------------------------
    def _set_num_replicas(self, num_replicas: int) -> None:
        if self.plan.batch_size % num_replicas:
            raise ValueError(
                f"plan: expected a batch_size that num_replicas {num_replicas} divides, because all ranks share each "
                f"batch, got {self.plan.batch_size}"
            )

    def _num_left_out(self) -> int:
        return self.plan.num_instances - self.plan._num_drawn(0)

    def _settings(self) -> dict[str, Any]:
        if self._digest is None:
            self._digest = self.plan._digest()
        plan = self.plan
        return {"num_instances": plan.num_instances, "batch_size": plan.batch_size, "plan": self._digest}

    def _saved(self, cursor: EpochCursor) -> EpochCursor:
        return cursor._replace(plans=())  # the plan has the batches

    def _loaded(self, state: Any) -> EpochCursor:
        cursor = load_cursor(state, self._settings(), self.plan.num_instances, self._plans_of)
        self._require_end(cursor, self._num_batches(cursor.epoch))
        return cursor

    def _first_cursor(self, epoch: int) -> EpochCursor:
        if epoch >= self.plan.num_epochs:
            self._warn_once(
                "end of the plan",
                f"PlannedBatchSampler: the plan has {self.plan.num_epochs} epochs, so epoch {epoch} repeats epoch "
                f"{epoch % self.plan.num_epochs}, and so on. Compose a plan of more epochs to avoid this",
            )
        return EpochCursor(epoch, self._plans_of(epoch))

    def _plans_of(self, epoch: int) -> tuple[EpochPlan, ...]:
        """Returns the full batches with the first shorter one, and each further one as a plan of its own."""
        epoch %= self.plan.num_epochs
        full, tail = self.plan._cut(epoch)
        first, *others = tail.split(self.plan._tail_sizes_of(epoch)) if len(tail) else (tail,)
        plans = [EpochPlan(len(full) + number, full[:0], ids) for number, ids in enumerate(others, start=1)]
        return (EpochPlan(0, full, first), *plans)

    def _is_finished(self, cursor: EpochCursor) -> bool:
        return cursor.num_drawn >= self._num_batches(cursor.epoch)

    def _ragged_sizes(self) -> tuple[int, ...]:
        return self.plan._tail_sizes_of(self._epochs.current % self.plan.num_epochs)

    def _num_batches(self, epoch: int) -> int:
        return self.plan._num_batches(epoch % self.plan.num_epochs)

    def _was_trained(self, first_step: int) -> bool:
        return True  # nothing tells, and the batches would be the same

    def _spare(self, batch: torch.Tensor) -> torch.Tensor:
        plan, size = self.plan, -(-len(batch) // self.num_replicas)
        groups, most = plan._known_negatives().groups.numpy().T, plan.info.get("max_per_batch", 1)
        ends = int(batch[0]), int(batch[-1])
        word = core.philox4x32(plan.info.get("seed", 0), Stream.PADDING << 24, *ends, len(batch))[0]
        first, num_looked_at = word * plan.num_instances >> 32, 2 * (len(batch) + self.num_replicas)
        while True:  # instances from a random one on, and more if ids of the batch are on all of them
            num_looked_at = min(num_looked_at, plan.num_instances)
            spare = (first + torch.arange(num_looked_at, device="cpu")) % plan.num_instances
            spare = spare[~torch.isin(spare, batch)]
            found = padding(batch, spare, groups, most, size, self.num_replicas)
            if found.num_met == 0 or num_looked_at == plan.num_instances:
                return found.instances
            num_looked_at *= 8


def _check_dataset(dataset: Any, num_instances: int) -> None:
    """Raises an error unless the dataset, or its size, is that of the plan."""
    if dataset is None:
        return
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"dataset: expected a dataset with __getitem__, got an IterableDataset, {type(dataset).__name__}"
        )
    if isinstance(dataset, range):
        require_countable(dataset, "dataset")
    is_number = hasattr(dataset, "__index__") and getattr(dataset, "ndim", 0) == 0  # an array may be a dataset
    if is_number and not isinstance(dataset, bool):
        size, kind = validate.integer(dataset, "dataset", 0), ""
    elif isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and not validate.has_no_length(dataset):
        size, kind = len(dataset), f"{type(dataset).__name__} of "
    else:
        raise TypeError(
            f"dataset: expected a number or a dataset with __len__ and __getitem__, got {type(dataset).__name__}"
        )
    if size != num_instances:
        raise ValueError(
            f"dataset: expected the {num_instances} instances that the plan was composed for, got {kind}{size}"
        )
