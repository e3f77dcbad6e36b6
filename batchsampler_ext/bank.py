"""The embedding cache: what training computes anyway, kept by instance index."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterable, Sized
from typing import Any

import torch
import torch.distributed

from . import _validate
from ._arrays import TORCH_DTYPES, address, as_integers, out_of_range
from ._backend import core, require_cpu
from ._files import atomic_write

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
        path: keeps the cache in memory-mapped files PATH, PATH.keys and PATH.last_update instead of memory. Files that
            are there already are taken up with their contents.
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
        self.data = _allocate(path, "", shape, dtype, 0)
        self.keys = None if key_dim is None else _allocate(path, ".keys", shape, dtype, 0)
        self.last_update = _allocate(path, ".last_update", shape[:1], torch.int64, -1)
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
        ids = as_integers(indices.cpu() if isinstance(indices, torch.Tensor) else indices, "indices")
        rows = [self._checked(embeddings, "embeddings", len(ids))]
        if (keys is None) != (self.keys is None):
            expected = "no keys (the bank has no key_dim)" if self.keys is None else "keys (the bank has key_dim)"
            raise ValueError(f"keys: expected {expected}, got {'None' if keys is None else 'some'}")
        if keys is not None:
            rows.append(self._checked(keys, "keys", len(ids)))
        if self._gather and torch.distributed.is_available() and torch.distributed.is_initialized():
            ids, *rows = (_gather_rows(tensor, self._process_group) for tensor in (ids, *rows))
        # After gathering: all ranks must decide alike.
        if self.momentum:
            ids, rows = _keep_last(ids, rows)
        error, position = self._store(ids, rows)
        if error > 1 and self.nonfinite == "skip":
            storable = torch.stack([self._is_storable(tensor) for tensor in rows]).all(0)
            self.num_skipped += int((~storable).sum())
            ids, rows = ids[storable], [tensor[storable] for tensor in rows]
            error, position = self._store(ids, rows)
        if error == 1:
            raise out_of_range("indices", 0, self.num_samples, int(ids[position]))
        if error:
            raise ValueError(
                f"{'embeddings' if error == 2 else 'keys'}: expected values that are finite in the bank's "
                f"{self.data.dtype}, got {rows[error - 2][position].abs().max():g} for instance {int(ids[position])}"
            )
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
        for name, table in tables.items():
            if table is not None:
                table.copy_(state[name])
        self.step, self.num_skipped = int(state["step"]), int(state["num_skipped"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state with ``torch.save``; the file appears complete or not at all."""
        with atomic_write(path) as file:
            torch.save(self.state_dict(), file)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Reads a state written by :meth:`save` into this bank (no arbitrary pickles)."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
            raise ValueError(
                f"path: expected a file written by FeatureBank.save, got {os.fspath(path)!r} ({error})"
            ) from error
        self.load_state_dict(state)

    def _checked(self, value: Any, name: str, num_rows: int) -> torch.Tensor:
        if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
            raise TypeError(f"{name}: expected a floating point tensor, got {getattr(value, 'dtype', type(value))}")
        if value.shape != (num_rows, self.dim):
            raise ValueError(f"{name}: expected shape [{num_rows}, {self.dim}], got {list(value.shape)}")
        return value.detach().to(device=self.data.device, dtype=torch.float32).contiguous()

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

    def _is_storable(self, rows: torch.Tensor) -> torch.Tensor:
        """bool [B]: rows that are finite, and stay so in the bank."""
        return (rows if self.normalize else rows.to(self.data.dtype)).isfinite().all(1)


def _allocate(
    path: str | os.PathLike[str] | None, suffix: str, shape: tuple[int, ...], dtype: torch.dtype, fill: int
) -> torch.Tensor:
    """A filled tensor, in memory or in the file ``path + suffix``; a file that exists keeps its contents."""
    if path is None:
        return torch.full(shape, fill, dtype=dtype)
    name = os.fspath(path) + suffix
    size = torch.Size(shape).numel()
    num_bytes = size * dtype.itemsize
    is_new = not os.path.exists(name)
    if not is_new and os.path.getsize(name) != num_bytes:
        raise ValueError(f"path: expected {num_bytes} bytes in {name!r}, got {os.path.getsize(name)}")
    tensor = torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
    return tensor.fill_(fill) if is_new and fill else tensor  # a new file is zeros, and sparse


def _keep_last(ids: torch.Tensor, rows: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of duplicate ids the last one."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    if len(unique) == len(ids):
        return ids, rows
    last = torch.zeros_like(unique).scatter_reduce_(0, inverse, torch.arange(len(ids)), "amax", include_self=False)
    return unique, [tensor[last] for tensor in rows]


def _gather_rows(tensor: torch.Tensor, group: torch.distributed.ProcessGroup | None) -> torch.Tensor:
    """Rows of all ranks in rank order; ranks may differ in the number of rows."""
    world = torch.distributed.get_world_size(group)
    size = torch.tensor([len(tensor)])
    sizes = [torch.zeros_like(size) for _ in range(world)]
    torch.distributed.all_gather(sizes, size, group=group)
    longest = int(max(sizes))
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(parts, padded, group=group)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def _description(table: torch.Tensor | None) -> str:
    return "None" if table is None else f"{table.dtype} {list(table.shape)}"
