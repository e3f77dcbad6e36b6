"""Finds wrappers of Accelerate that draw from a sampler.

They iterate over it as a loader does, so only the calls in progress tell.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any


def num_skipped_batches() -> int:
    """Returns how many batches a trainer that resumes throws away at the beginning, or 0.

    HF Trainer and ``accelerate.skip_first_batches`` do this.
    """
    skipper = _wrapper_in_use("SkipBatchSampler")
    return 0 if skipper is None else skipper.skip_batches


def refuse_to_share_twice(num_replicas: int) -> None:
    """Raises ``RuntimeError`` if Accelerate shares out the batches that the sampler has shared out already."""
    shard = _wrapper_in_use("BatchSamplerShard")
    if shard is not None and shard.num_processes > 1 and num_replicas > 1:
        raise RuntimeError(
            "ProximityBatchSampler: expected a loader that Accelerate has not prepared, because the sampler shares its "
            f"batches among {num_replicas} ranks itself. Most instances would never be drawn. Leave the loader out of "
            "accelerator.prepare, or pass num_replicas=1 and let Accelerate share out whole batches"
        )


def _wrapper_in_use(class_name: str) -> Any:
    """Returns the object of this class whose ``__iter__`` is drawing at the moment, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if "iter" in frame.f_code.co_name:
            owner = frame.f_locals.get("self")
            if any(parent.__name__ == class_name for parent in type(owner).__mro__):
                return owner
        frame = frame.f_back
    return None
