"""Finds out how Accelerate shares out the batches of a sampler, and refuses ways that lose instances or never end."""

from __future__ import annotations

from typing import Any, NamedTuple

from .wrappers import accelerate_call, is_called_by_stateful_loader, wrapper_in_use


class Shape(NamedTuple):
    """What Accelerate must know of a sampler's epochs to share out their batches."""

    name: str  # of the sampler's class
    num_replicas: int
    batch_size: int
    num_batches: int
    ragged_sizes: tuple[int, ...] | None  # of the shorter batches, which come last; None: epochs vary in length
    drop_last: bool
    is_drop_wanted: bool  # drop_last is the user's choice


class _Sharing(NamedTuple):
    """How Accelerate shares out the batches of a loader. The defaults are its own."""

    num_processes: int
    is_split: bool = False  # a part of each batch for each process, not whole batches
    is_even: bool = True  # batches are repeated until all processes have equally many
    is_dispatched: bool = False  # one process draws for all
    is_stateful: bool = False  # with torchdata's StatefulDataLoader
    is_direct: bool = True  # nothing between cuts the sampler's batches


def check_sharing(sampler: Any, shape: Shape) -> None:
    """Raises ``RuntimeError`` if Accelerate shares out batches in a way that loses instances or never ends.

    Called when ``accelerator.prepare`` gets the loader, and when the first batch of an epoch is drawn.
    """
    sharing = _sharing_in_use(sampler)
    reason = None if sharing is None or sharing.num_processes == 1 else _objection(shape, sharing)
    if reason is not None:
        raise RuntimeError(
            f"{shape.name}: {reason}. Write loader = prepare_loader(accelerator, loader) instead of "
            "accelerator.prepare(loader), with a sampler without num_replicas. It is in "
            "batchsampler_ext.integrations.accelerate"
        )


def _objection(shape: Shape, sharing: _Sharing) -> str | None:
    if shape.num_replicas > 1:
        return (
            "expected a loader that Accelerate has not prepared, because the sampler shares its batches among "
            f"{shape.num_replicas} ranks itself. Most instances would never be drawn"
        )
    count = sharing.num_processes
    # StatefulDataLoader does not see the sampler's state behind the shard, so it would skip the first batches of a
    # resumed run, which the loaded state skips already.
    if sharing.is_stateful:
        return (
            f"expected use_stateful_dataloader=False where Accelerate shares batches among {count} processes, because "
            "a resumed run would lose batches"
        )
    if not sharing.is_direct:
        return None
    ragged = shape.ragged_sizes
    if ragged is not None and len(ragged) > 1:
        return (
            f"expected at most one batch with less than {shape.batch_size} instances where Accelerate shares batches "
            f"among {count} processes, got {len(ragged)} in an epoch. It would lose instances of them"
        )
    is_whole = not (sharing.is_split or sharing.is_dispatched)
    is_rest = ragged is None or shape.num_batches % count > 0  # of batches that are dealt out
    if is_whole and is_rest and shape.drop_last and not shape.is_drop_wanted:
        return (
            f"expected a number of batches that the {count} processes divide, because Accelerate leaves out the rest, "
            f"got {shape.num_batches} in an epoch"
        )
    if sharing.is_even or sharing.is_dispatched or shape.drop_last:
        return None
    is_small = ragged is None or any(size <= shape.batch_size // count * (count - 1) for size in ragged)
    if is_small if sharing.is_split else is_rest:
        return (
            f"expected as many batches on each of {count} processes, because they would wait for each other, got "
            f"even_batches=False and {shape.num_batches} batches in an epoch"
        )
    return None


def _sharing_in_use(sampler: Any) -> _Sharing | None:
    """Returns how Accelerate shares out the batches of the loader that it prepares or draws from, or None."""
    call = accelerate_call("prepare_data_loader", "num_processes")
    if call is not None:
        names = ("split_batches", "even_batches", "dispatch_batches", "use_stateful_dataloader")
        return _Sharing(call["num_processes"], *(bool(call.get(name)) for name in names))
    shard = wrapper_in_use("BatchSamplerShard")
    if shard is not None:
        is_split, is_even = getattr(shard, "split_batches", False), getattr(shard, "even_batches", True)
        is_direct, is_stateful = shard.batch_sampler is sampler, is_called_by_stateful_loader()
        return _Sharing(shard.num_processes, is_split, is_even, is_stateful=is_stateful, is_direct=is_direct)
    dispatcher = wrapper_in_use("DataLoaderDispatcher")
    if dispatcher is not None:
        return _Sharing(dispatcher.state.num_processes, is_dispatched=True, is_stateful=is_called_by_stateful_loader())
    return None


def is_prepared_by_accelerate() -> bool:
    """Whether Accelerate is preparing a loader. It looks at the sampler then, on all processes."""
    return accelerate_call("prepare_data_loader", "num_processes") is not None
