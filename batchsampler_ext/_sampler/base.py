"""What batch samplers have in common: ranks, epochs, iterations, states and the wrappers of trainers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler

from .._engine.fixed import FixedSettings
from .._engine.not_a_function import NotAFunction, what_to_write
from .._engine.warn import warn
from .epoch_count import EpochCount
from .epoch_cursor import EpochCursor, save_cursor
from .iterations import BatchIterator, Iteration, Iterations, NoUpdates, Updates
from .ranks import Ranks, current_ranks, rank_slice, warn_without_group
from .sampler_type import SamplerType
from .sharing import Shape, check_sharing, is_prepared_by_accelerate
from .wrappers import check_argument, fabric_loader, is_called_by_stateful_loader, num_skipped_batches


class EpochSampler(NotAFunction, FixedSettings, BatchSampler, metaclass=SamplerType):
    """Draws the global batches of epochs, a part of each on every rank, and saves its position.

    A subclass says what an epoch consists of: it defines the methods of the last section.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if "valid_label_columns" in kwargs:  # by the trainer of sentence-transformers
            raise TypeError(what_to_write(cls.__name__, "the class"))
        return super().__new__(cls)

    def __init__(self, given_ranks: Ranks | None, covers_once: bool = True, has_bank: bool = False) -> None:
        """given_ranks: None to ask the process group when batches are drawn."""
        self._given_ranks = given_ranks
        self._epochs = EpochCount()
        self._iterations = Iterations(covers_once, has_bank)  # that may be trained now, or a loaded one
        self._resume: EpochCursor | None = None  # where the next iteration begins
        self._seconds = 0.0  # spent in this object so far
        self._is_given = False  # the caller gave the number of the epoch that was begun last
        # Epoch that was drawn last to its end, the updates before, and whether the caller gave its number.
        self._finished: tuple[int, int, bool] | None = None
        self._warned_of: set[str] = set()

    @property
    def sampler(self) -> EpochSampler:  # type: ignore[override]
        """Returns this object, because Lightning and Accelerate look for ``set_epoch`` here.

        Accelerate also looks here before it shares out the batches. This raises ``RuntimeError`` if it must not.
        """
        if is_prepared_by_accelerate():
            check_sharing(self, self._shape(self._find_ranks().num_replicas))
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

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration draw this epoch, or the rest of it if a loaded state stands in the middle of it.

        Some trainers count from 0 again after they have loaded a state. A number that would go back behind the loaded
        epoch is therefore taken for that epoch (or for the next one, once it is drawn), with a warning. Later numbers
        are counted from there. Numbers of Fabric are, too, without a warning: it always counts iterations.
        """
        self._epochs.set(epoch, counter=fabric_loader())
        if self._resume is not None and self._resume.epoch != self.epoch:
            self._resume = None
        self._iterations.announce(self.epoch, self._updates())

    def __iter__(self) -> BatchIterator:
        return BatchIterator(self._draw, self._state, self.load_state_dict)

    def _draw(self, begun: list[Iteration]) -> Iterator[list[int]]:
        """Yields batches. Adds the iteration to a list when it begins, that is, with the first batch."""
        if len(self) == 0:
            return
        start = time.perf_counter()
        ranks = self._find_ranks()
        if self._given_ranks is None and ranks.num_replicas == 1:
            warn_without_group(type(self).__name__)
        check_sharing(self, self._shape(ranks.num_replicas))
        check_argument(self)
        cursor = self._begin()
        iteration = Iteration(cursor, cursor.num_drawn, self._updates().step, is_open=True)
        begun.append(iteration)
        self._iterations.begin(iteration, self._updates())
        try:
            while not iteration.cursor.is_finished:
                cursor = self._at_plan(iteration.cursor)
                ids = rank_slice(cursor.batch(cursor.num_drawn), self._spare, ranks)
                cursor = cursor._replace(num_drawn=cursor.num_drawn + 1)
                iteration.cursor = cursor._replace(is_finished=self._is_finished(cursor))
                self._iterations.drew(iteration)
                self._follow_latest()
                self._seconds += time.perf_counter() - start
                yield ids.tolist()
                start = time.perf_counter()
            self._finish(iteration)
            self._finished = iteration.cursor.epoch, iteration.first_step, self._is_given
        finally:
            if not sys.is_finalizing():
                self._iterations.close(iteration, self._updates())
                self._follow_latest()

    def state_dict(self, num_trained: int | None = None) -> dict[str, Any]:
        latest = self._iterations.latest()
        if num_trained is None and latest is not None and is_called_by_stateful_loader():
            return self._state(latest.cursor)  # without waiting for the bank's device
        return self._state(self._iterations.position(self._updates(), num_trained))

    def _state(self, cursor: EpochCursor | None) -> dict[str, Any]:
        """Returns the state at a position. None: before the next epoch, or where a loaded state continues."""
        cursor = cursor or self._resume or EpochCursor(self._epochs.next(), ())
        return save_cursor(
            self._saved(cursor),
            self._settings(),
            refresh_wanted=self._refresh_wanted,
            is_informed=self._iterations.is_informed,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._find_ranks()
        cursor = self._loaded(state)
        self._epochs.load(cursor.epoch, cursor.is_finished)
        self._refresh_wanted = state["refresh_wanted"]
        self._iterations.load(cursor, self._updates().step, state["is_informed"])
        self._resume = cursor if cursor.plans and not cursor.is_finished else None
        self._finished = None

    def _find_ranks(self) -> Ranks:
        """Returns the ranks as they are now. A loader is often built before the process group."""
        ranks = current_ranks(self._process_group()) if self._given_ranks is None else self._given_ranks
        self._set_num_replicas(ranks.num_replicas)
        return ranks

    def _shape(self, num_replicas: int) -> Shape:
        sizes = self._ragged_sizes()
        drop_last, has_bank = self.drop_last, self._iterations.has_bank  # a plan says so if all its batches are full
        return Shape(type(self).__name__, num_replicas, self.batch_size, len(self), sizes, drop_last, has_bank)

    def _begin(self) -> EpochCursor:
        """Starts or resumes an epoch. Returns its cursor."""
        is_skipped, self._is_given = self._is_skipped(), self._epochs.is_given
        if self._iterations.is_informed and self._updates().step == 0:
            self._warn_once(
                "bank not loaded",
                f"{type(self).__name__}: the loaded state is of a training that updated the bank, but the bank has "
                "no update. Later epochs would not be those of the interrupted run. Write "
                "bank.load_state_dict(state) with the bank's state, too",
            )
        cursor, self._resume = self._resume, None
        if cursor is None:
            cursor = self._iterations.untrained_start(self._updates().step, self._epochs)
        if cursor is not None:
            self._require_size(cursor)
            self._epochs.begin(cursor.epoch)
            return cursor.rewound(0) if is_skipped else cursor
        trained_epoch = self._iterations.trained_epoch(self._updates())
        if trained_epoch is not None and not self._epochs.is_set:
            self._epochs.current = trained_epoch  # epochs that were only looked at do not count
        epoch = self._epochs.next()
        self._warn_of_repeated(epoch)
        self._epochs.current, self._epochs.is_set = epoch, True  # if planning fails, the next iteration draws it
        cursor = self._first_cursor(epoch)
        self._refresh_wanted = False
        self._epochs.begin(epoch)
        return cursor

    def _warn_of_repeated(self, epoch: int) -> None:
        """Warns if an epoch is drawn again after it was trained, because the caller gave its number twice."""
        finished, first_step, was_given = self._finished or (None, 0, False)
        if epoch != finished or not (was_given and self._is_given) or not self._was_trained(first_step):
            return
        self._warn_once(
            "repeated",
            f"{type(self).__name__}: epoch {epoch} is drawn again after its end, because set_epoch({epoch}) was called "
            "again. Random choices are those of this epoch once more. Write sampler.set_epoch(epoch) with the number "
            "of each epoch, or leave it out: then epochs are counted",
        )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned_of:
            self._warned_of.add(key)
            warn(message)

    def _is_skipped(self) -> bool:
        """Whether a trainer skips the first batches because it resumes.

        A loaded state then begins with the first batch of its epoch.
        """
        num_skipped = num_skipped_batches()
        if num_skipped == 0 or self._is_repeatable():
            return num_skipped > 0
        name = type(self).__name__
        num_loaded = 0 if self._resume is None else self._resume.num_drawn
        if num_loaded == 0:
            raise RuntimeError(
                f"{name}: expected a loaded state, because the trainer resumes and skips {num_skipped} batches. "
                "Without it the epoch is planned again from other embeddings, so instances would be drawn twice or "
                "never. Call load_state_dict of bank and sampler first"
            )
        if num_loaded != num_skipped:
            warn(
                f"{name}: the trainer skips {num_skipped} batches, but the loaded state stands at batch {num_loaded}. "
                f"Training continues at batch {num_skipped}",
            )
        return True

    def _num_before(self) -> int:
        """Returns the number of batches of the epoch before the first one that the latest iteration has drawn."""
        latest = self._iterations.latest()
        return 0 if latest is None else latest.first_batch

    def _follow_latest(self) -> None:
        """Makes the next iteration draw the epoch after that of the iteration that drew last, unless one was set."""
        latest = self._iterations.latest()
        if latest is not None and not self._epochs.is_set:
            self._epochs.current = latest.cursor.epoch

    # --- what an epoch consists of -----------------------------------------------------------------------------------
    _refresh_wanted = False  # the next batch comes from a new plan

    def __len__(self) -> int:
        raise NotImplementedError

    def _process_group(self) -> dist.ProcessGroup | None:
        """Returns the group that shares the batches. None: the default one."""
        return None

    def _set_num_replicas(self, num_replicas: int) -> None:
        """Notes the number of ranks, or raises ``ValueError`` if they cannot share the batches."""

    def _num_left_out(self) -> int:
        """Returns how many instances an epoch leaves out because of ``drop_last``."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """Returns the settings that must be equal when a state is loaded."""
        raise NotImplementedError

    def _saved(self, cursor: EpochCursor) -> EpochCursor:
        """Returns what a state keeps of a position."""
        return cursor

    def _loaded(self, state: Any) -> EpochCursor:
        """Returns the position of a state. Raises ``ValueError`` for a state of another sampler."""
        raise NotImplementedError

    def _require_size(self, cursor: EpochCursor) -> None:
        """Raises ``ValueError`` if a loaded cursor has plans of another global batch size, or ends where none does."""

    def _require_end(self, cursor: EpochCursor, num_batches: int) -> None:
        """Raises ``ValueError`` unless a loaded epoch is finished exactly if all of its batches are drawn."""
        if cursor.num_drawn > num_batches or cursor.is_finished != (0 < cursor.num_drawn == num_batches):
            raise ValueError(
                f"state: expected num_drawn from 0 to {num_batches}, and is_finished exactly at {num_batches}, got "
                f"{cursor.num_drawn} and {cursor.is_finished}"
            )

    def _ragged_sizes(self) -> tuple[int, ...] | None:
        """Returns the sizes of an epoch's global batches that are not full. They come last. None: epochs vary."""
        raise NotImplementedError

    def _is_repeatable(self) -> bool:
        """Whether an epoch that is drawn again has the same batches."""
        return True

    def _first_cursor(self, epoch: int) -> EpochCursor:
        """Returns the beginning of an epoch."""
        raise NotImplementedError

    def _at_plan(self, cursor: EpochCursor) -> EpochCursor:
        """Returns the cursor with a plan of the next batch."""
        return cursor

    def _is_finished(self, cursor: EpochCursor) -> bool:
        return cursor.num_drawn >= len(self)

    def _finish(self, iteration: Iteration) -> None:
        """Called when the last batch of an epoch has been drawn, and another one is asked for."""

    def _spare(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns ids to pad a ragged batch with."""
        raise NotImplementedError

    def _was_trained(self, first_step: int) -> bool:
        """Whether an iteration that was drawn to its end has been trained. first_step: updates when it began."""
        updates = self._updates()
        return updates.step > max(first_step, updates._step_of_fill)  # filling may draw an epoch, too

    def _updates(self) -> Updates:
        """Returns the bank, which tells what is trained. Without one, drawn batches count as trained."""
        return NoUpdates()
