# Kept by hand; tests/python/test_stubs.py compares it with what csrc/python/cuda/ registers.
# Addresses are integers, of device memory; 0 stands for an absent optional array.
from collections.abc import Callable, Sequence

from ._engine import requests

architectures: str
bank_scratch_bytes: int
num_bank_error_log_words: int
num_status_words: int

def use_device(index: int) -> None: ...
def status_message(
    words: Sequence[int], *, num_instances: int = 0, features: str = "features", documents: str = "documents"
) -> str: ...
def update_bank(
    tables: requests.BankTables,
    *,
    claims: int,
    ids: int,
    rows: requests.BankRows,
    step: int,
    update_number: int,
    momentum: float,
    normalize: bool,
    skips: bool,
    error_log: int,
    scratch: int,
    stream: int,
) -> None: ...
def mutual_edges(
    request: requests.MutualEdgesRequest, edges: requests.Edges, *, degrees: int, status: int, stream: int
) -> None: ...
def row_degrees(graph: requests.GraphLayout, *, degrees: int, status: int, stream: int) -> None: ...
def root_order(*, n: int, seed: int, epoch: int, out: int, stream: int) -> None: ...
def group_order(*, n: int, seed: int, out: int, stream: int) -> None: ...
def independent_roots(*, n: int, num_walks: int, seed: int, epoch: int, out: int, stream: int) -> None: ...

class ProximityGraphCall:
    def __init__(self, request: requests.ProximityGraphRequest, *, has_scores: bool, max_memory: int) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(self, *, edges: requests.Edges, scratch: int, status: int, stream: int) -> None: ...

class KnnCall:
    def __init__(self, request: requests.KnnRequest, *, max_memory: int) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(self, *, edges: requests.Edges, scratch: int, status: int, stream: int) -> None: ...

class WalkCall:
    def __init__(self, request: requests.WalkRequest) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(self, *, nodes: int, counts: int, scratch: int, status: int, stream: int) -> None: ...

class PartitionCall:
    def __init__(self, request: requests.PartitionRequest) -> None: ...
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
