"""A pretended GPU: tensors of the CPU that count as tensors of a CUDA device. So mistakes show without a GPU.

On a GPU, an operation on tensors of two devices is an error, and reading a value makes the host wait. Neither shows if
all tensors are on the CPU. Here some of them say that they are on "cuda:0". The emulated CUDA engine computes on them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FrameType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from batchsampler_ext._engine import backend
from batchsampler_ext._engine.cuda import CudaEngine

GPU = torch.device("cuda", 0)
T = torch.Tensor

# What returns a number, a list or a tensor of a size that depends on values. The host waits for it.
WAITING = {
    *(T.item, T.tolist, T.__bool__, T.__int__, T.__float__, T.__index__, T.__contains__, T.nonzero, T.unique),
    *(T.masked_select, T.bincount, T.equal, T.repeat_interleave, torch.nonzero, torch.argwhere, torch.unique),
    *(torch.masked_select, torch.bincount, torch.equal, torch.repeat_interleave, torch.allclose),
}
REFUSED = {T.numpy, T.__array__}
COPIES = {T.to, T.cpu, T.cuda, T.copy_}


class PretendedGpu(TorchFunctionMode):
    """While it is active, tensors made on "cuda" are on the pretended GPU. So are results of operations on them.

    Attributes:
        waits: how often each function of the package has made the host wait, by module and name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(_tensors(args[:1] if func is T.__deepcopy__ else (args, kwargs)))
        is_ours = any(map(_is_ours, tensors))
        if func in (T.device.__get__, T.is_cuda.__get__) and is_ours:
            return GPU if func == T.device.__get__ else True
        if func is T.__iter__ and is_ours:
            return iter([_marked(part) for part in args[0].unbind(0)])
        if is_ours and func in REFUSED:
            raise TypeError(f"{func.__name__}: a tensor on the GPU")
        if is_ours and func is T.__reduce_ex__:
            self._wait()
            return _marked, (args[0].detach().clone(),)
        if func is torch.as_tensor and isinstance(args[0], T):
            func = T.to
        if func in COPIES:
            return self._copy(func, args, kwargs)
        is_pinned = bool(kwargs.pop("pin_memory", False))
        wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if wanted is not None:
            kwargs["device"] = "cpu"
            if wanted.type == "cuda" and func in (torch.tensor, torch.as_tensor):
                self._wait()  # a copy from pageable memory
        if is_ours:
            self._require_one_device(func, tensors)
        if is_ours and (func in WAITING or _selects_by_mask(func, args) or _is_where(func, args, kwargs)):
            self._wait()
        result = func(*args, **kwargs)
        if (is_ours and wanted is None) or (wanted is not None and wanted.type == "cuda"):
            for tensor in _tensors(result):
                _marked(tensor)
        if is_pinned:
            result.is_in_pinned_memory = True
        return result

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs ``to``, ``cpu``, ``cuda`` or ``copy_``. A copy that is not queued, or reaches pageable memory, waits."""
        source, others = args[0], list(args[1:])
        is_queued = kwargs.pop("non_blocking", False)
        if func is T.copy_:
            ends = (source, others[0])
            if _is_ours(ends[0]) != _is_ours(ends[1]) and not (is_queued and any(map(_is_pinned, ends))):
                self._wait()
            return func(source, *others)
        places = [x for x in (*others, kwargs.pop("device", None)) if isinstance(x, torch.device | str)]
        options = [x for x in others if not isinstance(x, torch.device | str)]
        wanted = {T.cpu: "cpu", T.cuda: GPU}.get(func, places[0] if places else None)
        if options and isinstance(options[0], torch.Tensor):
            wanted = GPU if _is_ours(options[0]) else "cpu"
        is_on_gpu = _is_ours(source) if wanted is None else torch.device(wanted).type == "cuda"
        result = source.to(*options, **kwargs) if options or kwargs else source
        if is_on_gpu == _is_ours(source):
            return _marked(result) if is_on_gpu else result
        if not (is_queued and _is_pinned(source)):
            self._wait()
        result = result.detach().clone() if result is source else result
        return _marked(result) if is_on_gpu else result

    def _require_one_device(self, func: Any, tensors: list[torch.Tensor]) -> None:
        """As on a GPU, only single numbers may be on the CPU. A GPU also allows ids of rows there, for a wait."""
        if any(not _is_ours(part) and part.dim() > 0 for part in tensors):
            raise RuntimeError(f"{func.__name__}: expected all tensors to be on one device, got cuda:0 and cpu")

    def _wait(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not frame.f_globals.get("__name__", "").startswith("batchsampler_ext."):
            frame = frame.f_back
        if frame is None:  # a test waits
            return
        self.waits[
            f"{frame.f_globals.get('__name__', '').removeprefix('batchsampler_ext.')}.{frame.f_code.co_name}"
        ] += 1


def _marked(tensor: torch.Tensor) -> torch.Tensor:
    tensor.is_on_pretended_gpu = True  # type: ignore[attr-defined]
    return tensor


class Stream:
    """The only stream. Its work is done at once."""

    cuda_stream = 0

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self.synchronize = wait

    def wait_event(self, event: Any) -> None:
        pass


class Event:
    """As that of torch, it cannot be copied or pickled."""

    def record(self, stream: Any = None) -> None:
        pass

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("cannot pickle 'Event' object")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _is_ours(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "is_on_pretended_gpu", False)


def _is_pinned(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "is_in_pinned_memory", False)


def _selects_by_mask(func: Any, args: Any) -> bool:
    """Whether the operation reads or writes the elements where a mask is set. To set them all to one number is free."""
    if func not in (T.__getitem__, T.__setitem__):
        return False
    has_mask = any(part.dtype in (torch.bool, torch.uint8) and part.dim() > 0 for part in _tensors(args[1]))
    return has_mask and not (func is T.__setitem__ and not isinstance(args[2], torch.Tensor))


def _is_where(func: Any, args: Any, kwargs: Any) -> bool:
    return func in (torch.where, T.where) and len(args) + len(kwargs) == 1


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """The test runs with a pretended GPU."""
    pytest.importorskip("batchsampler_ext._cuda_emulated", reason="built without BSE_EMULATED_CUDA")
    from batchsampler_ext import _cuda_emulated

    gpu = PretendedGpu()
    monkeypatch.setitem(backend._engines, "cuda", lambda device: CudaEngine(_cuda_emulated, device))
    stream = Stream(gpu._wait)
    for name, value in {
        "Event": Event, "current_stream": lambda device=None: stream, "current_device": lambda: 0,
        "device": lambda device: nullcontext(), "is_available": lambda: False,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(T, "record_stream", lambda tensor, stream: None)
    with gpu:
        yield gpu


@pytest.fixture
def device_engine(device_engine: Callable[[], Any], request: pytest.FixtureRequest) -> Callable[[], Any]:
    """The fixture of tests/conftest.py, but the emulated engine computes on the pretended GPU."""
    if device_engine.__name__ != "emulated_device":
        return device_engine
    request.getfixturevalue("pretended_gpu")
    return lambda: nullcontext(GPU)
