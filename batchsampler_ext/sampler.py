"""The batch sampler that training loops use: windows of hard batches from the freshest embeddings."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from torch.utils.data import BatchSampler, Sampler

from . import _validate
from ._backend import core
from ._cuda_engine import moved, on_host
from ._epoch_state import Position, Window, load_position, save_position
from ._graph_view import GraphView
from ._index_set import index_set
from .bank import FeatureBank
from .batches import EPOCH_MODES, STRATEGIES, Batches, EpochSampler, check_hardness, sample_batches
from .build import proximity_graph
from .graph import ProximityGraph
from .metrics import batch_stats
from .walk import check_batch_size

__all__ = ["ProximityBatchSampler"]

_WINDOW_STREAM = 255 << 24  # of Philox: no purpose of csrc/common/random_stream.h
_NUM_MEASURED = 8  # batches of a window whose similarity is measured


class ProximityBatchSampler(BatchSampler):
    """Mini-batches of hard negatives for a DataLoader: ``DataLoader(dataset, batch_sampler=...)``.

    At the start of an epoch and every ``refresh_every`` batches, a proximity graph is built from the bank's embeddings
    of the instances not yet drawn in the epoch; they are partitioned into batches, of which a random window of
    ``refresh_every`` is drawn. Each instance is in exactly one batch of the epoch. Instances without an embedding are
    dealt out at random, so the first epoch is uniform unless ``bank.fill_from`` was called.

    Args:
        sampler: which instances: a number N, a sized dataset (all), or a torch sampler, whose index set is taken.
        batch_size: B.
        drop_last: leave the N mod B instances over, drawn at random, out of the epoch.
        bank: :class:`FeatureBank` that training updates; ids are those of the dataset. Graphs and batches are computed
            on its device, and are the same on all of them; batches come to the host a window at a time.
        refresh_every: t, batches between refreshes.
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
        progress: of graph building, see :func:`proximity_graph`.

    Attributes:
        epoch: the epoch being drawn, or drawn last. It advances by itself unless ``set_epoch`` is called.
        bank, graph (the latest, None before the first), refreshes (graphs built so far).

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
        refresh_every: int = 100,
        num_candidates: int | None = None,
        num_neighbors: int | None = None,
        restart_prob: float | Callable[[int], float] = 0.2,
        epoch_mode: str = "partition",
        strategy: str = "rwr",
        hardness: str = "default",
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
        self.refresh_every = _validate.integer(refresh_every, "refresh_every", 1)
        self._num_candidates = _optional_count(num_candidates, "num_candidates", 1000)
        self._num_neighbors = _optional_count(num_neighbors, "num_neighbors", 100)
        self._restart_prob = restart_prob
        _validate.restart_threshold(self._alpha(0))
        self._epoch_mode = _validate.choice(epoch_mode, "epoch_mode", EPOCH_MODES)
        self._strategy = _validate.choice(strategy, "strategy", STRATEGIES)
        if epoch_mode == "partition" and strategy not in ("rwr", "uniform"):
            raise ValueError(f"strategy: expected 'rwr' or 'uniform' in epoch_mode 'partition', got {strategy!r}")
        self._hardness = check_hardness(hardness, self._epoch_mode, self._strategy)
        self._graph_options = dict(graph_options or {})
        if strategy == "knn":
            needed = self.batch_size - 1
            for name, count in {"num_candidates": self._num_candidates, "num_neighbors": self._num_neighbors}.items():
                if count < needed:
                    raise ValueError(
                        f"{name}: expected batch_size - 1, {needed}, or more for strategy 'knn', got {count}"
                    )
            self._graph_options["sort"] = True
        if epoch_mode != "partition":
            # Of rows that share a draw the candidates are shared too, so about exp(-M / rows_per_draw) of the instances
            # are nobody's: walks cannot reach them, while a partition takes them in by their own neighbours.
            self._graph_options.setdefault("rows_per_draw", max(1, min(256, self._num_candidates // 16)))
        reserved = self._graph_options.keys() & {"rows", "keys", "seed", "num_candidates", "num_neighbors", "progress"}
        if reserved:
            raise ValueError(f"graph_options: expected keywords that the sampler does not set, got {sorted(reserved)}")
        self._seed = _validate.seed(seed)
        self._progress = _validate.progress(progress)
        self._check_graph_options()

        self.epoch = 0
        self.graph: ProximityGraph | None = None
        self.refreshes = 0
        self._epoch_is_set = True  # the next iteration is `epoch` itself, not the one after it
        self._refresh_wanted = False
        self._position: Position | None = None  # of the latest iteration, or loaded
        self._resume: Position | None = None  # where the next iteration begins
        self._seconds = 0.0  # spent in here so far
        names = ("refresh_ms", "walk_us", "fallback_share", "uncovered_share")
        self._stats = dict.fromkeys(names, float("nan"))

    @property
    def sampler(self) -> ProximityBatchSampler:  # type: ignore[override]
        """Itself: where Lightning and Accelerate look for ``set_epoch``."""
        return self

    def __len__(self) -> int:
        num_instances = len(self._instances)
        return num_instances // self.batch_size + (not self.drop_last and num_instances % self.batch_size > 0)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws this epoch. Of a loaded state, the rest is drawn if it is the same epoch."""
        epoch = _validate.epoch(epoch)
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None
        if self._position is not None and (self._position.epoch != epoch or self._position.is_finished):
            self._position = None
        self.epoch, self._epoch_is_set = epoch, True

    def refresh(self) -> None:
        """Ends the current window: the next batch comes from a new graph."""
        self._refresh_wanted = True

    def __iter__(self) -> Iterator[list[int]]:
        if len(self) == 0:
            return
        start = time.perf_counter()
        epoch, (window, *later), num_drawn, is_finished = self._begin()
        previous: tuple[Window, ...] = ()
        while not is_finished:
            end = later[0].first if later else window.first + window.num_batches
            if num_drawn == end or (self._refresh_wanted and not later and num_drawn > window.first):
                previous = (window,)
                window = later.pop(0) if later else self._following_window(epoch, window, num_drawn)
            batch = window.batch(num_drawn - window.first)
            num_drawn += 1
            is_finished = not later and self._is_finished(window, num_drawn)
            self._position = Position(epoch, (*previous, window, *later), num_drawn, is_finished)
            ids = batch.tolist()
            self._seconds += time.perf_counter() - start
            yield ids
            start = time.perf_counter()

    def state_dict(self, num_trained: int | None = None) -> dict[str, Any]:
        """Epoch, position and windows, by reference: cheap enough to call at every batch. The bank is saved apart.

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
        self._position = position if position.windows else None
        self._resume = None if position.is_finished else self._position

    def stats(self) -> dict[str, float]:
        """Of the latest window: refresh_ms (graph), walk_us (sampling, per batch), in_batch_similarity (mean cosine of
        its first batches, in the bank as it is now; nan without embeddings), fallback_share (assigned at random),
        uncovered_share (instances without an embedding); graph_age (batches drawn from it). Of all batches drawn by
        this object: total_seconds (graphs, sampling and drawing)."""
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
            "epoch_mode": self._epoch_mode,
            "strategy": self._strategy,
            "hardness": self._hardness,
            "seed": self._seed,
        }

    def _check_graph_options(self) -> None:
        """Finds now what a graph would complain of an epoch later."""
        if self._strategy == "uniform" or self.bank.num_samples < 2:
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
        if range_min >= self._num_candidates:
            raise ValueError(
                f"graph_options: expected range_min below num_candidates, {self._num_candidates}, got {range_min}"
            )

    def _options_on(self, device: torch.device) -> dict[str, Any]:
        """The graph's options. A bank may get its device after the sampler was made."""
        for name, value in self._graph_options.items():
            if isinstance(value, torch.Tensor):
                self._graph_options[name] = value.to(device)
        return self._graph_options

    # --- an epoch ----------------------------------------------------------------------------------------------------
    def _begin(self) -> Position:
        """Where a new iteration starts."""
        if self._resume is not None:
            position, self._resume = self._resume, None
            self.epoch, self._epoch_is_set = position.epoch, False
            return position
        if not self._epoch_is_set:
            self.epoch += 1
        self._epoch_is_set = True  # stays so if what follows fails: the epoch is then begun again
        window = self._first_window(self.epoch)
        self._epoch_is_set = self._refresh_wanted = False
        return Position(self.epoch, (window,), 0, False)

    def _following_window(self, epoch: int, window: Window, num_drawn: int) -> Window:
        """The next window. If that fails (Ctrl-C, say), the next iteration takes up the epoch here."""
        try:
            following = self._make_window(epoch, num_drawn, self._drawn_after(window, num_drawn))
        except BaseException:
            self.epoch, self._epoch_is_set = epoch, True
            self._resume = Position(epoch, (window,), num_drawn, False)
            raise
        self._refresh_wanted = False
        return following

    def _is_finished(self, window: Window, num_drawn: int) -> bool:
        if self._epoch_mode != "paper":
            return num_drawn >= len(self)
        if num_drawn < window.first + window.num_batches:
            return False
        num_left = int((~self._drawn_after(window, num_drawn)).sum())
        return num_left == 0 or (self.drop_last and num_left <= len(self._instances) % self.batch_size)

    def _drawn_after(self, window: Window, num_drawn: int) -> torch.Tensor:
        """bool [num_instances]: drawn in the first num_drawn batches of the epoch, of which the window has the last."""
        is_member = torch.zeros(self.bank.num_samples, dtype=torch.bool)
        for i in range(num_drawn - window.first):
            is_member[window.batch(i).long()] = True
        return window.drawn | is_member[self._instances]

    # --- windows -----------------------------------------------------------------------------------------------------
    def _first_window(self, epoch: int) -> Window:
        drawn = torch.zeros(len(self._instances), dtype=torch.bool)
        num_left_out = len(self._instances) % self.batch_size if self.drop_last else 0
        if num_left_out and self._epoch_mode == "partition":  # as if drawn: they take no part in this epoch
            order = torch.empty(len(self._instances), dtype=torch.int64)
            core.root_order(n=len(order), seed=self._window_seed(epoch, 2**32 - 1), epoch=epoch, out=order.data_ptr())
            drawn[order[len(order) - num_left_out :]] = True
        return self._make_window(epoch, 0, drawn)

    def _make_window(self, epoch: int, first: int, drawn: torch.Tensor) -> Window:
        ids = self._instances if self._epoch_mode != "partition" else self._instances[~drawn]
        graph, num_uncovered = self._build_graph(ids, epoch, first)
        start = time.perf_counter()
        batches = self._sample(graph, epoch, first, drawn)
        indices, tail = _apart_on_host(batches)
        seconds = time.perf_counter() - start
        self._stats |= {
            "walk_us": 1e6 * seconds / max(1, len(batches)),
            "fallback_share": batches.stats["fills"] / max(1, batches.stats["num_instances"]),
            "uncovered_share": num_uncovered / len(ids),
        }
        return Window(first, drawn, indices, tail)

    def _sample(self, graph: ProximityGraph, epoch: int, first: int, drawn: torch.Tensor) -> Batches:
        num_rows = len(graph)
        remaining = num_rows // self.batch_size + (not self.drop_last and num_rows % self.batch_size > 0)
        if self._epoch_mode == "independent":
            remaining = len(self) - first
        arguments: dict[str, Any] = {
            "drop_last": self.drop_last,
            "seed": self._window_seed(epoch, first),
            "epoch": epoch,
            "num_threads": _validate.num_threads(None),
        }
        alpha = self._alpha(epoch)
        too_few_known = self._strategy == "knn" and graph.num_neighbors < self.batch_size - 1
        strategy = "uniform" if too_few_known else self._strategy
        if self._epoch_mode == "paper":
            sampler = EpochSampler(
                GraphView(graph),
                self.batch_size,
                strategy,
                _validate.restart_threshold(alpha),
                self._hardness,
                num_batches=self.refresh_every,
                **arguments,
            )
            return sampler.paper(moved(drawn, graph.device))
        num_batches = min(self.refresh_every, remaining)
        return sample_batches(
            graph,
            self.batch_size,
            epoch_mode=self._epoch_mode,
            strategy=strategy,
            restart_prob=alpha,
            hardness="default" if strategy == "uniform" else self._hardness,
            num_batches=num_batches,
            **arguments,
        )

    def _build_graph(self, ids: torch.Tensor, epoch: int, first: int) -> tuple[ProximityGraph, int]:
        """A graph with a row for each id; instances without an embedding have no neighbours."""
        device = self.bank.device
        self.bank.check()
        ids = moved(ids, device)
        covered = self.bank.last_update[ids] >= 0
        num_covered = int(covered.sum())
        if num_covered < 2 or self._strategy == "uniform":
            empty = torch.empty((len(ids), 0), dtype=torch.int32, device=device)
            return ProximityGraph(empty, ids=ids, num_nodes=self.bank.num_samples), len(ids) - num_covered
        start = time.perf_counter()
        self.graph = None  # not two at a time
        num_candidates = min(self._num_candidates, num_covered - 1)
        graph = proximity_graph(
            self.bank.data,
            min(self._num_neighbors, num_candidates),
            num_candidates=num_candidates,
            keys=self.bank.keys,
            rows=ids[covered],
            seed=self._window_seed(epoch, first),
            progress=self._progress,
            **self._options_on(device),
        )
        graph.check()
        if num_covered < len(ids):
            neighbors = torch.full((len(ids), graph.num_neighbors), -1, dtype=torch.int32, device=device)
            neighbors[covered] = graph.neighbors
            graph = ProximityGraph(neighbors, ids=ids, num_nodes=self.bank.num_samples)
        self._stats["refresh_ms"] = 1e3 * (time.perf_counter() - start)
        self.graph = graph
        self.refreshes += 1
        return graph, len(ids) - num_covered

    def _window_seed(self, epoch: int, first: int) -> int:
        """An unrelated seed for each window of each epoch."""
        low, high, _, _ = core.philox4x32(self._seed, _WINDOW_STREAM, epoch, first, 0)
        return high << 32 | low

    def _alpha(self, epoch: int) -> float:
        return self._restart_prob(epoch) if callable(self._restart_prob) else self._restart_prob


def _apart_on_host(batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and tail in host memory of their own, copied from a device at once. Views would keep all batches of the
    epoch alive, and write them into every saved state."""
    shape, size = batches.indices.shape, batches.indices.numel()
    ids = on_host(torch.cat([batches.indices.reshape(-1), batches.tail]))
    return ids[:size].view(shape).clone(), ids[size:].clone()


def _optional_count(value: int | None, name: str, default: int) -> int:
    return default if value is None else _validate.integer(value, name, 1)
