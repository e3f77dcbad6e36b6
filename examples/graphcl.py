#!/usr/bin/env python3
"""GraphCL (You et al., NeurIPS 2020): contrastive learning of graphs by augmentation.

    python examples/graphcl.py DATA NCI1 --out result.json

Data: TU data sets, which torch_geometric's TUDataset reads or downloads. A view of a graph is made by one of the
paper's four augmentations, drawn for each graph: dropping nodes, perturbing edges, masking attributes, or taking a
subgraph. As in the paper's code, the encoder is a GIN with the sums of all layers and a projection head, and the
denominator of the loss does not contain the positive. Metric: 10-fold cross-validated accuracy of a support vector
machine on the frozen embeddings.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

import common
import graphs
import losses
import parsing
import processes
import sampling
import torch
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, global_add_pool
from torch_geometric.utils import subgraph

AUGMENTATIONS = ("nodes", "edges", "attributes", "subgraph")


class GraphEncoder(nn.Module):
    def __init__(self, num_features: int, width: int, num_layers: int) -> None:
        super().__init__()
        widths = [num_features, *[width] * num_layers]
        self.layers = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Linear(after, after)))
            for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in self.layers)
        self.dim = num_layers * width
        self.head = nn.Sequential(nn.Linear(self.dim, self.dim), nn.ReLU(), nn.Linear(self.dim, self.dim))

    def embed(self, batch: Batch) -> torch.Tensor:
        """Returns [graphs, layers * width], the sums over nodes of all layers."""
        x, pooled = batch.x, []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x, batch.edge_index).relu())
            pooled.append(global_add_pool(x, batch.batch, size=batch.num_graphs))
        return torch.cat(pooled, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        return nn.functional.normalize(self.head(self.embed(batch)).float(), dim=1)


# --- augmentations of a whole batch at once (the paper, section 3.1) ------------------------------------------------
def augment(batch: Batch, kinds: Sequence[str], ratio: float) -> Batch:
    """Returns a copy. One of kinds changes about the share ratio of the nodes or edges of each graph."""
    kind = torch.randint(len(kinds), (batch.num_graphs,), device=batch.x.device)[batch.batch]  # of each node
    is_kind = {name: kind == i for i, name in enumerate(kinds)}
    none = torch.zeros_like(kind, dtype=torch.bool)
    is_changed = torch.rand(len(kind), device=kind.device) < ratio
    view = batch.clone()
    if "edges" in kinds:
        view.edge_index = perturb_edges(view, is_kind["edges"], ratio)
    if "attributes" in kinds:
        # The noise of the paper's code, which equals no node label.
        masked = is_kind["attributes"] & is_changed
        view.x = torch.where(masked[:, None], 0.5 + 0.5 * torch.randn_like(view.x), view.x)
    dropped = is_kind.get("nodes", none) & is_changed
    if "subgraph" in kinds:
        dropped |= is_kind["subgraph"] & ~grown_subgraphs(batch, 1 - ratio)
    kept = ~dropped
    view.edge_index, _ = subgraph(kept, view.edge_index, relabel_nodes=True, num_nodes=len(kept))
    view.x, view.batch = view.x[kept], batch.batch[kept]
    return view


def perturb_edges(batch: Batch, of_node: torch.Tensor, ratio: float) -> torch.Tensor:
    """Moves a share of the edges of chosen graphs to random nodes of their graph, in both directions together."""
    source, target = batch.edge_index
    once = source <= target
    source, target = source[once], target[once]
    moved = of_node[source] & (torch.rand(len(source), device=source.device) < ratio)
    graph, offsets = batch.batch[source[moved]], batch.ptr[:-1]
    sizes = batch.ptr.diff()[graph]

    def any_node() -> torch.Tensor:
        return offsets[graph] + (torch.rand(len(graph), device=graph.device) * sizes).long().clamp(max=sizes - 1)

    source, target = source.clone(), target.clone()
    source[moved], target[moved] = any_node(), any_node()
    is_edge = source != target
    edges = torch.stack([source[is_edge], target[is_edge]])
    return torch.cat([edges, edges.flip(0)], 1)


def grown_subgraphs(batch: Batch, share: float) -> torch.Tensor:
    """Returns bool [nodes], the first nodes of each graph that a region growing from a random node reaches.

    share: of the nodes of a graph. Each edge takes an exponentially distributed time, so the region crosses each edge
    at its border next with equal probability. Arrival times are shortest paths, computed for all graphs at once. Nodes
    that are not connected to the start are left out.
    """
    num_nodes, device = len(batch.x), batch.x.device
    sizes = batch.ptr.diff()
    roots = batch.ptr[:-1] + (torch.rand(len(sizes), device=device) * sizes).long().clamp(max=sizes - 1)
    arrival = torch.full((num_nodes,), float("inf"), device=device)
    arrival[roots] = 0
    source, target = batch.edge_index
    times = torch.empty(len(source), device=device).exponential_()
    while True:
        reached = arrival.scatter_reduce(0, target, arrival[source] + times, "amin")
        if torch.equal(reached, arrival):
            break
        arrival = reached
    order = arrival.argsort()
    order = order[batch.batch[order].argsort(stable=True)]  # by graph, then by arrival
    place = torch.empty_like(order)
    place[order] = torch.arange(num_nodes, device=device) - batch.ptr[batch.batch[order]]
    return (place < (share * sizes).ceil()[batch.batch]) & arrival.isfinite()


def train(args: argparse.Namespace) -> dict[str, Any]:
    processes.start(args, distributed=False)
    data = graphs.load(args)
    labels = graphs.labels_of(data)
    model = GraphEncoder(data[0].num_features, args.width, args.layers).to(args.device)
    optimizer = torch.optim.Adam(model.parameters(), args.lr, weight_decay=args.weight_decay)
    sampler = sampling.make_sampler(args, len(data), 2 * model.dim, labels=labels)
    run = common.Run("graphcl", args.name, args, model, optimizer, sampler, labels=labels)
    loader = run.loader(data, DataLoader)
    loss_of = losses.from_arguments(args)

    def views(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with run.autocast():
            return tuple(model(augment(batch, args.augment, args.ratio)) for _ in range(2))

    def evaluate() -> dict[str, float]:
        chunks = DataLoader(data, batch_size=512)
        return graphs.accuracy(torch.cat([model.embed(chunk.to(run.device)) for chunk in chunks]), labels, args.svm)

    run.fill_bank(loader, lambda batch: (torch.cat(views(batch), 1),))
    run.calibrate(loader, views)
    for _ in run.epochs():
        for indices, batch in run.steps(loader):
            z1, z2 = views(batch)
            loss = loss_of(*losses.cross_pairs(z1, z2), include_positive=False)
            run.optimize(loss)
            run.record(indices, loss, torch.cat([z1, z2], 1))
        run.end_epoch(evaluate)
    return run.finish(evaluate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common.new_parser(__doc__, epochs=20, batch_size=128, lr=1e-3)
    graphs.add_arguments(parser, features="labels")
    parser.add_argument("--augment", nargs="+", choices=AUGMENTATIONS, default=list(AUGMENTATIONS))
    parser.add_argument(
        "--ratio", type=parsing.share_below_1, default=0.2, help="share of nodes or edges that a view changes"
    )
    parser.add_argument("--width", type=parsing.positive_int, default=32)
    parser.add_argument("--layers", type=parsing.positive_int, default=3)
    losses.add_arguments(parser, temperature=0.2)
    sampling.add_arguments(parser)
    return parser.parse_args(argv)


main = common.program(parse, train)

if __name__ == "__main__":
    main()
