"""docs/frameworks/torch.md runs, on one process and on two. Tests of resuming are in tests/frameworks."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from batchsampler_ext import FeatureBank, IndexedDataset, ProximityBatchSampler
from tests.frameworks.two_towers import clip_loss
from tests.python.torchrun_ranks import on_ranks

GUIDE = Path(__file__).parents[2] / "docs" / "frameworks" / "torch.md"
N = 40


class Towers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = torch.nn.Linear(5, 16), torch.nn.Linear(3, 16)

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return normalize(self.image(images), dim=1), normalize(self.text(texts), dim=1)


def run_guide(num_epochs: int) -> dict[str, Any]:
    """Runs the code of the guide on this rank, in the current folder. Returns its names, and the ids it trained."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    torch.manual_seed(0)
    num_ranks = dist.get_world_size() if dist.is_initialized() else 1
    model = DistributedDataParallel(Towers()) if num_ranks > 1 else Towers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained: list[int] = []

    def train_step(images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = model(images, texts)
        optimizer.zero_grad()
        clip_loss(*features).backward()
        optimizer.step()
        trained.extend(images[:, 0].long().tolist())
        return features

    images = torch.cat([torch.arange(N)[:, None], torch.randn(N, 4)], 1)
    names: dict[str, Any] = {
        "dataset": TensorDataset(images, torch.randn(N, 3)), "batch_size": 8 // num_ranks, "num_epochs": num_epochs,
        "train_step": train_step, "os": os, "torch": torch, "DataLoader": DataLoader, "trained": trained,
        "model": model, "optimizer": optimizer,
    }  # fmt: skip
    exec(code, names)
    return names


def test_guide_runs(tmp_path, monkeypatch):
    assert len(GUIDE.read_text(encoding="utf-8").splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    for num_epochs, num_left in ((1, 1), (3, 2)):  # the second one resumes
        names = run_guide(num_epochs)
        assert names["bank"].step == 5 * num_epochs
        assert sorted(names["trained"]) == sorted([*range(N)] * num_left)


def guide_on_rank(folder: Path) -> Any:
    """Both ranks resume from what rank 0 has saved."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = []
    for num_epochs in (1, 3):
        own = folder / f"{num_epochs}{rank}"
        own.mkdir()
        os.chdir(own)
        if num_epochs == 3:
            shutil.copy(folder / "10" / "state.pt", own)
        names = run_guide(num_epochs)
        found.append(names["trained"])
        dist.barrier()
    return found, names["bank"].step, names["bank"].data.float().tolist()


@pytest.mark.nightly
def test_guide_runs_on_two_ranks(tmp_path):
    first, second = on_ranks(guide_on_rank, tmp_path)
    assert isinstance(first, tuple), first
    assert isinstance(second, tuple), second
    assert first[1:] == second[1:]
    assert first[1] == 15
    for number, num_epochs in enumerate((1, 2)):
        assert sorted(first[0][number] + second[0][number]) == sorted([*range(N)] * num_epochs)


def test_hugging_face_dataset_in_a_loader():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": [[float(i), 1.0] for i in range(N)], "label": list(range(N))})
    part = data.with_format("torch").shuffle(seed=1).select(range(30))
    bank = FeatureBank(30, 2, dtype=torch.float32, normalize=False)
    sampler = ProximityBatchSampler(part, 8, bank=bank)
    for indices, batch in DataLoader(IndexedDataset(part), batch_sampler=sampler):
        assert batch["label"].equal(part["label"][:][indices])
        bank.update(indices, batch["x"])
    assert bank.data.equal(part["x"][:])
