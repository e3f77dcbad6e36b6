"""Stores the embeddings that a loss of sentence-transformers computes in a bank, and fills a bank from a model."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from sentence_transformers.base.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from .._engine.validate import Progress, ProgressBar
from ..bank import FeatureBank
from ..plan import Plan
from ._indexed_rows import decoded, digest_of, text_columns

_numbers: weakref.WeakKeyDictionary[FeatureBank, int] = weakref.WeakKeyDictionary()  # they travel with the indices
filled: weakref.WeakKeyDictionary[FeatureBank, str] = weakref.WeakKeyDictionary()  # digests of the rows


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
    if isinstance(loss, Mapping):
        if not loss:
            raise ValueError("loss: expected at least one data set, got an empty dict")
        return {name: _tracking(part, found, banks.keys() == found.keys()) for name, part in loss.items()}
    return _tracking(loss, found, banks.keys() == found.keys())


def _tracking(loss: Any, banks: dict[str | None, FeatureBank], has_all: bool) -> Any:
    if not isinstance(loss, nn.Module):
        if not callable(loss):
            raise TypeError(f"loss: expected a loss, its class or a function that makes it, got {type(loss).__name__}")
        return lambda model: _tracking(loss(model), banks, has_all)
    _encoder(loss)
    tracker = next(iter(_trackers_of(loss)), None)
    if tracker is None:
        tracker = _Tracker()
        loss.register_forward_pre_hook(tracker.begin, with_kwargs=True)
        loss.register_forward_hook(tracker.end, always_call=True)
    tracker.banks = {number_of(bank): bank for bank in banks.values()}
    tracker.has_all = has_all
    return loss


def is_tracked(bank: FeatureBank, loss: Any) -> bool:
    """Whether a part of a trainer's loss stores embeddings in the bank. loss: a module, or a dict by data set."""
    parts = list(loss.values()) if isinstance(loss, Mapping) else [loss]
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    return any(bank in tracker.banks.values() for module in modules for tracker in _trackers_of(module))


def _trackers_of(module: nn.Module) -> list[_Tracker]:
    owners = [getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values()]
    return [owner for owner in owners if isinstance(owner, _Tracker)]


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
        batch = decoded(labels)
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


def number_of(bank: FeatureBank) -> int:
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


def fill_bank(
    bank: FeatureBank,
    model: Any,
    dataset: datasets.Dataset,
    *,
    progress: Progress | ProgressBar | None = None,
    **options: Any,
) -> None:
    """Fills the bank with the embeddings of a teacher, or of the model before training, with ``model.encode``.

    So the first epoch is not uniform. Processes share the work. The columns are those of :func:`track_embeddings`.

    Args:
        bank: has an instance for each row.
        model: a ``SentenceTransformer``, of any width that fits the bank.
        dataset: the training data, as the trainer gets it.
        progress: of :meth:`FeatureBank.fill_from`, such as ``tqdm()``. It counts groups of 4096 rows.
        options: of ``model.encode``, such as ``batch_size`` and ``prompt_name``.

    Raises:
        TypeError, ValueError: another type; a data set or embeddings that do not fit the bank.
    """
    if not isinstance(bank, FeatureBank):
        raise TypeError(f"bank: expected a FeatureBank, got {type(bank).__name__}")
    if isinstance(model, type) or not hasattr(model, "encode") or not hasattr(model, "get_embedding_dimension"):
        raise TypeError(f"model: expected a SentenceTransformer, got {type(model).__name__}")
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"dataset: expected a datasets.Dataset, got {type(dataset).__name__}")
    if len(dataset) != bank.num_instances:
        raise ValueError(f"dataset: expected {bank.num_instances} rows as the bank has instances, got {len(dataset)}")
    names, width = text_columns(dataset), model.get_embedding_dimension()
    if width is None:
        raise ValueError("model: expected one whose get_embedding_dimension() is a number, got None")
    if bank.dim == width:
        num_columns = 2 if bank.documents is not None else 1
        names = names[:num_columns]
        if len(names) < num_columns:
            raise ValueError(f"dataset: expected {num_columns} columns of texts, one for each tower, got {len(names)}")
    elif bank.documents is not None or bank.dim != width * len(names):
        raise ValueError(_width_error(bank, width))

    def encode(ids: list[int]) -> tuple[Any, ...]:
        rows = dataset[ids]
        found = [model.encode(rows[name], convert_to_tensor=True, **options) for name in names]
        return (ids, *found) if bank.documents is not None else (ids, torch.cat(found, 1))

    options = {"show_progress_bar": False, **options}
    loader: Any = DataLoader(range(len(dataset)), batch_size=4096, collate_fn=list)  # type: ignore[arg-type]
    bank.fill_from(encode, loader, progress=progress)
    filled[bank] = digest_of(dataset)
