"""Hard batches in the trainer of sentence-transformers: one line for the batches, one for the loss.

    args.batch_sampler = hard_batches(bank)  # or a plan
    loss = track_embeddings(loss, bank)  # not needed for a plan

Install it with ``pip install 'batchsampler_ext[sentence_transformers]'``.

The instance ids travel in a label column. :class:`_IndexedRows` adds it to the rows that a loader fetches. The
trainer's collator turns it into the batch's label, and a hook of the loss takes it off again. The user's own labels
travel in the same column, bit for bit. So the loss gets the labels that it would have got.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import datasets
import torch
from sentence_transformers.base.data_collator import DEFAULT_LABEL_COLUMNS
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from transformers import Trainer, TrainerCallback

from .._engine import validate
from .._engine.files import atomic_write
from .._sampler.wrappers import num_skipped_batches
from ..bank import FeatureBank
from ..plan import Plan
from ..planned_sampler import PlannedBatchSampler
from ..sampler import ProximityBatchSampler

_Sampler = ProximityBatchSampler | PlannedBatchSampler

__all__ = ["HardBatches", "fill_bank", "hard_batches", "track_embeddings"]

_COLUMN = "batchsampler_ext_index"
_FILE = "batchsampler_ext.pt"  # in the trainer's checkpoints
_GIVEN = {"sampler", "batch_size", "drop_last", "bank", "rank", "num_replicas", "scope"}  # by the trainer
_OPTIONS = set(inspect.signature(ProximityBatchSampler.__init__).parameters) - {"self", *_GIVEN}

_numbers: weakref.WeakKeyDictionary[FeatureBank, int] = weakref.WeakKeyDictionary()  # they travel with the indices
_tracked: weakref.WeakSet[FeatureBank] = weakref.WeakSet()
_filled: weakref.WeakKeyDictionary[FeatureBank, str] = weakref.WeakKeyDictionary()  # digests of the rows


# --- batches ---------------------------------------------------------------------------------------------------------
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
        self.samplers: dict[str | None, _Sampler] = {}

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
        call = _loader_call()
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
        digest = _digest(dataset)
        if isinstance(source, FeatureBank) and _filled.get(source, digest) != digest:
            raise ValueError(
                f"hard_batches: expected the rows that fill_bank got{where}, in their order, got others. Call it "
                "after shuffle, select and train_test_split"
            )
        world, is_split = (1, False) if call is None else (call.num_processes, call.is_split)
        is_shared = self._scope == "global" and name is None and not is_split
        shared_size = batch_size * (world if is_shared else 1)
        if isinstance(source, Plan):
            _set_index(dataset, None)
            sampler: _Sampler = _planned(source, shared_size, batch_size, where)
        else:
            number = self._number(source, name, world, where)
            _set_index(dataset, number, valid_label_columns)
            options = {"seed": seed, **self._options}
            sampler = _ResumedSampler(len(dataset), shared_size, drop_last, bank=source, num_replicas=1, **options)
        batches = _TrainingBatches(sampler, batch_size, drop_last)
        self.samplers[name] = sampler
        if call is not None:
            _checkpoints_of(call).parts[name or ""] = _Part(sampler, digest)
        return batches

    def _name_of(self, dataset: datasets.Dataset, call: _LoaderCall | None) -> str | None:
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

    def _number(self, bank: FeatureBank, name: str | None, world: int, where: str) -> int | None:
        """Returns the bank's number if a loss tracks it. None: its embeddings stay as they are."""
        if bank not in _tracked:
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
        return _number_of(bank)


def _planned(plan: Plan, shared_size: int, batch_size: int, where: str) -> PlannedBatchSampler:
    if plan.batch_size != shared_size:
        num_parts = shared_size // batch_size
        shared = f", {batch_size} on each of {num_parts} processes" if num_parts > 1 else ""
        raise ValueError(
            f"hard_batches: expected a plan{where} with batch_size {shared_size}{shared}, as "
            f"per_device_train_batch_size says, got one with {plan.batch_size}"
        )
    return PlannedBatchSampler(plan, num_replicas=1)


