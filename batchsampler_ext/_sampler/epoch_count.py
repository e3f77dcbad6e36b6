"""Which epoch comes next: what callers of ``set_epoch`` mean by their numbers, also after a state was loaded."""

from __future__ import annotations

import weakref
from typing import Any

from .._engine import validate
from .._engine.warn import warn


class EpochCount:
    """The number of the epoch that is drawn.

    Some trainers count from 0 again after they have loaded a state. A number that would go back behind the loaded epoch
    is therefore taken for that epoch (or for the next one, once it is drawn), and later numbers are counted from there.
    """

    def __init__(self) -> None:
        self.current = 0  # being drawn, or drawn last
        self.is_set = True  # the next iteration draws `current` itself, not the epoch after it
        self._offset = 0  # added to the numbers of a caller that counts from 0 again
        self._given: int | None = None  # number that the caller gave last, if nothing was drawn since
        self._loaded: int | None = None  # epoch that a loaded state continues with, until the caller's count is known
        self._given_before_load: int | None = None
        self._has_begun = False  # whether the loaded epoch is drawn already
        self._counter: weakref.ref[Any] | None = None  # an object that counts its own iterations from 0
        self._counter_offset = 0  # added to its numbers
        # Lightning announces an epoch that was finished before it resumes, draws nothing, and announces the next one.
        # So a warning waits until an epoch is drawn.
        self._unsaid: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_counter": None}  # it does not count for a copy

    def next(self) -> int:
        """Returns the epoch that the next iteration draws."""
        return self.current + (not self.is_set)

    @property
    def is_given(self) -> bool:
        """Whether the caller has given the number of the next epoch."""
        return self._given is not None

    def set(self, number: int, counter: Any = None) -> None:
        """counter: the number is how many iterations this object has begun. It says nothing about epochs before."""
        number = validate.epoch(number)
        if counter is not None:
            if self._counter is None or self._counter() is not counter:
                self._counter, self._counter_offset = weakref.ref(counter), self.next() - number
            self._loaded = self._given_before_load = self._unsaid = None
        elif self._loaded is not None and not self._has_begun:
            self._count_from(number, self._loaded)
            self._given_before_load = None
        elif self._loaded is not None:
            # A loader has loaded the state itself, after the caller had given the number of its first epoch.
            if self._given_before_load is not None and number <= self._loaded:
                self._count_from(self._given_before_load, self._loaded)
                self._say()
            self._loaded = None
        self._given = number
        offset = self._offset if counter is None else self._counter_offset
        self.current, self.is_set = validate.epoch(number + offset), True

    def _count_from(self, number: int, epoch: int) -> None:
        self._offset = max(0, epoch - number)
        self._unsaid = None
        if self._offset:
            self._unsaid = (
                f"set_epoch({number}) with a loaded state that continues with epoch {epoch}: {number} is taken for "
                f"{epoch}, and epochs are counted from there. To begin epoch {number} anew, call set_epoch on a "
                "sampler without a loaded state."
            )

    def load(self, epoch: int, is_finished: bool) -> None:
        """Continues with an epoch, or with the next one if it is finished."""
        self._given_before_load, self._given = self._given, None
        self._loaded, self._offset, self._has_begun = epoch + is_finished, 0, False
        self._counter = None
        self.current, self.is_set = self._loaded, True

    def begin(self, epoch: int) -> None:
        """Notes that an epoch is drawn. Warns if it has another number than the caller gave."""
        self._say()
        self.current, self.is_set, self._given, self._has_begun = epoch, False, None, True

    def _say(self) -> None:
        if self._unsaid is not None:
            warn(self._unsaid)
            self._unsaid = None
