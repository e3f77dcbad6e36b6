"""The embedding cache: what training computes anyway, kept by instance index."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sized
from typing import Any

import torch
import torch.distributed

from . import _validate
from ._arrays import TORCH_DTYPES, address, as_integers, out_of_range
from ._backend import core, require_cpu
from ._bank_files import open_tables
from ._files import atomic_write
from ._gather import announce_failure, gather_rows, is_distributed

__all__ = ["FeatureBank"]

_STATE_KEYS = {"data", "keys", "last_update", "step", "num_skipped"}


class FeatureBank:
    """Latest embedding of each instance, updated from the training steps themselves (no extra forward pass).

    Args:
        num_samples: N, number of instances.
        dim: D, width of an embedding. Several views of an instance: concatenate them, ``torch.cat([z1, z2], 1)``, as
            the authors do.
        key_dim: D again for two towers (then ``keys`` holds the second tower's embeddings); None: one tower.
        dtype: of the cache: bfloat16 (default), float16 or float32.
        device: "cpu" or None (that of the first embeddings); this build has a CPU engine only.
        path: keeps the cache in memory-mapped files PATH, PATH.keys and PATH.last_update, described by PATH.json,
            instead of memory. Files that are there already are taken up with their contents. Ranks need one each.
        normalize: store unit vectors (the norm of a zero vector stays 0). Rounding is defined: csrc/cpu/bank_update.h.
        momentum: m in [0, 1): an instance seen before becomes ``m * old + (1 - m) * new``, then normalised.
        gather: with torch.distributed initialised, every rank stores the updates of all ranks, in rank order.
        process_group: the ranks that gather. Default: all.
        nonfinite: "raise" a ValueError for embeddings with NaN or inf (nothing is stored), or "skip" those rows.

    Attributes:
        data: [N, D] on the CPU; keys: [N, D] or None; last_update: int64 [N], the step that stored each instance, -1
        never; step: number of updates so far.

    Example:
        >>> import torch
        >>> bank = FeatureBank(4, 2, dtype=torch.float32)
        >>> bank.update([3, 1], torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> bank.data[3].tolist(), bank.last_update.tolist(), bank.coverage
        ([0.6000000238418579, 0.800000011920929], [-1, 0, -1, 0], 0.5)
    """

    def __init__(
        self,
        num_samples: int,
        dim: int,
        *,
        key_dim: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
        path: str | os.PathLike[str] | None = None,
        normalize: bool = True,
        momentum: float = 0.0,
        gather: bool = True,
        process_group: torch.distributed.ProcessGroup | None = None,
        nonfinite: str = "raise",
    ) -> None:
        self.num_samples = _validate.integer(num_samples, "num_samples", 1, _validate.MAX_NODES)
        self.dim = _validate.integer(dim, "dim", 1)
        if dtype not in TORCH_DTYPES:
            raise TypeError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
        if key_dim is not None and key_dim != dim:
            raise ValueError(f"key_dim: expected dim, {dim} (both towers share a space), got {key_dim}")
        if device is not None:
            require_cpu(torch.device(device), "device")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a float in [0, 1), got {momentum!r}")
        self.normalize = _validate.flag(normalize, "normalize")
        self.momentum = momentum
        self.nonfinite = _validate.choice(nonfinite, "nonfinite", ("raise", "skip"))
        self._gather, self._process_group = _validate.flag(gather, "gather"), process_group
        shape = (self.num_samples, self.dim)
        self.data, self.keys, self.last_update = open_tables(path, shape, dtype, key_dim is not None, self.normalize)
        self.step = int(self.last_update.max()) + 1
        self.num_skipped = 0
        self._update_seconds = 0.0

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        return f"FeatureBank({self.num_samples}, {self.dim}, coverage={self.coverage:.3f}, step={self.step})"

    @property
    def coverage(self) -> float:
        """Share of the instances that have an embedding."""
        return float((self.last_update >= 0).double().mean())

    @torch.no_grad()
    def update(self, indices: Any, embeddings: torch.Tensor, keys: torch.Tensor | None = None) -> None:
        """Stores the embeddings of a training step.

        Args:
            indices: int [B], instances; of duplicates the last one is kept.
            embeddings: floating point [B, D] on any device, with or without gradient; moved to the bank's device.
            keys: [B, D] of the second tower, exactly if the bank has ``key_dim``.

        Raises:
            TypeError, ValueError: wrong shape or type, ids out of range, non-finite values unless ``nonfinite="skip"``.
                Nothing is stored then.
        """
        start = time.perf_counter()
        is_gathered = self._gather and is_distributed()
        try:
            ids, rows = self._checked_update(indices, embeddings, keys)
        except (TypeError, ValueError):
            if is_gathered:
                announce_failure(self._process_group)
            raise
        if is_gathered:
            ids, *rows = gather_rows([ids, *rows], self._process_group)
        # What follows is the same on all ranks.
        if self.momentum:
            ids, rows = _keep_last(*self._drop_unstorable(ids, rows))
        error, position = self._store(ids, rows)
        if error > 1:
            ids, rows = self._drop_unstorable(ids, rows)
            error, position = self._store(ids, rows)
        if error:
            raise out_of_range("indices", 0, self.num_samples, int(ids[position]))
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
            encode_fn: takes a batch of the loader, returns ``(indices, embeddings)``, and ``keys`` third if there are
                two towers.
            loader: any iterable of batches.
            progress: called as ``progress(batches_done, batches_in_all)``; -1 in all if the loader has no length.
        """
        progress = _validate.progress(progress)
        total = len(loader) if isinstance(loader, Sized) else -1
        with torch.no_grad():
            for done, batch in enumerate(loader, start=1):
                self.update(*encode_fn(batch))
                if progress is not None:
                    progress(done, total)

    def stats(self) -> dict[str, float]:
        """coverage; step; mean_age and max_age of stored embeddings in steps (nan without any); num_skipped rows;
        update_seconds that this object has spent in :meth:`update`."""
        stored = self.last_update[self.last_update >= 0]
        ages = (self.step - 1 - stored).double()
        return {
            "coverage": self.coverage,
            "step": self.step,
            "mean_age": float(ages.mean()) if len(ages) else float("nan"),
            "max_age": float(ages.max()) if len(ages) else float("nan"),
            "num_skipped": self.num_skipped,
            "update_seconds": self._update_seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that updates change. The tensors are the bank's own: save or copy them before the next update."""
        return {
            "data": self.data,
            "keys": self.keys,
            "last_update": self.last_update,
            "step": self.step,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies a state into this bank; ``ValueError`` if its tables have another shape or dtype."""
        if not isinstance(state, dict) or state.keys() != _STATE_KEYS:
            found = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: expected a dict with {sorted(_STATE_KEYS)}, got {found}")
        tables = {"data": self.data, "keys": self.keys, "last_update": self.last_update}
        for name, table in tables.items():
            if _description(state[name]) != _description(table):
                raise ValueError(f"state: expected {name} {_description(table)}, got {_description(state[name])}")
        for name in ("data", "keys"):
            if state[name] is not None and not bool(state[name].isfinite().all()):
                raise ValueError(f"state: expected finite values in {name}, got nan or inf")
        latest = int(state["last_update"].max())
        step = _validate.integer(state["step"], "state: step", latest + 1, because=" (after the latest update)")
        num_skipped = _validate.integer(state["num_skipped"], "state: num_skipped", 0)
        for name, table in tables.items():
            if table is not None:
                table.copy_(state[name])
        self.step, self.num_skipped = step, num_skipped

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state with ``torch.save``; the file appears complete or not at all."""
        with atomic_write(path) as file:
            torch.save(self.state_dict(), file)

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
        self, indices: Any, embeddings: torch.Tensor, keys: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        ids = as_integers(indices.cpu() if isinstance(indices, torch.Tensor) else indices, "indices")
        rows = [self._checked_rows(embeddings, "embeddings", len(ids))]
        if (keys is None) != (self.keys is None):
            expected = "no keys (the bank has no key_dim)" if self.keys is None else "keys (the bank has key_dim)"
            raise ValueError(f"keys: expected {expected}, got {'None' if keys is None else 'some'}")
        if keys is not None:
            rows.append(self._checked_rows(keys, "keys", len(ids)))
        return ids, rows

    def _checked_rows(self, value: Any, name: str, num_rows: int) -> torch.Tensor:
        if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
            raise TypeError(f"{name}: expected a floating point tensor, got {getattr(value, 'dtype', type(value))}")
        if value.shape != (num_rows, self.dim):
            raise ValueError(f"{name}: expected shape [{num_rows}, {self.dim}], got {list(value.shape)}")
        rows = value.detach().to(device=self.data.device, dtype=torch.float32).contiguous()
        storages = {table.untyped_storage().data_ptr() for table in (self.data, self.keys) if table is not None}
        return rows.clone() if rows.untyped_storage().data_ptr() in storages else rows  # rows of the bank itself

    def _store(self, ids: torch.Tensor, rows: list[torch.Tensor]) -> tuple[int, int]:
        """(0, -1), or what is wrong with which row; nothing is stored then."""
        return core.update_bank(
            data=address(self.data),
            keys=address(self.keys),
            dtype=TORCH_DTYPES[self.data.dtype],
            num_samples=self.num_samples,
            dim=self.dim,
            last_update=address(self.last_update),
            ids=address(ids),
            rows=address(rows[0]),
            key_rows=0 if self.keys is None else address(rows[1]),
            num_rows=len(ids),
            step=self.step,
            momentum=self.momentum,
            normalize=self.normalize,
        )

    def _drop_unstorable(self, ids: torch.Tensor, rows: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Without the rows that are not finite once stored, if such are to be skipped."""
        storable = torch.ones(len(ids), dtype=torch.bool)
        for name, tensor in zip(("embeddings", "keys"), rows, strict=False):
            is_finite = (tensor if self.normalize else tensor.to(self.data.dtype)).isfinite().all(1)
            if self.nonfinite == "raise" and not bool(is_finite.all()):
                wrong = int(torch.nonzero(~is_finite)[0])
                raise ValueError(
                    f"{name}: expected values that are finite in the bank's {self.data.dtype}, got "
                    f"{tensor[wrong].abs().max():g} for instance {int(ids[wrong])}"
                )
            storable &= is_finite
        if bool(storable.all()):
            return ids, rows
        self.num_skipped += int((~storable).sum())
        return ids[storable], [tensor[storable] for tensor in rows]


def _keep_last(ids: torch.Tensor, rows: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of duplicate ids the last one."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    if len(unique) == len(ids):
        return ids, rows
    last = torch.zeros_like(unique).scatter_reduce_(0, inverse, torch.arange(len(ids)), "amax", include_self=False)
    return unique, [tensor[last] for tensor in rows]


def _description(table: Any) -> str:
    return f"{table.dtype} {list(table.shape)}" if isinstance(table, torch.Tensor) else f"{table!r:.100}"
