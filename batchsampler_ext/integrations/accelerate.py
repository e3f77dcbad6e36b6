"""Hard batches with Accelerate: one line in place of ``accelerator.prepare`` for the loader.

    loader = prepare_loader(accelerator, loader)

A prepared loader draws one batch ahead of training, and more with worker processes. So it counts the batches that it
hands out, and checkpoints have the position of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.data_loader import DataLoaderAdapter, DataLoaderShard  # type: ignore[import-untyped]
from torch.utils.data import BatchSampler, DataLoader

from .._sampler.base import EpochSampler
from .._sampler.wrappers import is_called_by
from ._loaders import HardSampler, check_dataset, check_ranks_of, load_sampling, loader_options, sampling_state

__all__ = ["prepare_loader"]


def prepare_loader(accelerator: Accelerator, loader: DataLoader[Any]) -> DataLoader[Any]:
    """Returns the loader for training with Accelerate. Use it in place of ``accelerator.prepare`` for this loader.

    It does what ``prepare`` does: batches are moved to the device, and gradients are synchronized at the end of the
    loader. But it does not share the batches out, because the sampler does that. So ``split_batches``,
    ``dispatch_batches``, ``even_batches`` and ``use_stateful_dataloader`` do not concern it.

    ``accelerator.save_state`` saves the bank and the position of training too. ``accelerator.load_state`` loads them,
    and the loader continues exactly, with the epoch ``sampler.epoch``. Leave out ``skip_first_batches`` and
    ``register_for_checkpointing`` of bank and sampler. Call ``prepare_loader`` before ``load_state``.

    Args:
        accelerator: the ``Accelerator``.
        loader: a ``DataLoader`` that is not prepared, with ``batch_sampler=`` a :class:`ProximityBatchSampler` or
            :class:`PlannedBatchSampler`. Its workers, collator and other options are kept.

    Raises:
        TypeError, ValueError: another loader; a dataset that does not have the instances of the bank or plan; a
            sampler for other ranks than those of the accelerator. From the loader: ``RuntimeError`` if the sampler was
            registered for checkpointing as well, or for ``skip_first_batches``.

    Example:
        >>> loader = prepare_loader(accelerator, DataLoader(dataset, batch_sampler=sampler))  # doctest: +SKIP
    """
    if not isinstance(accelerator, Accelerator):
        raise TypeError(f"accelerator: expected an Accelerator, got {type(accelerator).__name__}")
    if isinstance(loader, _HardLoader):
        return loader
    sampler = _checked_sampler(loader)
    check_dataset(loader.dataset, sampler, "prepare_loader")
    check_ranks_of(accelerator, sampler, "prepare_loader")
    registered = [part for part in accelerator._custom_objects if isinstance(part, _Sampling)]
    sampling = next((part for part in registered if part.sampler is sampler), None)
    if sampling is None:
        sampling = _Sampling(sampler)
        accelerator.register_for_checkpointing(sampling)
    return accelerator.prepare_data_loader(_HardLoader(accelerator, loader, sampling))


def _checked_sampler(loader: Any) -> HardSampler:
    """Returns the sampler of a loader. Raises ``TypeError`` if it is no hard sampler, or is shared out."""
    if not isinstance(loader, DataLoader):
        raise TypeError(f"loader: expected a DataLoader, got {type(loader).__name__}")
    if isinstance(loader, DataLoaderAdapter):
        raise TypeError(
            "loader: expected a DataLoader that is not prepared, got the result of accelerator.prepare. Write loader = "
            "prepare_loader(accelerator, loader) instead"
        )
    sampler: Any = loader.batch_sampler
    if not isinstance(sampler, EpochSampler):
        kind = type(sampler).__name__
        raise TypeError(
            "loader: expected batch_sampler=ProximityBatchSampler(...) or PlannedBatchSampler(...), got a DataLoader "
            f"with a {kind}. Use accelerator.prepare for it"
        )
    return sampler  # type: ignore[return-value]


class _HardLoader(DataLoaderShard):
    """A loader that is prepared as if there was one process."""

    _is_accelerate_prepared = True  # accelerator.prepare returns it as it is

    def __init__(self, accelerator: Accelerator, loader: DataLoader[Any], sampling: _Sampling) -> None:
        super().__init__(
            loader.dataset,
            device=accelerator.device if accelerator.device_placement else None,
            rng_types=[kind for kind in accelerator.rng_types if kind != "generator"],
            batch_sampler=sampling.sampler,
            _non_blocking=accelerator.non_blocking,
            **loader_options(loader),
        )
        self._accelerator, self._sampling, self._sampler = accelerator, sampling, sampling.sampler
        self._sampler.even_batches = True  # type: ignore[union-attr]  # join_uneven_inputs reads and sets it

    @property
    def batch_sampler(self) -> BatchSampler:
        if is_called_by("accelerate", "skip_first_batches"):
            raise RuntimeError(
                "skip_first_batches: expected a loader of accelerator.prepare, got one of prepare_loader. Write "
                "accelerator.load_state(folder) and iterate over the loader itself, which continues at the right batch"
            )
        return self._sampler

    def begin(self) -> None:
        super().begin()
        self.remainder = -1  # unknown, so that gather_for_metrics cuts nothing off

    def set_epoch(self, epoch: int) -> None:
        # At its beginning, the loader sets how many epochs it has drawn to the end. The sampler counts those begun.
        if not is_called_by("accelerate", "__iter__"):
            self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        if any(part is self._sampler for part in self._accelerator._custom_objects):
            raise RuntimeError(
                f"prepare_loader: it registers the {type(self._sampler).__name__} for checkpointing. Leave out "
                "accelerator.register_for_checkpointing(sampler), which would save and load another position"
            )
        for number, batch in enumerate(super().__iter__(), start=1):
            self._sampling.num_handed = self._sampler._num_before() + number
            yield batch


class _Sampling:
    """What Accelerate saves: the bank, and the position of training.

    Attributes:
        num_handed: number of batches of the epoch that training has got. None: none since a state was loaded.
    """

    def __init__(self, sampler: HardSampler) -> None:
        self.sampler = sampler
        self.num_handed: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return sampling_state(self.sampler, self._position())

    def _position(self) -> dict[str, Any]:
        """Returns the sampler's state after the batches that training has got, or before the last one of them.

        The last one is not trained yet if the bank tells that the one before it is the last.
        """
        state, num_handed = self.sampler.state_dict(), self.num_handed
        if num_handed is None:
            return state
        told = (state["epoch"] + 1, 0) if state["is_finished"] else (state["epoch"], state["num_drawn"])
        if state["is_informed"] and told == (self.sampler.epoch, num_handed - 1):
            return state
        return self.sampler.state_dict(num_handed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_sampling(self.sampler, state)
        self.num_handed = None
