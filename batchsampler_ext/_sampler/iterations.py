"""The iterations over a sampler, and which of them training has reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .epoch_count import EpochCount
from .epoch_cursor import EpochCursor


class LatestUpdate(NamedTuple):
    """The bank's latest update, by which one knows the batch that training has finished last."""

    ids: torch.Tensor | None  # int64 [B] on the CPU, or None before the first update
    num_updates: int


@dataclass(eq=False)
class Iteration:
    """One iteration over a sampler. Loaders draw ahead of training, and may begin another one in the meantime."""

    cursor: EpochCursor  # after the batches drawn so far
    first_batch: int  # number of the first batch that it draws
    first_step: int  # number of the bank's updates when it began
    is_open: bool = False  # a loader may draw more batches
    is_saved_by_loader: bool = False  # a loader keeps a state for each batch, and knows which one is trained

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "is_open": False}  # no loader draws from a copy

    def num_trained(self, update: LatestUpdate) -> int | None:
        """Returns the number of batches up to the one that the update belongs to. None if it belongs to none."""
        if update.ids is None or update.num_updates <= self.first_step:
            return None
        for count in range(self.cursor.num_drawn, 0, -1):
            batch = self.cursor.batch(count - 1)
            # An update is a part of a batch (of one rank), a whole batch, or several (of accumulated gradients).
            if int(torch.isin(batch, update.ids).sum()) == len(batch) or (
                len(update.ids) <= len(batch) and bool(torch.isin(update.ids, batch).all())
            ):
                return count
        return None


class Iterations:
    """The iterations whose position may be asked for. The one that drew last is at the end."""

    def __init__(self) -> None:
        self._items: list[Iteration] = []
        self._is_loaded = False  # nothing was drawn since a state was loaded
        self._first: Iteration | None = None  # the first one since a state was loaded, while it is the only one

    def latest(self) -> Iteration | None:
        return self._items[-1] if self._items else None

    def load(self, cursor: EpochCursor, step: int) -> None:
        """Forgets all iterations. The loaded position takes their place."""
        self._items = [Iteration(cursor, cursor.num_drawn, step)] if cursor.plans else []
        self._is_loaded, self._first = True, None

    def begin(self, iteration: Iteration, update: LatestUpdate) -> None:
        """Adds an iteration. Those that may still be trained are kept."""
        trained, _ = self._trained(update)
        kept = [item for item in self._items[:-1] if item.is_open or item is trained]
        self._items = [*kept, *self._items[-1:], iteration]
        self._first = iteration if self._is_loaded else None
        self._is_loaded = False

    def untrained_start(self, step: int, epochs: EpochCount) -> EpochCursor | None:
        """Returns where the first iteration since a state was loaded began, if it has to be drawn again.

        Loaders with worker processes may begin the loaded epoch, draw some batches ahead, and give them up at once.
        """
        first = self._first
        if first is None or first.cursor.is_finished or step > first.first_step:
            return None
        is_other = epochs.is_set and epochs.current != first.cursor.epoch
        return None if is_other else first.cursor.rewound(first.first_batch)

    def announce(self, epoch: int, update: LatestUpdate) -> None:
        """Forgets the iterations if another epoch comes next, or the same one again.

        Loaders may draw an epoch ahead before it is announced. It comes again only if it is trained to its end.
        """
        trained, count = self._trained(update)
        latest = trained or self.latest()
        if latest is None:
            return
        is_trained = trained is not None and trained.cursor.is_finished and count == trained.cursor.num_drawn
        if latest.cursor.epoch != epoch or is_trained:
            self._items = []

    def drew(self, iteration: Iteration) -> None:
        """Notes that an iteration has drawn a batch."""
        self._items = [*(item for item in self._items if item is not iteration), iteration]

    def close(self, iteration: Iteration, update: LatestUpdate) -> None:
        """Ends an iteration. It is forgotten if it was only a look at the loader.

        This is so if it was given up while another one is drawn or trained.
        """
        iteration.is_open = False
        if iteration.cursor.is_finished or iteration not in self._items:
            return
        trained, count = self._trained(update)
        is_training = trained is not None and trained is not iteration and count < trained.cursor.num_drawn
        if is_training or any(item.is_open for item in self._items):
            self._items.remove(iteration)

    def position(self, update: LatestUpdate, num_trained: int | None = None) -> EpochCursor | None:
        """Returns the position of training: after the batch that the bank's latest update belongs to.

        If the update belongs to none (for example if training does not update the bank), this is the position after
        the batch drawn last. None if none was drawn.

        num_trained: the number of batches in this position, if the caller knows it.
        """
        trained, count = self._trained(update)
        if num_trained is None:
            if trained is not None:
                return trained.cursor.rewound(count)
            latest = self.latest()
            return None if latest is None else latest.cursor
        likely = [*([] if trained is None else [trained]), *reversed(self._items)]
        if not likely:
            return None
        item = next((item for item in likely if num_trained <= item.cursor.num_drawn), likely[0])
        return item.cursor.rewound(num_trained)

    def _trained(self, update: LatestUpdate) -> tuple[Iteration | None, int]:
        """Returns the iteration that the update belongs to, and its number of batches up to there. (None, 0): none."""
        for item in reversed(self._items):
            count = item.num_trained(update)
            if count is not None:
                return item, count
        return None, 0


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
        if not self._begun:
            return self._save(None)
        self._begun[0].is_saved_by_loader = True
        return self._save(self._begun[0].cursor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._load(state)
        self._restart()
