"""Random choices that are made in Python. They use the engine's generator, in streams of their own."""

from __future__ import annotations

from enum import IntEnum

import torch

from .backend import core


class Stream(IntEnum):
    """Philox streams that are none of the purposes in csrc/common/random_stream.h."""

    PADDING = 237
    COMMUNITIES = 238
    EXCHANGE = 239
    SAMPLE = 240
    CHOICE = 241
    SINGLES = 242
    MIXED = 243
    INTERLEAVE = 244
    SOURCE = 245
    KEEP_APART = 253
    UNIONS = 254
    PLAN = 255


def derived_seed(seed: int, stream: Stream, value: int = 0, epoch: int = 0) -> int:
    """Returns an unrelated seed for each stream, 64-bit value and epoch below 2**24."""
    low, high, _, _ = core.philox4x32(seed, stream << 24 | epoch, value & 0xFFFFFFFF, value >> 32, 0)
    return high << 32 | low


def permutation(size: int, seed: int, epoch: int) -> torch.Tensor:
    """Returns a random order of ``range(size)``, int64 on the CPU."""
    order = torch.empty(size, dtype=torch.int64, device="cpu")
    if size:
        core.root_order(n=size, seed=seed, epoch=epoch, out=order.data_ptr())
    return order
