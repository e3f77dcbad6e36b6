"""Times inputs on which guessed thresholds fail, relative to random data of the same shape.

python -m benchmarks.adversarial [--num-instances 8000] [--rounds 5]

Ratios are medians over interleaved rounds. tests/python/test_similarity.py checks such inputs against the oracle.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from batchsampler_ext import knn_graph, proximity_graph
from batchsampler_ext._engine.text_tables import table

NUM_NEIGHBORS, NUM_CANDIDATES = 100, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-instances", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    builders, rows = work(), []
    rng = np.random.default_rng(0)
    for dim, kinds in ((128, KINDS), (1, ("equal rows", "sorted rows")), (4096, ("one cluster",))):
        ratios = slowdowns(
            rng,
            options.num_instances if dim < 1000 else options.num_instances // 8,
            dim,
            kinds,
            builders,
            options.rounds,
        )
        for kind in kinds:
            rows.append([f"{kind}, d = {dim}", *(f"{ratios[kind, name]:.2f}" for name in builders)])
    title = f"N = {options.num_instances:,}, M = {NUM_CANDIDATES}, K = {NUM_NEIGHBORS}: time over random data's"
    print(table(title, ["input", *builders], rows))


def work() -> dict[str, Callable[[torch.Tensor], object]]:
    def graph(features: torch.Tensor, **chosen) -> object:
        num_candidates = min(NUM_CANDIDATES, len(features) - 1)
        return proximity_graph(features, NUM_NEIGHBORS, num_candidates=num_candidates, **chosen)

    return {
        "knn_graph": lambda features: knn_graph(features, NUM_NEIGHBORS),
        "proximity_graph": graph,
        "bf16": lambda features: graph(features.bfloat16()),
        "per-row candidates": lambda features: graph(features, candidate_group_size=1),
    }


KINDS = ("equal rows", "one cluster", "common mean", "heavy tails", "sorted rows", "two values")


def features_of(rng: np.random.Generator, kind: str, num_instances: int, dim: int) -> torch.Tensor:
    features = rng.standard_normal((num_instances, dim))
    if kind == "equal rows":
        features[:] = features[0]
    elif kind == "one cluster":  # nine tenths of the rows
        features[num_instances // 10 :] = features[0] + 1e-3 * features[num_instances // 10 :]
    elif kind == "common mean":
        features += 100
    elif kind == "heavy tails":
        features *= np.exp(4 * rng.standard_normal((num_instances, 1)))
    elif kind == "sorted rows":  # neighbors are adjacent, so thresholds rise late
        features = np.cumsum(features, axis=0) if dim > 1 else np.sort(features, axis=0)
    elif kind == "two values":
        features = np.sign(features[:, :1]) * np.ones((1, dim))
    return torch.from_numpy(features.astype(np.float32))


def slowdowns(
    rng: np.random.Generator,
    num_instances: int,
    dim: int,
    kinds: tuple[str, ...],
    builders: dict[str, Callable[[torch.Tensor], object]],
    num_rounds: int,
) -> dict[tuple[str, str], float]:
    inputs = {kind: features_of(rng, kind, num_instances, dim) for kind in ("random", *kinds)}
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(num_rounds):
        for kind, features in inputs.items():
            for name, build in builders.items():
                start = time.perf_counter()
                build(features)
                seconds.setdefault((kind, name), []).append(time.perf_counter() - start)
    median = {key: float(np.median(times)) for key, times in seconds.items()}
    return {(kind, name): median[kind, name] / median["random", name] for kind in kinds for name in builders}


if __name__ == "__main__":
    main()
