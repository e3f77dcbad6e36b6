"""The iterations over a sampler, and the batch up to which they are trained.

Loaders draw ahead of training, and may begin an iteration only to look at it. The bank tells what is trained: its
latest update belongs to the batch that training has finished last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .epoch_count import EpochCount
from .epoch_cursor import EpochCursor

_WINDOW = 32  # batches around the expected one that are compared with the latest update


class Updates(Protocol):
    """What a :class:`FeatureBank` tells about its updates."""

    step: int
    _step_of_fill: int  # number of updates when the bank was filled last

    @property
    def latest_ids(self) -> torch.Tensor | None: ...
    @property
    def last_update(self) -> torch.Tensor: ...


class NoUpdates:
    """Takes the place of the bank if there is none. Then all drawn batches count as trained."""

    step = _step_of_fill = 0
    latest_ids = None
    last_update = torch.empty(0, dtype=torch.int64, device="cpu")


@dataclass(eq=False)
class Iteration:
    """One iteration over a sampler."""

    cursor: EpochCursor  # after the batches drawn so far
    first_batch: int  # number of the first batch that it draws
    first_step: int  # number of the bank's updates when it began
    is_open: bool = False  # a loader may draw more batches

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "is_open": False}  # no loader draws from a copy

    def start(self) -> EpochCursor:
        return self.cursor.rewound(self.first_batch)

    def count_matched(self, ids: torch.Tensor, step: int, is_exact: bool) -> int:
        """Returns the number of batches up to the one that the latest update belongs to, or 0.

        ids: int64 [B] on the CPU, instances of the update. step: number of updates so far.
        is_exact: the update has all instances of the batch. Otherwise, it may have a part of them, such as a chunk of
        the batch, or those of one rank.
        """
        if step <= self.first_step:
            return 0
        expected = self.first_batch + step - self.first_step  # if each batch gets one update
        low, high = max(1, expected - _WINDOW), min(self.cursor.num_drawn, expected + _WINDOW)
        for count in sorted(range(low, high + 1), key=lambda count: abs(count - expected)):
            batch = self.cursor.batch(count - 1)
            if bool(torch.isin(ids, batch).all()) and not (is_exact and not torch.isin(batch, ids).all()):
                return count
        return 0

    def count_updated(self, bank: Updates, covers_once: bool) -> int:
        """Returns the number of batches up to the first one that has no updates since the iteration began.

        covers_once: an instance is in one batch only. Otherwise, all instances of a batch need an update.
        """
        cursor, size = self.cursor, self.cursor.plans[0].indices.shape[1]
        drawn = cursor.drawn().long()
        is_updated = (bank.last_update >= self.first_step).cpu()[drawn]
        num_full = len(drawn) // size if size else 0
        full = is_updated[: num_full * size].view(num_full, size)
        has_update = full.any(1) if covers_once else full.all(1)
        missing = (~has_update[self.first_batch :]).nonzero().ravel()
        count = self.first_batch + (int(missing[0]) if len(missing) else len(has_update) - self.first_batch)
        tail = is_updated[num_full * size :]
        return count + (count == num_full and bool(tail.any()))


class Iterations:
    """The iterations whose position may be asked for. The one that drew last is at the end.

    Args:
        covers_once: an instance is in one batch of an epoch only.
        has_bank: training may update a bank.
    """

    def __init__(self, covers_once: bool, has_bank: bool) -> None:
        self._covers_once, self.has_bank = covers_once, has_bank
        self._items: list[Iteration] = []
        self._begun: Iteration | None = None  # the one that began last, since a state was loaded
        self._num_begun, self._is_loaded = 0, False
        self.is_informed = False  # an update has belonged to a batch, so updates tell what is trained

    def latest(self) -> Iteration | None:
        return self._items[-1] if self._items else None

    def load(self, cursor: EpochCursor, step: int, is_informed: bool) -> None:
        """Forgets all iterations. The loaded position takes their place."""
        self._items = [Iteration(cursor, cursor.num_drawn, step)] if cursor.plans else []
        self._begun, self._num_begun, self._is_loaded, self.is_informed = None, 0, True, is_informed

    def begin(self, iteration: Iteration, bank: Updates) -> None:
        """Adds an iteration. Those that may still be trained are kept."""
        untrained = self._untrained(bank)
        most_drawn = max(untrained, key=lambda item: item.cursor.num_drawn, default=None)
        wanted = [self._trained(bank)[0], *untrained[:1], most_drawn, *self._items[-1:]]
        self._items = [*(item for item in self._items if item.is_open or item in wanted), iteration]
        self._begun, self._num_begun = iteration, self._num_begun + 1

    def untrained_start(self, step: int, epochs: EpochCount) -> EpochCursor | None:
        """Returns where the latest iteration began, if it was only a look, so that the next one begins there, too.

        It was a look if nothing was trained since. Where training does not update the bank, this cannot be known. So
        only the first iteration, or the first one since a state was loaded, is taken for a look then. An iteration that
        drew all its batches was a look only if its epoch was set again, or if it was the first one since a state was
        loaded: loaders with workers may draw the rest of an epoch ahead, give it up, and begin again.
        """
        begun, is_first = self._begun, self._num_begun == 1 and (self._is_loaded or self.has_bank)
        if begun is None or step > begun.first_step or not (self.is_informed or is_first):
            return None
        is_again = epochs.is_set and epochs.current == begun.cursor.epoch
        if epochs.is_set and not is_again:
            return None
        if begun.cursor.is_finished and not (self.is_informed and (is_again or (self._is_loaded and is_first))):
            return None
        return begun.start()

    def trained_epoch(self, bank: Updates) -> int | None:
        """Returns the epoch that is trained. None if updates do not tell."""
        trained, _ = self._trained(bank)
        return None if trained is None else trained.cursor.epoch

    def announce(self, epoch: int, bank: Updates) -> None:
        """Forgets the iterations if another epoch comes next, or the same one again.

        Loaders may draw an epoch ahead before it is announced. It comes again only if it is trained to its end.
        """
        trained, count = self._trained(bank)
        latest = trained or self.latest()
        if latest is None:
            return
        is_trained = trained is not None and trained.cursor.is_finished and count == trained.cursor.num_drawn
        if latest.cursor.epoch != epoch or is_trained:
            self._items = []

    def drew(self, iteration: Iteration) -> None:
        """Notes that an iteration has drawn a batch."""
        if self._items[-1:] != [iteration]:
            self._items = [*(item for item in self._items if item is not iteration), iteration]

    def close(self, iteration: Iteration, bank: Updates) -> None:
        """Ends an iteration. It is forgotten if it was given up while another one is drawn or trained: a look."""
        iteration.is_open = False
        if iteration.cursor.is_finished or iteration not in self._items:
            return
        is_look = any(item.is_open for item in self._items)
        if not is_look:
            trained, count = self._trained(bank)
            is_look = trained is not None and trained is not iteration and count < trained.cursor.num_drawn
        if is_look:
            self._items.remove(iteration)

    def position(self, bank: Updates, num_trained: int | None = None) -> EpochCursor | None:
        """Returns the position of training. None if no batch was drawn.

        num_trained: the number of batches in this position, if the caller knows it.
        """
        trained, count = self._trained(bank)
        if num_trained is not None:
            likely = [*([] if trained is None else [trained]), *reversed(self._items)]
            item = next((item for item in likely if num_trained <= item.cursor.num_drawn), (*likely, None)[0])
            if item is not None and 0 <= num_trained < item.first_batch:
                raise ValueError(
                    f"num_trained: expected at least {item.first_batch}, the batches of this epoch that were trained "
                    f"before resuming, which count too, got {num_trained}"
                )
            return None if item is None else item.cursor.rewound(num_trained)
        if trained is not None:
            return trained.cursor.rewound(count)
        latest, untrained = self.latest(), self._untrained(bank)
        if self.is_informed and untrained:
            return untrained[0].start()
        return None if latest is None else latest.cursor

    def _untrained(self, bank: Updates) -> list[Iteration]:
        """Returns the iterations without any update since they began, the earliest first."""
        return [item for item in self._items if item.first_step == bank.step]

    def _trained(self, bank: Updates) -> tuple[Iteration | None, int]:
        """Returns the iteration that is trained, and its number of trained batches. (None, 0): updates do not tell."""
        ids = bank.latest_ids if self._items else None  # may wait for a device
        if ids is not None:
            most_first = sorted(reversed(self._items), key=lambda item: -item.cursor.num_drawn)  # looks draw less
            for is_exact, item in itertools.product((True, False), most_first):
                count = item.count_matched(ids, bank.step, is_exact)
                if count > 0:
                    self.is_informed = True
                    return item, count
        found: tuple[Iteration | None, int] = (None, 0)
        for item in self._items:  # the latest update was of several batches, or of other instances
            count = item.count_updated(bank, self._covers_once) if bank.step > item.first_step else 0
            if count > item.first_batch:
                found, self.is_informed = (item, count), True
                if count < item.cursor.num_drawn:
                    break
        return found


class BatchIterator:
    """Iterates over the batches of a sampler. StatefulDataLoader saves and loads the state of this object.

    It does so for each batch that it draws, so the state is that of the batch drawn last.

    Args:
        draw: yields batches. It adds the iteration to the list when it begins.
        save: returns the state at a position, or before the first batch.
        load: makes the next iteration continue with a state.
    """

    def __init__(
        self,
        draw: Callable[[list[Iteration]], Iterator[list[int]]],
        save: Callable[[EpochCursor | None], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
    ) -> None:
        self._draw, self._save, self._load = draw, save, load
        self._restart()

    def _restart(self) -> None:
        self._begun: list[Iteration] = []
        self._batches = self._draw(self._begun)

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> list[int]:
        return next(self._batches)

    def state_dict(self) -> dict[str, Any]:
        return self._save(self._begun[0].cursor if self._begun else None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._load(state)
        self._restart()
