"""Planners compose mini-batches from a proximity graph. Each is one file, and all are listed here."""

from __future__ import annotations

from .._engine.validate import shown
from .base import Batches, BatchPlanner, PlanRequest
from .cover_by_walks import CoverByWalksPlanner
from .partition import PartitionPlanner
from .uniform import UniformPlanner
from .walks import WalkPlanner

__all__ = [
    "PLANNERS",
    "BatchPlanner",
    "Batches",
    "CoverByWalksPlanner",
    "PartitionPlanner",
    "PlanRequest",
    "UniformPlanner",
    "WalkPlanner",
    "find_planner",
]

PLANNERS: dict[str, type[BatchPlanner]] = {
    planner.name: planner for planner in (PartitionPlanner, WalkPlanner, CoverByWalksPlanner, UniformPlanner)
}


def find_planner(planner: str | BatchPlanner) -> BatchPlanner:
    """Returns the planner of this name with default options, or the object itself."""
    if isinstance(planner, str):
        if planner not in PLANNERS:
            names = ", ".join(repr(name) for name in PLANNERS)
            raise ValueError(f"planner: expected one of {names} or a BatchPlanner, got {planner!r}")
        return PLANNERS[planner]()
    if isinstance(planner, type) or not isinstance(planner, BatchPlanner):
        raise TypeError(f"planner: expected a name or a BatchPlanner, got {shown(planner)}")
    return planner
