"""The examples in the docstrings of the public functions run as they stand."""

from __future__ import annotations

import doctest

import pytest

from batchsampler_ext import batches, build, graph, metrics, walk


@pytest.mark.parametrize("module", [batches, build, graph, metrics, walk], ids=lambda module: module.__name__)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
