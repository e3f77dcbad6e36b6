"""The study with a pretrained encoder: a small version of all its phases, its resumption, its loss and its report.

The encoder is a tiny one without training, so that no test needs a network. Pairs are docstrings of installed packages.
"""

from __future__ import annotations

import importlib
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import batchsampler_ext  # noqa: F401  the installed one, before the root becomes importable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    """study(name): a module of the study."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.learning.pretrained.{name}")


def write_encoder(folder: Path) -> None:
    import tokenizers
    import transformers

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *["the", "a", "of", "to", "array", "graph", "node", "return", "if", "for", "in", "self", "x", "y", "and", "or"],
    ]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder)


def run(*arguments: str, **options) -> str:
    command = [sys.executable, "-m", "benchmarks.learning.pretrained.study", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_small_study_runs_resumes_and_reports(study, tmp_path):
    write_encoder(tmp_path / "data" / "encoder")
    csv = tmp_path / "runs.csv"
    arguments = ("run", "--data", str(tmp_path / "data"), "--profile", "smoke", "--jobs", "2", "--results", str(csv))
    run(*arguments, timeout=200)
    text = csv.read_text()
    rows = study("results").read(csv)
    profile = study("protocol").PROFILES["smoke"]
    for tier in profile.tiers:
        of_tier = [row for row in rows if row.tier == tier.name]
        assert {row.arm for row in of_tier if row.phase == "tune"} == set(tier.arms)
        assert len({row.task() for row in of_tier}) == len(of_tier)
        for phase in study("protocol").PHASES:
            assert not list(study("protocol").pending(profile, tier, phase, rows))
    phases = {tier.name: {row.phase for row in rows if row.tier == tier.name} - {"check"} for tier in profile.tiers}
    assert phases["head"] == phases["static"] == {*study("protocol").PHASES} - {"check"}
    assert phases["encoder"] == {"tune", "headroom", "confirm", "advice"}
    runs = importlib.import_module("benchmarks.learning.tables").groups(rows, lambda row: row.task().run).values()
    assert any(len(equal) > 1 for equal in runs)
    assert all(row.train_seconds == equal[0].train_seconds for equal in runs for row in equal)  # none is run twice
    csv.write_text(text[:-10])  # the last run was interrupted
    run(*arguments, timeout=200)
    assert len(csv.read_text().splitlines()) == len(text.splitlines())
    run("report", "--results", str(csv), "--profile", "smoke", "--folder", str(tmp_path), timeout=60)
    report = (tmp_path / "PRETRAINED_smoke.md").read_text()
    assert report.count("| b3, masked | ") >= 2
    assert "### static, networkx: window" in report
    assert "### encoder, networkx: window" not in report  # its protocol has none


def test_names_of_variants_stand_for_their_batches(study):
    batches = study("batches")
    for start, size, is_masked in itertools.product((0, 10, 30), (1, 8, None, 0), (False, True)):
        expected = batches.Batches("b3", start, size, is_masked)
        assert batches.arm_of(batches.variant(start, size, is_masked)) == expected
    assert batches.variant(30, None, True) == "b3, masked"
    with pytest.raises(ValueError, match="arm: expected"):
        batches.arm_of("b4")


@pytest.mark.parametrize("num_negatives", [0, 3])
@pytest.mark.parametrize("hardness", [0.0, 9.0])
def test_loss_is_that_of_sentence_transformers(study, num_negatives, hardness):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.manual_seed(0)
    queries, documents = torch.randn(6, 5), torch.randn(6, 5)
    negatives = [torch.randn(6, 5) for _ in range(num_negatives)]
    loss = MultipleNegativesRankingLoss(
        torch.nn.Identity(), scale=10.0, hardness_mode="all_negatives" if hardness else None, hardness_strength=hardness
    )
    expected = loss.compute_loss_from_embeddings([queries, documents, *negatives], torch.empty(0))
    unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (queries, torch.cat([documents, *negatives]))]
    torch.testing.assert_close(study("train").contrastive(unit[0] @ unit[1].T, 0.1, hardness, None), expected)


def test_masked_pairs_are_not_in_the_loss(study):
    cosines = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.3, 0.4], [0.0, 0.1, 0.8]])
    mask = ~torch.eye(3, dtype=torch.bool)
    mask[0, 1] = False
    found = study("train").contrastive(cosines, 0.5, 0.0, mask)
    first = torch.nn.functional.cross_entropy(cosines[:1, [0, 2]] / 0.5, torch.tensor([0]))
    others = torch.nn.functional.cross_entropy(cosines[1:] / 0.5, torch.tensor([1, 2]), reduction="sum")
    torch.testing.assert_close(found, (first + others) / 3)


