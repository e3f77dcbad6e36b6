"""The examples in the docstrings of the public functions run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

from batchsampler_ext import bank, batches, build, graph, metrics, sampler, walk


@pytest.mark.parametrize(
    "module", [bank, batches, build, graph, metrics, sampler, walk], ids=lambda module: module.__name__
)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_readme_examples_run_as_they_stand(capsys):
    readme = Path(__file__).parents[2] / "README.md"
    loop, kernels = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    torch.manual_seed(0)
    exec(loop, {})
    stats = eval(capsys.readouterr().out, {"nan": float("nan")})
    assert stats["uncovered_share"] == 16 / 1984  # what drop_last had left out of the first epoch
    assert stats["in_batch_similarity"] > 0.02  # uniform batches: 0.00
    exec(kernels, {})
    assert -0.1 < float(capsys.readouterr().out) < 1
