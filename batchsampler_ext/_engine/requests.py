"""Requests to an engine. csrc/python/requests.h reads these fields by name, for all engines.

Arrays are given as addresses on the engine's device; 0 stands for an absent optional array. Meaning and shape of each
field are in csrc/common/requests.h and csrc/common/layouts.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class MatrixLayout(NamedTuple):
    address: int
    dtype_code: int
    num_rows: int
    dim: int
    row_stride: int  # in elements
    round_to_bf16: bool


class GraphLayout(NamedTuple):
    neighbors: int
    num_rows: int
    num_neighbors: int
    degrees: int
    row_of: int
    num_instances: int


class Selection(NamedTuple):
    metric: int
    num_neighbors: int
    range_min: int
    labels: int
    max_score: float | None
    sort: bool


class ProximityGraphRequest(NamedTuple):
    features: MatrixLayout
    documents: MatrixLayout | None
    rows: int
    num_rows: int
    num_candidates: int
    candidate_group_size: int
    first_group: int
    num_groups: int
    selection: Selection
    seed: int


class KnnRequest(NamedTuple):
    queries: MatrixLayout
    base: MatrixLayout | None
    query_ids: int
    num_queries: int
    base_ids: int
    num_base: int
    exclude_self: bool
    selection: Selection


class Edges(NamedTuple):
    """Addresses that the result of a search is written to."""

    neighbors: int
    scores: int


class Resources(NamedTuple):
    """Resources that a search on the CPU may use. Other engines use ``max_memory`` only."""

    num_threads: int
    max_memory: int
    progress: Callable[[int, int], object] | None


class WalkRequest(NamedTuple):
    graph: GraphLayout
    strategy: int
    roots: int
    walk_ids: int
    num_walks: int
    batch_size: int
    restart_threshold: int
    seed: int
    epoch: int
    finds_degrees: bool = False  # rows may be short though the graph has no degrees; CPU only


class MutualEdgesRequest(NamedTuple):
    graph: GraphLayout
    ids: int
    scores: int


class PartitionRequest(NamedTuple):
    graph: GraphLayout
    batch_size: int
    restart_threshold: int
    drop_last: bool
    hardness: int
    seed: int
    epoch: int


class CommunitiesRequest(NamedTuple):
    graph: GraphLayout
    size: int
    key: int


class KeepApartRequest(NamedTuple):
    members: int  # int32 [num_members], in and out
    num_members: int
    starts: int  # int64 [num_batches + 1]
    num_batches: int
    codes: int  # int32 [num_members, num_columns], of the members in the order given
    num_columns: int
    num_codes: int
    max_per_batch: int
    partner_offsets: int  # int64 [num_instances + 1]
    partners: int  # int32
    neighbors: int  # int32 [num_instances, num_neighbors]
    num_neighbors: int
    num_instances: int
    key: int


class BankTables(NamedTuple):
    data: int
    documents: int
    dtype_code: int
    num_instances: int
    dim: int
    last_update: int
    checksums: int = 0  # of a bank in files, on the CPU


class BankRows(NamedTuple):
    """The rows of an update on a queued engine."""

    embeddings: MatrixLayout
    documents: MatrixLayout | None
