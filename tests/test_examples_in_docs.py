"""The examples in the docstrings of the public functions run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

from batchsampler_ext import SamplerStats, bank, batches, build, graph, metrics, sampler, walk


@pytest.mark.parametrize(
    "module", [bank, batches, build, graph, metrics, sampler, walk], ids=lambda module: module.__name__
)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_readme_examples_run_as_they_stand(capsys):
    readme = Path(__file__).parents[1] / "README.md"
    loop, kernels = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    torch.manual_seed(0)
    exec(loop, {})
    stats = eval(capsys.readouterr().out, {"nan": float("nan"), "SamplerStats": SamplerStats})
    assert stats.missing_embedding_share == 16 / 1984  # what drop_last had left out of the first epoch
    assert stats.in_batch_similarity > 0.02  # uniform batches: 0.00
    exec(kernels, {})
    assert -0.1 < float(capsys.readouterr().out) < 1


def test_the_planner_of_the_guide_works():
    """Also where rows are a subset, some are left out, and none has an embedding."""
    guide = Path(__file__).parents[1] / "docs" / "adding_a_planner.md"
    (code,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict = {"__name__": "guide"}
    exec(compile(code, "guide", "exec", dont_inherit=True), namespace)
    empty = bank.FeatureBank(90, 4)
    instances = torch.utils.data.SubsetRandomSampler(range(3, 88))
    ours = sampler.ProximityBatchSampler(instances, 8, True, bank=empty, planner=namespace["GreedyPlanner"]())
    for _ in range(2):
        drawn = [i for batch in ours for i in batch]
        assert len(set(drawn)) == len(drawn) == 80
        empty.update(range(90), torch.randn(90, 4))
    state = ours.state_dict()
    other = sampler.ProximityBatchSampler(instances, 8, True, bank=empty, planner=namespace["GreedyPlanner"](3))
    with pytest.raises(ValueError, match="state: expected max_brought 3 as this sampler has, got 8"):
        other.load_state_dict(state)
