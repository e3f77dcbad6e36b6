"""Hard batches in Lightning: a callback that saves, resumes and logs the sampling.

    trainer = Trainer(callbacks=[SamplingCallback()])

Install it with ``pip install 'batchsampler_ext[lightning]'``.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.combined_loader import CombinedLoader
except ImportError:  # the same library under its earlier name
    from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    from pytorch_lightning.utilities.combined_loader import CombinedLoader  # type: ignore[assignment]

from .._engine.warn import warn
from ..bank import FeatureBank
from ..planned_sampler import PlannedBatchSampler
from ..sampler import ProximityBatchSampler
from ._loaders import HardSampler as _Sampler
from ._loaders import check_dataset, check_ranks

__all__ = ["SamplingCallback"]


class SamplingCallback(Callback):
    """Saves the samplers of the training loaders, and their banks, in Lightning's checkpoints. Resuming is exact.

    It finds the samplers in the loaders, wherever these are made: in ``train_dataloader`` or before. Once per epoch, it
    logs ``stats()`` of a :class:`ProximityBatchSampler`, such as "sampling/in_batch_similarity", if there is a logger.

    Raises:
        ValueError: when training begins: no loader has a sampler of ours as its ``batch_sampler``, two loaders have the
            same, or begins anew within an epoch; a sampler is for other ranks than those of the trainer;
            ``overfit_batches`` is set for batches that change. When it resumes: the states are of another number of
            samplers, or of samplers or banks with other settings.

    Warns if a checkpoint of a run without this callback is resumed.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=[SamplingCallback()])
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._loaded: dict[str, Any] | None = None  # until the loaders exist
        self._num_untold = 0  # batches that an earlier run without the callback has trained in this epoch
        self._ignored: Any = None  # entry of ``warnings.filters``, until Lightning has begun the resumed epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._trainer not in (None, trainer):
            self._loaded = None  # of a training that did not begin. The same trainer goes on where it would have begun
        self._trainer = trainer

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_ignoring()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_ignoring()

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of samplers and banks after the batch that is trained last. Lightning calls this."""
        samplers = _samplers_of(self._trainer) if self._trainer is not None else []
        if self._loaded is not None or not samplers:
            return self._loaded or {}
        num_trained = max(0, _num_processed(self._trainer) - self._num_untold)
        return {
            "banks": tuple(bank.state_dict() for bank in _banks_of(samplers)),
            "samplers": tuple(sampler.state_dict(num_trained) for sampler in samplers),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the states until training begins. Lightning calls this before it asks for the loaders.

        It also does so when it tests a checkpoint, which leaves bank and position as they are.
        """
        if self._trainer is None or self._trainer.state.fn == "fit":
            self._loaded = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:
            # If `reload_dataloaders_every_n_epochs` makes new loaders for the first epoch, they have to exist now.
            trainer.fit_loop.setup_data()
        samplers = _samplers_of(trainer)
        _check(trainer, samplers)
        if self._loaded is not None:
            self._restore(trainer, samplers, self._loaded)
            self._loaded = None
        elif trainer.fit_loop.restarting:
            self._num_untold = _num_processed(trainer)
            warn(
                "SamplingCallback: the checkpoint has no state of the sampler, because the run that saved it had no "
                "SamplingCallback. The epoch begins anew, so its first batches may be trained twice, and others not "
                "at all",
            )

    def _restore(self, trainer: Any, samplers: list[_Sampler], state: dict[str, Any]) -> None:
        for name, parts in (("banks", _banks_of(samplers)), ("samplers", samplers)):
            if len(parts) != len(state[name]):
                raise ValueError(
                    f"SamplingCallback: expected loaders with {len(state[name])} {name}, as the checkpoint has, got "
                    f"{len(parts)}"
                )
            for part, saved in zip(parts, state[name], strict=True):
                part.load_state_dict(saved)
        epoch = trainer.fit_loop.epoch_progress.current.processed
        for sampler in samplers:  # with `limit_train_batches`, Lightning may have finished an epoch that is not drawn
            if epoch > sampler.epoch:
                sampler.set_epoch(epoch)
        # Loaders with workers have drawn batches of their first epoch ahead already, before the state was loaded.
        iter(trainer.fit_loop._data_fetcher)
        # Lightning takes only loaders for resumable that have a state themselves.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended and ")
        self._ignored = warnings.filters[0]

    def _stop_ignoring(self) -> None:
        filters: Any = warnings.filters
        if self._ignored in filters:
            filters.remove(self._ignored)
        self._ignored = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._stop_ignoring()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._num_untold = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.loggers or not trainer.is_global_zero:
            return
        samplers = _samplers_of(trainer)
        for number, sampler in enumerate(samplers):
            if isinstance(sampler, ProximityBatchSampler):
                group = "sampling" if len(samplers) == 1 else f"sampling_{number}"
                values = {f"{group}/{name}": float(value) for name, value in sampler.stats()._asdict().items()}
                known = {name: value for name, value in values.items() if not math.isnan(value)}
                for logger in trainer.loggers:
                    logger.log_metrics({"epoch": trainer.current_epoch, **known}, step=trainer.global_step)


