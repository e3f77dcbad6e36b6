"""The batch sampler that training loops use: windows of hard batches from the freshest embeddings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, Dataset, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler
from torch.utils.data.distributed import DistributedSampler

from . import _validate
from ._backend import core
from ._graph_view import GraphView
from .bank import FeatureBank
from .batches import EPOCH_MODES, STRATEGIES, Batches, EpochSampler, sample_batches
from .build import proximity_graph
from .graph import ProximityGraph
from .metrics import batch_stats
from .walk import check_batch_size

__all__ = ["IndexedDataset", "ProximityBatchSampler"]

_WINDOW_STREAM = 255 << 24  # of Philox: no purpose of csrc/common/random_stream.h
_NUM_MEASURED = 8  # batches of a window whose similarity is measured
_STATE_VERSION = 1


class _Window(NamedTuple):
    """The batches between two refreshes. Never changed once made: states refer to it."""

    first: int  # number of batches of the epoch before it
    drawn: torch.Tensor  # bool [num_instances], drawn in this epoch before it
    indices: torch.Tensor  # int32 [num_full, B], instance ids
    tail: torch.Tensor  # int32 [T]

    def __len__(self) -> int:
        return len(self.indices) + (len(self.tail) > 0)

    def batch(self, i: int) -> torch.Tensor:
        return self.indices[i] if i < len(self.indices) else self.tail


class ProximityBatchSampler(BatchSampler):
    """Mini-batches of hard negatives for a DataLoader: ``DataLoader(dataset, batch_sampler=...)``.

    At the start of an epoch and every ``refresh_every`` batches, a proximity graph is built from the bank's embeddings
    of the instances not yet drawn in the epoch; they are partitioned into batches, of which a random window of
    ``refresh_every`` is drawn. Each instance is in exactly one batch of the epoch. Instances without an embedding are
    dealt out at random, so the first epoch is uniform unless ``bank.fill_from`` was called.

    Args:
        sampler: which instances: a number N, a sized dataset, or a torch sampler, whose index set is taken.
        batch_size: B.
        drop_last: leave the N mod B instances over, drawn at random, out of the epoch.
        bank: :class:`FeatureBank` that training updates; ids are those of the dataset.
        refresh_every: t, batches between refreshes.
        num_candidates, num_neighbors: M and K of the graph, at most as many as instances are left. Default 1000, 100.
        restart_prob: alpha, or a function of the epoch (the authors decay 0.2 to 0.05).
        epoch_mode: "partition"; "independent": walks from random roots over all instances; "paper": the authors' epoch,
            whose length varies (``len`` is then the number of batches of a uniform epoch).
        strategy: see :func:`sample_batches`. "knn" needs M and K of at least B - 1, and draws uniform batches while
            fewer than B instances have an embedding.
        graph_options: further keywords of :func:`proximity_graph`, e.g. ``{"labels": y}``.
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
        graph_options: dict[str, Any] | None = None,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        if not isinstance(bank, FeatureBank):
            raise TypeError(f"bank: expected a FeatureBank, got {type(bank).__name__}")
        self.bank = bank
        self._instances = _index_set(sampler, bank.num_samples)
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
        self._graph_options = dict(graph_options or {})
        if strategy == "knn":
            needed = self.batch_size - 1
            for name, count in {"num_candidates": self._num_candidates, "num_neighbors": self._num_neighbors}.items():
                if count < needed:
                    raise ValueError(
                        f"{name}: expected batch_size - 1, {needed}, or more for strategy 'knn', got {count}"
                    )
            self._graph_options["sort"] = True
        reserved = self._graph_options.keys() & {"rows", "keys", "seed", "num_candidates", "num_neighbors", "progress"}
        if reserved:
            raise ValueError(f"graph_options: expected keywords that the sampler does not set, got {sorted(reserved)}")
        self._seed = _validate.seed(seed)
        self._progress = _validate.progress(progress)

        self.epoch = 0
        self.graph: ProximityGraph | None = None
        self.refreshes = 0
        self._epoch_is_set = True  # the next iteration is `epoch` itself, not the one after it
        self._refresh_wanted = False
        self._window: _Window | None = None  # of the latest iteration
        self._num_drawn = 0  # batches of the latest iteration
        self._resume: tuple[_Window, int] | None = None
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
        if self._resume is not None and epoch != self.epoch:
            self._resume = None
        self.epoch, self._epoch_is_set = epoch, True

    def refresh(self) -> None:
        """Ends the current window: the next batch comes from a new graph."""
        self._refresh_wanted = True

    def __iter__(self) -> Iterator[list[int]]:
        if len(self) == 0:
            return
        start = time.perf_counter()
        if not self._epoch_is_set:
            self.epoch += 1
        self._epoch_is_set = False
        epoch, resume, self._resume = self.epoch, self._resume, None
        window, position = resume or (self._first_window(epoch), 0)
        while True:
            if position == len(window) or (self._refresh_wanted and position > 0):
                self._refresh_wanted = False
                following = self._next_window(epoch, window, position)
                if following is None:
                    return
                window, position = following, 0
            batch = window.batch(position)
            position += 1
            self._window, self._num_drawn = window, window.first + position
            ids = batch.tolist()
            self._seconds += time.perf_counter() - start
            yield ids
            start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position and the current window, by reference: cheap enough to call at every batch. The bank is saved
        apart. A DataLoader draws ahead of training: resume is exact for equal loader settings."""
        if self._window is None:
            return {"version": _STATE_VERSION, "epoch": self.epoch, "num_drawn": 0, "window": None}
        return {
            "version": _STATE_VERSION,
            "epoch": self.epoch,
            "num_drawn": self._num_drawn,
            "window": self._window._asdict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration continues where the state was taken. Load the bank's state too."""
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            raise ValueError(f"state: expected a state of version {_STATE_VERSION}, got {state!r:.100}")
        window = None if state["window"] is None else _Window(**state["window"])
        if window is not None and (
            window.drawn.shape != self._instances.shape or window.indices.shape[1] != self.batch_size
        ):
            raise ValueError(
                f"state: expected {len(self._instances)} instances in batches of {self.batch_size}, "
                f"got {len(window.drawn)} in batches of {window.indices.shape[1]}"
            )
        self.epoch, self._epoch_is_set = _validate.epoch(state["epoch"]), True
        self._window, self._num_drawn = window, int(state["num_drawn"])
        self._resume = None if window is None else (window, self._num_drawn - window.first)

    def stats(self) -> dict[str, float]:
        """Of the latest window: refresh_ms (graph), walk_us (sampling, per batch), in_batch_similarity (mean cosine of
        its first batches, in the bank as it is now; nan without embeddings), fallback_share (assigned at random),
        uncovered_share (instances without an embedding); graph_age (batches drawn from it). Of all batches drawn by
        this object: total_seconds (graphs, sampling and drawing)."""
        age = 0 if self._window is None else self._num_drawn - self._window.first
        return {
            **self._stats,
            "in_batch_similarity": self._in_batch_similarity(),
            "graph_age": age,
            "total_seconds": self._seconds,
        }

    def _in_batch_similarity(self) -> float:
        if self._window is None or self.bank.coverage == 0:
            return float("nan")
        first = [self._window.batch(i) for i in range(min(_NUM_MEASURED, len(self._window)))]
        return float(batch_stats(first, self.bank.data)["in_batch_similarity"])

    # --- windows -----------------------------------------------------------------------------------------------------
    def _first_window(self, epoch: int) -> _Window:
        drawn = torch.zeros(len(self._instances), dtype=torch.bool)
        num_left_out = len(self._instances) % self.batch_size if self.drop_last else 0
        if num_left_out and self._epoch_mode == "partition":  # as if drawn: they take no part in this epoch
            order = torch.empty(len(self._instances), dtype=torch.int64)
            core.root_order(n=len(order), seed=self._window_seed(epoch, 2**32 - 1), epoch=epoch, out=order.data_ptr())
            drawn[order[len(order) - num_left_out :]] = True
        return self._make_window(epoch, 0, drawn)

    def _next_window(self, epoch: int, window: _Window, position: int) -> _Window | None:
        """After `position` batches of a window. None: the epoch is over."""
        first = window.first + position
        drawn = window.drawn.clone()
        is_member = torch.zeros(self.bank.num_samples, dtype=torch.bool)
        for i in range(position):
            is_member[window.batch(i).long()] = True
        drawn |= is_member[self._instances]
        if self._epoch_mode == "independent":
            return None if first >= len(self) else self._make_window(epoch, first, drawn)
        if bool(drawn.all()):
            return None
        following = self._make_window(epoch, first, drawn)
        return following if len(following) else None

    def _make_window(self, epoch: int, first: int, drawn: torch.Tensor) -> _Window:
        ids = self._instances if self._epoch_mode != "partition" else self._instances[~drawn]
        graph, num_uncovered = self._build_graph(ids, epoch, first)
        start = time.perf_counter()
        batches = self._sample(graph, epoch, first, drawn)
        seconds = time.perf_counter() - start
        self._stats |= {
            "walk_us": 1e6 * seconds / max(1, len(batches)),
            "fallback_share": batches.stats["fills"] / max(1, batches.stats["num_instances"]),
            "uncovered_share": num_uncovered / len(ids),
        }
        return _Window(first, drawn, batches.indices, batches.tail)

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
                num_batches=self.refresh_every,
                **arguments,
            )
            return sampler.paper(drawn)
        num_batches = min(self.refresh_every, remaining)
        return sample_batches(
            graph,
            self.batch_size,
            epoch_mode=self._epoch_mode,
            strategy=strategy,
            restart_prob=alpha,
            num_batches=num_batches,
            **arguments,
        )

    def _build_graph(self, ids: torch.Tensor, epoch: int, first: int) -> tuple[ProximityGraph, int]:
        """A graph with a row for each id; instances without an embedding have no neighbours."""
        covered = self.bank.last_update[ids] >= 0
        num_covered = int(covered.sum())
        if num_covered < 2 or self._strategy == "uniform":
            empty = torch.empty((len(ids), 0), dtype=torch.int32)
            return ProximityGraph(empty, ids=ids, num_nodes=self.bank.num_samples), len(ids) - num_covered
        start = time.perf_counter()
        num_candidates = min(self._num_candidates, num_covered - 1)
        graph = proximity_graph(
            self.bank.data,
            min(self._num_neighbors, num_candidates),
            num_candidates=num_candidates,
            keys=self.bank.keys,
            rows=ids[covered],
            seed=self._window_seed(epoch, first),
            progress=self._progress,
            **self._graph_options,
        )
        if num_covered < len(ids):
            neighbors = torch.full((len(ids), graph.num_neighbors), -1, dtype=torch.int32)
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


