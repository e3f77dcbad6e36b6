"""Hard batches in the trainer of sentence-transformers: one line for the batches, one for the loss.

    args.batch_sampler = hard_batches(bank)  # or a plan
    loss = track_embeddings(loss, bank)  # not needed for a plan

Install it with ``pip install 'batchsampler_ext[sentence_transformers]'``.

The instance ids travel in a label column, see ``_indexed_rows.py``. The loss gets the labels that it would have got.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import BatchSampler, RandomSampler

from .._engine import validate
from .._sampler.wrappers import num_skipped_batches
from ..bank import FeatureBank
from ..plan import Plan
from ..planned_sampler import PlannedBatchSampler
from ..sampler import ProximityBatchSampler
from ._hf_trainer import LoaderCall, Place, checkpoints_of, loader_call
from ._indexed_rows import digest_of, set_index
from ._loaders import HardSampler
from ._tracked_losses import fill_bank, filled, is_tracked, number_of, track_embeddings

__all__ = ["HardBatches", "fill_bank", "hard_batches", "track_embeddings"]

_GIVEN = {"sampler", "batch_size", "drop_last", "bank", "rank", "num_replicas", "scope"}  # by the trainer
_OPTIONS = set(inspect.signature(ProximityBatchSampler.__init__).parameters) - {"self", *_GIVEN}


def hard_batches(source: Any, *, scope: str = "global", **options: Any) -> HardBatches:
    """Returns what ``SentenceTransformerTrainingArguments.batch_sampler`` takes, for batches of hard negatives.

    Evaluation keeps the default batches of sentence-transformers, in random order. Checkpoints of the trainer contain
    the bank and the position, and ``resume_from_checkpoint`` continues exactly. The training arguments are saved
    without the bank or plan.

    Args:
        source: a :class:`FeatureBank`, which needs :func:`track_embeddings` or embeddings of a teacher; a :class:`Plan`
            or the path of its file; for a ``DatasetDict`` a dict with one of these per data set. An instance id is the
            position of a row in the training data, after ``shuffle``, ``select`` and ``train_test_split``. So compose
            a plan from the embeddings of exactly these rows, in this order.
        scope: with several processes, "global" composes the hard batch that all of them share, for losses with
            ``gather_across_devices``; "local" one for each process. Several data sets are always "local".
        options: of :class:`ProximityBatchSampler`, for banks. The seed is by default that of the training arguments.

    Raises:
        TypeError, ValueError: another type, an unknown option. When training begins: a data set or batch size that is
            not that of bank or plan, or a bank without embeddings that no loss tracks.

    Example:
        >>> hard_batches(FeatureBank(4, 2))
        hard_batches(FeatureBank(4, 2, missing_embedding_share=1.000, step=0))
    """
    sources = dict(source) if isinstance(source, Mapping) else {None: source}
    if not sources:
        raise ValueError("source: expected at least one data set, got an empty dict")
    sources = {name: _checked_source(part) for name, part in sources.items()}
    validate.choice(scope, "scope", ("global", "local"))
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        reason = "the trainer sets it" if unknown[0] in _GIVEN else f"expected one of {sorted(_OPTIONS)}"
        raise TypeError(f"hard_batches: {reason}, got the option {unknown[0]!r}")
    if options and all(isinstance(part, Plan) for part in sources.values()):
        raise TypeError(f"hard_batches: expected no options for a plan, got {sorted(options)}. Pass them to compose")
    return HardBatches(sources, scope, options, f"hard_batches({source!r:.200})")


def _checked_source(source: Any) -> FeatureBank | Plan:
    if isinstance(source, (str, Path)):
        return Plan.load(source)
    if isinstance(source, (FeatureBank, Plan)):
        return source
    given = source.__name__ if isinstance(source, type) else type(source).__name__
    hint = ""
    if given in ("ProximityBatchSampler", "PlannedBatchSampler"):
        hint = ". Pass its bank or plan; the trainer needs a new sampler for each training"
    raise TypeError(f"source: expected a FeatureBank, a Plan or a dict of them by data set, got {given}{hint}")


class HardBatches:
    """Makes the trainer's batch samplers. :func:`hard_batches` constructs it.

    Attributes:
        samplers: dict with the sampler of each data set of the latest training. Its key is None if there is only one.
            A :class:`ProximityBatchSampler` has ``stats()`` and ``negative_mask``.
    """

    def __init__(
        self, sources: dict[str | None, FeatureBank | Plan] | None, scope: str, options: dict[str, Any], text: str
    ) -> None:
        self._sources, self._scope, self._options, self._text = sources, scope, options, text
        self.samplers: dict[str | None, HardSampler] = {}

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return HardBatches, (None, self._scope, {}, self._text)  # arguments are saved in each checkpoint

    def __copy__(self) -> HardBatches:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HardBatches:
        return self

    def __call__(
        self,
        dataset: datasets.Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> BatchSampler:
        """Returns the batch sampler of a data set. The trainer calls this for training and for evaluation."""
        call = loader_call()
        if call is not None and call.kind != "train":
            random: Any = RandomSampler(dataset, generator=generator)
            return DefaultBatchSampler(random, batch_size, drop_last, valid_label_columns, generator, seed)
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(f"train_dataset: expected a datasets.Dataset, got {type(dataset).__name__}")
        if self._sources is None:
            raise RuntimeError(
                f"batch_sampler: these training arguments were saved without the bank or plan of {self._text}. "
                "Set args.batch_sampler = hard_batches(...) again"
            )
        name = self._name_of(dataset, call)
        source, where = self._sources[name], "" if name is None else f" of {name!r}"
        num_instances = source.num_instances
        if len(dataset) != num_instances:
            kind = type(source).__name__
            raise ValueError(
                f"hard_batches: expected the {num_instances} instances that the {kind} has, got training "
                f"data{where} of {len(dataset)} rows. Make it for the rows that the trainer gets"
            )
        digest = digest_of(dataset)
        if isinstance(source, FeatureBank) and filled.get(source, digest) != digest:
            raise ValueError(
                f"hard_batches: expected the rows that fill_bank got{where}, in their order, got others. Call it "
                "after shuffle, select and train_test_split"
            )
        world, is_split = (1, False) if call is None else (call.num_processes, call.is_split)
        is_shared = self._scope == "global" and name is None and not is_split
        shared_size = batch_size * (world if is_shared else 1)
        if isinstance(source, Plan):
            set_index(dataset, None)
            sampler: HardSampler = _planned(source, shared_size, batch_size, where)
        else:
            number = self._number(source, name, call, world, where)
            set_index(dataset, number, valid_label_columns)
            options = {"seed": seed, **self._options}
            sampler = _ResumedSampler(len(dataset), shared_size, drop_last, bank=source, num_replicas=1, **options)
        batches = _TrainingBatches(sampler, batch_size, drop_last)
        self.samplers[name] = sampler
        if call is not None:
            checkpoints = checkpoints_of(call.trainer)
            if name is None:
                checkpoints.parts.clear()
            checkpoints.path = call.checkpoint
            checkpoints.parts[name or ""] = _Part(name or "", sampler, digest)
        return batches

    def _name_of(self, dataset: datasets.Dataset, call: LoaderCall | None) -> str | None:
        """Returns the name of a data set among those of the training."""
        assert self._sources is not None
        data = None if call is None else call.trainer.train_dataset
        names = sorted(self._sources, key=str)
        if not isinstance(data, Mapping):
            if names != [None]:
                raise ValueError(f"hard_batches: expected a DatasetDict with {names} as train_dataset, got a Dataset")
            return None
        if names == [None]:
            raise ValueError(
                f"hard_batches: expected a dict with a bank or plan for each of {sorted(data)}, because train_dataset "
                "is a DatasetDict, got a single one"
            )
        if names != sorted(data):
            raise ValueError(f"hard_batches: expected the data sets {sorted(data)} of train_dataset, got {names}")
        return next(name for name, part in data.items() if part is dataset)

    def _number(
        self, bank: FeatureBank, name: str | None, call: LoaderCall | None, world: int, where: str
    ) -> int | None:
        """Returns the bank's number if a loss tracks it. None: its embeddings stay as they are."""
        if call is None or not is_tracked(bank, call.trainer.loss):  # type: ignore[attr-defined]
            if bank.missing_embedding_share == 1:
                raise ValueError(
                    f"hard_batches: expected a bank{where} that training updates, or that has embeddings. Write "
                    "loss = track_embeddings(loss, bank), or fill_bank(bank, model, dataset) before training"
                )
            return None
        if world > 1 and name is not None:
            raise ValueError(
                f"hard_batches: expected one data set on {world} processes, got several with banks. In a step, the "
                "processes train on different data sets, so their banks would wait for each other. Use plans"
            )
        if world > 1 and not bank._gather:
            raise ValueError(f"hard_batches: expected a bank with gather=True on {world} processes, got gather=False")
        return number_of(bank)


