# Kept by hand; tests/python/test_stubs.py compares it with what csrc/python/cpu/ registers.
# Addresses are integers; 0 stands for an absent optional array.
from collections.abc import Callable

from ._engine.requests import BankTables, GraphLayout, KnnRequest, PartitionRequest, ProximityGraphRequest, WalkRequest

def isa() -> str: ...
def use_isa(name: str, /) -> None: ...
def supported_isas() -> list[str]: ...
def update_bank(
    tables: BankTables,
    *,
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
    request: ProximityGraphRequest,
    *,
    neighbors: int,
    scores: int,
    num_threads: int,
    max_memory: int,
    progress: Callable[[int, int], object] | None,
) -> None: ...
def knn(
    request: KnnRequest,
    *,
    neighbors: int,
    scores: int,
    num_threads: int,
    max_memory: int,
    progress: Callable[[int, int], object] | None,
) -> None: ...
def row_degrees(graph: GraphLayout, *, num_threads: int, degrees: int) -> None: ...
def walk_batches(request: WalkRequest, *, num_threads: int, nodes: int, counts: int) -> None: ...
def partition_epoch(request: PartitionRequest, *, num_threads: int, nodes: int) -> int: ...
