"""The programs of examples/ run as documented, resume exactly and measure what they say. Their gains are not tested.

The data are generated. With BSE_DATA=DIR the same programs also run on slices of real data:
DIR/cifar10/{train,test}/CLASS/, DIR/text/{captions,sts}.tsv, DIR/text/sentences.txt, DIR/tu/NAME/raw/.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = ("simclr", "moco_v3", "simcse", "graphcl", "mvgrl", "retrieval")
METRICS = {
    "simclr": {"knn_accuracy", "linear_accuracy"},
    "moco_v3": {"knn_accuracy", "linear_accuracy"},
    "graphcl": {"svm_accuracy"},
    "mvgrl": {"svm_accuracy"},
    "retrieval": {"recall_at_1", "recall_at_5", "mrr"},
}
# transformers, kornia and torch_geometric use what newer versions of torch deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, ModuleType]]:
    """Modules by name, imported with their folder first on the path, as `python examples/NAME.py` does."""
    for package in ("kornia", "tokenizers", "torch_geometric", "tqdm", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: the extra 'examples'")
    before, threads = set(sys.modules), torch.get_num_threads()
    sys.path.insert(0, str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in (*PROGRAMS, "common", "losses", "vision")}
    sys.path.remove(str(EXAMPLES))
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# --- data ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    write_images(root / "cifar10")
    write_texts(root / "text", rng)
    write_graphs(root / "tu", "NCI1", rng)
    return root


def write_images(folder: Path) -> None:
    from PIL import Image

    digits = load_digits()
    for i in range(240):
        place = folder / ("train" if i < 160 else "test") / f"digit{digits.target[i]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * (255 / 16)).astype(np.uint8)).save(place / f"{i}.png")


def write_texts(folder: Path, rng: np.random.Generator) -> None:
    """Writes groups of four sentences that share a subject and an object, and pairs rated by how many they share."""
    folder.mkdir()
    subjects, verbs, objects = (
        [f"{word}{i}" for i in range(12)] for word in ("dog", "sees", "ball")
    )  # fmt: skip

    def sentence(subject: str, thing: str) -> str:
        return f"a {subject} {rng.choice(verbs)} the {thing}"

    groups = [[sentence(a, b) for _ in range(4)] for a in subjects for b in objects]
    (folder / "captions.tsv").write_text("".join("\t".join(group) + "\n" for group in groups), encoding="utf-8")
    lines = sorted({text for group in groups for text in group})
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["dataset\tsplit\tsubset\tscore\tsentence1\tsentence2"]
    for i in range(80):
        (a, b), (c, d) = rng.choice(12, (2, 2))
        texts = sentence(subjects[a], objects[b]), sentence(subjects[c], objects[d])
        rows.append(
            "\t".join([f"SET{i % 2}", "test" if i < 60 else "train", "all", str(int(a == c) + int(b == d)), *texts])
        )
    (folder / "sts.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_graphs(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Writes cycles and stars, with node labels, in the format of TU data sets."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    edges, owners, labels, first = [], [], [], 1
    for graph in range(120):
        size, kind = int(rng.integers(5, 12)), graph % 2
        ends = [(i, (i + 1) % size) for i in range(size)] if kind else [(0, i) for i in range(1, size)]
        edges += [(first + a, first + b) for x, y in ends for a, b in ((x, y), (y, x))]
        owners += [graph + 1] * size
        labels.append(kind)
        first += size
    for suffix, rows in {
        "A": [f"{a}, {b}" for a, b in edges],
        "graph_indicator": owners,
        "graph_labels": labels,
        "node_labels": rng.integers(0, 3, len(owners)),
    }.items():
        (raw / f"{name}_{suffix}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


@pytest.fixture(params=["made", "real"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "made":
        return request.getfixturevalue("made_data")
    if "BSE_DATA" not in os.environ:
        pytest.skip("BSE_DATA names no folder of real data")
    return Path(os.environ["BSE_DATA"])


def arguments(program: str, data: Path) -> list[str]:
    """Arguments of a run that takes about a second."""
    words = {
        "simclr": f"{data}/cifar10 --image-size 16 --width 4 --depth 1 --max-test 60",
        "moco_v3": f"{data}/cifar10 --image-size 16 --width 4 --depth 1 --hidden 32 --max-test 60",
        "simcse": f"{data}/text/sentences.txt --sts {data}/text/sts.tsv --width 32 --layers 1 --vocabulary 400",
        "graphcl": f"{data}/tu NCI1 --width 8",
        "mvgrl": f"{data}/tu NCI1 --width 8 --layers 2",
        "retrieval": f"{data}/text/captions.tsv --width 32 --dim 16 --vocabulary 400 --test-groups 20",
    }[program]
    common = "--max-samples 120 --batch-size 20 --epochs 2 --num-candidates 50 --num-neighbors 10 --refresh-every 4"
    return f"{words} {common} --seed 3 --threads 1 --quiet".split()


# --- runs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sampler", ["uniform", "proximity"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_and_report(programs, data, tmp_path, program, sampler):
    out, log = tmp_path / "result.json", tmp_path / "log.jsonl"
    command = [*arguments(program, data), "--sampler", sampler, "--eval-every", "1"]
    result = programs[program].main([*command, "--out", str(out), "--log", str(log)])
    assert json.loads(out.read_text()) == result
    assert [json.loads(line) for line in log.read_text().splitlines()] == result["history"]
    assert (result["system"], result["sampler"], result["seed"], result["finished"]) == (program, sampler, 3, True)
    assert result["parameters"]["batch_size"] == 20
    assert result["num_steps"] == 2 * (result["num_instances"] // 20)
    assert 0 < result["sampler_seconds"] < result["train_seconds"]
    if program == "simcse":
        rows = [line.split("\t") for line in (data / "text" / "sts.tsv").read_text(encoding="utf-8").splitlines()]
        assert result["metrics"].keys() == {row[0] for row in rows if row[1] == "test"} | {"mean"}
        assert all(-1 <= value <= 1 for value in result["metrics"].values())
    else:
        assert result["metrics"].keys() == METRICS[program]
        assert all(0 <= value <= 1 for value in result["metrics"].values())
    assert [entry["epoch"] for entry in result["history"]] == [1, 2]
    for entry in result["history"]:
        assert math.isfinite(entry["loss"])
        assert -1 <= entry["in_batch_similarity"] <= 1
        assert entry.keys() >= result["metrics"].keys()
        assert ("false_negative_share" in entry) == (program != "simcse")
        assert 0 <= entry.get("false_negative_share", 0) < 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_resumed_run_equals_an_uninterrupted_one(programs, made_data, tmp_path, program):
    command = [*arguments(program, made_data), "--fill-bank"]
    whole = programs[program].main(command)
    parts = [*command, "--checkpoint", str(tmp_path / "checkpoint.pt"), "--resume"]
    step = whole["num_steps"] // 2 + 2  # within the second epoch
    stopped = programs[program].main([*parts, "--stop-after", str(step)])
    assert (stopped["finished"], stopped["num_steps"], stopped["metrics"]) == (False, step, {})
    resumed = programs[program].main(parts)
    assert 0 < resumed["fill_seconds"] < resumed["train_seconds"]
    assert resumed["metrics"] == whole["metrics"]
    assert without_times(resumed["history"]) == without_times(whole["history"])
    with pytest.raises(SystemExit, match="another lr"):
        programs[program].main([*parts, "--lr", "7"])


def without_times(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in entry.items() if not name.endswith("seconds")} for entry in history]


def test_run_stopped_between_epochs_equals_an_uninterrupted_one(programs, made_data, tmp_path):
    command = arguments("retrieval", made_data)
    whole = programs["retrieval"].main(command)
    parts = [*command, "--checkpoint", str(tmp_path / "checkpoint.pt"), "--resume"]
    for _ in range(3):  # 6 steps an epoch
        result = programs["retrieval"].main([*parts, "--stop-after", "6"])
    assert result["finished"]
    assert result["metrics"] == whole["metrics"]
    assert without_times(result["history"]) == without_times(whole["history"])


@pytest.mark.parametrize("loss", ["dcl", "hcl"])
@pytest.mark.parametrize("program", ["simclr", "simcse", "graphcl"])
def test_programs_train_with_other_losses(programs, made_data, program, loss):
    result = programs[program].main([*arguments(program, made_data), "--loss", loss, "--epochs", "1"])
    assert result["loss"] == loss
    assert math.isfinite(result["history"][0]["loss"])


@pytest.mark.parametrize(
    "options",
    [
        "--sampler knn",
        "--epochs 0",
        "--towers 2 --mask-known --no-link-labels --fill-bank",
        "--encoder bert --layers 1 --amp bf16 --pooler cls",
        "--planner walks --order bfs --restart-prob-end 0.05 --candidate-group-size 1",
        "--range-min 2 --max-score 0.9 --hardness hard",
        "--planner cover_by_walks --bank-dtype fp32 --warmup-epochs 1 --schedule linear",
    ],
)
def test_retrieval_runs_with_other_options(programs, made_data, options):
    result = programs["retrieval"].main([*arguments("retrieval", made_data), *options.split()])
    assert result["finished"]
    assert 0 <= result["metrics"]["mrr"] <= 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_evaluate_untrained_models(programs, made_data, program):
    result = programs[program].main([*arguments(program, made_data), "--epochs", "0"])
    assert (result["finished"], result["num_steps"]) == (True, 0)
    assert all(math.isfinite(value) for value in result["metrics"].values())


def test_epochs_of_all_planners_are_equally_long(programs, made_data):
    """Schedules of the learning rate rely on it."""
    command = [*arguments("retrieval", made_data), "--epochs", "3"]
    for planner in ("partition", "walks", "cover_by_walks"):
        result = programs["retrieval"].main([*command, "--planner", planner])
        assert [entry["step"] for entry in result["history"]] == [6, 12, 18]


@pytest.mark.parametrize("program", ["simclr", "moco_v3", "graphcl", "mvgrl"])
def test_programs_train_in_mixed_precision(programs, made_data, program):
    result = programs[program].main([*arguments(program, made_data), "--amp", "bf16", "--epochs", "1"])
    assert math.isfinite(result["history"][0]["loss"])


def test_programs_train_a_pretrained_model(programs, made_data, tmp_path):
    """Replaces --model bert-base-uncased, which would have to be downloaded."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    sentences = (made_data / "text" / "sentences.txt").read_text(encoding="utf-8")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(sentences.split()))]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "model")
    for program in ("simcse", "retrieval"):
        command = [*arguments(program, made_data), "--model", str(tmp_path / "model"), "--epochs", "1"]
        assert programs[program].main(command)["finished"]


