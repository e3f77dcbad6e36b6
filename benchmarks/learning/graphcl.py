"""GraphCL (You et al., NeurIPS 2020) on a TU data set: the control, where classes are few.

A view drops nodes or edges (each view draws which). GIN encoder and projection head as in the paper's code; accuracy
is that of a linear support vector machine on the frozen graph embeddings, 10-fold cross-validated on the same graphs.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import torch
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import TUDataset
from torch_geometric.nn import GINConv, global_add_pool
from torch_geometric.utils import dropout_edge, subgraph

from .arms import Parameters
from .training import train

METRICS = ("accuracy",)
RANGES = {"lr": (5e-4, 1e-2), "temperature": (0.1, 1.0)}
CANDIDATES = (64, 250, 1000)
LEFT_OUT = ("proximity, mask", "knn, labels")  # class labels are what is to be learnt: one arm shows the bound
NAME = "NCI1"
TUNE_SHARE = 0.4
BATCH_SIZE, NUM_EPOCHS, WIDTH, NUM_LAYERS, DROP = 128, 20, 32, 3, 0.2


class GraphEncoder(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        widths = [num_features, *[WIDTH] * NUM_LAYERS]
        self.layers = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Linear(after, after)))
            for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in self.layers)
        total = NUM_LAYERS * WIDTH
        self.head = nn.Sequential(nn.Linear(total, total), nn.ReLU(), nn.Linear(total, total))

    def embed(self, graphs: Data) -> torch.Tensor:
        x, pooled = graphs.x, []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x, graphs.edge_index).relu())
            pooled.append(global_add_pool(x, graphs.batch, size=graphs.num_graphs))
        return torch.cat(pooled, 1)

    def forward(self, graphs: Data) -> torch.Tensor:
        return nn.functional.normalize(self.head(self.embed(graphs)), dim=1)


def augment(graphs: Data) -> Data:
    """A copy with a share DROP of all nodes, or of all edges, left out."""
    view = graphs.clone()
    if torch.rand(()) < 0.5:
        view.edge_index, _ = dropout_edge(graphs.edge_index, DROP)
        return view
    kept = torch.rand(len(graphs.x)) >= DROP
    view.edge_index, _ = subgraph(kept, graphs.edge_index, relabel_nodes=True, num_nodes=len(graphs.x))
    view.x, view.batch = graphs.x[kept], graphs.batch[kept]
    return view


def run(data: Path, split: str, arm: str, parameters: Parameters, seed: int, num_epochs: int = NUM_EPOCHS) -> dict:
    """split: "tune" or "confirm", other graphs. num_epochs = 0: the untrained encoder."""
    graphs = graphs_of(data)
    order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(0)).tolist()
    num_tune = int(TUNE_SHARE * len(graphs))
    chosen = [graphs[i] for i in (order[:num_tune] if split == "tune" else order[num_tune:])]
    labels = torch.cat([graph.y for graph in chosen])
    torch.manual_seed(seed)
    model = GraphEncoder(chosen[0].x.shape[1])

    def views(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = Batch.from_data_list([chosen[i] for i in indices.tolist()])
        return model(augment(batch)), model(augment(batch))

    seen = {}
    if num_epochs:
        seen = train(
            model,
            views,
            labels,
            arm=arm,
            parameters=parameters,
            dim=NUM_LAYERS * WIDTH,
            batch_size=BATCH_SIZE,
            num_epochs=num_epochs,
            seed=seed,
        )
    return {"accuracy": accuracy(model, chosen, labels)} | seen


@functools.cache
def graphs_of(data: Path) -> list[Data]:
    return list(TUDataset(str(data / "tu"), NAME))


@torch.no_grad()
def accuracy(model: GraphEncoder, graphs: list[Data], labels: torch.Tensor) -> float:
    model.eval()
    embeddings = model.embed(Batch.from_data_list(graphs)).numpy()
    classifier = make_pipeline(StandardScaler(), LinearSVC(C=0.1, dual=False))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    return float(cross_val_score(classifier, embeddings, labels.numpy(), cv=folds).mean())
