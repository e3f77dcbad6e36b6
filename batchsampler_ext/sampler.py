"""The batch sampler that training loops use: windows of hard batches from the freshest embeddings."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch.utils.data import BatchSampler, Sampler

from . import _validate
from ._bank_files import Tables
from ._cuda_engine import moved, on_host
from ._drawing import Drawing
from ._epoch_state import Position, Window, load_position, save_position
from ._index_set import index_set
from ._window_ahead import WindowAhead
from ._window_maker import MadeWindow, WindowMaker, WindowRequest, count_batches, default_refresh_every
from .bank import FeatureBank
from .batches import EPOCH_MODES, STRATEGIES, check_hardness
from .build import proximity_graph
from .graph import ProximityGraph
from .metrics import batch_stats
from .walk import check_batch_size

__all__ = ["ProximityBatchSampler"]

_NUM_MEASURED = 8  # batches of a window whose similarity is measured


class ProximityBatchSampler(BatchSampler):
    """Mini-batches of hard negatives for a DataLoader: ``DataLoader(dataset, batch_sampler=...)``.

    At the start of an epoch, and every ``refresh_every`` batches if that is less, a proximity graph is built from the
    bank's embeddings of the instances not yet drawn in the epoch; they are partitioned into batches, of which a random
    window of ``refresh_every`` is drawn. Each instance is in exactly one batch of the epoch. Instances without an
    embedding are dealt out at random, so the first epoch is uniform unless ``bank.fill_from`` was called (walks in the
    other modes may meet what it has embedded).

    Args:
        sampler: which instances: a number N, a sized dataset (all), or a torch sampler, whose index set is taken.
        batch_size: B.
        drop_last: leave the N mod B instances over, drawn at random, out of the epoch.
        bank: :class:`FeatureBank` that training updates; ids are those of the dataset. Graphs and batches are computed
            on its device, and are the same on all of them; batches come to the host a window at a time.
        refresh_every: t, batches between refreshes. Default: of partitions an epoch, otherwise 100. Training updates
            the embeddings of what was drawn, so later graphs of a partition, over the undrawn, are of the same
            embeddings as the epoch's first; they only draw their M candidates from fewer. If others update the bank
            too, give an interval or call ``refresh()``.
        num_candidates, num_neighbors: M and K of the graph, at most as many as instances are left. Default 1000, 100.
        restart_prob: alpha, or a function of the epoch (the authors decay 0.2 to 0.05).
        epoch_mode: "partition"; "independent": walks from random roots over all instances; "paper": the authors' epoch,
            whose length varies (``len`` is then the number of batches of a uniform epoch).
        strategy: see :func:`sample_batches`. "knn" needs M and K of at least B - 1, and draws uniform batches while
            fewer than B instances have an embedding.
        hardness: of partitions, "soft", "default" or "hard"; see :func:`sample_batches`.
        graph_options: further keywords of :func:`proximity_graph`, e.g. ``{"labels": y}``; tensors are brought to the
            bank's device.
        seed: the sequence is a function of the bank's contents at each refresh, the arguments, seed and epoch.
        async_refresh: make each window but an epoch's first beside training, while the window before it is drawn: its
            graph is of the bank as it was when the window before it began (copied then), one window older than
            otherwise. Of partitions with the default ``refresh_every`` there is none. See below.
        progress: of graph building, see :func:`proximity_graph`. With ``async_refresh`` called by another thread.

    Attributes:
        epoch: the epoch being drawn, or drawn last. It advances by itself unless ``set_epoch`` is called.
        bank, graph (the latest, None before the first), refreshes (graphs built so far), refresh_every.

    With ``async_refresh`` a window begins with a copy of the bank's tables (as much memory again; queued on the current
    stream of a CUDA device, where later updates come after it). From that a thread makes the window after it, on a CUDA
    stream of its own, for the instances that are in no window yet; who draws its first batch waits for it. So the
    sequence is still a function of what the bank held when each window began, on all devices: when the thread is done
    has no influence, except on what training waits for (``refresh_wait_ms``). What goes wrong in the thread is raised
    where the window is due; the next iteration then makes it from the bank as it is. The thread takes as many threads
    as ``num_threads`` among the graph options, or torch's setting, says, and ends with the iteration. ``refresh()``
    gives up the window ahead, at a window's end too: the one that it asks for is made at once, from the bank as it is.

    Raises:
        TypeError, ValueError: a bad argument, named.

    Source: Yang et al., KDD 2023, algorithm 1; windows over the undrawn are ours.

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
        refresh_every: int | None = None,
        num_candidates: int | None = None,
        num_neighbors: int | None = None,
        restart_prob: float | Callable[[int], float] = 0.2,
        epoch_mode: str = "partition",
        strategy: str = "rwr",
        hardness: str = "default",
        async_refresh: bool = False,
        graph_options: dict[str, Any] | None = None,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        if not isinstance(bank, FeatureBank):
            raise TypeError(f"bank: expected a FeatureBank, got {type(bank).__name__}")
        self.bank = bank
        self._instances = index_set(sampler, bank.num_samples)
        self._instances_digest = hashlib.sha256(self._instances.numpy().tobytes()).hexdigest()[:16]
        self.batch_size = check_batch_size(batch_size)
        self.drop_last = _validate.flag(drop_last, "drop_last")
        self._async_refresh = _validate.flag(async_refresh, "async_refresh")
        self._restart_prob = restart_prob
        _validate.restart_threshold(self._alpha(0))
        _validate.choice(epoch_mode, "epoch_mode", EPOCH_MODES)
        _validate.choice(strategy, "strategy", STRATEGIES)
        if epoch_mode == "partition" and strategy not in ("rwr", "uniform"):
            raise ValueError(f"strategy: expected 'rwr' or 'uniform' in epoch_mode 'partition', got {strategy!r}")
        num_batches = count_batches(len(self._instances), self.batch_size, self.drop_last)
        self.refresh_every = _optional_count(
            refresh_every, "refresh_every", default_refresh_every(epoch_mode, num_batches)
        )
        self._maker = WindowMaker(
            self._instances,
            self.batch_size,
            self.drop_last,
            self.refresh_every,
            _optional_count(num_candidates, "num_candidates", 1000),
            _optional_count(num_neighbors, "num_neighbors", 100),
            epoch_mode,
            strategy,
            check_hardness(hardness, epoch_mode, strategy),
            _validate.seed(seed),
        )
        self._graph_options = dict(graph_options or {})
        if strategy == "knn":
            needed = self.batch_size - 1
            for name in ("num_candidates", "num_neighbors"):
                count = getattr(self._maker, name)
                if count < needed:
                    raise ValueError(
                        f"{name}: expected batch_size - 1, {needed}, or more for strategy 'knn', got {count}"
                    )
            self._graph_options["sort"] = True
        if epoch_mode != "partition":
            # Of rows that share a draw the candidates are shared too, so about exp(-M / rows_per_draw) of the instances
            # are nobody's: walks cannot reach them, while a partition takes them in by their own neighbours.
            self._graph_options.setdefault("rows_per_draw", max(1, min(256, self._maker.num_candidates // 16)))
        reserved = self._graph_options.keys() & {"rows", "keys", "seed", "num_candidates", "num_neighbors", "progress"}
        if reserved:
            raise ValueError(f"graph_options: expected keywords that the sampler does not set, got {sorted(reserved)}")
        self._progress = _validate.progress(progress)
        self._check_graph_options()

        self.epoch = 0
        self.graph: ProximityGraph | None = None
        self.refreshes = 0
        self._epoch_is_set = True  # the next iteration is `epoch` itself, not the one after it
        self._refresh_wanted = False
        self._position: Position | None = None  # of the latest iteration, or loaded
        self._ahead: WindowAhead | None = None  # the window after those of the position
        self._resume: tuple[Position, WindowAhead | None] | None = None  # where the next iteration begins
        self._seconds = 0.0  # spent in here so far
        names = ("refresh_ms", "refresh_wait_ms", "walk_us", "fallback_share", "uncovered_share")
        self._stats = dict.fromkeys(names, float("nan"))

    @property
    def sampler(self) -> ProximityBatchSampler:  # type: ignore[override]
        """Itself: where Lightning and Accelerate look for ``set_epoch``."""
        return self

    def __len__(self) -> int:
        return self._maker.num_batches(len(self._instances))

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws this epoch. Of a loaded state, the rest is drawn if it is the same epoch."""
        epoch = _validate.epoch(epoch)
        if self._resume is not None and self._resume[0].epoch != epoch:
            self._resume = None
        if self._position is not None and (self._position.epoch != epoch or self._position.is_finished):
            self._position = self._ahead = None
        self.epoch, self._epoch_is_set = epoch, True

    def refresh(self) -> None:
        """Ends the current window: the next batch comes from a new graph."""
        self._refresh_wanted = True

    def __iter__(self) -> Iterator[list[int]]:
        if len(self) == 0:
            return
        start = time.perf_counter()
        drawing = self._begin()
        try:
            if not self._is_over(drawing):
                self._start_ahead(drawing)
            while not drawing.is_finished:
                if self._is_over(drawing):
                    self._enter_next_window(drawing)
                ids = drawing.draw()
                drawing.is_finished = not drawing.later and self._is_finished(drawing.window, drawing.num_drawn)
                self._position, self._ahead = drawing.position(), drawing.ahead
                self._seconds += time.perf_counter() - start
                yield ids
                start = time.perf_counter()
        finally:
            if drawing.ahead is not None:
                drawing.ahead.stop()

    def state_dict(self, num_trained: int | None = None) -> dict[str, Any]:
        """Epoch, position and windows, by reference: cheap enough to call at every batch. The bank is saved apart.

        With ``async_refresh`` it holds the window ahead too, and waits for it: call it when you save. If making that
        has failed, it is left out. Pickling and copying the sampler wait for it too.

        Args:
            num_trained: batches of this epoch that training has finished. A DataLoader with worker processes draws
                ahead; without this, the state is that after the batch drawn last, and what lies between is not drawn
                again. At most the window before the current one can be gone back to.

        Raises:
            ValueError: num_trained out of this range.
        """
        position = self._position
        if position is None:
            position = Position(self.epoch if self._epoch_is_set else self.epoch + 1, (), 0, False)
        if position.windows:
            position = position.rewound(position.num_drawn if num_trained is None else num_trained)
        if self._may_use(self._ahead) and self._ahead.is_made():
            position = position._replace(ahead=self._ahead.get().window)
        return save_position(position, self._settings(), self._refresh_wanted)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration continues where the state was taken, after a finished epoch with the next one. Load the
        bank's state too.

        Raises:
            ValueError: not a whole state, or of a sampler with another index set, batch_size, drop_last, epoch_mode,
                strategy, hardness or seed.
        """
        position = load_position(state, self._settings(), len(self._instances), self.bank.num_samples)
        self.epoch, self._epoch_is_set = position.epoch, not position.is_finished
        self._refresh_wanted = state["refresh_wanted"]
        self._position = position._replace(ahead=None) if position.windows else None
        self._ahead = None if position.ahead is None else WindowAhead(MadeWindow(position.ahead))
        self._resume = None if position.is_finished or self._position is None else (self._position, self._ahead)

    def stats(self) -> dict[str, float]:
        """Of the latest window: refresh_ms (graph); refresh_wait_ms (what drawing waited for: graph and sampling, or
        with ``async_refresh`` copying the bank and what was not done in time); walk_us (sampling, per batch);
        in_batch_similarity (mean cosine of its first batches, in the bank as it is now; nan without embeddings);
        fallback_share (assigned at random); uncovered_share (instances without an embedding); graph_age (batches drawn
        from it). Of all batches drawn by this object: total_seconds (graphs, sampling and drawing, as far as drawing
        waited)."""
        position = self._position
        window = None if position is None or not position.windows else position.windows[-1]
        return {
            **self._stats,
            "in_batch_similarity": float("nan") if window is None else self._in_batch_similarity(window),
            "graph_age": 0 if position is None or window is None else position.num_drawn - window.first,
            "total_seconds": self._seconds,
        }

    def _in_batch_similarity(self, window: Window) -> float:
        first = [window.batch(i).long() for i in range(min(_NUM_MEASURED, window.num_batches))]
        drawn = moved(torch.cat(first), self.bank.device)
        covered = on_host(self.bank.last_update[drawn] >= 0).split([len(ids) for ids in first])
        known = [ids[part] for ids, part in zip(first, covered, strict=True)]
        return float(batch_stats(known, self.bank.data)["in_batch_similarity"])

    def _settings(self) -> dict[str, Any]:
        """What must be equal for a state to make sense."""
        return {
            "instances": self._instances_digest,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            **{name: getattr(self._maker, name) for name in ("epoch_mode", "strategy", "hardness", "seed")},
        }

    def _check_graph_options(self) -> None:
        """Finds now what a graph would complain of an epoch later."""
        if self._maker.strategy == "uniform" or self.bank.num_samples < 2:
            return
        proximity_graph(
            self.bank.data,
            1,
            num_candidates=1,
            keys=self.bank.keys,
            rows=torch.arange(2, device=self.bank.device),
            **self._options_on(self.bank.device),
        ).check()
        range_min = self._graph_options.get("range_min", 0)
        num_candidates = self._maker.num_candidates
        if range_min >= num_candidates:
            raise ValueError(
                f"graph_options: expected range_min below num_candidates, {num_candidates}, got {range_min}"
            )

    def _options_on(self, device: torch.device) -> dict[str, Any]:
        """The graph's options. A bank may get its device after the sampler was made."""
        for name, value in self._graph_options.items():
            if isinstance(value, torch.Tensor):
                self._graph_options[name] = value.to(device)
        return self._graph_options

    # --- an epoch ----------------------------------------------------------------------------------------------------
    def _begin(self) -> Drawing:
        """A new iteration."""
        if self._resume is not None:
            drawing, self._resume = Drawing.at(*self._resume), None
            self.epoch, self._epoch_is_set = drawing.epoch, False
        else:
            if not self._epoch_is_set:
                self.epoch += 1
            self._epoch_is_set = True  # stays so if what follows fails: the epoch is then begun again
            self._ahead = None  # of an iteration that was left
            drawing = Drawing(self.epoch, self._make_now(self.epoch, 0, self._maker.left_out(self.epoch)), 0)
            self._epoch_is_set = self._refresh_wanted = False
        return drawing

    def _is_over(self, drawing: Drawing) -> bool:
        """The window: at its end, or cut short by ``refresh()``."""
        is_cut_short = self._refresh_wanted and not drawing.later and drawing.num_drawn > drawing.window.first
        return drawing.is_at_end() or is_cut_short

    def _enter_next_window(self, drawing: Drawing) -> None:
        if drawing.later:
            drawing.enter_later()
        else:
            with self._taking_up_later(drawing):
                drawing.enter(self._following_window(drawing))
            drawing.ahead = None
        self._start_ahead(drawing)

    @contextmanager
    def _taking_up_later(self, drawing: Drawing) -> Iterator[None]:
        """If what is done inside fails (Ctrl-C, say), the next iteration takes up the epoch here."""
        try:
            yield
        except BaseException:
            self._ahead = None if drawing.ahead is None or drawing.ahead.is_lost else drawing.ahead
            self.epoch, self._epoch_is_set = drawing.epoch, True
            self._resume = Position(drawing.epoch, (drawing.window,), drawing.num_drawn, False), self._ahead
            raise

    def _following_window(self, drawing: Drawing) -> Window:
        if self._may_use(drawing.ahead):
            following = self._wait_for(drawing.ahead)
        else:
            if drawing.ahead is not None:
                drawing.ahead.discard()
            drawn = self._drawn_after(drawing.window, drawing.num_drawn)
            following = self._make_now(drawing.epoch, drawing.num_drawn, drawn)
        self._refresh_wanted = False
        return following

    def _may_use(self, ahead: WindowAhead | None) -> TypeGuard[WindowAhead]:
        """``refresh()`` asks for a window from the bank as it is, and often for other batches before it."""
        return ahead is not None and not self._refresh_wanted

    def _is_finished(self, window: Window, num_drawn: int) -> bool:
        if self._maker.epoch_mode != "paper":
            return num_drawn >= len(self)
        if num_drawn < window.end:
            return False
        num_left = int((~self._drawn_after(window, num_drawn)).sum())
        return num_left == 0 or (self.drop_last and num_left <= len(self._instances) % self.batch_size)

    def _drawn_after(self, window: Window, num_drawn: int) -> torch.Tensor:
        """bool [num_instances]: drawn in the first num_drawn batches of the epoch, of which the window has the last."""
        is_member = torch.zeros(self.bank.num_samples, dtype=torch.bool, device="cpu")
        for i in range(num_drawn - window.first):
            is_member[window.batch(i).long()] = True
        return window.drawn | is_member[self._instances]

    # --- windows -----------------------------------------------------------------------------------------------------
    def _make_now(self, epoch: int, first: int, drawn: torch.Tensor) -> Window:
        """A window from the bank as it is."""
        start = time.perf_counter()
        self.bank.check()
        self.graph = None  # not two at a time
        tables = Tables(self.bank.data, self.bank.keys, self.bank.last_update)
        made = self._maker.make(self._request(epoch, first, drawn), tables, self._progress)
        return self._take(made, time.perf_counter() - start)

    def _start_ahead(self, drawing: Drawing) -> None:
        """Begins the window after the one just entered, if there will be one that is not made yet."""
        window = drawing.window
        if not self._async_refresh or drawing.later or drawing.ahead is not None:
            return
        with self._taking_up_later(drawing):
            if self._is_finished(window, window.end):
                return
            start = time.perf_counter()
            request = self._request(drawing.epoch, window.end, self._drawn_after(window, window.end))
            drawing.ahead = WindowAhead.of(self._maker, request, self.bank.copy_tables(), self._progress)
            drawing.ahead.start()
            drawing.ahead.seconds_to_start = time.perf_counter() - start

    def _wait_for(self, ahead: WindowAhead) -> Window:
        start = time.perf_counter()
        made = ahead.get()
        if ahead.has_refused:
            self.bank.check()
        return self._take(made, ahead.seconds_to_start + time.perf_counter() - start)

    def _request(self, epoch: int, first: int, drawn: torch.Tensor) -> WindowRequest:
        options = self._options_on(self.bank.device)
        num_threads = _validate.num_threads(options.get("num_threads"))
        return WindowRequest(epoch, first, drawn, self._alpha(epoch), dict(options), num_threads)

    def _take(self, made: MadeWindow, seconds_waited: float) -> Window:
        self._stats |= made.stats
        self._stats["refresh_wait_ms"] = 1e3 * seconds_waited
        self.graph = made.graph
        if self.graph is not None:
            self.graph.hand_over()
        self.refreshes += made.graph is not None
        return made.window

    def _alpha(self, epoch: int) -> float:
        return self._restart_prob(epoch) if callable(self._restart_prob) else self._restart_prob


def _optional_count(value: int | None, name: str, default: int) -> int:
    return default if value is None else _validate.integer(value, name, 1)