class IndexedDataset(Dataset[tuple[int, Any]]):
    """Wraps a map-style dataset so that a sample is ``(index, sample)``: the index travels with the data, because a
    DataLoader draws batches ahead of training.

    Example:
        >>> IndexedDataset(["a", "b"])[1]
        (1, 'b')
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]


def _optional_count(value: int | None, name: str, default: int) -> int:
    return default if value is None else _validate.integer(value, name, 1)


def _index_set(sampler: Any, num_samples: int) -> torch.Tensor:
    """The instances a sampler draws from, int64, in the order given."""
    if isinstance(sampler, (RandomSampler, SequentialSampler)):
        sampler = sampler.data_source
    elif isinstance(sampler, DistributedSampler):
        sampler = sampler.dataset
    if isinstance(sampler, SubsetRandomSampler):
        ids = torch.as_tensor(list(sampler.indices), dtype=torch.int64)
    elif isinstance(sampler, Sampler):
        ids = torch.as_tensor(list(sampler), dtype=torch.int64)
    elif hasattr(sampler, "__index__") and not isinstance(sampler, bool):
        ids = torch.arange(_validate.integer(sampler, "sampler", 1, num_samples, because=" (bank.num_samples)"))
    elif isinstance(sampler, Sized):
        ids = torch.arange(len(sampler))
    else:
        raise TypeError(f"sampler: expected a number, a sized dataset or a torch sampler, got {type(sampler).__name__}")
    if len(ids) == 0:
        raise ValueError("sampler: expected at least one instance, got none")
    if int(ids.min()) < 0 or int(ids.max()) >= num_samples:
        raise ValueError(f"sampler: expected instances in [0, {num_samples}) as the bank has, got {int(ids.max())}")
    if len(torch.unique(ids)) < len(ids):
        raise ValueError("sampler: expected distinct instances, got some more than once")
    return ids
