"""The embedding cache: embeddings that training computes anyway, kept by instance index."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sized
from typing import Any, NamedTuple

import torch
import torch.distributed

from ._bank.files import new_tables, open_tables
from ._bank.gather import announce_failure, gather_rows, is_distributed
from ._bank.store import Rule, make_store
from ._engine import validate
from ._engine.arrays import TORCH_DTYPES, as_integers
from ._engine.backend import require_engine
from ._engine.cuda import to_device_async
from ._engine.files import atomic_write

__all__ = ["BankStats", "FeatureBank"]

_CPU = torch.device("cpu")
_STATE_KEYS = {"data", "documents", "last_update", "step", "num_skipped"}


class BankStats(NamedTuple):
    """Numbers about a :class:`FeatureBank`."""

    missing_embedding_share: float
    """Share of the instances that have no embedding yet."""
    step: int
    """Number of updates so far."""
    mean_age: float
    """Of stored embeddings, in steps; nan without any."""
    max_age: float
    """Of stored embeddings, in steps; nan without any."""
    num_skipped: int
    """Rows left out by ``nonfinite="skip"``."""
    update_seconds: float
    """Time that this object has spent in :meth:`FeatureBank.update`."""


class GraphRows(NamedTuple):
    """A row for each instance, as :func:`proximity_graph` takes them. Borrowed from the bank: do not change them."""

    features: Any  # [N, D]
    documents: Any  # [N, D] of the second tower, or None
    has_embedding: torch.Tensor  # bool [N] on the bank's device


class FeatureBank:
    """Latest embedding of each instance, updated from the training steps themselves (no extra forward pass).

    Args:
        num_instances: N, number of instances.
        dim: D, width of an embedding. Several views of an instance: concatenate them, ``torch.cat([z1, z2], 1)``, as
            the authors do.
        two_towers: also keep the embeddings of a second tower, of the same width, in ``documents``.
        dtype: of the cache: bfloat16 (default), float16 or float32.
        device: of the tables, and so of the graphs and batches that are made from them. Name the device that you train
            on: embeddings from elsewhere are copied to it.
        path: keeps the cache in memory-mapped files PATH, PATH.documents and PATH.last_update, described by PATH.json,
            instead of memory. Files that are there already are taken up with their contents. Ranks need one each. On
            the CPU only.
        normalize: store unit vectors (the norm of a zero vector stays 0). Rounding is defined in
            csrc/cpu/bank/bank_update.h.
        momentum: m in [0, 1): an instance seen before becomes ``m * old + (1 - m) * new``, then normalized.
        gather: with torch.distributed initialized, every rank stores the updates of all ranks, in rank order.
        process_group: the ranks that gather. Default: all.
        nonfinite: "raise" a ValueError for embeddings with NaN or inf (nothing is stored), or "skip" those rows.

    Attributes:
        data: [N, D]; documents: [N, D] or None; last_update: int64 [N], the step that stored each instance or -1, all
        on ``device``; step: number of updates so far; num_skipped: rows left out by ``nonfinite="skip"``.

    On a CUDA device :meth:`update` is queued on the caller's current stream and never waits. So what is wrong with its
    values (ids, non-finite numbers) is found later: nothing of that update is stored, those after it are, and the first
    such error is raised when the bank is next read on the host, which is :meth:`check`, ``missing_embedding_share``,
    ``num_skipped``, :meth:`stats`, a state, or the sampler's next refresh, which is by default that of the next epoch
    (so call :meth:`check` after the last). Such an update counts as a step. ``data``, ``documents`` and ``last_update``
    are in order with updates on other streams when they are taken from the bank. Tables are the same to the bit on all
    devices, and states may move between them.

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
        self.dim = validate.integer(dim, "dim", 1)
        if dtype not in TORCH_DTYPES:
            raise TypeError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
        place = torch.device(device)
        require_engine(place, "device")
        if place.type == "cuda":
            place = torch.device("cuda", torch.cuda.current_device() if place.index is None else place.index)
        if path is not None and place.type != "cpu":
            raise ValueError(f"path: expected None for a bank on {str(place)!r} (files are host memory), got {path!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a float in [0, 1), got {momentum!r}")
        self.normalize = validate.flag(normalize, "normalize")
        self.momentum = momentum
        self.nonfinite = validate.choice(nonfinite, "nonfinite", ("raise", "skip"))
        self._gather, self._process_group = validate.flag(gather, "gather"), process_group
        shape, has_documents = (self.num_instances, self.dim), validate.flag(two_towers, "two_towers")
        if path is None:
            tables = new_tables(shape, dtype, has_documents, place)
        else:
            tables = open_tables(path, shape, dtype, has_documents, self.normalize)
        self._store = make_store(tables, self._rule())
        self.step = 0 if path is None else int(tables.last_update.max()) + 1
        self._update_seconds = 0.0

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
    def missing_embedding_share(self) -> float:
        """Share of the instances that have no embedding yet."""
        self.check()
        return self._missing_share()

    def _missing_share(self) -> float:
        return int((self.last_update < 0).sum()) / self.num_instances

    def check(self) -> None:
        """Waits for the updates of a bank on a CUDA device; ``ValueError`` if one was refused since the last look."""
        self._store.check()

    def rows_for_graph(self) -> GraphRows:
        """What a graph is built from. Behind all updates so far; raises what they found wrong."""
        self.check()
        data, documents, last_update = self._store.tables
        return GraphRows(data, documents, last_update >= 0)

    @torch.no_grad()
    def update(self, indices: Any, embeddings: torch.Tensor, documents: torch.Tensor | None = None) -> None:
        """Stores the embeddings of a training step.

        Args:
            indices: int [B], instances; of duplicates the last one is kept.
            embeddings: floating point [B, D] on any device, with or without gradient; moved to the bank's device. Of
                other types than the bank's three, rounded to float32.
            documents: [B, D] of the second tower, exactly if the bank has ``two_towers``.

        Raises:
            TypeError, ValueError: wrong shape or type, ids out of range, non-finite values unless ``nonfinite="skip"``.
                Nothing is stored then. On a CUDA device the last two are raised later, see above.
        """
        start = time.perf_counter()
        is_gathered = self._gather and is_distributed()
        try:
            ids, rows = self._checked_update(indices, embeddings, documents)
        except (TypeError, ValueError):
            if is_gathered:
                announce_failure(self._process_group)
            raise
        if is_gathered:  # of one type, whatever each rank has
            ids, *rows = gather_rows([ids, *(part.float() for part in rows)], self._process_group)
        # What follows is the same on all ranks.
        self._store.store(ids, rows, self.step)
        self.step += 1
        self._update_seconds += time.perf_counter() - start

    def fill_from(
        self,
        encode_fn: Callable[[Any], tuple[Any, ...]],
        loader: Iterable[Any],
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Fills the bank before training, so that the first epoch is not uniform.

        Args:
            encode_fn: takes a batch of the loader, returns ``(indices, embeddings)``, and ``documents`` third if there
                are two towers.
            loader: any iterable of batches.
            progress: called as ``progress(batches_done, batches_in_all)``; -1 in all if the loader has no length.
        """
        progress = validate.progress(progress)
        total = len(loader) if isinstance(loader, Sized) else -1
        with torch.no_grad():
            for done, batch in enumerate(loader, start=1):
                self.update(*encode_fn(batch))
                if progress is not None:
                    progress(done, total)

    def stats(self) -> BankStats:
        """What the bank holds, and what updates have cost. Waits for them."""
        self.check()
        last_update = self.last_update
        ages = self.step - 1 - last_update[last_update >= 0]
        return BankStats(
            missing_embedding_share=self._missing_share(),
            step=self.step,
            mean_age=int(ages.sum()) / len(ages) if len(ages) else float("nan"),
            max_age=float(ages.max()) if len(ages) else float("nan"),
            num_skipped=self.num_skipped,
            update_seconds=self._update_seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that updates change. The tensors are the bank's own: save or copy them before the next update."""
        self.check()
        return {
            **self._store.tables._asdict(),
            "step": self.step,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies a state into this bank, from any device; ``ValueError`` if its tables have another shape or dtype."""
        self.check()
        if not isinstance(state, dict) or state.keys() != _STATE_KEYS:
            found = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: expected a dict with {sorted(_STATE_KEYS)}, got {found}")
        tables = self._store.tables._asdict()
        for name, table in tables.items():
            if _description(state[name]) != _description(table):
                raise ValueError(f"state: expected {name} {_description(table)}, got {_description(state[name])}")
        for name in ("data", "documents"):
            if state[name] is not None and not bool(state[name].isfinite().all()):
                raise ValueError(f"state: expected finite values in {name}, got nan or inf")
        latest = int(state["last_update"].max())
        step = validate.integer(state["step"], "state: step", latest + 1, because=" (after the latest update)")
        num_skipped = validate.integer(state["num_skipped"], "state: num_skipped", 0)
        for name, table in tables.items():
            if table is not None:
                table.copy_(state[name])
        self._store.mark_changed()
        self.step, self._store.num_skipped = step, num_skipped

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state with ``torch.save``, as CPU tensors; the file appears complete or not at all."""
        state = {
            name: part.cpu() if isinstance(part, torch.Tensor) else part for name, part in self.state_dict().items()
        }
        with atomic_write(path) as file:
            torch.save(state, file)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Reads a state written by :meth:`save` into this bank (no arbitrary pickles)."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises all sorts of them for damaged files
            raise ValueError(
                f"path: expected a file written by FeatureBank.save, got {os.fspath(path)!r} ({error})"
            ) from error
        self.load_state_dict(state)

    def _checked_update(
        self, indices: Any, embeddings: torch.Tensor, documents: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        ids = as_integers(indices, "indices", indices.device if isinstance(indices, torch.Tensor) else _CPU)
        self._check_rows(embeddings, "embeddings", len(ids))
        has_documents = self._store.tables.documents is not None
        if (documents is not None) != has_documents:
            expected = (
                "documents (the bank has two towers)" if has_documents else "no documents (the bank has one tower)"
            )
            raise ValueError(f"documents: expected {expected}, got {'None' if documents is None else 'some'}")
        if documents is not None:
            self._check_rows(documents, "documents", len(ids))
        rows = [self._store.prepare(part) for part in (embeddings, documents) if part is not None]
        return to_device_async(ids, self.device), rows

    def _check_rows(self, value: Any, name: str, num_rows: int) -> None:
        if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
            raise TypeError(f"{name}: expected a floating point tensor, got {getattr(value, 'dtype', type(value))}")
        if value.shape != (num_rows, self.dim):
            raise ValueError(f"{name}: expected shape [{num_rows}, {self.dim}], got {list(value.shape)}")

    def _rule(self) -> Rule:
        return Rule(self.normalize, self.momentum, self.nonfinite == "skip")


def _description(table: Any) -> str:
    return f"{table.dtype} {list(table.shape)}" if isinstance(table, torch.Tensor) else f"{table!r:.100}"
