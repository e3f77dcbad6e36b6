"""TU data sets for the examples, and the support vector machine that evaluates graph embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import common
import parsing
import torch
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch_geometric.data import Data
from torch_geometric.datasets import TUDataset
from torch_geometric.utils import degree

NUM_FOLDS = 10
COSTS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # the grid of InfoGraph's code, also used by GraphCL


def add_arguments(parser: argparse.ArgumentParser, *, features: str) -> None:
    parser.add_argument(
        "data", type=Path, help="folder of TU data sets: NAME/raw/NAME_A.txt and so on; downloaded if absent"
    )
    parser.add_argument("name", help="e.g. NCI1, PROTEINS, MUTAG, IMDB-BINARY")
    parser.add_argument(
        "--max-degree",
        type=parsing.positive_int,
        default=64,
        help="largest one-hot degree; larger degrees count as this one",
    )
    parser.add_argument("--features", choices=("labels", "labels+degree"), default=features,
                        help="one-hot features of nodes; degrees alone if there are no labels")  # fmt: skip
    parser.add_argument("--svm", choices=("linear", "search"), default="linear",
                        help="search: RBF kernel, C by 5 inner folds, as in GraphCL's code; slow")  # fmt: skip


def load(args: argparse.Namespace) -> list[Data]:
    """Returns graphs with one-hot node features x: labels, also degrees if asked for, or degrees without labels."""
    try:
        dataset = TUDataset(str(args.data), args.name)
    except OSError as error:
        raise SystemExit(f"data: expected {args.name}/raw in {args.data}, or a download of it, got {error}") from None
    graphs = [dataset[i] for i in common.random_choice(len(dataset), args.max_samples)]
    has_labels = graphs[0].x is not None
    if not has_labels or args.features == "labels+degree":
        for graph in graphs:
            degrees = degree(graph.edge_index[0], graph.num_nodes, torch.long).clamp(max=args.max_degree)
            one_hot = torch.nn.functional.one_hot(degrees, args.max_degree + 1).float()
            graph.x = torch.cat([graph.x, one_hot], 1) if has_labels else one_hot
    return graphs


def labels_of(graphs: Sequence[Data]) -> torch.Tensor:
    return torch.cat([graph.y.view(-1) for graph in graphs]).long()


def accuracy(embeddings: torch.Tensor, labels: torch.Tensor, svm: str) -> dict[str, float]:
    """Returns the mean accuracy of a linear or RBF support vector machine over 10 fixed stratified folds."""
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    if svm == "linear":
        classifier = make_pipeline(StandardScaler(), LinearSVC(C=0.1, dual=False))
    else:
        classifier = make_pipeline(StandardScaler(), GridSearchCV(SVC(), {"C": COSTS}, cv=5))
    scores = cross_val_score(classifier, embeddings.cpu().numpy(), labels.numpy(), cv=folds)
    return {"svm_accuracy": float(scores.mean())}
