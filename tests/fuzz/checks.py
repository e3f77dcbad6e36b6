"""What all targets share: valid objects, and what must hold whatever an input is."""

from __future__ import annotations

import contextlib
import functools
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from batchsampler_ext import (
    FeatureBank,
    Plan,
    ProximityGraph,
    compose,
)

N, D, B = 24, 4, 4
MAX_BYTES = 512 << 20  # that an input of at most MAX_INPUT bytes may take
MAX_INPUT = 1 << 16
_NO_MEMORY = re.compile("can't allocate|not enough memory|out of memory|bad_alloc|MemoryError|Unable to allocate")


def embeddings(seed: int = 0) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """While this lasts, the process may take MAX_BYTES more of memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def refusing(*names: str, may_lack_memory: bool = False) -> Iterator[list[bool]]:
    """Takes errors that name one of the arguments for a refusal. Other errors, and a lack of memory, are failures.

    Yields a list that is not empty after a refusal.
    """
    refused: list[bool] = []
    try:
        yield refused
    except (ValueError, TypeError) as error:
        if not re.match(rf"({'|'.join(names)})(\[[\d, ]*\])?: ", f"{error}: "):
            raise AssertionError(f"an error that names none of {names}: {error!r:.500}") from error
        link: BaseException | None = error
        while link is not None and not may_lack_memory:
            has_no_memory = isinstance(link, MemoryError) or _NO_MEMORY.search(str(link))
            assert not has_no_memory, repr(link)
            link = link.__cause__ or link.__context__
        refused.append(True)


def written(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def require_batches(batches: Any, num_instances: int, is_each_once: bool) -> None:
    ids = [i for batch in batches for i in batch.tolist()]
    assert all(0 <= i < num_instances for i in ids), "an id out of range"
    assert all(len(set(batch.tolist())) == len(batch) > 0 for batch in batches), "a repeated id or an empty batch"
    assert not is_each_once or len(set(ids)) == len(ids)


def require_prefixes(table: torch.Tensor, num_instances: int) -> None:
    """Each row lists ids, then -1."""
    assert not table.numel() or -1 <= int(table.min()) <= int(table.max()) < num_instances, "an id out of range"
    assert not bool(((table[:, 1:] >= 0) & (table[:, :-1] < 0)).any()), "-1 before an id"


def require_graph(graph: ProximityGraph) -> None:
    table = graph.neighbors
    assert table.dtype == torch.int32
    require_prefixes(table, graph.num_instances)
    assert graph.scores is None or graph.scores.shape == table.shape


def valid_bank(**options: Any) -> FeatureBank:
    bank = FeatureBank(N, D, two_towers=True, **options)
    bank.update(range(16), embeddings()[:16], embeddings(1)[:16])
    return bank


@functools.cache
def valid_plan() -> Plan:
    return compose(
        embeddings(),
        embeddings(1),
        batch_size=B,
        rank_window=(1, 6),
        community_size=2,
        sources=[0] * 9 + [1] * 15,
        unique=[*range(22), 3, 3],
        margin=0.1,
        num_hard_negatives=2,
        num_epochs=2,
    )


def same(first: Any, second: Any) -> bool:
    """Whether nested content is equal, also where it is nan."""
    if isinstance(first, torch.Tensor):
        return (
            isinstance(second, torch.Tensor)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and (torch.equal(first, second) or repr(first.tolist()) == repr(second.tolist()))
        )
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same(part, second[name]) for name, part in first.items())
        )
    if isinstance(first, (list, tuple)):
        return isinstance(second, (list, tuple)) and len(first) == len(second) and all(map(same, first, second))
    return repr(first) == repr(second)
