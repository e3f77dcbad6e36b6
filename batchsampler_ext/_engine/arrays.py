"""Arrays as the kernels see them: borrowed addresses of torch tensors, NumPy arrays, memmaps and DLPack objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .backend import require_engine
from .cuda import to_device_async
from .requests import MatrixLayout

TORCH_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_CPU = torch.device("cpu")
VALUES_AT_ONCE = 1 << 22  # that are converted or checked, between which Ctrl-C is answered
_NUMPY_DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}  # bfloat16: the ml_dtypes package


@dataclass(frozen=True)
class Matrix:
    """A [num_rows, dim] matrix of features on ``device``. ``owner`` keeps the memory alive."""

    owner: Any
    device: torch.device
    address: int
    dtype_code: int
    num_rows: int
    dim: int
    row_stride: int

    def describe(self, compute_dtype: torch.dtype) -> MatrixLayout:
        """Returns the layout that engines take."""
        round_to_bf16 = compute_dtype == torch.bfloat16 and self.dtype_code != TORCH_DTYPES[torch.bfloat16]
        return MatrixLayout(self.address, self.dtype_code, self.num_rows, self.dim, self.row_stride, round_to_bf16)

    def row_bits(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the bits of rows as int16 or int32 [len(ids), dim] on ``device``. ids: int64, on ``device``."""
        if isinstance(self.owner, torch.Tensor):
            rows = self.owner.index_select(0, ids)
            return rows.view(torch.int16 if rows.element_size() == 2 else torch.int32)
        copied = np.ascontiguousarray(self.owner[ids.numpy()])
        return torch.from_numpy(copied.view(f"int{8 * copied.itemsize}"))


