"""Every block of code in README, docs/, examples/ and benchmarks/ runs as it stands, and so do examples in docstrings.

Blocks of a section run in order, in one folder, and share their names. A block of ``text`` is what the command before
it prints. Where a command reads arrays that no block has written, some are made.
"""

from __future__ import annotations

import doctest
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import batchsampler_ext
from batchsampler_ext import bank, sampler
from batchsampler_ext.cli import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [p for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "benchmarks/*.md") for p in ROOT.glob(pattern)]
NAMES = sorted(str(path.relative_to(ROOT)) for path in DOCUMENTS)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:python -m batchsampler_ext|batchsampler-ext) [^`]+)`")

WHOLE = ["docs/start.md", "docs/compose.md"]  # pages that are one section

# Pages whose blocks another test runs, with a model, a dataset or a device that it makes
RUN_BY = {
    "docs/frameworks/accelerate.md": "tests/python/test_accelerate.py",
    "docs/frameworks/fabric.md": "tests/python/test_lightning.py",
    "docs/frameworks/lightning.md": "tests/python/test_lightning.py",
    "docs/frameworks/metric_learning.md": "tests/python/test_metric_learning.py",
    "docs/frameworks/pyg.md": "tests/python/test_pyg.py",
    "docs/frameworks/sentence_transformers.md": "tests/python/test_sentence_transformers.py",
    "docs/frameworks/torch.md": "tests/python/test_torch_loops.py",
    "docs/frameworks/transformers.md": "tests/python/test_transformers.py",
    "docs/gpu.md": "tests/cuda/test_cuda_compose.py",
}
# Commands that do not run here, and why
NOT_RUN = {
    "pip install ": "needs a network or a compiler; .ci/run installs the package by make",
    "batchsampler-ext bench --num-instances 1280000 ": "takes too long; test_cli.py runs smaller sizes",
    "python -m batchsampler_ext bench": "likewise",
    "python examples/": "test_examples.py runs the programs, on made data",
    "tests/tools/build_release.sh ": "builds wheels; make wheel, a part of make nightly, runs it",
    "tests/tools/test_installed.sh ": "likewise",
    "make bench charts": "takes ten minutes on a quiet machine",
    "cp build/benchmarks/": "copies what that has made",
    ".venv/bin/python -m benchmarks.report": "test_benchmarks.py compares the page with its files",
}


class Block(NamedTuple):
    language: str
    code: str


def sections_of(name: str) -> dict[str, list[Block]]:
    """Returns the blocks of each section that has any."""
    text = (ROOT / name).read_text(encoding="utf-8")
    sections = [text] if name in WHOLE else re.split(r"^## ", text, flags=re.MULTILINE)
    blocks = {text.split("\n")[0]: [Block(*found) for found in FENCE.findall(text)] for text in sections}
    return {title: found for title, found in blocks.items() if any(block.language for block in found)}


SECTIONS = [(name, title) for name in NAMES if name not in RUN_BY for title in sections_of(name)]


def run_command(line: str, capsys: Any) -> str | None:
    """Runs a line of a shell and returns what it prints. None: it is not run."""
    line = line.partition(" #")[0].strip()
    if not line or any(line.startswith(start) for start in NOT_RUN):
        return None
    command = shlex.split(line.removeprefix("python -m batchsampler_ext").removeprefix("batchsampler-ext"))
    assert shlex.split(line)[0] in ("python", "batchsampler-ext"), f"nothing runs {line}"
    if "faiss" in command:
        pytest.importorskip("faiss", reason="of the extra 'faiss'")
    inputs = command[: command.index("--out")] if "--out" in command else command
    for name in [word for word in inputs if word.endswith(".npy") and not Path(word).exists()]:
        is_labels = name.lower() in ("y.npy", "labels.npy")
        generator = torch.Generator().manual_seed(0)
        np.save(name, np.arange(2000) % 50 if is_labels else torch.randn(2000, 16, generator=generator).numpy())
    if "--texts" in inputs:
        pair = json.dumps({"query": "a text", "document": "another one"})
        Path(inputs[inputs.index("--texts") + 1]).write_text(f"{pair}\n" * 2000)
    capsys.readouterr()
    assert main(command) == 0, line
    if "--out" in command:
        assert Path(command[command.index("--out") + 1]).exists()
    return capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with torch 2.13
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed")  # lightning
@pytest.mark.parametrize(("name", "title"), SECTIONS, ids=lambda part: part.removesuffix(".md"))
def test_blocks_run(name, title, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {"__name__": "page"}
    printed = ""
    for language, code in sections_of(name)[title]:
        if language == "python":
            exec(compile(code, name, "exec", dont_inherit=True), names)
        elif language == "sh":
            printed = "".join(run_command(line, capsys) or "" for line in code.splitlines())
        elif language == "text":
            lines = [line.rstrip() for line in printed.splitlines()]
            assert [line for line in code.splitlines() if line not in lines] == []
        else:
            assert not language, f"nothing runs blocks of {language}"
    if name == "README.md" and title == "Use":
        stats = names["sampler"].stats()
        assert stats.missing_embedding_share == 16 / 1984  # instances that drop_last left out of the first epoch
        assert stats.in_batch_similarity > 0.02  # uniform batches: 0.00


@pytest.mark.parametrize("name", [name for name in NAMES if INLINE.search((ROOT / name).read_text(encoding="utf-8"))])
def test_commands_in_sentences_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in INLINE.findall((ROOT / name).read_text(encoding="utf-8")):
        run_command(line, capsys)


@pytest.mark.parametrize("name", RUN_BY)
def test_another_test_runs_the_page(name):
    assert Path(name).name in (ROOT / RUN_BY[name]).read_text(encoding="utf-8")
    assert {block.language for blocks in sections_of(name).values() for block in blocks} == {"python"}


@pytest.mark.parametrize("start", NOT_RUN)
def test_commands_that_do_not_run_are_in_a_document(start):
    assert any(start in path.read_text(encoding="utf-8") for path in DOCUMENTS)


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "batchsampler_ext").rglob("*.py"))
    if re.search(r"^ *>>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
]


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed")  # lightning
@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    framework = re.fullmatch(r"batchsampler_ext\.integrations\.(\w+)", module)
    if framework is not None:
        pytest.importorskip({"pyg": "torch_geometric"}.get(framework[1], framework[1]))
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = {f"batchsampler_ext.{name}" for name in batchsampler_ext.__all__}
    for path in (ROOT / "batchsampler_ext" / "integrations").glob("[a-z]*.py"):
        (listed,) = re.findall(r"^__all__ = \[([^]]*)\]", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        names |= {f"batchsampler_ext.integrations.{path.stem}.{name}" for name in re.findall(r'"(\w+)"', listed)}
    documented = re.findall(r"^::: ([\w.]+)$", page, flags=re.MULTILINE)
    assert sorted(documented) == sorted(names)


@pytest.mark.parametrize("name", NAMES)
def test_links_in_documents_lead_to_files(name):
    path = ROOT / name
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    absent = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert absent == []


def test_planner_of_the_guide_works():
    """It also works on a subset, with drop_last, and while no instance has an embedding."""
    ((block,),) = sections_of("docs/adding_a_planner.md").values()
    namespace: dict = {"__name__": "guide"}
    exec(compile(block.code, "guide", "exec", dont_inherit=True), namespace)
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
