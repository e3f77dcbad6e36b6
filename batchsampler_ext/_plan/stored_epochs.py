"""The epochs of a plan in a file, each read and checked when it is first used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch

from .file import PlanFile

_NAME = "epoch_{}"


def named_epochs(epochs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file: int32 [L], the instances of an epoch, one batch after the other."""
    return {_NAME.format(number): epochs[number] for number in range(len(epochs))}


class StoredEpochs(Sequence[torch.Tensor]):
    """The epochs in a file, int32 [L] each. An epoch is an error unless it has distinct instances of the dataset."""

    def __init__(self, file: PlanFile, num_epochs: int, num_instances: int) -> None:
        self._file, self._num_epochs, self._num_instances = file, num_epochs, num_instances
        self._checked: set[int] = set()
        # The first missing one is found after at most as many steps as the file has tensors.
        missing = next((name for name in map(_NAME.format, range(num_epochs)) if name not in file), None)
        if missing is not None:
            raise file.error(f"one without {missing}")

    def __len__(self) -> int:
        return self._num_epochs

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(self._num_epochs)[index]
        ids = self._file.read(_NAME.format(number))
        if number not in self._checked:
            self._check(ids, number)
            self._checked.add(number)
        return ids

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[number] for number in range(len(self)))

    def length(self, number: int) -> int:
        """Returns the number of instances of an epoch, without reading it."""
        shape = self._file.shape(_NAME.format(number))
        if len(shape) != 1:
            raise self._file.error(f"one whose {_NAME.format(number)} has shape {shape}, expected one dimension")
        return shape[0]

    def checksums(self) -> list[int]:
        """Returns the CRC-32 of each epoch, as written."""
        return [self._file.checksums[_NAME.format(number)] for number in range(len(self))]

    def _check(self, ids: torch.Tensor, epoch: int) -> None:
        name, size = _NAME.format(epoch), self._num_instances
        if ids.dtype != torch.int32 or ids.ndim != 1 or len(ids) > size:
            raise self._file.error(
                f"one whose {name} is {ids.dtype} {list(ids.shape)}, not int32 with at most {size} instances"
            )
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise self._file.error(f"one whose {name} has instances outside [0, {size})")
        if _has_duplicates(ids, size):
            raise self._file.error(f"one whose {name} has an instance twice")


def _has_duplicates(ids: torch.Tensor, size: int) -> bool:
    """ids: from 0 to size - 1. A small file may claim a large size, so the memory is that of the ids."""
    if size > 64 * len(ids):
        return len(torch.unique(ids)) != len(ids)
    is_member = torch.zeros(size, dtype=torch.bool, device="cpu")
    is_member[ids.long()] = True
    return int(is_member.sum()) != len(ids)
