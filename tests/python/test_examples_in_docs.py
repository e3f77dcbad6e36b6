"""The examples in docstrings, README and the guide run as they stand."""

from __future__ import annotations

import doctest
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from batchsampler_ext import bank, batches, graph, metrics, plan, planned_sampler, sampler, walk
from batchsampler_ext import graph_builders as build
from batchsampler_ext.cli import main

ROOT = Path(__file__).parents[2]


CODE = r"```python\n(.*?)```"


def python_blocks(path: str) -> list[str]:
    return re.findall(CODE, (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize(
    "module",
    [bank, batches, build, graph, metrics, plan, planned_sampler, sampler, walk],
    ids=lambda module: module.__name__,
)
def test_docstring_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_readme_example_composes_hard_batches():
    (loop,) = python_blocks("README.md")
    torch.manual_seed(0)
    names: dict = {}
    exec(loop, names)
    stats = names["sampler"].stats()
    assert stats.missing_embedding_share == 16 / 1984  # instances that drop_last left out of the first epoch
    assert stats.in_batch_similarity > 0.02  # uniform batches: 0.00


def sections_with_code(path: str) -> dict[str, list[str]]:
    """Returns the blocks of each section that has any. Later blocks of a section use names of earlier ones."""
    sections = re.split(r"^## ", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = {text.split("\n")[0]: re.findall(CODE, text, flags=re.DOTALL) for text in sections}
    return {title: found for title, found in blocks.items() if found}


GUIDE = sections_with_code("docs/guide.md")


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with torch 2.13
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed")  # lightning
@pytest.mark.parametrize("section", GUIDE)
def test_guide_examples_run(section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {"__name__": "guide"}
    for block in GUIDE[section]:
        for framework in re.findall(r"^(?:import|from) (accelerate|lightning|torchdata|transformers)", block, re.M):
            pytest.importorskip(framework)
        exec(block, names)


@pytest.mark.parametrize("path", ["README.md", "docs/guide.md"])
def test_commands_of_documents_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    text = (ROOT / path).read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"python -m batchsampler_ext ([^`\n]*)", text)]
    assert "compose" in [command[0] for command in commands]
    for command in commands:
        inputs = command[: command.index("--out")] if "--out" in command else command
        for name in [word for word in inputs if word.endswith(".npy")]:
            is_labels = "labels" in name.lower()
            np.save(name, np.arange(2000) % 50 if is_labels else torch.randn(2000, 16, generator=generator).numpy())
        if "--texts" in inputs:
            texts = json.dumps({"query": "q", "document": "d"})
            Path(inputs[inputs.index("--texts") + 1]).write_text(f"{texts}\n" * 2000)
        assert main(command) == 0, command
        if "--out" in command:
            assert Path(command[-1]).exists()


DOCUMENTS = [p for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "benchmarks/*.md") for p in ROOT.glob(pattern)]


@pytest.mark.parametrize("path", sorted(DOCUMENTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_documents_lead_to_files(path):
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    absent = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert absent == []


def test_planner_of_the_guide_works():
    """It also works on a subset, with drop_last, and while no instance has an embedding."""
    guide = Path(__file__).parents[2] / "docs" / "adding_a_planner.md"
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
