"""The feature bank: stores the embeddings that training computes, by instance id."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from ._bank.files import MAX_STEP, BankFiles, new_tables
from ._bank.gather import (
    DONE,
    FAILED,
    NO_PLAN,
    Header,
    differing_rank,
    first_difference,
    gather_headers,
    gather_rows,
)
from ._bank.store import Rule, make_store
from ._bank.traps import UpdateTraps
from ._engine import validate
from ._engine.arrays import TORCH_DTYPES, as_floats, as_integers, dense
from ._engine.backend import as_device, require_engine
from ._engine.checked_file import load_checked, save_checked
from ._engine.cuda import to_device_async, to_host
from ._engine.files import as_input
from ._engine.hashes import checksum, hash_rows
from ._engine.not_a_function import NotAFunction
from ._engine.process_group import is_distributed

__all__ = ["BankStats", "FeatureBank"]

_CPU = torch.device("cpu")
_MAX_ELEMENTS = 2**59  # of a tower. Two towers of float32 have fewer than 2**63 bytes
_STATE_KEYS = {"data", "documents", "last_update", "step", "num_skipped"}


class BankStats(NamedTuple):
    """Numbers about a :class:`FeatureBank`."""

    missing_embedding_share: float
    """Share of the instances that have no embedding yet."""
    step: int
    """Number of updates so far."""
    mean_age: float
    """Mean number of steps since an embedding was stored; nan if there is none."""
    max_age: float
    """Largest number of steps since an embedding was stored; nan if there is none."""
    num_skipped: int
    """Number of rows that ``nonfinite="skip"`` left out."""
    update_seconds: float
    """Seconds that this object has spent in :meth:`FeatureBank.update`."""


class GraphRows(NamedTuple):
    """The bank's rows as arguments of :func:`proximity_graph`. The tensors belong to the bank: do not change them."""

    features: Any  # [N, D], dtype and device of the bank
    documents: Any  # [N, D], embeddings of the second tower, or None
    has_embedding: torch.Tensor  # bool [N] on the bank's device


