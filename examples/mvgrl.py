#!/usr/bin/env python3
"""MVGRL (Hassani and Khasahmadi, ICML 2020): contrasts two views of graphs, edges and diffusion.

    python examples/mvgrl.py DATA PROTEINS --out result.json

Data and metric are those of graphcl.py. The second view of a graph has the weights of personalized PageRank between all
of its nodes (equation 2). Each view has its own GCN encoder. Nodes of one view should agree with their own graph in the
other view, and disagree with the other graphs of the batch. The loss is the Jensen-Shannon estimate of mutual
information, as in the paper's code. The embedding of a graph is the sum of the embeddings of both views.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import common
import graphs
import parsing
import processes
import sampling
import torch
from torch import nn
from torch.nn.functional import normalize, softplus
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import to_dense_adj, to_dense_batch


class GraphConvolutions(nn.Module):
    """GCN layers on dense matrices [B, V, V], and the sums of their outputs over the nodes of each graph."""

    def __init__(self, num_features: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(
            nn.Linear(width if i else num_features, width, bias=False) for i in range(num_layers)
        )
        for linear in self.linear:
            nn.init.xavier_uniform_(linear.weight)
        self.bias = nn.Parameter(torch.zeros(num_layers, width))
        self.act = nn.ModuleList(nn.PReLU() for _ in range(num_layers))

    def forward(self, x: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns rows of nodes [B, V, width] and of graphs [B, layers * width]. mask: bool [B, V], existing nodes."""
        pooled = []
        for linear, bias, act in zip(self.linear, self.bias, self.act, strict=True):
            x = act(weights @ linear(x) + bias) * mask[..., None]
            pooled.append(x.sum(1))
        return x, torch.cat(pooled, 1)


class Perceptron(nn.Module):
    """The paper's projection head: three layers and a linear shortcut."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Linear(width if i else num_inputs, width), nn.PReLU()]
        self.layers, self.shortcut = nn.Sequential(*layers), nn.Linear(num_inputs, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.shortcut(x)


class MVGRL(nn.Module):
    def __init__(self, num_features: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(GraphConvolutions(num_features, width, num_layers) for _ in range(2))
        self.node_head, self.graph_head = Perceptron(width, width), Perceptron(num_layers * width, width)

    def forward(self, batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns, for both views, embeddings of nodes [nodes of the batch, width] and of graphs [B, width]."""
        x, mask = to_dense_batch(batch.x, batch.batch)
        nodes, whole = [], []
        for encoder, weights in zip(self.encoders, dense_views(batch, mask), strict=True):
            of_nodes, of_graphs = encoder(x, weights, mask)
            nodes.append(self.node_head(of_nodes[mask]))
            whole.append(self.graph_head(of_graphs))
        return nodes, whole


def diffusion(graph: Data, alpha: float) -> torch.Tensor:
    """Returns [V, V], personalized PageRank alpha (I - (1 - alpha) D^-1/2 A D^-1/2)^-1 with self-loops."""
    adjacency = normalized_adjacency(to_dense_adj(graph.edge_index, max_num_nodes=graph.num_nodes))[0]
    identity = torch.eye(graph.num_nodes)
    return alpha * torch.linalg.inv(identity - (1 - alpha) * adjacency)


def normalized_adjacency(adjacency: torch.Tensor) -> torch.Tensor:
    """Returns D^-1/2 (A + I) D^-1/2 for A of shape [B, V, V]. Edges are counted once."""
    adjacency = (adjacency.clamp(max=1) + torch.eye(adjacency.shape[-1], device=adjacency.device)).clamp(max=1)
    scale = adjacency.sum(-1).rsqrt()
    return scale[:, :, None] * adjacency * scale[:, None, :]


def dense_views(batch: Batch, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weights [B, V, V] between the nodes of each graph: of edges, and of diffusion (`batch.diffusion`)."""
    num_graphs, num_places = mask.shape
    edges = normalized_adjacency(
        to_dense_adj(batch.edge_index, batch.batch, max_num_nodes=num_places, batch_size=num_graphs)
    )
    weights = torch.zeros_like(edges)
    weights[mask[:, :, None] & mask[:, None, :]] = batch.diffusion
    return edges, weights


def jensen_shannon_loss(nodes: torch.Tensor, graphs_of: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Returns minus the Jensen-Shannon estimate of mutual information between nodes [V, D] and graphs [B, D].

    Pairs of a node and its own graph, `owner`, are samples of the joint distribution. All others are samples of the
    product of the marginal distributions.
    """
    scores = nodes.float() @ graphs_of.float().T
    is_own = nn.functional.one_hot(owner, len(graphs_of)).bool()
    own, others = scores[is_own], scores[~is_own]
    return (softplus(others) - math.log(2)).mean() - (math.log(2) - softplus(-own)).mean()


def train(args: argparse.Namespace) -> dict[str, Any]:
    processes.start(args, distributed=False)
    data = graphs.load(args)
    for graph in data:
        graph.diffusion = diffusion(graph, args.teleport).flatten()
    labels = graphs.labels_of(data)
    model = MVGRL(data[0].num_features, args.width, args.layers).to(args.device)
    optimizer = torch.optim.Adam(model.parameters(), args.lr, weight_decay=args.weight_decay)
    sampler = sampling.make_sampler(args, len(data), 2 * args.width, labels=labels)
    run = common.Run("mvgrl", args.name, args, model, optimizer, sampler, labels=labels)
    loader = run.loader(data, DataLoader)

    def units(whole: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([normalize(view.float(), dim=1) for view in whole], 1)

    def evaluate() -> dict[str, float]:
        chunks = DataLoader(data, batch_size=args.batch_size)
        embeddings = torch.cat([sum(model(chunk.to(run.device))[1]) for chunk in chunks])
        return graphs.accuracy(embeddings, labels, args.svm)

    run.fill_bank(loader, lambda batch: (units(model(batch)[1]),))
    for _ in run.epochs():
        for indices, batch in run.steps(loader):
            with run.autocast():
                (nodes1, nodes2), (whole1, whole2) = model(batch)
            loss = jensen_shannon_loss(nodes1, whole2, batch.batch) + jensen_shannon_loss(nodes2, whole1, batch.batch)
            run.optimize(loss)
            run.record(indices, loss, units([whole1, whole2]))
        run.end_epoch(evaluate)
    return run.finish(evaluate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common.new_parser(__doc__, epochs=20, batch_size=64, lr=1e-3)
    parser.set_defaults(schedule="constant", loss="jsd")
    graphs.add_arguments(parser, features="labels+degree")
    parser.add_argument("--teleport", type=parsing.share, default=0.2, help="restart probability of the diffusion")
    parser.add_argument("--width", type=parsing.positive_int, default=128, help="512 in the paper")
    parser.add_argument("--layers", type=parsing.positive_int, default=4)
    sampling.add_arguments(parser)
    return parser.parse_args(argv)


main = common.program(parse, train)

if __name__ == "__main__":
    main()
