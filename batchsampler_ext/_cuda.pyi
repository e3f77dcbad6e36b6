# Kept by hand; tests/python/test_stubs.py compares it with what csrc/python/cuda/ registers.
# Addresses are integers, of device memory; 0 stands for an absent optional array.
from collections.abc import Callable, Sequence

# address, dtype code, num_rows, dim, row stride in elements, round to bf16
_Matrix = tuple[int, int, int, int, int, bool]
# neighbors, num_rows, num_neighbors, degrees, row_of, num_instances
_Graph = tuple[int, int, int, int, int, int]

architectures: str
bank_scratch_bytes: int
num_bank_error_log_words: int
num_status_words: int

def use_device(index: int) -> None: ...
def status_message(
    words: Sequence[int], *, num_instances: int = 0, features: str = "features", documents: str = "documents"
) -> str: ...
def update_bank(
    *,
    data: int,
    documents: int,
    dtype: int,
    num_instances: int,
    dim: int,
    last_update: int,
    claims: int,
    ids: int,
    rows: _Matrix,
    document_rows: _Matrix | None,
    step: int,
    update_number: int,
    momentum: float,
    normalize: bool,
    skips: bool,
    error_log: int,
    scratch: int,
    stream: int,
) -> None: ...
def row_degrees(*, graph: _Graph, degrees: int, status: int, stream: int) -> None: ...
def root_order(*, n: int, seed: int, epoch: int, out: int, stream: int) -> None: ...
def independent_roots(*, n: int, num_walks: int, seed: int, epoch: int, out: int, stream: int) -> None: ...

class ProximityGraphCall:
    def __init__(
        self,
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
        has_scores: bool,
        seed: int,
        max_memory: int,
    ) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(self, *, neighbors: int, scores: int, scratch: int, status: int, stream: int) -> None: ...

class KnnCall:
    def __init__(
        self,
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
        max_memory: int,
    ) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(self, *, neighbors: int, scores: int, scratch: int, status: int, stream: int) -> None: ...

class WalkCall:
    def __init__(
        self,
        *,
        graph: _Graph,
        strategy: int,
        roots: int,
        walk_ids: int,
        num_walks: int,
        batch_size: int,
        restart_threshold: int,
        seed: int,
        epoch: int,
    ) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(self, *, nodes: int, counts: int, scratch: int, status: int, stream: int) -> None: ...

class PartitionCall:
    def __init__(
        self,
        *,
        graph: _Graph,
        batch_size: int,
        restart_threshold: int,
        drop_last: bool,
        hardness: int,
        seed: int,
        epoch: int,
    ) -> None: ...
    @property
    def num_reference_walks(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(
        self,
        *,
        walk_nodes: int,
        nodes: int,
        scratch: int,
        status: int,
        stream: int,
        read: Callable[[int, int], Sequence[int]],
    ) -> int: ...
