"""What users of a GPU would call instead, and checks of what it returns.

Each function prepares inputs and returns the work that is timed. A package that is missing raises ModuleNotFoundError.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from .devices import Gpu, Work

GROUP_SIZE = 256  # rows that share candidates, as in proximity_graph
GROUPS_AT_ONCE = 50  # groups that torch scores at a time: about as many scores as a cache holds
CUPY_ROWS = 4096  # rows of its neighbors that CuPy searches, because it sorts all scores


class NotComparableError(AssertionError):
    """Results are not those of the same task."""


def grouped_candidates(gpu: Gpu, units: torch.Tensor, num_candidates: int, num_neighbors: int, variant: str) -> Work:
    """torch: a gather, a batched product and a top-k for groups of rows with one draw each.

    Candidates are drawn before. The work returns rows [R] and their neighbors [R, K].

    Args:
        variant: "eager", "CUDA graph" or "compiled".
    """
    num_groups = max(1, len(units) // GROUP_SIZE)
    chosen = torch.randperm(len(units), device=units.device)[: num_groups * GROUP_SIZE]
    rows = chosen.view(num_groups, -1)
    draws = torch.randint(len(units), (num_groups, num_candidates), device=units.device)
    neighbors = torch.empty((*rows.shape, num_neighbors), dtype=torch.int64, device=units.device)

    def select(rows: torch.Tensor, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.bmm(units[rows], units[draws].transpose(1, 2))
        return draws[:, None, :].expand(-1, rows.shape[1], -1), scores.topk(num_neighbors, sorted=False).indices

    step = gpu.compiled(select) if variant == "compiled" else select

    def work() -> tuple[torch.Tensor, torch.Tensor]:
        for first in range(0, num_groups, GROUPS_AT_ONCE):
            part = slice(first, first + GROUPS_AT_ONCE)
            drawn, places = step(rows[part], draws[part])
            torch.gather(drawn, 2, places, out=neighbors[part])
        return chosen, neighbors.flatten(0, 1)

    return gpu.captured(work) if variant == "CUDA graph" else work


def per_row_candidates(units: torch.Tensor, num_candidates: int, num_neighbors: int) -> Work:
    """torch: the formulation of the BatchSampler authors. Each row draws and gathers its own candidates."""
    rows = torch.arange(len(units), device=units.device)

    def work() -> tuple[torch.Tensor, torch.Tensor]:
        parts = []
        for part in rows.split(1024):
            draws = torch.randint(len(units), (len(part), num_candidates), device=units.device)
            scores = torch.bmm(units[draws], units[part][:, :, None])[:, :, 0]
            parts.append(draws.gather(1, scores.topk(num_neighbors, sorted=False).indices))
        return rows, torch.cat(parts)

    return work


def torch_knn(units: torch.Tensor, num_neighbors: int) -> Work:
    def work() -> torch.Tensor:
        parts = [(rows @ units.T).topk(num_neighbors + 1, sorted=False).indices for rows in units.split(2048)]
        return torch.cat(parts)

    return work


def cuvs_brute_force(units: torch.Tensor, num_neighbors: int) -> Work:
    neighbors = importlib.import_module("cuvs.neighbors").brute_force
    rows = units.float()

    def work() -> Any:
        return neighbors.search(neighbors.build(rows, metric="sqeuclidean"), rows, num_neighbors + 1)[1]

    return work


def cuvs_cagra(units: torch.Tensor, num_neighbors: int) -> Work:
    cagra = importlib.import_module("cuvs.neighbors").cagra
    rows = units.float()

    def work() -> Any:
        index = cagra.build(cagra.IndexParams(metric="sqeuclidean"), rows)
        options = cagra.SearchParams(itopk_size=(num_neighbors + 1 + 31) // 32 * 32)
        return cagra.search(options, index, rows, num_neighbors + 1)[1]

    return work


def faiss_gpu(units: torch.Tensor, num_neighbors: int) -> Work:
    faiss = importlib.import_module("faiss")
    if not hasattr(faiss, "StandardGpuResources"):
        raise ModuleNotFoundError("faiss without GPU support")
    importlib.import_module("faiss.contrib.torch_utils")  # lets FAISS read torch tensors
    resources, rows = faiss.StandardGpuResources(), units.float()

    def work() -> Any:
        return faiss.knn_gpu(resources, rows, rows, num_neighbors + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]

    return work


def cupy_knn(units: torch.Tensor, num_neighbors: int) -> Work:
    """Searches the neighbors of the first CUPY_ROWS rows only."""
    cupy = importlib.import_module("cupy")
    rows = cupy.asarray(units.half())

    def work() -> Any:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            parts = []
            for first in range(0, min(CUPY_ROWS, len(rows)), 1024):
                scores = -(rows[first : min(first + 1024, CUPY_ROWS)] @ rows.T)
                parts.append(cupy.argpartition(scores, num_neighbors, axis=1)[:, : num_neighbors + 1])
            return cupy.concatenate(parts)

    return work


# --- checks ----------------------------------------------------------------------------------------------------------
def similarity(units: torch.Tensor, rows: torch.Tensor, neighbors: torch.Tensor) -> float:
    """Returns the mean cosine of edges, over at most 1024 of the rows. units: [N, d]; neighbors: [R, K]"""
    some = torch.linspace(0, len(rows) - 1, min(1024, len(rows)), device=rows.device).long()
    ids = neighbors[some].long()
    scores = (units[rows[some]].float()[:, None, :] * units[ids].float()).sum(2)
    return float(scores.mean())


def same_similarity(units: torch.Tensor, ours: Any, result: Any, tolerance: float) -> str:
    """Compares mean cosines: both keep the best of equally many random candidates, but draw others."""
    expected = similarity(units, torch.arange(len(units), device=units.device), ours.neighbors)
    found = similarity(units, *result)
    if abs(found / expected - 1) > tolerance:
        raise NotComparableError(f"mean cosine of edges {found:.4f}, ours {expected:.4f}")
    return f"cosine {found:.4f}, ours {expected:.4f}"


def recall(ours: Any, result: Any, least: float) -> str:
    """Compares the neighbors of at most 2048 rows with ours. Theirs may contain the row itself, and have any order."""
    found = torch.as_tensor(result, device=ours.neighbors.device).long()
    num_rows = min(2048, len(found))
    exact = ours.neighbors[:num_rows].long()
    share = float((exact[:, :, None] == found[:num_rows, None, :]).any(2).float().mean())
    if share < least:
        raise NotComparableError(f"recall {share:.4f}")
    return f"recall {share:.4f}"
