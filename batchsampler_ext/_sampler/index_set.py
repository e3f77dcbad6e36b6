"""The instances that a batch sampler draws: the set of ids that its first argument stands for."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from .._engine.arrays import as_int64, dense, require_countable, require_unmasked
from .._engine.validate import has_no_length, shown
from ..dataset import IndexedDataset


def index_set(sampler: Any, num_instances: int) -> torch.Tensor:
    """Returns the distinct instances in [0, num_instances) that `sampler` stands for, int64, ascending."""
    _require_kind(sampler)
    dataset, ids = sampler, None
    if isinstance(sampler, DistributedSampler):
        dataset = sampler.dataset  # all of it: the batch sampler shares batches out itself
    elif type(sampler) in (RandomSampler, SequentialSampler):
        dataset = sampler.data_source
    elif isinstance(sampler, Sampler):
        ids = _drawn_ids(sampler, num_instances)
    else:
        ids = _listed_ids(sampler)
    if ids is None:
        _require_size(dataset, num_instances)
        return torch.arange(num_instances, device="cpu")
    if not bool((ids[1:] > ids[:-1]).all()):
        ids = ids.sort().values
    if len(ids) == 0:
        raise ValueError("sampler: expected at least one instance, got none")
    smallest, largest = int(ids[0]), int(ids[-1])
    if smallest < 0 or largest >= num_instances:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"sampler: expected instances in [0, {num_instances}) as the bank has, got {wrong}")
    is_repeated = ids[1:] == ids[:-1]
    if bool(is_repeated.any()):
        raise ValueError(
            f"sampler: expected distinct instances, got some more than once, such as {int(ids[1:][is_repeated][0])}"
        )
    return ids


def _require_kind(sampler: Any) -> None:
    """Raises an error for what has a length or draws something, but does not say which instances to draw."""
    if isinstance(sampler, BatchSampler):
        raise TypeError(f"sampler: expected a sampler of instances, got a sampler of batches, {type(sampler).__name__}")
    if isinstance(sampler, DataLoader):
        raise TypeError(
            f"sampler: expected a dataset, got a {type(sampler).__name__}, whose length is in batches. Pass its "
            "dataset, and give the batch sampler to a new loader"
        )
    if isinstance(sampler, (Mapping, str, bytes, bytearray, memoryview)):
        raise TypeError(
            f"sampler: expected a number, ids, a dataset or a torch sampler, got {type(sampler).__name__}. If it holds "
            "datasets or columns, pass one of the datasets or the number of rows"
        )
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        raise ValueError(
            f"sampler: expected a RandomSampler over all {len(sampler.data_source)} instances without replacement, got "
            f"num_samples={sampler.num_samples}, replacement={sampler.replacement}"
        )
    if isinstance(sampler, WeightedRandomSampler):
        raise TypeError(
            "sampler: expected a sampler that draws the same instances in every epoch, got WeightedRandomSampler. "
            "Its weights cannot be kept, because each instance is drawn at most once"
        )


def _require_size(dataset: Any, num_instances: int) -> None:
    """Raises an error unless a number or a dataset stands for all instances of the bank."""
    if _is_number(dataset):
        size, kind = operator.index(dataset), ""
    else:
        _require_positions(dataset)
        size, kind = len(dataset), f"{type(dataset).__name__} of "
    if size == num_instances:
        return
    expected = f"sampler: expected all {num_instances} instances of the bank (bank.num_instances), got {kind}{size}. "
    if size > num_instances or size < 1:
        raise ValueError(f"{expected}Make a bank of as many rows")
    raise ValueError(
        f"{expected}If the loader gets a dataset of {size}, make a bank of {size} rows, and labels in its order. If it "
        f"gets one of {num_instances}, pass the ids to draw, such as range({size}) or subset.indices"
    )


def _require_positions(dataset: Any) -> None:
    """Raises an error if a loader cannot draw samples by position, or if they come with other ids than these."""
    if isinstance(dataset, IndexedDataset):
        return
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"sampler: expected a dataset with __getitem__, got an IterableDataset, {type(dataset).__name__}"
        )
    is_scalar = getattr(dataset, "ndim", 1) == 0  # an array that has no length, though it has the method
    if (
        is_scalar
        or not isinstance(dataset, Sized)
        or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__getitems__"))
    ):
        raise TypeError(
            "sampler: expected a number, ids, a dataset with __len__ and __getitem__ or a torch sampler, got "
            f"{type(dataset).__name__}"
        )
    if isinstance(dataset, StackDataset):
        parts = dataset.datasets
        for part in parts.values() if isinstance(parts, dict) else parts:
            _require_positions(part)
    elif isinstance(dataset, (Subset, ConcatDataset)):
        for part in [dataset.dataset] if isinstance(dataset, Subset) else dataset.datasets:
            if isinstance(part, IndexedDataset):
                kind, inner = type(dataset).__name__, type(part).__name__
                raise ValueError(
                    f"sampler: expected {inner} around the {kind}, got {kind} around {inner}. Positions "
                    f"in the {kind} are drawn, but embeddings would be stored under the ids of the inner dataset"
                )
            _require_positions(part)


def _drawn_ids(sampler: Sampler[Any], num_instances: int) -> torch.Tensor:
    """Returns the ids that a torch sampler draws: at most num_instances + 1, as some samplers never end."""
    if isinstance(sampler, SubsetRandomSampler):
        ids = _listed_ids(sampler.indices)
        return _listed(list(sampler.indices)) if ids is None else ids
    ids, again = (_listed(list(itertools.islice(sampler, num_instances + 1))) for _ in range(2))
    if not torch.equal(ids.sort().values, again.sort().values):
        raise ValueError(
            f"sampler: expected a sampler that draws the same instances in every epoch, got {type(sampler).__name__}, "
            "which drew others when it was read again. Pass the ids to draw"
        )
    return ids


def _listed(drawn: list[Any]) -> torch.Tensor:
    """Returns what a torch sampler has drawn, as ids."""
    if not drawn:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    ids = _listed_ids(drawn)
    if ids is None:
        raise TypeError(f"sampler: expected a sampler of instance ids, got one that draws {shown(drawn[0])}")
    return ids


def _listed_ids(value: Any) -> torch.Tensor | None:
    """Returns ids that are listed one by one, int64, or None for anything else.

    Such values are a range, a list, tuple or set of integers, and a one-dimensional array or tensor of integers.
    """
    if isinstance(value, range):  # not a list: there may be a billion
        require_countable(value, "sampler")
        return torch.arange(value.start, value.stop, value.step, device="cpu")
    if isinstance(value, (list, tuple, set, frozenset)):
        return _ids_of_items(list(value))
    if has_no_length(value):
        raise TypeError("sampler: expected ids or a dataset, got a nested tensor without a length")
    is_array = isinstance(value, torch.Tensor) or hasattr(value, "__array__")
    if not is_array or len(getattr(value, "shape", (0,))) != 1:  # data are not copied to find this out
        return None
    require_unmasked(value, "sampler")
    array = dense(value, "sampler").cpu() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype in (torch.bool, np.bool_):
        raise _mask()
    if isinstance(array, torch.Tensor) and (array.is_floating_point() or array.is_complex()):
        return None
    if isinstance(array, np.ndarray) and (array.ndim != 1 or array.dtype.kind not in "iu"):
        return None
    return torch.from_numpy(as_int64(array, "sampler"))


def _ids_of_items(items: list[Any]) -> torch.Tensor | None:
    if not all(type(item) is int for item in items):
        if items and all(_is_truth(item) for item in items):
            raise _mask()
        for item in items:
            require_unmasked(item, "sampler")
        if not all(_is_number(item) for item in items):
            return None
        items = [operator.index(item) for item in items]
    wrong = next((item for item in items if not -(2**63) <= item < 2**63), None)
    if wrong is not None:
        raise ValueError(f"sampler: expected integers below 2**63, got {wrong}")
    return torch.tensor(items, dtype=torch.int64, device="cpu")


def _is_number(value: Any) -> bool:
    """Whether a value is one integer, also as a 0-d array or tensor."""
    if not hasattr(value, "__index__") or getattr(value, "ndim", 0) != 0 or _is_truth(value):
        return False
    try:
        operator.index(value)
    except (TypeError, RuntimeError):  # a 0-d tensor of a float, or on "meta"
        return False
    return True


def _is_truth(value: Any) -> bool:
    is_scalar = isinstance(value, torch.Tensor) and value.ndim == 0 and value.dtype == torch.bool
    return is_scalar or isinstance(value, (bool, np.bool_))


def _mask() -> TypeError:
    return TypeError("sampler: expected ids, got a mask of booleans. Pass mask.nonzero() of it instead")