def test_training_improves_retrieval(programs, made_data):
    """The texts of a group share two words, which is easy to learn and unknown to a new model."""
    command = [*arguments("retrieval", made_data), "--max-samples", "1000", "--lr", "0.01"]
    before, after = (programs["retrieval"].main([*command, "--epochs", epochs]) for epochs in ("0", "10"))
    assert after["metrics"]["recall_at_5"] > before["metrics"]["recall_at_5"] + 0.2


def test_two_processes_train_as_one(programs, made_data, tmp_path):
    """The gathered loss is that of the whole batch, and every process draws the same batches from its bank."""
    command = [*arguments("retrieval", made_data), "--fill-bank"]
    alone = programs["retrieval"].main(command)
    out = tmp_path / "result.json"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLES / "retrieval.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": ""}  # programs import from their folder
    subprocess.run([sys.executable, *launch, *command, "--out", str(out)], check=True, env=environment, cwd=tmp_path)
    together = json.loads(out.read_text())
    assert together["num_steps"] == alone["num_steps"]
    for ours, theirs in zip(together["history"], alone["history"], strict=True):
        for name in ("loss", "in_batch_similarity", "false_negative_share"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)


def test_documented_commands_are_accepted(programs):
    """They are the commands in README.md and at the head of each program."""
    documents = [EXAMPLES / "README.md", *(EXAMPLES / f"{name}.py" for name in PROGRAMS)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents).replace("\\\\\n", " ").replace("\\\n", " ")
    commands = re.findall(r"^ *(?:python|torchrun [-\w ]*\d) examples/(\w+)\.py (.*)$", text, re.MULTILINE)
    assert {name for name, _ in commands} >= set(PROGRAMS)
    for name, words in commands:
        if name in PROGRAMS:
            programs[name].parse(shlex.split(words, comments=True))