def as_matrix(value: Any, name: str) -> Matrix:
    """Returns ``value`` without a copy if its rows are contiguous, otherwise a copy with contiguous rows.

    Raises:
        TypeError: not an array, or not float32, bfloat16 or float16.
        ValueError: not two-dimensional, empty, on a device without an engine, or 2**31 rows or more.
    """
    array = _as_array(value, name)
    if isinstance(array, torch.Tensor):
        code = TORCH_DTYPES.get(array.dtype)
        require_engine(array.device, name)
    else:
        code = _NUMPY_DTYPES.get(array.dtype.name) if array.dtype.isnative else None
    if code is None:
        raise TypeError(f"{name}: expected float32, bfloat16 or float16, got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name}: expected a matrix [N, D], got shape {list(array.shape)}")
    num_rows, dim = array.shape
    if num_rows == 0 or dim == 0:
        raise ValueError(f"{name}: expected at least one row and one column, got shape {list(array.shape)}")
    if num_rows >= 2**31:
        raise ValueError(f"{name}: expected fewer than 2**31 rows (ids are int32), got {num_rows}")
    if isinstance(array, torch.Tensor):
        if dim > 1 and array.stride(1) != 1:
            array = array.contiguous()
        array = aligned(array)
        return Matrix(array, array.device, array.data_ptr(), code, num_rows, dim, array.stride(0))
    item = array.dtype.itemsize
    if (dim > 1 and array.strides[1] != item) or array.strides[0] % item or not array.flags.aligned:
        array = contiguous(array)
    address = array.__array_interface__["data"][0]
    return Matrix(array, _CPU, address, code, num_rows, dim, array.strides[0] // item)


def _as_array(value: Any, name: str) -> torch.Tensor | np.ndarray:
    if isinstance(value, torch.Tensor):
        return dense(value, name)
    if isinstance(value, np.ndarray):  # before DLPack, which refuses read-only arrays
        require_unmasked(value, name)
        return value
    try:
        array = torch.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(memoryview(value))
    except Exception as error:  # of other libraries, which raise many types
        kind = "a tensor or an array (DLPack or buffer protocol)"
        raise TypeError(f"{name}: expected {kind}, got {type(value).__name__} ({error!s:.200})") from None
    return dense(array, name) if isinstance(array, torch.Tensor) else array


def dense(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Returns a detached tensor whose memory holds its elements as they are. It may have any strides.

    Raises:
        TypeError: it is sparse, nested or quantized.
        ValueError: it has no memory of its own: it is on the device "meta", FSDP has freed it, or it is a ``DTensor``.
    """
    require_dense(tensor, name)
    if tensor.is_meta:
        require_engine(tensor.device, name)
    tensor = tensor.detach()
    if tensor.is_neg() or tensor.is_conj():
        tensor = tensor.resolve_neg().resolve_conj()
    if tensor.numel() and not _has_memory(tensor):
        raise ValueError(
            f"{name}: expected a tensor with memory for its elements, got one whose memory was freed or belongs to "
            f"other tensors (type {type(tensor).__name__})"
        )
    return tensor


def require_dense(tensor: torch.Tensor, name: str) -> None:
    """Raises ``TypeError`` for a tensor that is sparse, nested or quantized."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        found = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else str(tensor.layout)
        raise TypeError(f"{name}: expected a dense tensor, got a tensor that is {found}")


def on_host(value: Any, name: str) -> Any:
    """Returns a tensor on the CPU, whose checks then need no device. Other values stay as they are."""
    return dense(value, name).cpu() if isinstance(value, torch.Tensor) else value


def require_unmasked(value: Any, name: str) -> None:
    """Raises ``ValueError`` for a NumPy array with a mask, whose masked values would count like the others."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name}: expected no masked values, got {np.ma.count_masked(value)} of {value.size}. Leave them out, or "
            "give them values by filled()"
        )


def _has_memory(tensor: torch.Tensor) -> bool:
    last = tensor.numel() - 1
    if not tensor.is_contiguous():
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
    try:
        return tensor.untyped_storage().nbytes() >= needed and tensor.data_ptr() != 0
    except RuntimeError:  # of a kind of tensor that stands for others, such as those of torch.compile and torch.func
        return False


def contiguous(array: np.ndarray) -> np.ndarray:
    """Returns the array, or a copy if its elements are not in order, side by side and at multiples of their size.

    NumPy's own functions keep arrays that are not aligned, and negative strides of one element, which torch refuses.
    """
    is_plain = array.flags.c_contiguous and array.flags.aligned and min(array.strides, default=0) >= 0
    return array if is_plain else np.array(array, order="C")


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor, or a copy if its elements do not begin at multiples of their size, as kernels want."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def as_floats(value: Any, name: str) -> torch.Tensor:
    """Returns a floating point tensor as it is, and a NumPy array as a float32 tensor on the CPU.

    Raises:
        TypeError: another type or dtype.
    """
    if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
        return dense(value, name)
    if isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16"):
        require_unmasked(value, name)
        result = np.empty(value.shape, np.float32)
        num_parts = 1 + value.size // VALUES_AT_ONCE
        sources, targets = (np.array_split(np.atleast_1d(array), num_parts) for array in (value, result))
        with np.errstate(over="ignore"):  # infinity is reported later, with its instance
            for source, target in zip(sources, targets, strict=True):
                target[...] = source
        return torch.from_numpy(result)
    given = getattr(value, "dtype", None)
    found = type(value).__name__ if given is None else f"{type(value).__name__} of {given}"
    raise TypeError(f"{name}: expected a floating point tensor or NumPy array, got {found}")


def as_ids(value: Any, name: str, low: int, high: int, device: torch.device = _CPU) -> torch.Tensor:
    """Returns a one-dimensional int64 tensor on ``device``. Its values are in [low, high)."""
    ids = as_integers(value, name, device)
    if len(ids):
        smallest, largest = int(ids.min()), int(ids.max())
        if smallest < low or largest >= high:
            raise out_of_range(name, low, high, smallest if smallest < low else largest)
    return ids


def out_of_range(name: str, low: int, high: int, wrong: int) -> ValueError:
    return ValueError(f"{name}: expected values in [{low}, {high}), got {wrong}")


def as_integers(value: Any, name: str, device: torch.device = _CPU) -> torch.Tensor:
    """Returns a one-dimensional int64 tensor on ``device``. Tensors must be there already, other arrays are copied."""
    if not isinstance(value, torch.Tensor):
        array = as_int64(value, name, "a one-dimensional array of integers")
        value = to_device_async(torch.from_numpy(array), device)
    require_device(value.device, name, device)
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {value.dtype}")
    value = dense(value, name)
    if value.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {list(value.shape)}")
    require_countable(value, name)
    if value.dtype == torch.uint64:
        return to_device_async(torch.from_numpy(as_int64(value, name)), device)
    return aligned(value.to(torch.int64).contiguous())


def as_int64(value: Any, name: str, kind: str = "an array of integers") -> np.ndarray:
    """Returns a tensor, array or nested list of integers as a contiguous int64 array. Without elements, of any dtype.

    Tensors are copied to the CPU.

    Raises:
        TypeError, ValueError: no integers, no rectangle, or a value of 2**63 or more.
    """
    if isinstance(value, torch.Tensor):
        value = dense(value, name)
        require_countable(value, name)
        if value.dtype.is_floating_point and value.numel():
            raise TypeError(f"{name}: expected integers, got {value.dtype}")
        value = value.cpu().to(torch.int64 if value.numel() == 0 else value.dtype).numpy()
    if isinstance(value, range):  # NumPy makes a list of it
        require_countable(value, name)
    for part in value if isinstance(value, (list, tuple)) else (value,):
        require_unmasked(part, name)
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected {kind} ({error})") from None
    except Exception as error:  # of what a list holds
        raise TypeError(f"{name}: expected {kind} ({error!s:.200})") from None
    require_countable(array, name)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and int(array.max()) >= 2**63:
        raise ValueError(f"{name}: expected integers below 2**63, got {int(array.max())}")
    return np.array(array, np.int64, order="C")


def require_countable(value: torch.Tensor | np.ndarray | range, name: str) -> None:
    """Raises ``ValueError`` for more rows than there are ids.

    A tensor or array may repeat a row without memory for it, but a copy has it. The numbers of a range are below 2**63.
    """
    if isinstance(value, range):
        if value[2**31 - 1 :] or (value and not all(-(2**63) <= end < 2**63 for end in (value[0], value[-1]))):
            raise ValueError(f"{name}: expected fewer than 2**31 integers below 2**63, got {value}")
    elif value.ndim and value.shape[0] >= 2**31:  # quicker than len
        raise ValueError(f"{name}: expected fewer than 2**31 rows, got {value.shape[0]}")


def require_device(device: torch.device, name: str, expected: torch.device) -> None:
    """Raises ``ValueError`` for another device, because nothing is copied between devices silently."""
    if device != expected:
        kind = "a CPU tensor" if expected.type == "cpu" else f"a tensor on {str(expected)!r}"
        raise ValueError(f"{name}: expected {kind}, got device {str(device)!r}")


def repeated(name: str, wrong: int) -> ValueError:
    return ValueError(f"{name}: expected distinct ids, got {wrong} more than once")


def address(array: torch.Tensor | None) -> int:
    """Returns the address that kernels read or write; 0 for None."""
    return 0 if array is None else array.data_ptr()
