"""Reads values from the bytes of a fuzzer: numbers, arrays in odd layouts, and changes of nested structures."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")
INTEGERS = [0, 1, -1, 2, 3, 7, 8, 40, 2**24, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1e-40, 3e38, math.inf, -math.inf, math.nan]
TEXTS = ["", "cosine", "l2", "walks", "partition", "epoch_0", "x" * 300, "\ud800", "é", "-1", "b3", "faiss"]
DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.uint64, torch.bool, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


class Source:
    """Deals out the bytes of an input, then zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def rest(self) -> bytes:
        found, self._place = self._data[self._place :], len(self._data)
        return found

    def byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1] if self._place <= len(self._data) else 0

    def below(self, size: int) -> int:
        """Returns a number from 0 to size - 1. size: at most 2**16."""
        return (self.byte() if size <= 256 else self.byte() << 8 | self.byte()) % size

    def choice(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def integer(self) -> int:
        return self.choice(INTEGERS) if self.below(2) else self.byte() - 16

    def value(self, depth: int = 2, only_json: bool = False) -> Any:
        """Returns a value of any type. only_json: of those of JSON."""
        kind = self.below(7 if only_json else 10)
        if kind == 0:
            return self.choice([None, True, False])
        if kind <= 2:
            return self.integer()
        if kind == 3:
            return self.choice(FLOATS)
        if kind == 4:
            return self.choice(TEXTS[:7] if only_json else TEXTS)
        if kind <= 6:
            parts = [self.value(depth - 1, only_json) for _ in range(self.below(4))] if depth else []
            return parts if kind == 5 else {str(self.choice(TEXTS[:7])): part for part in parts}
        if kind == 7:
            return self.choice(
                [np.int64(3), np.float32(0.5), np.bool_(True), 3j, b"x", object(), range(3), (1, 2), range(2**70)]
            )
        return self.tensor() if kind == 8 else self.odd(self.tensor(), ODD)

    def tensor(self) -> torch.Tensor:
        """Returns a small tensor of any dtype."""
        dtype, shape = self.choice(DTYPES), [self.below(5) for _ in range(self.below(4))]
        values = [self.byte() - 8 for _ in range(math.prod(shape))]
        if self.below(4) == 0 and values:
            values[0] = int(self.choice([127, -128, 2**31 - 1, -(2**31)]))
        if not dtype.is_floating_point and not dtype.is_complex:
            limits = torch.iinfo(dtype) if dtype != torch.bool else None
            values = [min(max(v, limits.min), limits.max) if limits else v > 0 for v in values]
        is_narrow = dtype.itemsize == 1 and dtype.is_floating_point  # torch.tensor has none
        return torch.tensor(values, dtype=torch.float32 if is_narrow else dtype).to(dtype).view(shape)

    def odd(self, tensor: torch.Tensor, ways: Sequence[Callable[[torch.Tensor], Any]] | None = None) -> Any:
        """Returns an array of the same elements in another memory layout, container or device."""
        try:
            return self.choice(ODD + BROKEN if ways is None else ways)(tensor)
        except (RuntimeError, TypeError):  # torch has no such array of this dtype
            return tensor

    def edited(self, node: Any, only_json: bool = False) -> Any:
        """Returns a copy with one change somewhere: a part is deleted, added, repeated, exchanged or altered."""
        if isinstance(node, dict) and node and self.below(6):
            key, rest = self.choice(list(node)), dict(node)
            action = self.below(16)
            if action == 0:
                del rest[key]
            elif action == 1:
                rest[self.choice(TEXTS[:7])] = rest.pop(key)
            elif action == 2:
                rest[key] = rest[self.choice(list(node))]
            else:
                rest[key] = self.edited(node[key], only_json)
            return rest
        if isinstance(node, (list, tuple)) and self.below(6):
            parts = list(node)
            action, place = self.below(8), self.below(max(1, len(parts)))
            if action == 0:
                parts = parts[:place]
            elif action == 1:
                parts.insert(place, self.value(1, only_json))
            elif action == 2:
                parts += parts[place:]
            elif parts:
                parts[place] = self.edited(parts[place], only_json)
            return parts if isinstance(node, list) or self.below(8) == 0 else tuple(parts)
        if isinstance(node, torch.Tensor) and self.below(6):
            return self._edited_tensor(node)
        if isinstance(node, int) and not isinstance(node, bool) and self.below(2):
            return node + self.choice([1, -1, 2, -2, node, 16])
        return self.value(1, only_json)

    def _edited_tensor(self, tensor: torch.Tensor) -> Any:
        action = self.below(8)
        if not is_plain(tensor) or tensor.numel() > 1 << 16:
            return self.value(1)
        flat = tensor.clone().reshape(-1)
        if action <= 2 and len(flat):
            place = self.below(min(len(flat), 1 << 16))
            if tensor.dtype == torch.bool:
                flat[place] = ~flat[place]
            elif tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                flat[place] = self.choice(FLOATS)
            else:
                limits = torch.iinfo(tensor.dtype)
                flat[place] = min(max(self.integer(), limits.min), limits.max, 2**63 - 1)  # torch sets no larger one
            return flat.view(tensor.shape)
        if action == 3:
            return tensor.to(self.choice(DTYPES))
        if action == 4 and tensor.ndim:
            turned = tensor.T if tensor.ndim == 2 else tensor[None]
            return self.choice([tensor[:0], tensor[:1], tensor[..., :0], turned])
        if action == 5:
            return torch.cat([flat, flat]) if tensor.ndim < 2 else torch.cat([tensor.clone(), tensor.clone()])
        if action == 6:
            return flat if self.below(2) or not len(flat) else flat[:1].expand(self.choice([0, 3, 2**20, 2**40]), 8)
        return self.odd(tensor)


class WithDLPack:
    """An object of another library: it has nothing but DLPack. Its memory may begin at any address."""

    def __init__(
        self, tensor: torch.Tensor, shift: int = 0, byte_offset: int = 0, bits: int = 0, lanes: int = 1, claims: int = 0
    ) -> None:
        """claims: number of rows that it says to have, all of them the first one."""
        flat, shape = tensor.contiguous().reshape(-1), list(tensor.shape)
        content = bytes(flat.view(torch.uint8).numpy()) if len(flat) else b""
        self._memory = bytearray(shift + byte_offset) + content + bytearray(16)
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        if claims:
            shape[0], strides[0] = claims, 0
        self._shape, self._strides = ((ctypes.c_int64 * max(1, len(shape)))(*part) for part in (shape, strides))
        kind = 2 if tensor.dtype.is_floating_point else 0
        other_kinds = {torch.uint8: 1, torch.uint64: 1, torch.bfloat16: 4, torch.complex64: 5, torch.bool: 6}
        self._borrowed = (ctypes.c_char * len(self._memory)).from_buffer(self._memory)
        self._managed = _Managed(
            _DLTensor(
                data=ctypes.addressof(self._borrowed) + shift,
                device_type=1,
                ndim=len(shape),
                code=other_kinds.get(tensor.dtype, kind),
                bits=bits or 8 * tensor.element_size(),
                lanes=lanes,
                shape=self._shape,
                strides=self._strides if shift or claims else None,
                byte_offset=byte_offset,
            )
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: Any) -> Any:
        _KEPT.append(self)
        del _KEPT[:-64]
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_KEPT: list[WithDLPack] = []  # torch borrows their memory, and these capsules have no deleter
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Failing:
    """An object whose DLPack raises."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("busy")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _numpy(tensor: torch.Tensor) -> Any:
    return tensor.numpy() if tensor.dtype not in (torch.bfloat16, torch.float8_e4m3fn) else tensor


def _read_only(tensor: torch.Tensor) -> Any:
    array = _numpy(tensor.clone())
    if isinstance(array, np.ndarray):
        array.flags.writeable = False
    return array


def _reversed(tensor: torch.Tensor) -> Any:
    array = _numpy(tensor)
    return array[::-1].copy()[::-1] if isinstance(array, np.ndarray) and array.ndim else array


def _big_endian(tensor: torch.Tensor) -> Any:
    array = _numpy(tensor)
    return array.astype(array.dtype.newbyteorder(">")) if isinstance(array, np.ndarray) else array


def _misaligned_array(tensor: torch.Tensor) -> Any:
    array = _numpy(tensor.contiguous())
    if not isinstance(array, np.ndarray):
        return array
    return np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


def _misaligned_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():
        return tensor
    memory = bytearray(1) + bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.frombuffer(memory, dtype=tensor.dtype, offset=1, count=tensor.numel()).view(tensor.shape)


def _negated_lazily(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    result = tensor.clone()
    result.untyped_storage().resize_(0)
    return result


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor with memory of its own for each element."""
    if type(value) is not torch.Tensor or value.layout != torch.strided or value.is_nested or value.is_quantized:
        return False
    return value.device.type == "cpu" and value.nbytes <= value.untyped_storage().nbytes()


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    wide = tensor.new_zeros(*(2 * size + 1 for size in tensor.shape))
    part = wide[tuple(slice(1, None, 2) for _ in tensor.shape)]
    return part.copy_(tensor)


class _Subclass(torch.Tensor):
    pass


ODD: list[Callable[[torch.Tensor], Any]] = [
    _numpy,
    _read_only,
    _reversed,
    _big_endian,
    _misaligned_array,
    _misaligned_tensor,
    _negated_lazily,
    _strided,
    lambda tensor: np.asfortranarray(_numpy(tensor)) if isinstance(_numpy(tensor), np.ndarray) else tensor,
    lambda tensor: tensor.tolist(),
    lambda tensor: memoryview(_numpy(tensor)) if isinstance(_numpy(tensor), np.ndarray) else tensor,
    WithDLPack,
    lambda tensor: WithDLPack(tensor, shift=1),
    lambda tensor: WithDLPack(tensor, byte_offset=64),
    lambda tensor: WithDLPack(tensor, bits=24),
    lambda tensor: WithDLPack(tensor, lanes=2),
    lambda tensor: tensor.as_subclass(_Subclass),
    lambda tensor: torch.nn.Parameter(tensor) if tensor.dtype.is_floating_point else tensor,
]
BROKEN: list[Callable[[torch.Tensor], Any]] = [
    _without_memory,
    lambda tensor: Failing(),
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.to_sparse() if tensor.ndim and tensor.dtype != torch.float8_e4m3fn else tensor,
    lambda tensor: tensor[:1].expand(2**31 + 7, *tensor.shape[1:]) if tensor.ndim and len(tensor) else tensor,
    lambda tensor: torch.quantize_per_tensor(tensor.float(), 1.0, 0, torch.qint8),
    lambda tensor: torch.nested.nested_tensor([tensor, tensor]) if tensor.ndim else tensor,
    lambda tensor: WithDLPack(tensor, claims=2**31 + 7) if tensor.ndim and len(tensor) else tensor,
    lambda tensor: WithDLPack(tensor, claims=2**62) if tensor.ndim and len(tensor) else tensor,
]
