"""Fixtures shared by all tests: every instruction set of the machine, and random inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from batchsampler_ext._backend import core


@pytest.fixture(params=core.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each instruction set."""
    before = core.isa()
    core.use_isa(request.param)
    yield request.param
    core.use_isa(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20231)


@pytest.fixture
def random_table(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """random_table(N, K): int32 [N, K] neighbours with self-loops and repeats; rows of every length unless full."""

    def make(num_rows: int, num_neighbors: int, *, full: bool = False) -> np.ndarray:
        table = rng.integers(0, num_rows, (num_rows, num_neighbors)).astype(np.int32)
        if not full:
            for row, degree in enumerate(rng.integers(0, num_neighbors + 1, num_rows)):
                table[row, degree:] = -1
        return table

    return make
