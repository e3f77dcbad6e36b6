"""Finds updates of the bank that go to other instances than the sampler draws.

A wrong id that is in range raises no error: some instances drawn keep no or old embeddings, and others get theirs. So
each epoch's draws are compared with the updates made meanwhile. To raise no false alarm, an epoch counts only if

- it was drawn from its first batch to its last, by the only sampler that the bank has had;
- the bank was given as many rows as were drawn, and skipped none. Then each row should belong to an instance drawn.

Loops that store other rows too, or only some, are therefore not checked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .._engine.cuda import to_device_async
from ..bank import FeatureBank
from .epoch_cursor import Plan

_FEW_BATCHES = 4  # of so few, no order can be told
_MOST_SCATTERED = 1 / 4  # share of instances. Random wrong ids scatter 3/8 of them in four batches, 1/2 in many


class _Begun(NamedTuple):
    bank: FeatureBank
    step: int
    num_rows: int
    num_skipped: int
    epoch: int
    plan: Plan  # the first one of the epoch


class _Drawn(NamedTuple):
    num_batches: int
    num_rows: int
    is_once: bool  # whether the first plan was the whole epoch, with each instance at most once


class UpdateWatch:
    """What was drawn in the latest epoch, and where the bank stood when it began."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leaves the present epoch out."""
        self._begun: _Begun | None = None
        self._drawn: _Drawn | None = None
        self._num_first = 0  # number of batches drawn from the first plan

    def begin(self, bank: FeatureBank, epoch: int, plan: Plan) -> None:
        """Notes the bank just after the first plan of an epoch was made."""
        self._begun = _Begun(bank, bank.step, bank._num_rows, bank.num_skipped, epoch, plan)
        self._drawn, self._num_first = None, plan.num_batches

    def replan(self, num_drawn: int) -> None:
        """Notes that another plan begins after so many batches of the epoch."""
        self._num_first = min(self._num_first, num_drawn)

    def end(self, epoch: int, num_batches: int, num_rows: int, covers_once: bool) -> None:
        """Notes what an epoch has drawn. num_rows: by all ranks, repeated instances included."""
        if self._begun is None or self._begun.epoch != epoch:  # two iterations at once
            return self.forget()
        self._drawn = _Drawn(num_batches, num_rows, covers_once and self._num_first == num_batches)

    def complaint(self, bank: FeatureBank, instances: torch.Tensor) -> str | None:
        """Returns what is wrong with the updates of the latest epoch, or None. Waits for a CUDA device.

        instances: int64, all that the sampler draws.
        """
        begun, drawn = self._begun, self._drawn
        if begun is None or drawn is None or begun.bank is not bank or bank._num_samplers > 1:
            return None
        if (bank._num_rows - begun.num_rows, bank.num_skipped) != (drawn.num_rows, begun.num_skipped):
            return None
        latest = bank.last_update
        table = to_device_async(begun.plan.indices, bank.device).long()
        steps = latest[table]
        # A prefetcher may begin the next epoch before the last batches of this one are trained.
        num_trained = min(self._num_first, drawn.num_batches // 2)
        starved = table[:num_trained][steps[:num_trained] < begun.step]
        if len(starved):
            return (
                f"in epoch {begun.epoch}, bank.update was given as many rows as were drawn, but none for instance "
                f"{int(starved[0])}, which was drawn{_example_of_others(latest, instances, begun.step)}"
            )
        is_one_each = bank.step - begun.step == drawn.num_batches
        if drawn.is_once and is_one_each and _is_scattered(steps, begun.step):
            return f"in epoch {begun.epoch}, bank.update was given other instances than those of the batch drawn"
        return None


def _example_of_others(latest: torch.Tensor, instances: torch.Tensor, first_step: int) -> str:
    is_other = latest >= first_step
    is_other[to_device_async(instances, latest.device)] = False
    others = is_other.nonzero().ravel()
    return f", and one for instance {int(others[0])}, which is never drawn" if len(others) else ""


def _is_scattered(steps: torch.Tensor, first_step: int) -> bool:
    """Whether many instances got an update in the epoch, but none since they were drawn, nor with their batch.

    steps: int64 [num_batches, B], the latest update of the instances of each batch. A loader may deliver batches in
    another order, but it does not take them apart.
    """
    if len(steps) < _FEW_BATCHES:
        return False
    own = torch.arange(first_step, first_step + len(steps), device=steps.device)[:, None]
    is_apart = steps.amin(1, keepdim=True) != steps.amax(1, keepdim=True)
    is_early = (steps >= first_step) & (steps < own)
    return float((is_early & is_apart).float().mean()) > _MOST_SCATTERED
