"""examples/demo.py runs at a tiny size, and its conclusion follows from its numbers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = spec_from_file_location("demo", DEMO)
    module = module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


def test_demo_prints_a_line_per_seed_and_writes_a_figure(tmp_path):
    figure = tmp_path / "demo.png"
    arguments = ["--seeds", "2", "--epochs", "2", "--max-pairs", "600", "--figure", str(figure)]
    done = subprocess.run([sys.executable, DEMO, *arguments], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if len(row) == 4 and row[0] in ("0", "1", "mean")] == ["0", "1", "mean"]
    assert "Hard batches" in done.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1.0, 1.2, 1.1], "Hard batches gained +1.10 points of recall@1 (95% interval +0.85 to +1.35)"),
        ([-1.0, -1.2, -1.1], "Hard batches did harm here: -1.10 points"),
        ([-1.0, 1.2, 0.0], "no difference that 3 seeds can show."),
        ([1.0], "One seed says nothing about chance."),
    ],
)
def test_conclusion_follows_from_the_numbers(demo, differences, expected):
    assert expected in demo.conclusion(differences)


def test_docstring_becomes_the_query_and_leaves_the_code(demo, tmp_path):
    file = tmp_path / "module.py"
    file.write_text('def f(x):\n    """Says it.\n\n    More."""\n    return x + 1\n\n\ndef g():\n    pass\n')
    assert list(demo.documented_functions(file)) == [("Says it.", "def f(x):\n    return x + 1")]


def test_identifiers_are_split_into_words(demo):
    assert demo.split_words("def readHTTPHeader_line2") == ["def", "read", "http", "header", "line", "2"]


def test_uniform_and_hard_batches_train(demo):
    train_pairs, test_pairs = demo.load_pairs(300, demo.Progress())
    for planner in ("uniform", "hard"):
        recall = demo.train(train_pairs, train_pairs, planner, seed=0, num_epochs=4, progress=demo.Progress())
        assert recall > 500 / len(train_pairs.queries)
    assert len(test_pairs.queries)