# --- parts -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("kind", ["infonce", "dcl", "hcl"])
def test_losses_equal_the_formulas_of_the_papers(programs, kind, temperature):
    """Computes the formulas in float64, one anchor at a time, on the pairs of SimCLR. One of them is no negative."""
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=generator), dim=2)
    positive, negatives = programs["losses"].all_pairs(z1, z2)
    negatives[0, 1] = negatives[1, 0] = -math.inf
    tau, beta, expected = 0.2, 0.7, []
    views = torch.cat([z1, z2]).double()
    for i in range(12):
        others = [k for k in range(12) if k % 6 != i % 6 and {i, k} != {0, 1}]
        p = math.exp(views[i] @ views[(i + 6) % 12] / temperature)
        n = np.exp([float(views[i] @ views[k]) / temperature for k in others])
        m = len(n)
        total = n.sum()
        if kind == "hcl":
            total = (n**beta * n).sum() * m / (n**beta).sum()
        if kind != "infonce":
            total = max((total - tau * m * p) / (1 - tau), m * math.exp(-1 / temperature))
        expected.append(-math.log(p / (p + total)))
    loss = programs["losses"].contrastive_loss(positive, negatives, kind, temperature, tau_plus=tau, beta=beta)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-4)


def test_hcl_reduces_to_infonce_and_dcl(programs):
    contrastive_loss = programs["losses"].contrastive_loss
    a, b = torch.nn.functional.normalize(torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1)), dim=2)
    pairs = programs["losses"].cross_pairs(a, b)
    plain = torch.nn.functional.cross_entropy(a @ b.T / 0.3, torch.arange(8))
    torch.testing.assert_close(contrastive_loss(*pairs, "infonce", 0.3), plain)
    torch.testing.assert_close(contrastive_loss(*pairs, "hcl", 0.3, tau_plus=0.0, beta=0.0), plain)
    dcl = contrastive_loss(*pairs, "dcl", 0.3)
    torch.testing.assert_close(contrastive_loss(*pairs, "hcl", 0.3, beta=0.0), dcl)
    for kind in ("infonce", "dcl", "hcl"):  # gradients are finite, at the floor and far from it
        for scale in (1.0, -1.0):
            leaf = (scale * torch.eye(4)).requires_grad_()
            contrastive_loss(leaf.diagonal(), leaf + 0, kind, 0.02).backward()
            assert leaf.grad.isfinite().all()


