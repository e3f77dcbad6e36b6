"""Warns of updates that users do not mean: embeddings of an evaluation, and ranks that train on equal batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .._engine.warn import warn

_NUM_COMPARED = 3  # updates whose ids are compared between ranks; this waits for a CUDA device


class UpdateTraps:
    """What the updates of one bank have been like. Each warning comes once."""

    def __init__(self) -> None:
        self._had_gradients = self._is_warned = self._is_ignored = False
        self.is_drawn = False  # a sampler has made a plan from the bank
        self._num_compared = 0

    def __deepcopy__(self, memo: dict[int, object]) -> UpdateTraps:
        return UpdateTraps()

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """While this lasts, updates are meant: the bank is filled."""
        self._is_ignored = True
        try:
            yield
        finally:
            self._is_ignored = False

    def noticed_gradients(self, has_gradient: bool, are_enabled: bool) -> None:
        """Warns if updates with embeddings that have a gradient are followed by one where gradients are disabled."""
        if self._is_ignored:
            return
        self._had_gradients |= has_gradient
        if self._had_gradients and not are_enabled and not self._is_warned:
            self._is_warned = True
            warn(
                "bank.update: called where gradients are disabled, after updates with gradients. If these are "
                "embeddings of an evaluation, they have replaced those of training instances with the same ids. Write "
                "`if torch.is_grad_enabled(): bank.update(...)`. To fill the bank anew, call bank.fill_from",
            )

    def noticed_ids(self, ids: torch.Tensor, sizes: list[int], num_instances: int) -> None:
        """Warns if all ranks have stored the same instances. Updates of all instances are meant: they fill the bank.

        So are updates before the first batch. ids: int64, those of all ranks. sizes: by rank.
        """
        is_fill = self._is_ignored or not self.is_drawn or sizes[0] >= num_instances
        if is_fill or self._num_compared == _NUM_COMPARED or sizes[0] == 0:
            return
        self._num_compared += 1
        if len(set(sizes)) > 1 or len(ids) != sum(sizes):
            return
        parts = ids.view(len(sizes), -1)
        if bool((parts == parts[0]).all()):
            self._num_compared = _NUM_COMPARED
            warn(
                f"bank.update: all {len(sizes)} ranks have stored the same instances, so they train on the same "
                "batches, or each has gathered the embeddings before. Leave rank= and num_replicas= of the sampler "
                "out: it shares its batches among the ranks. Give update those of this rank. If both are meant, write "
                "FeatureBank(..., gather=False)",
            )
