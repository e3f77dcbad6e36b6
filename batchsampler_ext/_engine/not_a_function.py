"""Objects that are mistaken for the function that sentence-transformers takes as ``batch_sampler``."""

from __future__ import annotations

from typing import Any


class NotAFunction:
    """Says what to write, because that trainer ignores objects that are not callable: its batches then have one row."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Raises ``TypeError``."""
        raise TypeError(what_to_write(type(self).__name__, "an object"))


def what_to_write(name: str, given: str) -> str:
    return (
        f"{name}: expected a function as batch_sampler, got {given}. Write args.batch_sampler = hard_batches(bank), or "
        "hard_batches(plan), of batchsampler_ext.integrations.sentence_transformers"
    )
