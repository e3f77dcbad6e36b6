"""Finds wrappers of Accelerate, torchdata and Fabric that draw from a sampler, and Lightning's rebuilding of samplers.

They iterate over it as a loader does, so only the calls in progress tell.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch.utils.data import BatchSampler


def num_skipped_batches() -> int:
    """Returns how many batches a trainer that resumes throws away at the beginning, or 0.

    HF Trainer and ``accelerate.skip_first_batches`` do this.
    """
    skipper = wrapper_in_use("SkipBatchSampler")
    return 0 if skipper is None else skipper.skip_batches


def is_called_by_stateful_loader() -> bool:
    """Whether torchdata's StatefulDataLoader draws a batch or saves the state of each batch that it draws."""
    return wrapper_in_use("_StatefulBaseDataLoaderIter", "") is not None


def is_called_by_fabric() -> bool:
    """Whether the loader of Lightning Fabric sets the epoch. It counts its iterations from 0, also after resuming."""
    return wrapper_in_use("_FabricDataLoader") is not None


def sampler_to_rebuild(cls: type) -> Any:
    """Returns the sampler that Lightning or Fabric is about to replace by a new one of this class, or None.

    The metaclass of the class calls this.
    """
    caller = sys._getframe(2)
    if caller.f_code.co_name != "_dataloader_init_kwargs_resolve_sampler":
        return None
    existing = caller.f_locals.get("batch_sampler")
    return existing if type(existing) is cls else None


def check_argument(sampler: Any) -> None:
    """Raises ``RuntimeError`` if a loader got a batch sampler as its ``sampler``: its batches would be batched."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if type(owner) is BatchSampler and owner.sampler is sampler:
            name = type(sampler).__name__
            raise RuntimeError(
                f"{name}: expected to be the loader's batch_sampler, got a loader that batches it. Write "
                "DataLoader(dataset, batch_sampler=sampler), without sampler=, batch_size=, shuffle= and drop_last="
            )
        frame = frame.f_back


def frame_of(function: str, argument: str) -> dict[str, Any] | None:
    """Returns the variables of a call in progress that is a few calls up, or None."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(6):
        if frame is None:
            return None
        if frame.f_code.co_name == function and argument in frame.f_locals:
            return frame.f_locals
        frame = frame.f_back
    return None


def wrapper_in_use(class_name: str, method: str = "iter") -> Any:
    """Returns the object of this class that is drawing at the moment, or None.

    method: a part of the name of the method that draws.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if method in frame.f_code.co_name:
            owner = frame.f_locals.get("self")
            if any(parent.__name__ == class_name for parent in type(owner).__mro__):
                return owner
        frame = frame.f_back
    return None