def _planned(plan: Plan, shared_size: int, batch_size: int, where: str) -> PlannedBatchSampler:
    if plan.batch_size != shared_size:
        num_parts = shared_size // batch_size
        shared = f", {batch_size} on each of {num_parts} processes" if num_parts > 1 else ""
        raise ValueError(
            f"hard_batches: expected a plan{where} with batch_size {shared_size}{shared}, as "
            f"per_device_train_batch_size says, got one with {plan.batch_size}"
        )
    return PlannedBatchSampler(plan, num_replicas=1)


class _Part(NamedTuple):
    """What a checkpoint has of a data set. A plan needs no state, because the trainer skips batches."""

    name: str
    sampler: HardSampler
    digest: str  # of the rows

    def state(self) -> dict[str, Any]:
        rows = {"rows": self.digest}
        if isinstance(self.sampler, PlannedBatchSampler):
            return rows
        return {**rows, "bank": self.sampler.bank.state_dict(), "sampler": self.sampler.state_dict()}

    def load(self, state: dict[str, Any], place: Place, path: Path) -> None:
        if state["rows"] != self.digest:
            where = f" of {self.name!r}" if self.name else ""
            raise ValueError(
                f"{path}: expected the same rows of train_dataset{where} in the same order, got others. Give "
                "shuffle and train_test_split a seed"
            )
        if isinstance(self.sampler, PlannedBatchSampler):
            return
        self.sampler.bank.load_state_dict(state["bank"])
        # A data set may be finished before the epoch is. The trainer skips all its batches.
        if not (state["sampler"]["is_finished"] and state["sampler"]["epoch"] == place.epoch):
            self.sampler.load_state_dict(state["sampler"])


