"""Fast, exact, reproducible kernels for BatchSampler (Yang et al., KDD 2023).

Composes mini-batches of hard negatives for in-batch contrastive learning. :func:`proximity_graph` builds a graph over
embeddings, and :func:`sample_batches` collects batches along its edges. In a training loop, :class:`FeatureBank` and
:class:`ProximityBatchSampler` do both.
"""

from importlib.metadata import version as _version

from .bank import FeatureBank
from .batches import Batches, sample_batches
from .compose import compose
from .dataset import IndexedDataset
from .graph import ProximityGraph
from .graph_builders import GraphConfig, Neighbors, knn, knn_graph, proximity_graph
from .metrics import batch_stats
from .plan import Plan
from .planned_sampler import PlannedBatchSampler
from .planners import BatchPlanner, CoverByWalksPlanner, PartitionPlanner, PlanRequest, UniformPlanner, WalkPlanner
from .sampler import ProximityBatchSampler, SamplerStats
from .walk import Walks, random_walk_with_restart

__version__ = _version("batchsampler_ext")

__all__ = [
    "BatchPlanner",
    "Batches",
    "CoverByWalksPlanner",
    "FeatureBank",
    "GraphConfig",
    "IndexedDataset",
    "Neighbors",
    "PartitionPlanner",
    "Plan",
    "PlanRequest",
    "PlannedBatchSampler",
    "ProximityBatchSampler",
    "ProximityGraph",
    "SamplerStats",
    "UniformPlanner",
    "WalkPlanner",
    "Walks",
    "batch_stats",
    "compose",
    "knn",
    "knn_graph",
    "proximity_graph",
    "random_walk_with_restart",
    "sample_batches",
]
