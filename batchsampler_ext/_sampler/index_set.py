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
    elif _are_ids(sampler):
        ids = torch.as_tensor(np.asarray(sampler), dtype=torch.int64, device="cpu").sort().values
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


def _are_ids(value: Any) -> bool:
    """Whether torch's BatchSampler would draw the values themselves: a range, or a sequence of integers."""
    if isinstance(value, range):
        return True
    if isinstance(value, torch.Tensor):
        return value.ndim == 1 and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(type(item) in (int, np.int64) for item in value)


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
