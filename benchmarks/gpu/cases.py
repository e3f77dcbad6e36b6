"""The cases in the order of their value, so that a run that is cut has measured the most important ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

import batchsampler_ext as bse

from . import contestants
from .devices import Gpu, Work

OURS = "batchsampler_ext"


@dataclass(frozen=True)
class Sizes:
    graph_rows: int
    per_row_rows: int
    knn_rows: int
    num_candidates: int
    num_neighbors: int
    batch_size: int
    dim: int
    other_dims: tuple[int, ...]
    tolerance: float  # of mean cosines of edges to other random candidates


FULL = Sizes(1_280_000, 128_000, 200_000, 1000, 100, 256, 128, (64, 256, 768), 0.02)
QUICK = Sizes(64_000, 6_400, 10_000, 1000, 100, 256, 128, (64, 256, 768), 0.02)
TINY = Sizes(768, 256, 500, 100, 20, 32, 32, (64,), 0.2)  # for the emulator


@dataclass
class Contestant:
    name: str
    make: Callable[[], Work]
    check: Callable[[Any, Any], str] | None = None  # (our result, its result): raises if they are not comparable
    share: float = 1.0  # of the rows that the work is done for; its time is scaled up


@dataclass
class Case:
    """The first contestant is ours."""

    work: str
    contestants: list[Contestant] = field(default_factory=list)
    num_scores: float = 0.0
    dim: int = 0
    num_bytes: float = 0.0  # that have to be read and written at least
    has_kernel_times: bool = False


def all_cases(gpu: Gpu, sizes: Sizes) -> Iterator[tuple[str, float, Callable[[], Case]]]:
    """Yields name, seconds on a large GPU (an estimate) and what makes the case, as only one case is in memory."""
    bf16, f32 = torch.bfloat16, torch.float32
    yield "graph", 12, lambda: graph(gpu, sizes, sizes.dim, bf16, has_kernel_times=True)
    yield "knn", 30, lambda: knn(gpu, sizes)
    yield "per-row candidates", 5, lambda: per_row(gpu, sizes)
    yield "walks", 4, lambda: walks(gpu, sizes)
    yield "partition", 4, lambda: partition(gpu, sizes)
    yield "graph float32", 8, lambda: graph(gpu, sizes, sizes.dim, f32)
    for dim in sizes.other_dims:
        yield f"graph d={dim}", 6, lambda dim=dim: graph(gpu, sizes, dim, bf16)


def units_of(gpu: Gpu, num_rows: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator(gpu.place).manual_seed(0)
    rows = torch.randn(num_rows, dim, device=gpu.place, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def graph_title(sizes: Sizes, num_rows: int, dim: int, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return f"N={num_rows:,} d={dim} M={sizes.num_candidates} K={sizes.num_neighbors} {name}"


def graph(gpu: Gpu, sizes: Sizes, dim: int, dtype: torch.dtype, *, has_kernel_times: bool = False) -> Case:
    """In bfloat16, a graph without scores takes fused top-k, with scores matrix top-k."""
    n, m, k = sizes.graph_rows, sizes.num_candidates, sizes.num_neighbors
    x = units_of(gpu, n, dim, dtype)

    def ours(**options: Any) -> Callable[[], Work]:
        return lambda: lambda: bse.proximity_graph(x, k, num_candidates=m, **options)

    def torch_grouped(variant: str) -> Contestant:
        return Contestant(
            f"torch, grouped candidates, {variant}",
            lambda: contestants.grouped_candidates(gpu, x, m, k, variant),
            lambda ours, result: contestants.same_similarity(x, ours, result, sizes.tolerance),
        )

    def same_edges(ours: bse.ProximityGraph, result: bse.ProximityGraph) -> str:
        if not torch.equal(ours.neighbors, result.neighbors):
            raise contestants.NotComparableError("other edges than ours")
        return "same edges"

    case = Case(
        f"proximity_graph {graph_title(sizes, n, dim, dtype)}", [Contestant(OURS, ours())],
        float(n) * m, dim, x.nbytes + 4.0 * n * k, has_kernel_times,
    )  # fmt: skip
    if dtype == torch.bfloat16:
        case.contestants.append(Contestant(f"{OURS}, with scores", ours(return_scores=True), same_edges))
    if has_kernel_times:
        case.contestants.append(torch_grouped("eager"))
    case.contestants.append(torch_grouped("CUDA graph"))
    return case


def compiled_graph(gpu: Gpu, sizes: Sizes) -> Case:
    """torch.compile, apart from the other cases and last: compiling may take a minute."""
    n, m, k = sizes.graph_rows, sizes.num_candidates, sizes.num_neighbors
    x = units_of(gpu, n, sizes.dim, torch.bfloat16)
    return Case(
        f"torch.compile, proximity_graph {graph_title(sizes, n, sizes.dim, x.dtype)}",
        [
            Contestant(OURS, lambda: lambda: bse.proximity_graph(x, k, num_candidates=m)),
            Contestant(
                "torch, grouped candidates, compiled",
                lambda: contestants.grouped_candidates(gpu, x, m, k, "compiled"),
                lambda ours, result: contestants.same_similarity(x, ours, result, sizes.tolerance),
            ),
        ],
        float(n) * m, sizes.dim, x.nbytes + 4.0 * n * k,
    )  # fmt: skip


def knn(gpu: Gpu, sizes: Sizes) -> Case:
    """torch rounds scores to bfloat16, so its recall is below 1. Other packages search in float32 or float16."""
    n, k = sizes.knn_rows, sizes.num_neighbors
    x = units_of(gpu, n, sizes.dim, torch.bfloat16)

    def peer(name: str, make: Callable[[torch.Tensor, int], Work], least: float, share: float = 1.0) -> Contestant:
        check = lambda ours, result: contestants.recall(ours, result, least)  # noqa: E731
        return Contestant(name, lambda: make(x, k), check, share)

    return Case(
        f"knn_graph N={n:,} d={sizes.dim} K={k} bfloat16",
        [
            Contestant(OURS, lambda: lambda: bse.knn_graph(x, k, return_scores=False)),
            peer("torch, product + topk", contestants.torch_knn, 0.5),
            peer("cuVS brute force, float32", contestants.cuvs_brute_force, 0.99),
            peer("cuVS CAGRA, float32", contestants.cuvs_cagra, 0.0),
            peer("FAISS GPU, float32", contestants.faiss_gpu, 0.99),
            peer("CuPy, float16", contestants.cupy_knn, 0.9, min(1.0, contestants.CUPY_ROWS / n)),
        ],
        float(n) ** 2, sizes.dim, x.nbytes + 4.0 * n * k,
    )  # fmt: skip


def per_row(gpu: Gpu, sizes: Sizes) -> Case:
    n, m, k = sizes.per_row_rows, sizes.num_candidates, sizes.num_neighbors
    x = units_of(gpu, n, sizes.dim, torch.bfloat16)
    return Case(
        f"per-row candidates, {graph_title(sizes, n, sizes.dim, x.dtype)}",
        [
            Contestant(OURS, lambda: lambda: bse.proximity_graph(x, k, num_candidates=m, candidate_group_size=1)),
            Contestant(
                "torch, gather + bmm + topk, as the authors",
                lambda: contestants.per_row_candidates(x, m, k),
                lambda ours, result: contestants.same_similarity(x, ours, result, sizes.tolerance),
            ),
        ],
        float(n) * m, sizes.dim, float(n) * m * x[0].nbytes,
    )  # fmt: skip


def random_graph(gpu: Gpu, sizes: Sizes) -> bse.ProximityGraph:
    shape = (sizes.graph_rows, sizes.num_neighbors)
    made = bse.ProximityGraph(torch.randint(shape[0], shape, dtype=torch.int32, device=gpu.place))
    made.degrees()  # checks the table, once
    return made


def walks(gpu: Gpu, sizes: Sizes) -> Case:
    made = random_graph(gpu, sizes)
    num_walks = sizes.graph_rows // sizes.batch_size
    roots = torch.randint(sizes.graph_rows, (num_walks,), device=gpu.place)
    return Case(
        f"walks of an epoch, N={sizes.graph_rows:,} K={sizes.num_neighbors} B={sizes.batch_size}",
        [Contestant(OURS, lambda: lambda: bse.random_walk_with_restart(made, roots, sizes.batch_size))],
    )


def partition(gpu: Gpu, sizes: Sizes) -> Case:
    made = random_graph(gpu, sizes)
    return Case(
        f"partition of an epoch, N={sizes.graph_rows:,} K={sizes.num_neighbors} B={sizes.batch_size}",
        [Contestant(OURS, lambda: lambda: bse.sample_batches(made, sizes.batch_size))],
    )
