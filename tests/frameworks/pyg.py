"""The loader of PyTorch Geometric, in a loop of one's own."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from batchsampler_ext.integrations.pyg import IndexedGraphs
from tests.frameworks.matrix import Run
from tests.frameworks.plain import encoder_of, load_parts, save_parts
from tests.python.small_training import NUM_EPOCHS


def train_graphs(run: Run) -> None:
    training, encoder = run.training, encoder_of(run)
    edge = torch.tensor([[0], [0]])
    graphs = [Data(x=row[None], edge_index=edge) for row in training.data]
    loader = DataLoader(IndexedGraphs(graphs), batch_sampler=training.sampler)
    training.fill()
    parts = {"encoder": training.encoder, **training.sampling}
    load_parts(run, parts)
    for _ in range(training.sampler.epoch, NUM_EPOCHS):
        for batch in loader:
            assert training.data[batch.sample_idx].equal(batch.x)
            training.step(batch.sample_idx, batch.x, encoder)
            if run.is_place:
                save_parts(run, parts)
