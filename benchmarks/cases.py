"""Cases of graphs, nearest neighbors and walks: the work, our way to do it, and those of peers. Epochs: epochs.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

import batchsampler_ext as bse
from batchsampler_ext._engine.backend import core

from . import peers
from .checks import instruction_set
from .embeddings import Embeddings

Contestants = dict[str, Callable[[], Any]]
OURS = "batchsampler_ext"
AUTHORS_ROWS = (
    2000  # rows that the authors' formulation is timed on; each row gathers M d floats and takes equally long
)
QUICK_SCALE = 20  # --quick divides the rows of random data by this


class Work(NamedTuple):
    """The work of one run, in the unit of a peak: FLOP, bytes, or random reads."""

    amount: float
    peak: str  # a name of machine.measure_peaks, for all threads unless the name says otherwise


@dataclass
class Case:
    """Contestants for the same work. The first one is ours."""

    title: str
    contestants: Contestants
    work: Work | None = None
    own_work: dict[str, Work] = field(default_factory=dict)  # for contestants that do other work
    done_share: dict[str, float] = field(default_factory=dict)  # for contestants that do only a part of the work
    qualities: dict[str, dict[str, float]] = field(default_factory=dict)  # measures of the results of contestants
    notes: list[str] = field(default_factory=list)

    def add_optional(self, package: str, name: str, run: Callable[[], Any]) -> bool:
        """Adds a contestant if its package is installed, otherwise a note. Returns whether it was added."""
        is_missing = bool(peers.missing(package))
        if is_missing:
            self.notes.append(f"not installed: {package}")
        else:
            self.contestants[name] = run
        return not is_missing


@dataclass(frozen=True)
class Inputs:
    num_threads: int
    text: Embeddings  # text vectors, or the embeddings that the user gave
    digits: Embeddings
    is_quick: bool = False

    def size(self, num_rows: int) -> int:
        return num_rows // QUICK_SCALE if self.is_quick else num_rows

    def noise(self, num_rows: int, dim: int) -> Embeddings:
        return Embeddings("noise", torch.randn(self.size(num_rows), dim), None)


Maker = Callable[[Inputs], Case]


# --- proximity graphs ------------------------------------------------------------------------------------------------
def graph_case(
    dtype: torch.dtype = torch.float32,
    *,
    num_rows: int = 20_000,
    dim: int = 128,
    m: int = 1000,
    k: int = 100,
    candidate_group_size: int = 256,
    is_real: bool = False,
) -> Maker:
    def make(inputs: Inputs) -> Case:
        data = inputs.text if is_real else inputs.noise(num_rows, dim)
        x = data.features.to(dtype)
        num_candidates = min(m, len(x) - 1)
        units = normalize(data.features, dim=1).to(dtype)

        def ours() -> bse.ProximityGraph:
            return bse.proximity_graph(x, k, num_candidates=num_candidates, candidate_group_size=candidate_group_size)

        contestants = on_instruction_sets(ours)
        if candidate_group_size > 1:
            contestants["torch, grouped candidates"] = peers.TorchGroupedCandidates(units, num_candidates, k)
        done_share = {}
        if dtype == torch.float32:
            name, num_done = "authors: gather + bmm + topk", min(len(x), AUTHORS_ROWS)
            contestants[name] = peers.AuthorsGraph(units, num_candidates, k, num_done)
            done_share[name] = num_done / len(x)
        draws = "per-row candidates" if candidate_group_size == 1 else "grouped candidates"
        title = f"proximity graph of {described(data, dtype)}, M={num_candidates} K={k}, {draws}"
        peak = "fma" if dtype == torch.float32 else "bf16"
        work = Work(2.0 * len(x) * num_candidates * x.shape[1], peak)
        return Case(title, contestants, work, done_share=done_share)

    return make


def on_instruction_sets(work: Callable[[], Any]) -> Contestants:
    """Returns contestants for the instruction set in use and for all other vector instruction sets."""

    def on(name: str) -> Callable[[], Any]:
        def run() -> Any:
            with instruction_set(name):
                return work()

        return run

    others = [name for name in core.supported_isas() if name not in ("scalar", core.isa())]
    return {OURS: work, **{f"{OURS}, {name}": on(name) for name in others}}


def described(data: Embeddings, dtype: torch.dtype) -> str:
    num_rows, dim = data.features.shape
    return f"{data.name} N={num_rows:,} d={dim} {str(dtype).removeprefix('torch.')}"


# --- exact nearest neighbors ----------------------------------------------------------------------------------------
def knn_case(num_rows: int = 20_000, dim: int = 128, k: int = 100, *, is_real: bool = False) -> Maker:
    def make(inputs: Inputs) -> Case:
        data = inputs.text if is_real else inputs.noise(num_rows, dim)
        x, num_threads = data.features, inputs.num_threads
        units = normalize(x, dim=1)
        rows = units.numpy()
        title = f"exact kNN graph of {described(data, x.dtype)}, K={k}"
        work = Work(float(len(x)) ** 2 * x.shape[1], "fma")  # each pair is scored once
        case = Case(title, on_instruction_sets(lambda: bse.knn_graph(x, k).neighbors.numpy()), work)
        case.contestants["torch"] = lambda: peers.torch_knn(units, k).numpy()
        case.add_optional("faiss", "faiss IndexFlatIP", lambda: peers.faiss_knn(rows, k, num_threads))
        case.add_optional("sklearn", "scikit-learn, brute force", lambda: peers.sklearn_knn(rows, k))
        case.add_optional("usearch", "usearch, exact", lambda: peers.usearch_knn(rows, k, num_threads))
        case.add_optional("pynndescent", "pynndescent", lambda: peers.pynndescent_knn(rows, k, num_threads))
        ours = case.contestants[OURS]()
        case.qualities = {name: {"recall": recall(run(), ours)} for name, run in case.contestants.items()}
        return case

    return make


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the mean share of a row of `wanted` that is in the same row of `found`."""
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, wanted, strict=True)]))


