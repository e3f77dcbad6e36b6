"""Measures of mini-batches: similarity of their members, false negatives, graph edges between members."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ._engine import validate
from ._engine.arrays import as_ids, as_integers, as_matrix, on_host, require_dense
from .graph import ProximityGraph

__all__ = ["batch_stats", "equal_label_share", "mean_cosine"]


def batch_stats(
    batches: Iterable[Any], features: Any, *, labels: Any = None, graph: ProximityGraph | None = None
) -> dict[str, Any]:
    """Returns similarity, false negatives and graph edges within mini-batches.

    Args:
        batches: mini-batches of instance ids: :class:`Batches`, or an iterable of one-dimensional int arrays. An id of
            -1 is ignored.
        features: [N, D] float32, bfloat16 or float16. Rows of a memmap are read as needed.
        labels: int [N]; -1 is unknown. Adds "false_negative_share": among the pairs of members whose labels are known,
            the share with equal labels.
        graph: a graph over N instances. Adds "edge_share": the number of edges inside a batch of n members, divided by
            the n (n - 1) ordered pairs. So it is the share of pairs with an edge, unlike the edge share in
            docs/partition.md, which is a share of edges.

    Each argument may be on the CPU or on a CUDA device. Cosines are computed on the device of the features, in float64,
    and the host waits for each batch. Batches, labels and the whole graph are copied to the host.

    Returns:
        dict with "num_batches" (int). Means over batches (float) are in "in_batch_similarity" (mean cosine of two
        distinct members), "false_negative_share" and "edge_share". The same names with "_per_batch" hold float64 arrays
        [num_batches]. A batch of fewer than two members has nan there and is left out of the means.

    Raises:
        TypeError, ValueError: a bad argument, named; ids outside [-1, N); features of a member that are not finite.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> stats = batch_stats([[0, 1], [0, 2]], features, labels=[5, 5, 6])
        >>> stats["in_batch_similarity_per_batch"].tolist(), stats["false_negative_share"]
        ([1.0, 0.0], 0.5)
    """
    matrix = as_matrix(features, "features")
    source = matrix.owner
    num_instances = matrix.num_rows
    known_labels = None if labels is None else as_ids(on_host(labels, "labels"), "labels", -1, 2**63)
    if known_labels is not None and len(known_labels) != num_instances:
        raise ValueError(f"labels: expected one for each of {num_instances} instances, got {len(known_labels)}")
    if graph is not None and not isinstance(graph, ProximityGraph):
        raise TypeError(f"graph: expected a ProximityGraph or None, got {type(graph).__name__}")
    if graph is not None and graph.num_instances != num_instances:
        raise ValueError(
            f"graph: expected a graph over {num_instances} instances, the rows of features, got {graph.num_instances}"
        )
    edges = None if graph is None else _EdgeCounter(graph.to("cpu"))
    per_batch: dict[str, list[float]] = {"in_batch_similarity": []}
    for batch in validate.iterable(batches, "batches", "an iterable of arrays of ids"):
        members = as_ids(on_host(batch, "batches"), "batches", -1, num_instances)
        members = members[members >= 0]
        per_batch["in_batch_similarity"].append(_member_cosine(source, members))
        if known_labels is not None:
            per_batch.setdefault("false_negative_share", []).append(float(equal_label_share(known_labels[members])))
        if edges is not None:
            per_batch.setdefault("edge_share", []).append(edges.share(members))
    result: dict[str, Any] = {"num_batches": len(per_batch["in_batch_similarity"])}
    for name, values in per_batch.items():
        array = np.asarray(values, dtype=np.float64)
        defined = array[~np.isnan(array)]
        result[name] = float(defined.mean()) if len(defined) else float("nan")
        result[f"{name}_per_batch"] = array
    return result


def mean_cosine(rows: torch.Tensor) -> torch.Tensor:
    """Returns the mean cosine of two distinct rows: (|sum of unit rows|^2 - sum of |unit row|^2) / (n (n - 1)).

    Args:
        rows: float32 or float64 [n, D], a tensor. Rows of zeros count as orthogonal to all others.

    Raises:
        TypeError, ValueError: another type or shape.

    Returns:
        0-d tensor with the rows' dtype and device, computed in float64; nan for fewer than two rows. Does not wait for
        a device.
    """
    if not isinstance(rows, torch.Tensor) or rows.dtype not in (torch.float32, torch.float64):
        found = rows.dtype if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise TypeError(f"rows: expected a tensor of float32 or float64, got {found}")
    require_dense(rows, "rows")
    if rows.ndim != 2:
        raise ValueError(f"rows: expected shape [n, D], got {list(rows.shape)}")
    count = len(rows)
    if count < 2:
        return rows.new_full((), float("nan"))
    units = unit_rows(rows)
    return ((units.sum(0).square().sum() - units.square().sum()) / (count * (count - 1))).to(rows.dtype)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Returns float64 rows of unit length, for float32 rows of any length. Rows of zeros stay zero."""
    return torch.nn.functional.normalize(rows.double(), dim=1, eps=torch.finfo(torch.float64).tiny)


def equal_label_share(labels: torch.Tensor) -> torch.Tensor:
    """Returns the share of pairs with equal labels among the pairs of distinct members whose labels are both known.

    Args:
        labels: int [n], a tensor or array; negative: unknown.

    Raises:
        TypeError, ValueError: no integers in one dimension.

    Returns:
        0-d float64 tensor on the labels' device; nan for fewer than two known labels.
    """
    labels = as_integers(labels, "labels", labels.device if isinstance(labels, torch.Tensor) else torch.device("cpu"))
    known = labels[labels >= 0]
    if len(known) < 2:
        return torch.full((), float("nan"), dtype=torch.float64, device=labels.device)
    counts = torch.unique(known, return_counts=True)[1].double()
    return (counts * (counts - 1)).sum() / (len(known) * (len(known) - 1))


def _member_cosine(features: Any, members: torch.Tensor) -> float:
    """Returns the mean cosine of two distinct members, computed in float64; nan for fewer than two members."""
    if isinstance(features, torch.Tensor):
        rows = features[members.to(features.device)].double()
    else:
        rows = torch.from_numpy(features[members.numpy()].astype(np.float64))
    if len(members) > 1 and not bool(torch.isfinite(rows).all()):
        wrong = int(members[~torch.isfinite(rows).all(1).cpu()][0])
        raise ValueError(f"features: expected finite values, got nan or inf in row {wrong}")
    return float(mean_cosine(rows))


class _EdgeCounter:
    """Counts the edges between the members of a batch, in a graph on the CPU."""

    def __init__(self, graph: ProximityGraph) -> None:
        graph.degrees()  # checks the ids
        self._neighbors = graph.neighbors
        self._is_member = torch.zeros(graph.num_instances, dtype=torch.bool, device="cpu")
        self._row_of = torch.full((graph.num_instances,), -1, dtype=torch.int64, device="cpu")
        ids = torch.arange(len(graph), device="cpu") if graph.ids is None else graph.ids
        self._row_of[ids] = torch.arange(len(graph), device="cpu")

    def share(self, members: torch.Tensor) -> float:
        if len(members) < 2:
            return float("nan")
        rows = self._row_of[members]
        targets = self._neighbors[rows[rows >= 0]]
        self._is_member[members] = True
        num_edges = int(self._is_member[targets[targets >= 0].long()].sum())
        self._is_member[members] = False
        return num_edges / (len(members) * (len(members) - 1))