def _samplers_of(trainer: Trainer) -> list[_Sampler]:
    """Returns our samplers in the training loaders, in their order."""
    loaders = trainer.train_dataloader
    found = [] if loaders is None else [getattr(loader, "batch_sampler", None) for loader in _flat(loaders)]
    return [sampler for sampler in found if isinstance(sampler, _Sampler)]


def _flat(loaders: Any) -> list[Any]:
    return CombinedLoader(loaders).flattened


def _banks_of(samplers: list[_Sampler]) -> list[FeatureBank]:
    banks = [sampler.bank for sampler in samplers if isinstance(sampler, ProximityBatchSampler)]
    return list({id(bank): bank for bank in banks}.values())


def _num_processed(trainer: Any) -> int:
    """Returns the number of trained batches of the epoch. The number of completed ones is smaller in a checkpoint."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed


def _check(trainer: Any, samplers: list[_Sampler]) -> None:
    if not samplers:
        found = [type(getattr(loader, "batch_sampler", loader)).__name__ for loader in _flat(trainer.train_dataloader)]
        raise ValueError(
            "SamplingCallback: expected a loader with a ProximityBatchSampler or PlannedBatchSampler, got "
            f"{', '.join(found)}. Write DataLoader(dataset, batch_sampler=sampler)"
        )
    if len({id(sampler) for sampler in samplers}) < len(samplers):
        raise ValueError("SamplingCallback: expected a sampler of its own for each loader, got one in two loaders")
    for loader in _flat(trainer.train_dataloader):
        if isinstance(getattr(loader, "batch_sampler", None), _Sampler):
            check_dataset(loader.dataset, loader.batch_sampler, "SamplingCallback")
    _check_ranks(trainer, samplers)
    _check_lengths(trainer)
    is_fixed = all(isinstance(sampler, PlannedBatchSampler) and sampler.plan.num_epochs == 1 for sampler in samplers)
    if trainer.overfit_batches and not is_fixed:
        raise ValueError(
            f"overfit_batches: expected 0, because each epoch has other batches, got {trainer.overfit_batches}. To "
            "overfit some batches, write PlannedBatchSampler(compose(..., num_epochs=1))"
        )


def _check_ranks(trainer: Any, samplers: list[_Sampler]) -> None:
    """Raises ``ValueError`` unless each sampler shares its batches among the ranks that train on different data."""
    ranks = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
    for sampler in samplers:
        check_ranks(sampler, ranks["num_replicas"], ranks["rank"], "SamplingCallback", trainer.world_size)


def _len(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a stream
        return None


def _check_lengths(trainer: Any) -> None:
    """Raises ``ValueError`` if Lightning begins one of our loaders again within an epoch, so that none could resume."""
    loaders, mode = _flat(trainer.train_dataloader), trainer.fit_loop._combined_loader._mode
    if len(loaders) == 1 or mode == "min_size":
        return
    lengths = [_len(loader) for loader in loaders]
    ours = [len(loader) for loader in loaders if isinstance(getattr(loader, "batch_sampler", None), _Sampler)]
    if mode == "sequential" or any(length < trainer.num_training_batches for length in ours):
        raise ValueError(
            "SamplingCallback: expected combined loaders that are not begun again within an epoch, because training "
            f"could not resume there, got mode {mode!r} with loaders of {lengths} batches. Write "
            'CombinedLoader(loaders, "min_size"), or give loaders with our samplers the largest number of batches'
        )
