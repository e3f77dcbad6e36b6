"""Fast, exact, reproducible kernels for BatchSampler (Yang et al., KDD 2023).

Builds a proximity graph over embeddings (:func:`proximity_graph`) and walks it at random with restart to collect
mini-batches of hard yet true negatives for in-batch contrastive learning (:func:`sample_batches`).
"""

from importlib.metadata import version as _version

from .bank import FeatureBank
from .batches import Batches, sample_batches
from .dataset import IndexedDataset
from .graph import ProximityGraph
from .graph_builders import GraphConfig, Neighbors, knn, knn_graph, proximity_graph
from .metrics import batch_stats
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
    "PlanRequest",
    "ProximityBatchSampler",
    "ProximityGraph",
    "SamplerStats",
    "UniformPlanner",
    "WalkPlanner",
    "Walks",
    "batch_stats",
    "knn",
    "knn_graph",
    "proximity_graph",
    "random_walk_with_restart",
    "sample_batches",
]