class _ResumedSampler(ProximityBatchSampler):
    """Begins a resumed epoch with its first batch if the trainer skips batches: their number is that of all data sets.

    A data set without a loaded plan had drawn nothing or all of this epoch, so its bank plans the same again, or for
    batches that are thrown away.
    """

    def _is_skipped(self) -> bool:
        return num_skipped_batches() > 0


class _TrainingBatches(BatchSampler):
    """Cuts global batches into those of a process. Accelerate deals them out, so a step trains one global batch."""

    def __init__(self, hard: _Sampler, batch_size: int, drop_last: bool) -> None:
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
            num_instances = len(self._hard._maker.instances)
            tails = [] if self.drop_last else [num_instances % shared_size]
            num_full = len(self._hard) - sum(size > 0 for size in tails)
        parts = num_full * (shared_size // self.batch_size)
        return parts + sum(size // self.batch_size if self.drop_last else -(-size // self.batch_size) for size in tails)


# --- the trainer -----------------------------------------------------------------------------------------------------
class _LoaderCall(NamedTuple):
    """The trainer that makes a loader at the moment."""

    kind: str  # "train", "eval" or "test"
    trainer: Trainer
    checkpoint: str | None  # that training resumes from

    @property
    def num_processes(self) -> int:
        return int(self.trainer.accelerator.num_processes)

    @property
    def is_split(self) -> bool:
        """Whether a batch is that of all processes."""
        return bool(self.trainer.accelerator.split_batches)


def _loader_call() -> _LoaderCall | None:
    """Returns the call in progress, or None outside a trainer. The arguments of a sampler do not tell its purpose."""
    kind, trainer, checkpoint = None, None, None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner, name = frame.f_locals.get("self"), frame.f_code.co_name
        if isinstance(owner, Trainer):
            if kind is None and name in ("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader"):
                kind, trainer = name.split("_")[1], owner
            if owner is trainer and name in ("_inner_training_loop", "train") and checkpoint is None:
                checkpoint = frame.f_locals.get("resume_from_checkpoint")
        frame = frame.f_back
    return None if kind is None or trainer is None else _LoaderCall(kind, trainer, checkpoint or None)


class _Part(NamedTuple):
    """What a checkpoint has of a data set. A plan needs no state, because the trainer skips batches."""

    sampler: _Sampler
    digest: str  # of the rows

    def state(self) -> dict[str, Any]:
        rows = {"rows": self.digest}
        if isinstance(self.sampler, PlannedBatchSampler):
            return rows
        return {**rows, "bank": self.sampler.bank.state_dict(), "sampler": self.sampler.state_dict()}


class _Checkpoints(TrainerCallback):
    """Saves samplers and banks with the trainer's checkpoints, and loads them when it resumes."""

    def __init__(self) -> None:
        self.parts: dict[str, _Part] = {}  # by data set; "": the only one
        self.path: str | None = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.save_only_model and state.is_world_process_zero:
            saved = self._states()
            with atomic_write(Path(args.output_dir, f"checkpoint-{state.global_step}", _FILE)) as file:
                torch.save(saved, file)

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        if self.path is None:
            return
        steps = -(-len(train_dataloader) // args.gradient_accumulation_steps)
        epoch, batches = state.global_step // steps, train_dataloader.batch_sampler
        self._load(Path(self.path, _FILE), epoch)
        # The trainer's call does not reach a sampler that is skipped behind Accelerate's shards.
        while batches is not None and not hasattr(batches, "set_epoch"):
            batches = getattr(batches, "batch_sampler", None)
        if batches is not None:
            batches.set_epoch(epoch)

    def _load(self, path: Path, epoch: int) -> None:
        """epoch: the one that training continues with."""
        if not path.exists():
            raise FileNotFoundError(
                f"hard_batches: expected {str(path)!r} to resume from, which training with hard_batches writes. Train "
                "from the model of that checkpoint instead"
            )
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, expected = ({name: sorted(part) for name, part in parts.items()} for parts in (saved, self._states()))
        if found != expected:
            raise ValueError(f"{path}: expected a checkpoint with {expected} by data set, got {found}")
        for name, (sampler, digest) in self.parts.items():
            state = saved[name]
            if state["rows"] != digest:
                where = f" of {name!r}" if name else ""
                raise ValueError(
                    f"{path}: expected the same rows of train_dataset{where} in the same order, got others. Give "
                    "shuffle and train_test_split a seed"
                )
            if isinstance(sampler, PlannedBatchSampler):
                continue
            sampler.bank.load_state_dict(state["bank"])
            # A data set may be finished before the epoch is. The trainer skips all its batches.
            if not (state["sampler"]["is_finished"] and state["sampler"]["epoch"] == epoch):
                sampler.load_state_dict(state["sampler"])

    def _states(self) -> dict[str, dict[str, Any]]:
        return {name: part.state() for name, part in self.parts.items()}


def _checkpoints_of(call: _LoaderCall) -> _Checkpoints:
    """Returns the trainer's callback, a new one for each training."""
    handler = call.trainer.callback_handler
    found = next((part for part in handler.callbacks if isinstance(part, _Checkpoints)), None)
    if found is None:
        found = _Checkpoints()
        call.trainer.add_callback(found)
    if not isinstance(call.trainer.train_dataset, Mapping):
        found.parts.clear()
    found.path = call.checkpoint
    return found


# --- indices that travel with the rows -------------------------------------------------------------------------------
_MAGIC = 0x62_61_74_63_68_73_61_6D  # marks labels with indices
_HEADER = 5  # magic number, number of the bank, index, dtype of the label, number of its dimensions
_DTYPES = [
    torch.int64, torch.float32, torch.float64, torch.bool, torch.int32, torch.float16, torch.bfloat16, torch.int16,
    torch.int8, torch.uint8,
]  # fmt: skip
_NUM_COMPARED = 64  # rows
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a floating point number


class _IndexedRows(datasets.Dataset):
    """A ``datasets.Dataset`` whose rows have their index if the collator that asks for them takes it off, only then."""

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        is_wanted = isinstance(key, int) and _is_index_wanted()  # by the loader of several data sets
        return self._indexed([item], [key])[0] if is_wanted else item

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        rows = super().__getitems__(keys)
        return self._indexed(rows, keys) if _is_index_wanted() else rows

    def _indexed(self, rows: list[dict[str, Any]], keys: list[int]) -> list[dict[str, Any]]:
        number, label_columns = self.__dict__["_batchsampler_ext"]
        name = next((name for name in label_columns if name in rows[0]), None)
        if name is None:
            encoded = [[-1, 0]] * len(rows)
        else:  # as the trainer's collator does
            labels = [row.pop(name) for row in rows]
            encoded = _encoded(torch.stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels))
        for row, key, label in zip(rows, keys, encoded, strict=True):
            row[_COLUMN] = [_MAGIC, number, int(key), *label]  # at the end, since losses go by the order of columns
        return rows


def _is_index_wanted() -> bool:
    """Whether a loader fetches rows for a collator that knows the column: the caller's caller, or one near it."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(3):  # the loader's fetch; ConcatDataset and a comprehension may be between
        collator = getattr(None if frame is None else frame.f_locals.get("self"), "collate_fn", None)
        if collator is not None:
            return _COLUMN in getattr(collator, "valid_label_columns", ())
        frame = None if frame is None else frame.f_back
    return False


def _set_index(dataset: datasets.Dataset, number: int | None, label_columns: list[str] | None = None) -> None:
    """Makes the rows of a data set have an index from now on, or no longer. Changes the given object."""
    if type(dataset) not in (datasets.Dataset, _IndexedRows):
        if number is None:
            return
        raise TypeError(f"train_dataset: expected a datasets.Dataset, got a subclass, {type(dataset).__name__}")
    if number is None:
        dataset.__class__ = datasets.Dataset
        dataset.__dict__.pop("_batchsampler_ext", None)
        return
    if label_columns is None:
        raise TypeError("valid_label_columns: expected the list of the trainer's collator, got None")
    if _COLUMN not in label_columns:
        label_columns.insert(0, _COLUMN)  # the collator's own list
    dataset.__class__ = _IndexedRows
    dataset.__dict__["_batchsampler_ext"] = (number, tuple(name for name in label_columns if name != _COLUMN))


def _digest(dataset: datasets.Dataset) -> str:
    """Returns a digest of some rows' first columns, as they are stored, so that another order is noticed."""
    size = len(dataset)
    rows = dataset.with_format("arrow")[sorted({size * i // _NUM_COMPARED for i in range(_NUM_COMPARED)})]
    found = [rows[name].to_pylist() for name in _text_columns(dataset)]
    return hashlib.sha256(repr((size, found)).encode()).hexdigest()[:16]


def _text_columns(dataset: datasets.Dataset) -> list[str]:
    """Returns the names of the first two columns that a model embeds."""
    return [name for name in dataset.column_names if name not in DEFAULT_LABEL_COLUMNS][:2]


def _encoded(labels: torch.Tensor) -> list[list[int]]:
    """Returns each label as integers: its dtype, its shape, its bits."""
    if labels.dtype not in _DTYPES:
        raise TypeError(f"label: expected one of {_DTYPES}, got {labels.dtype}")
    head = [_DTYPES.index(labels.dtype), labels.ndim - 1, *labels.shape[1:]]
    bits = labels.contiguous()
    bits = bits.view(_BITS[bits.element_size()]) if bits.is_floating_point() else bits
    return [[*head, *row] for row in bits.to(torch.int64).reshape(len(labels), -1).tolist()]


class _Indexed(NamedTuple):
    number: int  # of the bank
    indices: torch.Tensor  # int64 [B] on the CPU
    labels: torch.Tensor | None  # as without indices


def _decoded(labels: Any) -> _Indexed | None:
    """Splits labels into indices and the user's labels. None: they have no indices."""
    is_possible = isinstance(labels, torch.Tensor) and labels.dtype == torch.int64 and labels.ndim == 2
    if not is_possible or labels.shape[1] < _HEADER:
        return None
    head = labels.cpu()  # the trainer waits for the device in each step anyway
    magic, number, _, dtype, num_dims = head[0, :_HEADER].tolist()
    if magic != _MAGIC:
        return None
    indices = head[:, 2].clone()
    if dtype < 0:
        return _Indexed(number, indices, None)
    shape = head[0, _HEADER : _HEADER + num_dims].tolist()
    bits, kind = labels[:, _HEADER + num_dims :], _DTYPES[dtype]
    if kind.is_floating_point:
        bits = bits.to(_BITS[kind.itemsize]).contiguous().view(kind)
    return _Indexed(number, indices, bits.to(kind).reshape(len(labels), *shape))


# --- embeddings ------------------------------------------------------------------------------------------------------
def track_embeddings(loss: Any, bank: Any) -> Any:
    """Makes a loss store the embeddings that training computes in the bank, and returns it.

    The loss stays what it is. While it runs, the full embeddings of the model's last module are met, so this works for
    losses that cache gradients, and for wrappers such as ``MatryoshkaLoss``: pass the outermost loss. Evaluation stores
    nothing.

    A bank with two towers gets the first and the second column of the data. One of width D gets the first column, and
    one of width 2 D both, concatenated. D is the width of the model's embeddings.

    Args:
        loss: a loss; its class, or a function that makes it from a model; a dict of these by data set.
        bank: the :class:`FeatureBank` of ``hard_batches``, or the same dict.

    Raises:
        TypeError, ValueError: another type; embeddings that do not fit the bank. In training: ``RuntimeError`` if a
            batch has no indices.
    """
    banks = dict(bank) if isinstance(bank, Mapping) else {None: bank}
    found = {name: part for name, part in banks.items() if isinstance(part, FeatureBank)}
    others = [part for name, part in banks.items() if name not in found and not isinstance(part, (Plan, str, Path))]
    if not found or others:
        given = type(others[0] if others else bank).__name__
        hint = ". The batches of a plan are fixed, so leave this line out" if given == "Plan" else ""
        raise TypeError(f"bank: expected a FeatureBank or a dict of them by data set, got {given}{hint}")
    _tracked.update(found.values())
    if isinstance(loss, Mapping):
        return {name: _tracking(part, found, banks.keys() == found.keys()) for name, part in loss.items()}
    return _tracking(loss, found, banks.keys() == found.keys())


def _tracking(loss: Any, banks: dict[str | None, FeatureBank], has_all: bool) -> Any:
    if not isinstance(loss, nn.Module):
        if not callable(loss):
            raise TypeError(f"loss: expected a loss, its class or a function that makes it, got {type(loss).__name__}")
        return lambda model: _tracking(loss(model), banks, has_all)
    _encoder(loss)
    owners = [getattr(hook, "__self__", None) for hook in loss._forward_pre_hooks.values()]
    tracker = next((owner for owner in owners if isinstance(owner, _Tracker)), None)
    if tracker is None:
        tracker = _Tracker()
        loss.register_forward_pre_hook(tracker.begin, with_kwargs=True)
        loss.register_forward_hook(tracker.end, always_call=True)
    tracker.banks = {_number_of(bank): bank for bank in banks.values()}
    tracker.has_all = has_all
    return loss


class _Tracker:
    """Hooks of a loss: takes the indices off the labels, and stores the embeddings that the loss computes."""

    def __init__(self) -> None:
        self.banks: dict[int, FeatureBank] = {}  # by number
        self.has_all = True  # every data set has a bank
        self._close()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tracker:
        copied = _Tracker()
        copied.banks, copied.has_all = self.banks, self.has_all  # the same banks
        return copied

    def _close(self) -> None:
        self._batch: tuple[FeatureBank, torch.Tensor] | None = None  # bank and indices
        self._met: list[torch.Tensor] = []
        self._hook: Any = None

    def begin(self, loss: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        labels = args[1] if len(args) > 1 else kwargs.get("labels")
        batch = _decoded(labels)
        if batch is None:
            if torch.is_grad_enabled() and self.has_all:
                raise RuntimeError(
                    "track_embeddings: expected the indices of the batch, got none. Write args.batch_sampler = "
                    "hard_batches(bank) with the bank of this loss. An IterableDataset has no indices"
                )
            return None
        if torch.is_grad_enabled():
            bank = self.banks.get(batch.number)
            if bank is None:
                raise RuntimeError("track_embeddings: expected the bank that hard_batches got, got another one")
            self._batch = bank, batch.indices
            *_, last = _encoder(loss).children()
            self._hook = last.register_forward_hook(self._meet)
        if len(args) > 1:
            return (args[0], batch.labels, *args[2:]), kwargs
        return args, {**kwargs, "labels": batch.labels}

    def _meet(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keeps the embeddings of the first two columns. Columns come in their order, whole or in parts."""
        assert self._batch is not None
        _, indices = self._batch
        if sum(map(len, self._met)) < 2 * len(indices) and "sentence_embedding" in output:
            self._met.append(output["sentence_embedding"].detach())

    def end(self, loss: nn.Module, args: Any, output: Any) -> None:
        batch, met, hook = self._batch, self._met, self._hook
        self._close()
        if hook is not None:
            hook.remove()
        if batch is None or output is None:  # evaluation; the loss has raised an error
            return
        bank, indices = batch
        rows, size = torch.cat(met) if met else torch.empty(0, bank.dim), len(indices)
        width, has_documents = rows.shape[1], bank.documents is not None
        if bank.dim not in ((width,) if has_documents else (width, 2 * width)):
            raise ValueError(_width_error(bank, width))
        num_columns = 2 if has_documents or bank.dim != width else 1
        if len(rows) < num_columns * size:
            raise RuntimeError(
                f"track_embeddings: expected {num_columns * size} embeddings of the model's last module while "
                f"{type(loss).__name__} ran, got {len(rows)}. Give it the outermost loss, and a bank with "
                "two_towers=True only for two columns of texts"
            )
        columns = rows[: num_columns * size].view(num_columns, size, width)
        if has_documents:
            bank.update(indices, columns[0], columns[1])
        else:
            bank.update(indices, columns.transpose(0, 1).reshape(size, bank.dim))


def _width_error(bank: FeatureBank, width: int) -> str:
    towers = "two towers" if bank.documents is not None else "one tower"
    return (
        f"bank: expected FeatureBank(n, {width}, two_towers=True) for pairs, FeatureBank(n, {width}) for their first "
        f"texts, or FeatureBank(n, {2 * width}) for both, concatenated, got one of width {bank.dim} with {towers}"
    )


def _number_of(bank: FeatureBank) -> int:
    return _numbers.setdefault(bank, max(_numbers.values(), default=-1) + 1)


def _encoder(loss: nn.Module) -> nn.Module:
    """Returns the model that a loss trains, without the wrappers of trainers."""
    part: Any = loss
    while not hasattr(part, "model") and isinstance(getattr(part, "loss", None), nn.Module):
        part = part.loss
    model = getattr(part, "model", None)
    while isinstance(model, nn.Module) and not isinstance(model, BaseModel):
        if isinstance(model, nn.DataParallel):
            raise TypeError(
                "track_embeddings: expected one process per GPU, got nn.DataParallel. Start training with torchrun or "
                "accelerate launch, or make one GPU visible"
            )
        model = getattr(model, "module", getattr(model, "_orig_mod", None))
    if not isinstance(model, BaseModel):
        raise TypeError(f"loss: expected a loss of sentence-transformers with a model, got {type(loss).__name__}")
    return model


def fill_bank(bank: FeatureBank, model: Any, dataset: datasets.Dataset, **options: Any) -> None:
    """Fills the bank with the embeddings of a teacher, or of the model before training, with ``model.encode``.

    So the first epoch is not uniform. Processes share the work. The columns are those of :func:`track_embeddings`.

    Args:
        bank: has an instance for each row.
        model: a ``SentenceTransformer``, of any width that fits the bank.
        dataset: the training data, as the trainer gets it.
        options: of ``model.encode``, such as ``batch_size`` and ``prompt_name``.

    Raises:
        ValueError: the data set or the embeddings do not fit the bank.
    """
    if len(dataset) != bank.num_instances:
        raise ValueError(f"dataset: expected {bank.num_instances} rows as the bank has instances, got {len(dataset)}")
    names, width = _text_columns(dataset), model.get_embedding_dimension()
    if bank.dim == width:
        names = names[: 2 if bank.documents is not None else 1]
    elif bank.documents is not None or bank.dim != width * len(names):
        raise ValueError(_width_error(bank, width))

    def encode(ids: list[int]) -> tuple[Any, ...]:
        rows = dataset[ids]
        found = [model.encode(rows[name], convert_to_tensor=True, **options) for name in names]
        return (ids, *found) if bank.documents is not None else (ids, torch.cat(found, 1))

    options = {"show_progress_bar": False, **options}
    loader: Any = DataLoader(range(len(dataset)), batch_size=4096, collate_fn=list)  # type: ignore[arg-type]
    bank.fill_from(encode, loader)
    _filled[bank] = _digest(dataset)
