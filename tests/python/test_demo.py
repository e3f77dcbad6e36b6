"""The demo: small runs end to end, image folders, and what it says of its numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from batchsampler_ext.demo import experiment, simclr
from batchsampler_ext.demo.data import LabelledImages, Split
from batchsampler_ext.demo.experiment import Settings, Summary, findings, run_experiment, spread
from PIL import Image

from batchsampler_ext.__main__ import main


@pytest.fixture(autouse=True)
def small_encoder(monkeypatch, tmp_path):
    monkeypatch.setattr(simclr, "WIDTH", 8)
    monkeypatch.chdir(tmp_path)


def write_images(root, classes: dict[str, int], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(root / name / f"{i}.png")


def test_demo_on_digits(tmp_path, capsys):
    assert main(["demo", "--epochs", "3", "--seeds", "2", "--json", "demo.json"]) == 0
    out = capsys.readouterr().out
    for word in ("uniform", "kNN", "proximity", "range_min", "an untrained encoder has", "wrote demo.png"):
        assert word in " ".join(out.split())
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    arms = json.loads((tmp_path / "demo.json").read_text())["arms"]
    assert arms["proximity"]["similarity"] > arms["uniform"]["similarity"]
    assert arms["proximity"]["false_negative_share"] > arms["uniform"]["false_negative_share"]
    assert arms["uniform"]["difference"][0] == 0
    assert len(arms["proximity"]["similarity_by_part"]) == experiment.NUM_PARTS
    assert all(0 < arm["sampler_share"] < 1 for arm in arms.values())


@pytest.mark.parametrize("layout", ["flat", "train and test", "train only"])
def test_demo_on_image_folders(tmp_path, layout, capsys):
    classes = {"cat": 30, "dog": 30}
    root = tmp_path / "images"
    write_images(root if layout == "flat" else root / "train", classes)
    if layout == "train and test":
        write_images(root / "test", {"cat": 5, "dog": 5}, seed=1)
    (root / ("cat" if layout == "flat" else "train/cat") / "notes.txt").write_text("not an image")
    arguments = ["--image-size", "8", "--batch-size", "8", "--epochs", "2", "--seeds", "1", "--remedy", "labels"]
    assert main(["demo", "--images", "images", *arguments]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("60 training and 10 test" if layout == "train and test" else "42 training and 18 test") in out
    assert "one seed says nothing about chance" in out


def test_max_images_limits_what_is_read(tmp_path, capsys):
    write_images(tmp_path / "images", {"a": 40, "b": 40})
    arguments = ["--max-images", "50", "--image-size", "8", "--batch-size", "8", "--epochs", "2", "--seeds", "1"]
    assert main(["demo", "--images", "images", *arguments]) == 0
    assert "35 training and 15 test" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "1"], "--epochs: expected at least 2, got 1"),
        (["--seeds", "0"], "--seeds: expected at least 1, got 0"),
        (["--batch-size", "1000"], "--batch-size: expected at most half of the 1258 images, got 1000"),
        (["--remedy", "hope"], "--remedy: expected one of 'range_min', 'max_score', 'labels', got 'hope'"),
        (["--images", "nowhere"], "--images: cannot read 'nowhere'"),
        (["--images", "empty"], "--images: expected a folder of images for each class in 'empty', got 0 images"),
        (["--images", "unequal"], "--images: expected the same classes in unequal/train and unequal/test"),
        (["--figure", "no/such/demo.png"], "figure: "),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unequal/train/a").mkdir(parents=True)
    (tmp_path / "unequal/test/b").mkdir(parents=True)
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unreadable_image_is_named(tmp_path, capsys):
    write_images(tmp_path / "images", {"a": 3, "b": 3})
    (tmp_path / "images/a/broken.png").write_bytes(b"\x89PNG nothing")
    assert main(["demo", "--images", "images", "--batch-size", "2"]) == 2
    assert "broken.png" in capsys.readouterr().err


def test_runs_of_a_seed_start_alike_and_repeat():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    data = LabelledImages(images, torch.arange(60) % 3)
    settings = Settings(8, 2, 1, 20, 10, "max_score")
    runs, again = (run_experiment(Split("noise", data, data), settings, lambda _: lambda *_: None) for _ in range(2))
    assert len({runs[arm][0].untrained_accuracy for arm in settings.arms}) == 1
    assert {run.similarities.shape for arm in settings.arms for run in runs[arm]} == {(2, 7)}
    for arm in settings.arms:
        assert runs[arm][0].accuracy == again[arm][0].accuracy
        np.testing.assert_array_equal(runs[arm][0].similarities, again[arm][0].similarities)


def test_nt_xent_is_the_loss_of_the_paper():
    z1, z2 = torch.nn.functional.normalize(torch.randn(2, 5, 4, dtype=torch.float64), dim=2)
    views = torch.cat([z1, z2])
    losses = []
    for i in range(10):
        weights = [math.exp(float(views[i] @ views[j]) / simclr.TEMPERATURE) if j != i else 0.0 for j in range(10)]
        losses.append(-math.log(weights[(i + 5) % 10] / sum(weights)))
    assert float(simclr.nt_xent(z1, z2)) == pytest.approx(np.mean(losses))


def summary(differences: list[float], false_negative_share: float) -> Summary:
    values = np.array(differences)
    return Summary(spread(values), spread(values), spread(values), 0.5, false_negative_share, [0.5], 1.0, 0.01)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.01, 0.012, 0.011], "it helps here."),
        ([-0.01, -0.012, -0.011], "it does harm here. 30% of its negatives are false (uniform: 10%)."),
        ([-0.01, 0.012, 0.0], "no difference that this many seeds can show."),
        ([0.01], "one seed says nothing about chance."),
    ],
)
def test_findings(differences, expected):
    (line,) = findings({"uniform": summary([0.0] * 3, 0.1), "proximity": summary(differences, 0.3)})
    assert line.startswith("proximity: ")
    assert line.endswith(expected)
