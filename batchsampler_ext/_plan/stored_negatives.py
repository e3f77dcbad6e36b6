"""Which pairs count as negatives, as the file of a plan keeps it."""

from __future__ import annotations

import torch

from .._negatives.negatives import Negatives
from .file import PlanFile


class StoredNegatives:
    """The :class:`Negatives` in a file. They are mapped into memory, and checked when they are first read."""

    def __init__(self, file: PlanFile, num_instances: int) -> None:
        self._file, self._num_instances, self._is_checked = file, num_instances, False

    @classmethod
    def of(cls, file: PlanFile, num_instances: int) -> StoredNegatives | None:
        """Returns None for a file without negatives. Raises ``ValueError`` if it has some of their tensors only."""
        missing = [name for name in Negatives._fields if name not in file]
        if len(missing) == len(Negatives._fields):
            return None
        if missing:
            raise file.error(f"one without {missing[0]}")
        return cls(file, num_instances)

    def read(self) -> Negatives:
        """Raises ``ValueError`` if the data are damaged."""
        result = Negatives(**{name: self._file.read(name) for name in Negatives._fields})
        if not self._is_checked:
            self._check(result)
            self._is_checked = True
        return result

    def _check(self, found: Negatives) -> None:
        size = self._num_instances
        shapes = [[*found.groups.shape[:1], size], [size + 1], [found.documents.numel()]]
        dtypes = [torch.int32, torch.int64, torch.int32]
        for name, tensor, dtype, shape in zip(found._fields, found, dtypes, shapes, strict=True):
            if (tensor.dtype, list(tensor.shape)) != (dtype, shape):
                raise self._file.error(f"one whose {name} are {tensor.dtype} {list(tensor.shape)}")
        offsets, documents = found.offsets, found.documents
        ends = (int(offsets[0]), int(offsets[-1]))
        if ends != (0, len(documents)) or bool((offsets[1:] < offsets[:-1]).any()):
            raise self._file.error(f"one whose offsets do not ascend from 0 to {len(documents)}")
        if len(documents) and not 0 <= int(documents.min()) <= int(documents.max()) < size:
            raise self._file.error(f"one whose documents are outside [0, {size})")
