"""Hard negatives of each instance, for trainers that read tuples of a query, its document and negatives."""

from __future__ import annotations

from typing import Any

import torch

from .._engine import validate
from .._negatives.tables import kept_first, order_of_kept
from ..graph import ProximityGraph
from .file import PlanFile
from .recipes import Recipe

NAME = "hard_negatives"  # tensor of a file
_ROWS_AT_ONCE = 1 << 15


class HardNegatives:
    """Collects the best neighbors of each instance from the graphs of all sources.

    Attributes:
        table: int32 [N, h] on the CPU, then -1.
    """

    def __init__(self, num_instances: int, num_kept: int) -> None:
        self.table = torch.full((num_instances, num_kept), -1, dtype=torch.int32, device="cpu")

    @classmethod
    def check(
        cls, value: Any, recipe: Recipe, graph: ProximityGraph | None, num_instances: int, preset: str
    ) -> HardNegatives | None:
        """Returns None for None. Raises errors that name ``num_hard_negatives``."""
        if value is None:
            return None
        most = recipe.max_neighbors() if graph is None else graph.num_neighbors
        if most == 0:
            raise ValueError(
                f"num_hard_negatives: expected None with preset={preset!r}, because it has no graph; the presets 'b3', "
                "'curriculum' and 'walks' have one"
            )
        num_kept = validate.integer(value, "num_hard_negatives", 1, most, because=" (neighbors of an instance)")
        return cls(num_instances, num_kept)

    def add(self, graph: ProximityGraph, *, is_given: bool = False) -> None:
        """Takes the best neighbors of the graph's rows: those of highest score, ties by lower id.

        Without scores, the first ones in a row are the best. A graph that was given by the user has no self-loops any
        more, but may list an instance twice: it then counts once.
        """
        num_kept = self.table.shape[1]
        graph.degrees()  # checks the ids
        ids = torch.arange(len(graph), device="cpu") if graph.ids is None else graph.ids.cpu()
        for first in range(0, len(graph), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            neighbors = graph.neighbors[part]
            if graph.scores is not None:
                num_best = graph.num_neighbors if is_given else min(num_kept, graph.num_neighbors)
                neighbors = _best_by_score(neighbors, graph.scores[part], num_best)
            if is_given:
                keeps = (neighbors >= 0) & ~_is_repeated(neighbors)
                neighbors = kept_first(neighbors, keeps, order_of_kept(keeps), -1)
            best = neighbors[:, :num_kept].cpu()
            self.table[ids[part], : best.shape[1]] = best


def read_hard_negatives(file: PlanFile, num_instances: int) -> torch.Tensor:
    """Returns the table in a file. Raises ``ValueError`` if it is damaged."""
    table = file.read(NAME)
    if table.dtype != torch.int32 or table.ndim != 2 or len(table) != num_instances or table.shape[1] == 0:
        raise file.error(f"one whose {NAME} are {table.dtype} {list(table.shape)}, not int32 [{num_instances}, h]")
    if not -1 <= int(table.min()) <= int(table.max()) < num_instances:
        raise file.error(f"one whose {NAME} are outside [-1, {num_instances})")
    if bool(((table[:, 1:] >= 0) & (table[:, :-1] < 0)).any()):
        raise file.error(f"one whose {NAME} have a -1 before an id")
    return table


def _best_by_score(neighbors: torch.Tensor, scores: torch.Tensor, num_best: int) -> torch.Tensor:
    """Returns int32 [R, num_best], the neighbors of each row by descending score, ties by lower id, then -1.

    The float's bits are mapped to an integer of the same order, the upper half of a key. The id is the lower half.
    """
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes +0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = torch.where(neighbors >= 0, (ordered << 32) - neighbors, torch.iinfo(torch.int64).min)
    return neighbors.gather(1, keys.topk(num_best, dim=1).indices)


def _is_repeated(neighbors: torch.Tensor) -> torch.Tensor:
    """Returns bool [R, K], whether an earlier entry of the row is equal."""
    order = neighbors.argsort(dim=1, stable=True)
    ordered = neighbors.gather(1, order)
    is_repeated = torch.zeros_like(ordered, dtype=torch.bool)
    is_repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(is_repeated).scatter_(1, order, is_repeated)