class Given:
    """A model whose embeddings are the texts."""

    def eval(self) -> None: ...

    def embed(self, column, texts, indices):
        return texts[indices]


def test_evaluation_counts_the_best_positive(study):
    # Query 0 ranks document 1 first, and the two are positives of each other. Query 2 ranks its own last of three.
    queries = torch.eye(3)
    documents = torch.tensor([[0.5, 0.0, 0.9], [0.9, 1.0, 0.8], [0.0, 0.0, 0.1]])
    ids = torch.tensor([[7, 0], [7, 1], [8, 2]])
    metrics = study("train").evaluate(Given(), [queries, documents], ids)
    assert metrics == pytest.approx({"mrr_at_10": (1 + 1 + 1 / 3) / 3, "recall_at_1": 2 / 3, "recall_at_10": 1.0})


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_model_that_has_diverged_ranks_last(study, value):
    rows = torch.full((50, 3), value)
    metrics = study("train").evaluate(Given(), [rows, rows], torch.arange(50)[:, None])
    assert metrics == {"mrr_at_10": 0.0, "recall_at_1": 0.0, "recall_at_10": 0.0}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_large_protocols_are_complete_and_reported(study, tmp_path, name):
    """All phases with made-up results, in which each arm has parameters of its own."""
    protocol, results = study("protocol"), study("results")
    profile, generator = protocol.PROFILES[name], random.Random(0)
    rows = []
    for tier in profile.tiers:
        for phase in protocol.PHASES:
            for task in list(protocol.pending(profile, tier, phase, rows)):
                value = generator.uniform(40, 60) if task.run.num_steps else 1.0
                result = {"metrics": dict.fromkeys(("mrr_at_10", "recall_at_1", "recall_at_10"), value / 100)}
                rows.append(results.make_row(task, {**result, "in_batch_similarity": 0.1, "train_seconds": 1.0}))
            assert not list(protocol.pending(profile, tier, phase, rows))
    assert len({row.task() for row in rows}) == len(rows)
    study("report").write(tmp_path, "", rows, profile)
    report = (tmp_path / "PRETRAINED.md").read_text()
    for tier in profile.tiers:
        title = f"### {tier.name}, {tier.confirmed_on[0]}"
        curve = report.split(f"{title}: batch size\n")[1].split("###")[0]
        lines = [line for line in curve.splitlines() if line.startswith("| ")][1:]
        best = protocol.best_parameters(tier, protocol.with_values(rows))
        assert len(lines) == 8 + (best["uniform", "hardness"] != best["uniform", "infonce"])
        assert all(cell.strip() for line in lines for cell in line.split("|")[1:-1])
        assert (f"{title}: window\n" in report) == tier.has_windows
    assert len(list((tmp_path / "figures").iterdir())) == 3


def test_split_shares_no_part_and_no_text(study):
    pairs = study("pairs")
    made = [pairs.Pair(f"q{i % 90}", f"d{i}", f"d{i}", f"p{i % 30}") for i in range(300)]
    train, test = pairs.split(made)
    assert 60 < len(test) <= 75
    assert not {pair.part for pair in train} & {pair.part for pair in test}
    texts = {text for pair in test for text in pair[:2]}
    assert not [pair for pair in train if {*pair[:2]} & texts]
    assert pairs.split(made) == (train, test)


def test_tokens_are_those_of_each_text(study):
    values, starts = torch.tensor([5, 6, 7, 8, 9]), torch.tensor([0, 2, 3, 5])
    tokens = study("features").Tokens(values, starts)
    ids, offsets = tokens.bags(torch.tensor([2, 0]))
    assert (ids.tolist(), offsets.tolist()) == ([8, 9, 5, 6], [0, 2])
    ids, mask = tokens.padded(torch.tensor([1, 2]))
    assert (ids.tolist(), mask.tolist()) == ([[7, 0], [8, 9]], [[1, 0], [1, 1]])


def test_committed_results_are_of_the_present_protocol(study):
    """Each recorded run is one that the protocol asks for, given the runs of earlier phases."""
    protocol, results = study("protocol"), study("results")
    rows = results.read(results.RESULTS["cpu"])
    assert rows
    profile = protocol.PROFILES["cpu"]
    done = protocol.with_values(rows)
    assert len({task for task, _ in done}) == len(done)
    for tier in profile.tiers:
        for phase in protocol.PHASES:
            recorded = {task for task, _ in done if (task.phase, task.run.tier) == (phase, tier.name)}
            assert not recorded or recorded <= set(protocol.tasks(profile, tier, phase, done))
