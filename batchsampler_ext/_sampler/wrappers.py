"""Finds wrappers of Accelerate, torchdata and Fabric that draw from a sampler, and Lightning's rebuilding of samplers.

They iterate over it as a loader does, so only the calls in progress tell. Variables are read of calls of these packages
only: Python keeps the values of variables that were read, so those of a training loop would live too long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.utils.data import BatchSampler

from .._engine.warn import package_of

_LIGHTNING = ("lightning", "lightning_fabric", "pytorch_lightning")


def num_skipped_batches() -> int:
    """Returns how many batches a trainer that resumes throws away at the beginning, or 0.

    HF Trainer and ``accelerate.skip_first_batches`` do this.
    """
    skipper = wrapper_in_use("SkipBatchSampler")
    return 0 if skipper is None else skipper.skip_batches


def is_called_by_stateful_loader() -> bool:
    """Whether torchdata's StatefulDataLoader draws a batch or saves the state of each batch that it draws."""
    return wrapper_in_use("_StatefulBaseDataLoaderIter", "", "torchdata") is not None


def fabric_loader() -> Any:
    """Returns the loader of Lightning Fabric that sets the epoch, or None.

    It counts its iterations from 0, also after resuming.
    """
    return wrapper_in_use("_FabricDataLoader", "iter", *_LIGHTNING)


def sampler_to_rebuild(cls: type) -> Any:
    """Returns the sampler that Lightning or Fabric is about to replace by a new one of this class, or None.

    The metaclass of the class calls this.
    """
    caller = sys._getframe(2)
    is_rebuilding = caller.f_code.co_name == "_dataloader_init_kwargs_resolve_sampler"
    if not is_rebuilding or package_of(caller) not in _LIGHTNING:
        return None
    existing = caller.f_locals.get("batch_sampler")
    return existing if type(existing) is cls else None


def check_argument(sampler: Any) -> None:
    """Raises ``RuntimeError`` if a loader got a batch sampler as its ``sampler``: its batches would be batched."""
    for frame in _frames("torch", "torchdata"):
        if frame.f_globals["__name__"] not in ("torch.utils.data.sampler", "torchdata.stateful_dataloader.sampler"):
            continue
        owner = frame.f_locals.get("self")
        is_batching = isinstance(owner, BatchSampler) or type(owner).__name__ == "_BatchSamplerIterator"
        if is_batching and owner is not sampler and getattr(owner, "sampler", None) is sampler:
            name = type(sampler).__name__
            raise RuntimeError(
                f"{name}: expected to be the loader's batch_sampler, got a loader that batches it. Write "
                "DataLoader(dataset, batch_sampler=sampler), without sampler=, batch_size=, shuffle= and drop_last="
            )


def accelerate_call(function: str, argument: str) -> dict[str, Any] | None:
    """Returns the variables of a call of Accelerate's function that is in progress, or None.

    argument: a variable of it, since Accelerate has methods of the same name.
    """
    for frame in _frames("accelerate"):
        if frame.f_code.co_name == function and argument in frame.f_code.co_varnames:
            return frame.f_locals
    return None


def wrapper_in_use(class_name: str, method: str = "iter", *packages: str) -> Any:
    """Returns the object of this class that is drawing at the moment, or None.

    method: a part of the name of the method that draws. packages: by default that of Accelerate.
    """
    for frame in _frames(*(packages or ("accelerate",))):
        if method in frame.f_code.co_name:
            owner = frame.f_locals.get("self")
            if any(parent.__name__ == class_name for parent in type(owner).__mro__):
                return owner
    return None


def is_called_by(package: str, function: str) -> bool:
    """Whether this function of a package calls the caller."""
    frame = sys._getframe(2)
    return frame.f_code.co_name == function and package_of(frame) == package


def _frames(*packages: str) -> Iterator[FrameType]:
    """Yields the calls in progress of code in these packages, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if package_of(frame) in packages:
            yield frame
        frame = frame.f_back
