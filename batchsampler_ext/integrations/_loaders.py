"""What integrations do with loaders and samplers: check them, take a loader's options, save bank and position."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from ..planned_sampler import PlannedBatchSampler
from ..sampler import ProximityBatchSampler

HardSampler = ProximityBatchSampler | PlannedBatchSampler

# Of a DataLoader, besides dataset and batches.
_OPTIONS = (
    "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator",
    "prefetch_factor", "persistent_workers", "pin_memory_device", "in_order",
)  # fmt: skip


def loader_options(loader: DataLoader[Any]) -> dict[str, Any]:
    """Returns the arguments that a loader was made with, besides dataset and batches."""
    return {name: getattr(loader, name) for name in _OPTIONS if hasattr(loader, name)}


def check_dataset(dataset: Any, sampler: HardSampler, function: str) -> None:
    """Raises an error unless the dataset has an instance for each of the bank or plan. function: of the user."""
    source: Any = sampler.plan if isinstance(sampler, PlannedBatchSampler) else sampler.bank
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        kind = type(dataset).__name__
        raise TypeError(f"{function}: expected a dataset with __len__ and __getitem__, got {kind}")
    if len(dataset) != source.num_instances:
        raise ValueError(
            f"{function}: expected the {source.num_instances} instances that the {type(source).__name__} has, got a "
            f"dataset of {len(dataset)}. Make it for the rows that training gets: ids are their positions"
        )


def check_ranks(sampler: HardSampler, num_replicas: int, rank: int, function: str, world_size: int) -> None:
    """Raises ``ValueError`` unless the sampler shares its batches among the processes of the trainer.

    Args:
        num_replicas: number of parts of a global batch.
        rank: the part of this process.
        world_size: number of processes. If there are more than parts, some of them train on the same part.
    """
    found = sampler._find_ranks()
    if found != (rank, num_replicas):
        write = "Leave out rank= and num_replicas="
        if num_replicas != world_size:
            write = (
                f"Because {world_size} processes train a model in parallel, pass rank={rank} and num_replicas="
                f"{num_replicas}, those of the data-parallel group, and FeatureBank(process_group=...) with this group"
            )
        raise ValueError(
            f"{function}: expected a sampler that shares its batches among {num_replicas} processes, of which this "
            f"is number {rank}, got rank {found.rank} and num_replicas {found.num_replicas}. {write}"
        )


def check_ranks_of(accelerator: Any, sampler: HardSampler, function: str) -> None:
    """Does this for the processes of an ``Accelerator``.

    Where processes train a model in parallel ("tp", "cp", "sp"), they are a device mesh whose first dimensions are
    data-parallel ("dp_replicate", "dp_shard").
    """
    mesh, world_size = accelerator.torch_device_mesh, int(accelerator.num_processes)
    names, sizes = ((), ()) if mesh is None else (mesh.mesh_dim_names, mesh.shape)
    parts = [size for name, size in zip(names, sizes, strict=True) if not name.startswith("dp")]
    num_equal = math.prod(parts)  # processes that train on the same instances
    check_ranks(sampler, world_size // num_equal, accelerator.process_index // num_equal, function, world_size)


def sampling_state(sampler: HardSampler, position: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of bank and sampler. position: the sampler's state."""
    if isinstance(sampler, PlannedBatchSampler):
        return {"sampler": position}
    return {"bank": sampler.bank.state_dict(), "sampler": position}


def load_sampling(sampler: HardSampler, state: dict[str, Any]) -> None:
    """Loads what :func:`sampling_state` has returned. Raises ``ValueError`` for a state of the other sampler."""
    has_bank = isinstance(sampler, ProximityBatchSampler)
    if ("bank" in state) != has_bank:
        found = "with a bank" if "bank" in state else "without a bank"
        raise ValueError(f"state: expected that of a {type(sampler).__name__}, got one {found}")
    if isinstance(sampler, ProximityBatchSampler):
        sampler.bank.load_state_dict(state["bank"])
    sampler.load_state_dict(state["sampler"])
