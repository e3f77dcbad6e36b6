"""The instances that a batch sampler draws: the set of ids that its first argument stands for."""

from __future__ import annotations

import operator
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler
from torch.utils.data.distributed import DistributedSampler

from .._engine import validate


def index_set(sampler: Any, num_instances: int) -> torch.Tensor:
    """Returns the distinct instances in [0, num_instances) that `sampler` stands for, int64, ascending."""
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        raise ValueError(
            f"sampler: expected a RandomSampler over all {len(sampler.data_source)} instances without replacement, got "
            f"num_samples={sampler.num_samples}, replacement={sampler.replacement}"
        )
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        raise ValueError(
            f"sampler: expected all instances in one process, got a DistributedSampler of {sampler.num_replicas} "
            "replicas; sampling for several ranks is not supported yet"
        )
    if isinstance(sampler, BatchSampler):
        raise TypeError(f"sampler: expected a sampler of instances, got a sampler of batches, {type(sampler).__name__}")
    if isinstance(sampler, (RandomSampler, SequentialSampler)):
        sampler = sampler.data_source
    elif isinstance(sampler, DistributedSampler):
        sampler = sampler.dataset
    if isinstance(sampler, Sampler):
        indices = sampler.indices if isinstance(sampler, SubsetRandomSampler) else sampler
        ids = torch.as_tensor(list(indices), dtype=torch.int64, device="cpu").sort().values
    elif isinstance(sampler, (int, np.integer)) and not isinstance(sampler, bool):
        count = operator.index(sampler)
        count = validate.integer(count, "sampler", 1, num_instances, because=" (bank.num_instances)")
        ids = torch.arange(count, device="cpu")
    elif isinstance(sampler, Sized):
        ids = torch.arange(len(sampler), device="cpu")
    else:
        raise TypeError(f"sampler: expected a number, a sized dataset or a torch sampler, got {type(sampler).__name__}")
    if len(ids) == 0:
        raise ValueError("sampler: expected at least one instance, got none")
    smallest, largest = int(ids[0]), int(ids[-1])
    if smallest < 0 or largest >= num_instances:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"sampler: expected instances in [0, {num_instances}) as the bank has, got {wrong}")
    if bool((ids[1:] == ids[:-1]).any()):
        raise ValueError("sampler: expected distinct instances, got some more than once")
    return ids
