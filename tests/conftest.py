"""Fixtures shared by all tests: every instruction set of the machine, and random inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from batchsampler_ext._engine import backend as _backend
from batchsampler_ext._engine.backend import core
from batchsampler_ext._engine.cuda import CudaEngine


@pytest.fixture(params=core.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each instruction set."""
    before = core.isa()
    core.use_isa(request.param)
    yield request.param
    core.use_isa(before)


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def device_engine(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[torch.device]]:
    """``with device_engine() as device``: the CUDA engine computes on tensors of this device.

    The device is a GPU, or it is the CPU with the emulated CUDA engine in the place of the CPU engine.
    """
    if request.param == "cuda":
        return cuda_device
    pytest.importorskip("batchsampler_ext._cuda_emulated", reason="built without BSE_EMULATED_CUDA")
    return emulated_device


@contextmanager
def cuda_device() -> Iterator[torch.device]:
    yield torch.device("cuda", torch.cuda.current_device())


@contextmanager
def emulated_device() -> Iterator[torch.device]:
    from batchsampler_ext import _cuda_emulated

    before = _backend._engines["cpu"]
    _backend._engines["cpu"] = lambda device: CudaEngine(_cuda_emulated, device)
    try:
        yield torch.device("cpu")
    finally:
        _backend._engines["cpu"] = before


@pytest.fixture
def no_host_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """``with no_host_reads():`` reading a tensor on the host is an error, also on an emulated device. On a GPU,
    waiting in other ways is an error too."""

    @contextmanager
    def forbidden() -> Iterator[None]:
        def refuse(*_: object) -> None:
            raise AssertionError("waits for the device")

        with monkeypatch.context() as patch:
            for name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, refuse)
            with waiting_is_an_error():
                yield

    return forbidden


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Makes torch raise where it waits for a GPU. Without a GPU, does nothing."""
    if not torch.cuda.is_available():
        yield
        return
    try:
        torch.cuda.set_sync_debug_mode("error")  # in the block, as it may warn after it has set the mode
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def no_waiting() -> Callable[[], AbstractContextManager[None]]:
    """``with no_waiting():`` waiting for a GPU is an error."""
    return waiting_is_an_error


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests that need a GPU where there is none, or fails them if BSE_REQUIRE_CUDA=1."""
    if item.get_closest_marker("needs_cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("BSE_REQUIRE_CUDA") == "1":
        pytest.fail("BSE_REQUIRE_CUDA=1, but torch finds no CUDA device")
    pytest.skip("needs a CUDA device")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20231)


@pytest.fixture
def random_table(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """random_table(N, K): int32 [N, K] neighbors with self-loops and repeats; rows of every length unless full."""

    def make(num_rows: int, num_neighbors: int, *, full: bool = False) -> np.ndarray:
        table = rng.integers(0, num_rows, (num_rows, num_neighbors)).astype(np.int32)
        if not full:
            for row, degree in enumerate(rng.integers(0, num_neighbors + 1, num_rows)):
                table[row, degree:] = -1
        return table

    return make
