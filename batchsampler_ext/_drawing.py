"""An iteration over an epoch: which window it draws, how far it is, what comes after."""

from __future__ import annotations

from dataclasses import dataclass

from ._epoch_state import Position, Window
from ._window_ahead import WindowAhead


@dataclass
class Drawing:
    """From the window that holds, or is followed by, the batch to be drawn next."""

    epoch: int
    window: Window
    num_drawn: int  # batches of the epoch
    is_finished: bool = False
    later: tuple[Window, ...] = ()  # made already, by the iteration whose state was loaded
    ahead: WindowAhead | None = None  # begun, to follow the last of them
    before: Window | None = None  # the window drawn before this one, for states that go back to it

    @classmethod
    def at(cls, position: Position, ahead: WindowAhead | None) -> Drawing:
        window, *later = position.windows
        return cls(position.epoch, window, position.num_drawn, position.is_finished, tuple(later), ahead)

    def is_at_end(self) -> bool:
        """Of the window: where it ends, or where :meth:`ProximityBatchSampler.refresh` had ended it."""
        return self.num_drawn == (self.later[0].first if self.later else self.window.end)

    def enter(self, window: Window) -> None:
        self.before, self.window = self.window, window

    def enter_later(self) -> None:
        window, *later = self.later
        self.enter(window)
        self.later = tuple(later)

    def draw(self) -> list[int]:
        ids: list[int] = self.window.batch(self.num_drawn - self.window.first).tolist()
        self.num_drawn += 1
        return ids

    def position(self) -> Position:
        before = () if self.before is None else (self.before,)
        return Position(self.epoch, (*before, self.window, *self.later), self.num_drawn, self.is_finished)
