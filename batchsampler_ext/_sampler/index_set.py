"""The instances that a batch sampler draws: the set of ids that its first argument stands for."""

from __future__ import annotations

import operator
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from .._engine import validate
from ..dataset import IndexedDataset


def index_set(sampler: Any, num_instances: int) -> torch.Tensor:
    """Returns the distinct instances in [0, num_instances) that `sampler` stands for, int64, ascending."""
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        raise ValueError(
            f"sampler: expected a RandomSampler over all {len(sampler.data_source)} instances without replacement, got "
            f"num_samples={sampler.num_samples}, replacement={sampler.replacement}"
        )
    if isinstance(sampler, BatchSampler):
        raise TypeError(f"sampler: expected a sampler of instances, got a sampler of batches, {type(sampler).__name__}")
    if isinstance(sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
        dataset: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
        _require_outer_index(dataset)
        sampler = range(len(dataset))  # also of a DistributedSampler: the batch sampler shares batches out itself
    _require_outer_index(sampler)
    if isinstance(sampler, Sampler):
        indices = sampler.indices if isinstance(sampler, SubsetRandomSampler) else sampler
        ids = torch.as_tensor(list(indices), dtype=torch.int64, device="cpu").sort().values
    elif (listed := _listed_ids(sampler)) is not None:
        ids = torch.as_tensor(listed, dtype=torch.int64, device="cpu").sort().values
    elif isinstance(sampler, (int, np.integer)) and not isinstance(sampler, bool):
        count = operator.index(sampler)
        count = validate.integer(count, "sampler", 1, num_instances, because=" (bank.num_instances)")
        ids = torch.arange(count, device="cpu")
    elif isinstance(sampler, Sized):
        ids = torch.arange(len(sampler), device="cpu")
    else:
        raise TypeError(
            f"sampler: expected a number, ids, a sized dataset or a torch sampler, got {type(sampler).__name__}"
        )
    if len(ids) == 0:
        raise ValueError("sampler: expected at least one instance, got none")
    smallest, largest = int(ids[0]), int(ids[-1])
    if smallest < 0 or largest >= num_instances:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"sampler: expected instances in [0, {num_instances}) as the bank has, got {wrong}")
    if bool((ids[1:] == ids[:-1]).any()):
        raise ValueError("sampler: expected distinct instances, got some more than once")
    return ids


def _listed_ids(value: Any) -> Any:
    """Returns the integers that torch's BatchSampler would draw themselves, or None for anything else.

    Such values are a range, a list, tuple or set of integers, and a one-dimensional array or tensor of integers.
    """
    if isinstance(value, range):  # not a list: there may be a billion
        return np.arange(value.start, value.stop, value.step, dtype=np.int64)
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        array = value.cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        if array.ndim == 1 and array.dtype == torch.bool:
            raise TypeError("sampler: expected ids, got a mask of booleans. Pass mask.nonzero() of it instead")
        is_list = array.ndim == 1 and not (array.is_floating_point() or array.is_complex())
        return array if is_list else None
    if not isinstance(value, (list, tuple, set, frozenset)) or not value:
        return None
    are_integers = all(hasattr(item, "__index__") and not isinstance(item, bool) for item in value)
    return [operator.index(item) for item in value] if are_integers else None


def _require_outer_index(dataset: Any) -> None:
    """Raises ``ValueError`` if a dataset returns other ids than the positions that a loader draws it by."""
    parts = [dataset.dataset] if isinstance(dataset, Subset) else getattr(dataset, "datasets", [])
    for part in parts if isinstance(dataset, (Subset, ConcatDataset)) else []:
        if isinstance(part, IndexedDataset):
            kind = type(dataset).__name__
            raise ValueError(
                f"sampler: expected IndexedDataset around the {kind}, got {kind} around IndexedDataset. Positions in "
                f"the {kind} are drawn, but embeddings would be stored under the ids of the inner dataset"
            )
        _require_outer_index(part)