# --- walks -----------------------------------------------------------------------------------------------------------
def noise_graph(degree: int) -> Callable[[Inputs], tuple[str, torch.Tensor]]:
    """Returns a maker of name and neighbors of a random graph that is much larger than the caches."""

    def make(inputs: Inputs) -> tuple[str, torch.Tensor]:
        num_instances = inputs.size(1_000_000)
        neighbors = torch.randint(num_instances, (num_instances, degree), dtype=torch.int32)
        return f"a random graph N={num_instances:,} K={degree}", neighbors

    return make


def text_graph(inputs: Inputs) -> tuple[str, torch.Tensor]:
    neighbors = bse.proximity_graph(inputs.text.features).neighbors
    num_instances, degree = neighbors.shape
    return f"the proximity graph of {inputs.text.name} N={num_instances:,} K={degree}", neighbors


def walk_case(make_graph: Callable[[Inputs], tuple[str, torch.Tensor]]) -> Maker:
    def make(inputs: Inputs) -> Case:
        batch_size, alpha, num_walks, num_python = 256, 0.2, inputs.size(2000), 4
        name, neighbors = make_graph(inputs)
        roots = torch.randint(len(neighbors), (num_walks,))
        graph = bse.ProximityGraph(neighbors)

        def ours() -> bse.Walks:
            return bse.random_walk_with_restart(graph, roots, batch_size, restart_prob=alpha, num_threads=1)

        def ours_of_table() -> bse.Walks:  # ids are checked and row ends are found where walks meet them
            return bse.random_walk_with_restart(neighbors, roots, batch_size, restart_prob=alpha, num_threads=1)

        num_steps = int(ours().steps.sum())
        case = Case(
            f"random walks on {name}, B={batch_size} alpha={alpha}, {num_walks:,} walks, one thread",
            {
                OURS: ours,
                f"{OURS}, graph given as a tensor": ours_of_table,
                "C++, one walk at a time": lambda: peers.plain_walks(neighbors, roots, batch_size, alpha),
                "Python loop": lambda: peers.python_walks(neighbors, roots[:num_python].tolist(), batch_size, alpha),
            },
            Work(float(num_steps), "random_reads, one thread"),
            done_share={"Python loop": num_python / num_walks},
            notes=[f"{num_steps:,} steps in our walks"],
        )
        cluster_steps = peers.TorchClusterSteps(neighbors, roots, num_steps // num_walks)
        if case.add_optional("torch_cluster", "torch_cluster random_walk", cluster_steps):
            case.notes.append("torch_cluster: as many steps, but neither restarts nor batches of distinct nodes")
        return case

    return make
