# Kept by hand; tests/python/test_stubs.py compares it with what csrc/python/cpu/ registers.
# Addresses are integers; 0 stands for an absent optional array.
from collections.abc import Callable

# address, dtype code, num_rows, dim, row stride in elements, round to bf16
_Matrix = tuple[int, int, int, int, int, bool]
# neighbors, num_rows, num_neighbors, degrees, row_of, num_instances
_Graph = tuple[int, int, int, int, int, int]

def isa() -> str: ...
def use_isa(name: str, /) -> None: ...
def supported_isas() -> list[str]: ...
def update_bank(
    *,
    data: int,
    documents: int,
    dtype: int,
    num_instances: int,
    dim: int,
    last_update: int,
    ids: int,
    rows: int,
    document_rows: int,
    num_rows: int,
    step: int,
    momentum: float,
    normalize: bool,
) -> tuple[int, int]: ...
def philox4x32(key: int, c0: int, c1: int, c2: int, c3: int, /) -> tuple[int, int, int, int]: ...
def root_order(*, n: int, seed: int, epoch: int, out: int) -> None: ...
def independent_roots(*, n: int, num_walks: int, seed: int, epoch: int, out: int) -> None: ...
def proximity_graph(
    *,
    features: _Matrix,
    documents: _Matrix | None,
    rows: int,
    num_rows: int,
    num_neighbors: int,
    num_candidates: int,
    candidate_group_size: int,
    metric: int,
    labels: int,
    max_score: float | None,
    range_min: int,
    sort: bool,
    seed: int,
    num_threads: int,
    max_memory: int,
    progress: Callable[[int, int], object] | None,
    neighbors: int,
    scores: int,
) -> None: ...
def knn(
    *,
    queries: _Matrix,
    base: _Matrix | None,
    query_ids: int,
    num_queries: int,
    base_ids: int,
    num_base: int,
    exclude_self: bool,
    num_neighbors: int,
    metric: int,
    labels: int,
    max_score: float | None,
    range_min: int,
    num_threads: int,
    max_memory: int,
    progress: Callable[[int, int], object] | None,
    neighbors: int,
    scores: int,
) -> None: ...
def row_degrees(*, graph: _Graph, num_threads: int, degrees: int) -> None: ...
def walk_batches(
    *,
    graph: _Graph,
    finds_degrees: bool,
    strategy: int,
    roots: int,
    walk_ids: int,
    num_walks: int,
    batch_size: int,
    restart_threshold: int,
    seed: int,
    epoch: int,
    num_threads: int,
    nodes: int,
    counts: int,
) -> None: ...
def partition_epoch(
    *,
    graph: _Graph,
    batch_size: int,
    restart_threshold: int,
    drop_last: bool,
    hardness: int,
    seed: int,
    epoch: int,
    num_threads: int,
    nodes: int,
) -> int: ...
