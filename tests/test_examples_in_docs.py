"""The examples in the docstrings of the public functions run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from batchsampler_ext import batches, build, graph, metrics, walk


@pytest.mark.parametrize("module", [batches, build, graph, metrics, walk], ids=lambda module: module.__name__)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_readme_example_runs_as_it_stands(capsys):
    readme = Path(__file__).parents[1] / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(code, {})
    assert -0.1 < float(capsys.readouterr().out) < 1
