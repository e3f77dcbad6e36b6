"""A loop of one's own that trains two towers as open_clip does: each rank scores its samples against those of all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader

from batchsampler_ext import FeatureBank, GraphConfig, ProximityBatchSampler
from tests.frameworks.matrix import MatrixTraining, Run
from tests.frameworks.plain import encoder_of, load_parts, save_parts
from tests.python.small_training import BATCH_SIZE, NUM_EPOCHS


class Towers(torch.nn.Module):
    """The upper half of a digit is the image, the lower half the text."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = torch.nn.Linear(32, 8), torch.nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return normalize(self.image(x[:, :32]), dim=1), normalize(self.text(x[:, 32:]), dim=1)


class TowerTraining(MatrixTraining):
    def __init__(self, kind: str, num_ranks: int, num_before: int) -> None:
        super().__init__(kind, num_ranks, num_before)
        self.encoder = Towers()
        self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=1.0)
        if kind == "bank":
            self.bank = FeatureBank(self.num_instances, 8, two_towers=True)
            graph = GraphConfig(num_candidates=50, num_neighbors=8)
            self.sampler = ProximityBatchSampler(
                self.num_instances, BATCH_SIZE // num_ranks, bank=self.bank, graph=graph, seed=3, scope="global"
            )

    def fill(self) -> None:
        if self.bank is not None:
            with torch.no_grad():
                self.bank.update(range(self.num_instances), *self.encoder(self.data))


def gathered(features: torch.Tensor) -> torch.Tensor:
    """Returns the features of all ranks, without gradient, as ``gather_features`` of open_clip with ``local_loss``."""
    if not dist.is_initialized():
        return features
    parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, features.detach())
    return torch.cat(parts)


def clip_loss(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    rank = dist.get_rank() if dist.is_initialized() else 0
    targets = rank * len(images) + torch.arange(len(images))
    scores = images @ gathered(texts).T / 0.2, texts @ gathered(images).T / 0.2
    return sum(cross_entropy(part, targets) for part in scores) / 2


def train_towers(run: Run) -> None:
    training, towers = run.training, encoder_of(run)
    loader = DataLoader(training.dataset, batch_sampler=training.sampler)
    training.fill()
    parts = {"encoder": training.encoder, **training.sampling}
    load_parts(run, parts)
    for _ in range(training.sampler.epoch, NUM_EPOCHS):
        for indices, (x,) in loader:
            images, texts = towers(x)
            training.optimizer.zero_grad()
            clip_loss(images, texts).backward()
            training.optimizer.step()
            if training.bank is not None:
                training.bank.update(indices, images, texts)
            training.trained.append(indices.tolist())
            if run.is_place:
                save_parts(run, parts)