class FeatureBank(NotAFunction):
    """Latest embedding of each instance. Training steps update it with embeddings they compute anyway.

    Args:
        num_instances: N, number of instances, 1 to 2**31 - 1.
        dim: D, width of an embedding, at least 1. Concatenate several views of an instance as the authors do:
            ``torch.cat([z1, z2], 1)``.
        two_towers: also store the embeddings of a second tower, of the same width, in ``documents``.
        dtype: number format of the tables: torch.bfloat16 (default), torch.float16 or torch.float32.
        device: device of the tables, and so of the graphs and batches that are made from them. Name the device that you
            train on, because embeddings on other devices are copied to it.
        path: keeps the tables in memory-mapped files instead of memory: PATH, PATH.documents and PATH.last_update, with
            checksums of rows in PATH.checksums and a description in PATH.json. Existing files are used with their
            contents. Rows that are damaged, or were being stored when a process was stopped, have no embedding then,
            and a warning says so. Files with mostly damaged rows, more than 256, are refused. Write to the tables by
            :meth:`update` only. One process at a time can open the files, so with several ranks, each needs its own
            path. Such a bank cannot be copied or pickled. CPU only.
        normalize: store unit vectors (a zero vector stays zero). csrc/cpu/bank/bank_update.h defines the rounding.
        momentum: m in [0, 1). An instance that has an embedding gets ``m * old + (1 - m) * new``. The result is
            normalized if ``normalize`` is set.
        gather: if torch.distributed is initialized, every rank stores the updates of all ranks, in rank order. Then all
            ranks must call :meth:`update` equally often. With False, the banks of the ranks are not kept equal, so a
            :class:`ProximityBatchSampler` on several ranks needs updates that are gathered by the caller.
        process_group: the ranks that gather, and that share the batches of a sampler. Default: all.
        nonfinite: for embeddings with NaN or inf, "raise" a ``ValueError`` and store nothing, or "skip" these rows.

    Attributes:
        data: [N, D] embeddings, with the bank's dtype and device.
        documents: [N, D] embeddings of the second tower, or None.
        last_update: int64 [N] on the same device, the step that last stored each instance; -1 for none.
        step: number of updates so far.
        num_skipped: number of rows that ``nonfinite="skip"`` left out.

    Raises:
        TypeError, ValueError: a bad argument, named; files at ``path`` that belong to another bank, are incomplete or
            mostly damaged, or are used by another process.
        OSError: files at ``path`` cannot be opened, or the disk is full. Their space is taken when they are created.

    Determinism: tables are equal to the bit on all devices, and a state may be loaded on another device.

    CUDA: :meth:`update` is queued on the caller's current stream and never waits, so errors in values (ids out of
    range, non-finite numbers) are found later. Nothing of such an update is stored, but it counts as a step, and later
    updates are stored. The first error is raised when the host next reads the bank. These reads are :meth:`check`,
    ``missing_embedding_share``, ``num_skipped``, :meth:`stats`, a state, and the sampler's next graph, by default that
    of the next epoch. So call :meth:`check` after the last epoch. Each read of the attributes ``data``, ``documents``
    and ``last_update`` makes the current stream wait for earlier updates on other streams. So read the attribute again
    each time, instead of keeping the tensor.

    Example:
        >>> import torch
        >>> bank = FeatureBank(4, 2, dtype=torch.float32)
        >>> bank.update([3, 1], torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> bank.data[3].tolist(), bank.last_update.tolist(), bank.missing_embedding_share
        ([0.6000000238418579, 0.800000011920929], [-1, 0, -1, 0], 0.5)
    """

    def __init__(
        self,
        num_instances: int,
        dim: int,
        *,
        two_towers: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        path: str | os.PathLike[str] | None = None,
        normalize: bool = True,
        momentum: float = 0.0,
        gather: bool = True,
        process_group: torch.distributed.ProcessGroup | None = None,
        nonfinite: str = "raise",
    ) -> None:
        self.num_instances = validate.integer(num_instances, "num_instances", 1, validate.MAX_NODES)
        self.dim = validate.integer(dim, "dim", 1, _MAX_ELEMENTS // self.num_instances)
        if not isinstance(dtype, torch.dtype) or dtype not in TORCH_DTYPES:
            raise TypeError(f"dtype: expected float32, bfloat16 or float16, got {validate.shown(dtype)}")
        place = as_device(device)
        require_engine(place, "device")
        if place.type == "cuda":
            place = torch.device("cuda", torch.cuda.current_device() if place.index is None else place.index)
        if path is not None and place.type != "cpu":
            raise ValueError(f"path: expected None for a bank on {str(place)!r} (files are host memory), got {path!r}")
        self.normalize = validate.flag(normalize, "normalize")
        self.momentum = validate.share(momentum, "momentum")
        self.nonfinite = validate.choice(nonfinite, "nonfinite", ("raise", "skip"))
        self._gather, self.process_group = validate.flag(gather, "gather"), process_group
        shape, has_documents = (self.num_instances, self.dim), validate.flag(two_towers, "two_towers")
        with torch.inference_mode(False):  # tables of inference could not be changed outside of it
            files = None if path is None else BankFiles(path, shape, dtype, has_documents, self.normalize)
            tables = new_tables(shape, dtype, has_documents, place) if files is None else files.tables
            self._store = make_store(tables, self._rule(), files)
        self.step = 0 if path is None else int(tables.last_update.max()) + 1
        self._update_seconds = 0.0
        self._latest_ids: torch.Tensor | None = None  # of the latest update
        self._planned = (NO_PLAN, 0)  # step and checksum of the bank that the latest plan was made from
        self._traps = UpdateTraps()
        self._step_of_fill = 0  # number of updates when the bank was filled last

    def __len__(self) -> int:
        return self.num_instances

    def __repr__(self) -> str:
        missing = f"missing_embedding_share={self._missing_share():.3f}"
        return f"FeatureBank({self.num_instances}, {self.dim}, {missing}, step={self.step})"

    @property
    def device(self) -> torch.device:
        return self._store.device

    @property
    def data(self) -> torch.Tensor:
        return self._store.tables.data

    @property
    def documents(self) -> torch.Tensor | None:
        return self._store.tables.documents

    @property
    def last_update(self) -> torch.Tensor:
        return self._store.tables.last_update

    @property
    def num_skipped(self) -> int:
        return self._store.num_skipped

    @property
    def latest_ids(self) -> torch.Tensor | None:
        """Instances of the latest update that was not empty, int64 [B] on the CPU.

        None before the first one and after loading a state.
        On a CUDA device this waits for the update.
        """
        if self._latest_ids is None:
            return None
        _ = self._store.tables  # makes the current stream wait for the update
        return to_host(self._latest_ids)

    @property
    def missing_embedding_share(self) -> float:
        """Share of the instances that have no embedding yet."""
        self.check()
        return self._missing_share()

    def _missing_share(self) -> float:
        return int((self.last_update < 0).sum()) / self.num_instances

    def check(self) -> None:
        """Waits for the updates on a CUDA device. Raises ``ValueError`` for one that failed since the last check."""
        self._store.check()

    def rows_for_graph(self) -> GraphRows:
        """Returns the tables for building a graph, after all updates so far. Raises the errors of :meth:`check`."""
        self.check()
        data, documents, last_update = self._store.tables
        return GraphRows(data, documents, last_update >= 0)

    def update(self, indices: Any, embeddings: Any, documents: Any = None) -> None:
        """Stores the embeddings of a training step.

        Args:
            indices: int [B], instance ids, as a list, an array or a tensor on any device. If an id occurs several
                times, only its last embedding counts.
            embeddings: floating point tensor [B, D] on any device, with or without gradient, or a NumPy array. It is
                moved to the bank's device. Dtypes other than float32, bfloat16 and float16 are rounded to float32
                first.
            documents: as ``embeddings``, for the second tower. Required with ``two_towers``, otherwise None.

        Raises:
            TypeError, ValueError: wrong shape or type; ids out of range; values that are not finite, unless
                ``nonfinite="skip"``. Nothing is stored then. On a CUDA device errors in values are raised later, as
                described at the class.
            RuntimeError: another rank has raised an error, has called update another number of times, or has planned
                its latest batches from other embeddings (the message names the first row that differs). All ranks
                raise it, and none stores anything. A rank that has ended makes the others raise, too, at the latest
                after the timeout of the process group.
        """
        start = time.perf_counter()
        has_gradients = torch.is_grad_enabled()
        self._traps.noticed_gradients(getattr(embeddings, "requires_grad", False), has_gradients)
        with torch.no_grad():
            with self._announced_failure():
                ids, rows = self._checked_update(indices, embeddings, documents)
            if self._is_gathered():
                headers = gather_headers(self._header(len(ids), has_gradients), self.process_group)
                self._require_equal_banks(headers)
                ids, rows = self._gather_update(ids, rows, headers)
                self._traps.noticed_ids(ids, [header.num_rows for header in headers], self.num_instances)
            self._store_update(ids, rows)
        self._update_seconds += time.perf_counter() - start

    @contextlib.contextmanager
    def _announced_failure(self) -> Iterator[None]:
        """If the block fails, makes the update of all other ranks fail. This rank raises its own error."""
        try:
            yield
        except Exception:
            if self._is_gathered():
                with contextlib.suppress(RuntimeError):
                    gather_headers(self._header(FAILED), self.process_group)
            raise

    def _store_update(self, ids: torch.Tensor, rows: list[torch.Tensor]) -> None:
        """Stores an update. All ranks have the same arguments."""
        latest_ids = ids.clone() if len(ids) else self._latest_ids  # a copy, because the caller may reuse the memory
        self._store.store(ids, rows, self.step)
        self.step += 1
        self._latest_ids = latest_ids

    def _gather_update(
        self, ids: torch.Tensor, rows: list[torch.Tensor], headers: list[Header]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        # Ranks may have different dtypes, so all send float32.
        ids, *rows = gather_rows([ids, *(part.float() for part in rows)], headers, self.process_group)
        return ids, rows

    def _is_gathered(self) -> bool:
        return self._gather and is_distributed() and torch.distributed.get_world_size(self.process_group) > 1

    def _header(self, num_rows: int, has_gradients: bool = False) -> Header:
        return Header(num_rows, self.num_instances, self.dim, self.step, *self._planned, has_gradients)

    def _row_hashes(self) -> torch.Tensor:
        tables = self._store.tables
        parts = [hash_rows(table) for table in (tables.data, tables.documents) if table is not None]
        result = tables.last_update * 0x9E3779B97F4A7C1
        for tower, part in enumerate(parts):
            result += part * (2 * tower + 1)
        return result

    def _mark_plan(self) -> None:
        """Notes the bank's state as a plan is made from it. The next update compares it between ranks."""
        if self._is_gathered():
            self._planned = (self.step, checksum(self._row_hashes()))

    def _require_equal_banks(self, headers: list[Header]) -> None:
        """Raises ``RuntimeError`` on all ranks if a rank has made its latest plan from another bank."""
        other = differing_rank(headers)
        if other is None:
            return
        steps = headers[0].plan_step, headers[other].plan_step
        found = first_difference(self._row_hashes(), self.process_group)
        where = "their rows are equal by now" if found is None else f"row {found[0]} differs on rank {found[1]}"
        raise RuntimeError(
            f"bank: expected equal banks on all ranks, got others on rank 0 and rank {other} when they planned their "
            f"batches (after {steps[0]} and {steps[1]} updates); {where}. So their batches do not belong together. "
            "Call update on every rank, with gather=True, and load the same state everywhere"
        )

    def fill_from(
        self,
        encode_fn: Callable[[Any], tuple[Any, ...]],
        loader: Iterable[Any],
        *,
        progress: validate.Progress | validate.ProgressBar | None = None,
    ) -> None:
        """Fills the bank before training, so that the first epoch is not uniform.

        Ranks share the work if the loader is equal on all of them, that is, a DataLoader without shuffling: rank r then
        encodes batches r, r + num_replicas, ... Every rank encodes all of any other loader, for example one that is
        split by a DistributedSampler. Ranks may have different numbers of batches.

        Args:
            encode_fn: takes a batch of the loader, without gradients. Returns the arguments of :meth:`update`:
                ``(indices, embeddings)``, or ``(indices, embeddings, documents)`` for two towers.
            loader: any iterable of batches, or ``tqdm(loader)``. The bank is updated once per batch.
            progress: called as ``progress(num_done, num_batches)`` after each batch, or a bar such as ``tqdm()``.
                num_batches is -1 if the loader has no length.

        Raises:
            TypeError, ValueError: the errors of :meth:`update`.
        """
        if not callable(encode_fn):
            raise TypeError(f"encode_fn: expected a function of a batch, got {validate.shown(encode_fn)}")
        loader, progress = validate.iterable(loader, "loader", "an iterable of batches"), validate.progress(progress)
        total = len(loader) if isinstance(loader, Sized) else -1
        is_gathered = self._is_gathered()
        rank, num_ranks = self._rank_and_size() if is_gathered and _is_equal_on_ranks(loader) else (0, 1)
        batches = enumerate(loader)
        with torch.no_grad(), self._traps.ignored():
            while True:
                with self._announced_failure():
                    numbered = next(batches, None)
                    if numbered is None:
                        break
                    i, batch = numbered
                    arguments = encode_fn(batch) if i % num_ranks == rank else None
                    if arguments is not None and (not isinstance(arguments, tuple) or len(arguments) not in (2, 3)):
                        raise TypeError(
                            "encode_fn: expected (indices, embeddings) or (indices, embeddings, documents), got "
                            f"{validate.shown(arguments)}"
                        )
                if arguments is not None:
                    self.update(*arguments)
                if progress is not None:
                    with self._announced_failure():
                        progress(i + 1, total)
        if is_gathered:
            self._wait_for_other_ranks()
        self._step_of_fill = self.step

    def _rank_and_size(self) -> tuple[int, int]:
        group = self.process_group
        return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)

    def _wait_for_other_ranks(self) -> None:
        """Takes part in the updates of ranks that have more batches, until no rank has one."""
        num_towers = 1 + (self._store.tables.documents is not None)
        empty = [torch.empty(0, self.dim, device=self.device)] * num_towers
        no_ids = torch.empty(0, dtype=torch.int64, device=self.device)
        while True:
            headers = gather_headers(self._header(DONE), self.process_group)
            if all(header.num_rows == DONE for header in headers):
                return
            self._require_equal_banks(headers)
            ids, rows = self._gather_update(no_ids, empty, headers)
            self._store_update(ids, [self._store.prepare(part) for part in rows])

    def stats(self) -> BankStats:
        """Returns numbers about the bank, and the time spent in updates. Raises the errors of :meth:`check`."""
        self.check()
        last_update = self.last_update
        has_embedding = last_update >= 0
        ages = torch.where(has_embedding, self.step - 1 - last_update, 0)
        num_stored, total, oldest = torch.stack([has_embedding.sum(), ages.sum(), ages.max()]).tolist()
        return BankStats(
            missing_embedding_share=(self.num_instances - num_stored) / self.num_instances,
            step=self.step,
            mean_age=total / num_stored if num_stored else float("nan"),
            max_age=float(oldest) if num_stored else float("nan"),
            num_skipped=self.num_skipped,
            update_seconds=self._update_seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns all that updates change. The tensors are not copies: save or copy them before the next update."""
        self.check()
        return {
            **self._store.tables._asdict(),
            "step": self.step,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies a state, with tensors on any device, into this bank.

        Raises:
            TypeError, ValueError: not a state of a bank, or one with other shapes or another dtype; values that are not
                finite. The bank stays as it was.
            RuntimeError: the bank is in files, and this process is a fork of the one that has opened them.
        """
        self.check()
        self._store.require_owner()
        if not isinstance(state, dict) or state.keys() != _STATE_KEYS:
            found = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: expected a dict with {sorted(_STATE_KEYS)}, got {found}")
        tables = self._store.tables._asdict()
        for name, table in tables.items():
            if isinstance(state[name], torch.Tensor):
                dense(state[name], f"state: {name}")
            if _description(state[name]) != _description(table):
                raise ValueError(f"state: expected {name} {_description(table)}, got {_description(state[name])}")
        for name in ("data", "documents"):
            if state[name] is not None and not bool(state[name].isfinite().all()):
                raise ValueError(f"state: expected finite values in {name}, got nan or inf")
        first, latest = int(state["last_update"].min()), int(state["last_update"].max())
        if not -1 <= first <= latest < MAX_STEP:
            raise ValueError(f"state: expected last_update from -1 to 2**62 - 1, got {first} to {latest}")
        step = validate.integer(state["step"], "state: step", latest + 1, MAX_STEP, because=" (after the last update)")
        num_skipped = validate.integer(state["num_skipped"], "state: num_skipped", 0, MAX_STEP)
        with self._store.replaced():
            for name, table in tables.items():
                if table is not None:
                    table.copy_(state[name])
        self.step, self._store.num_skipped, self._latest_ids = step, num_skipped, None
        self._planned, self._step_of_fill = (NO_PLAN, 0), 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state, as CPU tensors, and a checksum to a file. It appears complete or not at all.

        Raises:
            OSError: the disk is full. The old file stays.
        """
        save_checked(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Reads a state that :meth:`save` has written into this bank, without unpickling arbitrary objects.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is damaged or was not written by :meth:`save`.
            TypeError, ValueError: the errors of :meth:`load_state_dict`.
        """
        path = as_input(path)
        try:
            state = load_checked(path)
        except ValueError as error:
            raise ValueError(f"path: expected a file written by FeatureBank.save, got {path!r}: {error}") from error
        self.load_state_dict(state)

    def _checked_update(self, indices: Any, embeddings: Any, documents: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        ids = as_integers(indices, "indices", indices.device if isinstance(indices, torch.Tensor) else _CPU)
        embeddings = self._checked_rows(embeddings, "embeddings", len(ids))
        has_documents = self._store.tables.documents is not None
        if (documents is not None) != has_documents:
            expected = (
                "documents (the bank has two towers)" if has_documents else "no documents (the bank has one tower)"
            )
            raise ValueError(f"documents: expected {expected}, got {'None' if documents is None else 'some'}")
        if documents is not None:
            documents = self._checked_rows(documents, "documents", len(ids))
        rows = [self._store.prepare(part) for part in (embeddings, documents) if part is not None]
        return to_device_async(ids, self.device), rows

    def _checked_rows(self, value: Any, name: str, num_rows: int) -> torch.Tensor:
        rows = as_floats(value, name)
        if rows.shape != (num_rows, self.dim):
            raise ValueError(f"{name}: expected shape [{num_rows}, {self.dim}], got {list(rows.shape)}")
        return rows

    def _rule(self) -> Rule:
        return Rule(self.normalize, self.momentum, self.nonfinite == "skip")


def _is_equal_on_ranks(loader: Any) -> bool:
    """Whether a loader certainly has the same batches on all ranks: it reads a dataset from front to end."""
    loader = getattr(loader, "iterable", loader)  # of tqdm
    if not isinstance(loader, DataLoader):
        return False
    batch_sampler = loader.batch_sampler
    return type(batch_sampler) is BatchSampler and type(batch_sampler.sampler) is SequentialSampler


def _description(table: Any) -> str:
    return f"{table.dtype} {list(table.shape)}" if isinstance(table, torch.Tensor) else validate.shown(table)