class _ResumedSampler(ProximityBatchSampler):
    """Begins a resumed epoch with its first batch if the trainer skips batches: their number is that of all data sets.

    A data set without a loaded plan had drawn nothing or all of this epoch, so its bank plans the same again, or for
    batches that are thrown away.
    """

    def _is_skipped(self) -> bool:
        return num_skipped_batches() > 0


class _TrainingBatches(BatchSampler):
    """Cuts global batches into those of a process. Accelerate deals them out, so a step trains one global batch."""

    def __init__(self, hard: HardSampler, batch_size: int, drop_last: bool) -> None:
        self._hard = hard
        self.batch_size, self.drop_last = batch_size, drop_last

    @property
    def sampler(self) -> _TrainingBatches:  # type: ignore[override]
        """Returns this object, because Accelerate looks for ``set_epoch`` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self._hard.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._hard:
            for start in range(0, len(batch), self.batch_size):
                part = batch[start : start + self.batch_size]
                if len(part) == self.batch_size or not self.drop_last:
                    yield part

    def __len__(self) -> int:
        shared_size = self._hard.batch_size
        if isinstance(self._hard, PlannedBatchSampler):
            tails = list(self._hard.plan._tail_sizes_of(self._hard.epoch % self._hard.plan.num_epochs))
            num_full = len(self._hard) - len(tails)
        else:
            tails = [] if self.drop_last else [self._hard._maker.num_ragged]
            num_full = len(self._hard) - sum(size > 0 for size in tails)
        parts = num_full * (shared_size // self.batch_size)
        return parts + sum(size // self.batch_size if self.drop_last else -(-size // self.batch_size) for size in tails)