def test_graph_augmentations_keep_the_right_share(programs):
    from torch_geometric.data import Batch, Data

    ring = torch.stack([torch.arange(50), (torch.arange(50) + 1) % 50])
    graph = Data(x=torch.eye(50), edge_index=torch.cat([ring, ring.flip(0)], 1))
    batch = Batch.from_data_list([graph] * 40)
    torch.manual_seed(0)
    for kind in programs["graphcl"].AUGMENTATIONS:
        view = programs["graphcl"].augment(batch, [kind], 0.2)
        sizes, edges = view.batch.bincount(minlength=40), view.edge_index
        assert bool((view.batch[edges[0]] == view.batch[edges[1]]).all()), kind
        assert len(view.x) == len(view.batch)
        if kind == "subgraph":  # in a ring, a path of 40 nodes
            assert sizes.tolist() == [40] * 40
            assert edges.shape[1] == 40 * 2 * 39
        elif kind == "nodes":
            assert 0.7 < len(view.x) / len(batch.x) < 0.9
        else:
            assert sizes.tolist() == [50] * 40
            share = (view.x == batch.x).all(1).float().mean() if kind == "attributes" else None
            assert share is None or 0.7 < share < 0.9
    assert torch.equal(batch.x, Batch.from_data_list([graph] * 40).x)  # views are copies


def test_diffusion_is_personalized_pagerank(programs):
    from torch_geometric.data import Data

    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    found = programs["mvgrl"].diffusion(Data(edge_index=path, num_nodes=3), 0.2)
    scale = torch.tensor([2.0, 3.0, 2.0]).rsqrt()
    step = scale[:, None] * torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]) * scale
    series = sum(0.2 * 0.8**i * torch.linalg.matrix_power(step, i) for i in range(200))
    torch.testing.assert_close(found, series)


def test_ranking_metrics_equal_values_computed_by_hand(programs):
    angles = torch.tensor([0.0, 0.1, 0.3, 1.0, 1.15, 3.0])
    points, groups = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 1, 0, 1, 1, 2])
    metrics = programs["retrieval"].ranking(points, groups, points, groups, are_same=True)
    # Ranks of the first point of the same group: 2, 3, 2, 1, 1. The last point has none.
    assert metrics["recall_at_1"] == pytest.approx(2 / 6)
    assert metrics["recall_at_5"] == pytest.approx(5 / 6)
    assert metrics["mrr"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 + 1) / 6)


def test_bad_arguments_are_named(programs, made_data, tmp_path):
    for extra, message in {
        "--batch-size 500": "--batch-size: expected at most 120",
        "--batch-size 0": "^--batch-size: expected an integer of 1 or more, got 0$",
        "--epochs -1": "^--epochs: expected an integer of 0 or more, got -1$",
        "--tau-plus 1": "^--tau-plus: expected a number from 0 to below 1, got 1$",
        "--temperature 0": "^--temperature: expected a number above 0, got 0$",
        "--refresh-every 0": "^--refresh-every: expected an integer of 1 or more, got 0$",
        "--num-neighbors 51": "^--num-neighbors: expected at most --num-candidates, 50, got 51$",
        "--test-groups 144": "^--test-groups: expected fewer than 144, .*, got 144$",
        f"--test {tmp_path}/no.tsv": "^--test: expected a file, got .*no.tsv$",
        "--resume": "--resume: expected --checkpoint as well, got none",
        f"--out {tmp_path}/no/out.json": "expected a folder .*no to write out.json to",
    }.items():
        with pytest.raises(SystemExit, match=message):
            programs["retrieval"].main([*arguments("retrieval", made_data), *extra.split()])
    with pytest.raises(SystemExit, match="no labels"):
        programs["simcse"].main([*arguments("simcse", made_data), "--no-link-labels"])
    with pytest.raises(SystemExit, match="expected a folder"):
        programs["simclr"].main(arguments("simclr", tmp_path))
