"""What integrations do with loaders and samplers: check them, take a loader's options, save bank and position."""

from __future__ import annotations

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


def check_ranks(sampler: HardSampler, num_processes: int, rank: int, function: str) -> None:
    """Raises ``ValueError`` unless the sampler shares its batches among the processes of the trainer."""
    found = sampler._find_ranks()
    if found != (rank, num_processes):
        raise ValueError(
            f"{function}: expected a sampler that shares its batches among {num_processes} processes, of which this "
            f"is number {rank}, got rank {found.rank} and num_replicas {found.num_replicas}. Leave out rank= and "
            "num_replicas="
        )


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
