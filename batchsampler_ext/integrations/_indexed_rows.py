"""Indices that travel with the rows of a ``datasets.Dataset`` in a label column.

:class:`IndexedRows` adds it to the rows that a loader fetches. The trainer's collator turns it into the batch's label,
and a hook of the loss takes it off again. The user's own labels travel in the same column, bit for bit.
"""

from __future__ import annotations

import hashlib
import sys
from types import FrameType
from typing import Any, NamedTuple

import datasets
import torch
from sentence_transformers.base.data_collator import DEFAULT_LABEL_COLUMNS

_COLUMN = "batchsampler_ext_index"
_MAGIC = 0x62_61_74_63_68_73_61_6D  # marks labels with indices
_HEADER = 5  # magic number, number of the bank, index, dtype of the label, number of its dimensions
_DTYPES = [
    torch.int64, torch.float32, torch.float64, torch.bool, torch.int32, torch.float16, torch.bfloat16, torch.int16,
    torch.int8, torch.uint8,
]  # fmt: skip
_NUM_COMPARED = 64  # rows
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a floating point number


class IndexedRows(datasets.Dataset):
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


def set_index(dataset: datasets.Dataset, number: int | None, label_columns: list[str] | None = None) -> None:
    """Makes the rows of a data set have an index from now on, or no longer. Changes the given object."""
    if type(dataset) not in (datasets.Dataset, IndexedRows):
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
    dataset.__class__ = IndexedRows
    dataset.__dict__["_batchsampler_ext"] = (number, tuple(name for name in label_columns if name != _COLUMN))


def digest_of(dataset: datasets.Dataset) -> str:
    """Returns a digest of some rows' first columns, as they are stored, so that another order is noticed."""
    size = len(dataset)
    rows = dataset.with_format("arrow")[sorted({size * i // _NUM_COMPARED for i in range(_NUM_COMPARED)})]
    found = [rows[name].to_pylist() for name in text_columns(dataset)]
    return hashlib.sha256(repr((size, found)).encode()).hexdigest()[:16]


def text_columns(dataset: datasets.Dataset) -> list[str]:
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


class Indexed(NamedTuple):
    number: int  # of the bank
    indices: torch.Tensor  # int64 [B] on the CPU
    labels: torch.Tensor | None  # as without indices


def decoded(labels: Any) -> Indexed | None:
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
        return Indexed(number, indices, None)
    shape = head[0, _HEADER : _HEADER + num_dims].tolist()
    bits, kind = labels[:, _HEADER + num_dims :], _DTYPES[dtype]
    if kind.is_floating_point:
        bits = bits.to(_BITS[kind.itemsize]).contiguous().view(kind)
    return Indexed(number, indices, bits.to(kind).reshape(len(labels), *shape))
