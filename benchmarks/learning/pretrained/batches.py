"""The batches of the study. All but "online" are composed before training, from the frozen teacher's embeddings.

Each seed has its own plan. Windows of ranks are searched once for all plans of a data set.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

import batchsampler_ext as bse

from . import features, pairs

WINDOW_LENGTH = 100  # ranks p + 1 to p + 100
RELATIVE_MARGIN = 0.05  # document j is no negative of i if the teacher's s(i, j) >= .95 s(i, i)
NUM_MINED = 5
MINED_FROM = 30  # mined negatives are those of ranks 31 and after that are outside the margin


@dataclasses.dataclass(frozen=True)
class Batches:
    """A way to compose batches.

    preset: of `compose`; "plain" for uniform batches that may hold a text twice, "online" for the sampler.
    window_start: p of "b3".
    community_size: of "b3"; None for its 32, 0 for the batch size.
    is_masked: pairs within RELATIVE_MARGIN are neither edges nor negatives in the loss.
    num_mined: hard negatives beside the documents of the batch.
    """

    preset: str
    window_start: int = 30
    community_size: int | None = None
    is_masked: bool = False
    num_mined: int = 0


ARMS = {
    "uniform": Batches("plain"),
    "no duplicates": Batches("uniform"),
    "clusters": Batches("clusters"),
    "walks": Batches("walks"),
    "b3": Batches("b3"),
    "b3, nearest": Batches("b3", window_start=0),
    "b3, masked": Batches("b3", is_masked=True),
    "mined negatives": Batches("uniform", num_mined=NUM_MINED),
    "online": Batches("online"),
}


def arm_of(name: str) -> Batches:
    """Returns the batches of an arm: one of ARMS, or a name that :func:`variant` has made, also in another process."""
    if name in ARMS:
        return ARMS[name]
    found = re.fullmatch(r"b3 p=(\d+) community=(\d+|B)( masked)?", name)
    if found is None:
        raise ValueError(f"arm: expected one of {', '.join(ARMS)} or a variant of b3, got {name!r}")
    start, size, masked = found.groups()
    community_size = {"32": None, "B": 0}[size] if size in ("32", "B") else int(size)
    return Batches("b3", int(start), community_size, masked is not None)


def variant(window_start: int, community_size: int | None, is_masked: bool) -> str:
    """Returns the name of the arm that varies "b3" so. It is the one in ARMS if that has these batches."""
    wanted = Batches("b3", window_start, community_size, is_masked)
    known = next((name for name, batches in ARMS.items() if batches == wanted), None)
    size = {None: 32, 0: "B"}.get(community_size, community_size)
    return known or f"b3 p={window_start} community={size}{' masked' if is_masked else ''}"


def plan(data: Path, name: str, batches: Batches, batch_size: int, num_steps: int, seed: int) -> bse.Plan:
    """Returns a plan with enough epochs for the steps, composed at the first call. Tiers and losses share it."""
    key = "_".join(str(value) for value in dataclasses.astuple(dataclasses.replace(batches, num_mined=0)))
    path = data / "pairs" / name / "plans" / f"{key}_{batch_size}_{num_steps}_{seed}.bse"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        compose(data, name, batches, batch_size, num_steps, seed).save(path)
    return bse.Plan.load(path)


def compose(data: Path, name: str, batches: Batches, batch_size: int, num_steps: int, seed: int) -> bse.Plan:
    queries, documents = features.embeddings(data, name, "train")
    options: dict[str, Any] = {"batch_size": batch_size, "drop_last": True, "seed": seed}
    options["num_epochs"] = -(-num_steps // (len(queries) // batch_size))
    if batches.preset == "plain":
        return bse.compose(queries, documents, preset="uniform", **options)
    options["unique"] = unique_ids(data, name)
    if batches.preset != "b3":
        return bse.compose(queries, documents, preset=batches.preset, **options)
    if batches.is_masked:
        options["relative_margin"] = RELATIVE_MARGIN
    if batches.community_size is not None:
        options["community_size"] = batches.community_size or batch_size
    graph = window(data, name, batches.window_start)
    return bse.compose(queries, documents, preset="b3", graph=graph, mutual=True, **options)


@functools.lru_cache(maxsize=2)
def unique_ids(data: Path, name: str) -> np.ndarray:
    return pairs.positive_ids(pairs.read(data, name, "train"))


def window(data: Path, name: str, start: int) -> bse.ProximityGraph:
    """Returns the documents of ranks start + 1 to start + WINDOW_LENGTH of each query, with scores."""
    path = data / "pairs" / name / "plans" / f"window_{start}.bse"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        queries, documents = features.embeddings(data, name, "train")
        bse.knn_graph(queries, WINDOW_LENGTH, documents=documents, range_min=start).save(path)
    return bse.ProximityGraph.load(path)


def mined(data: Path, name: str) -> torch.Tensor:
    """Returns int64 [N, NUM_MINED], hard negatives of each query. Where the window has too few, they are random."""
    path = data / "pairs" / name / "plans" / "mined.npy"
    if not path.exists():
        queries, documents = features.embeddings(data, name, "train")
        unique = unique_ids(data, name)
        found = bse.compose(
            queries, documents, batch_size=32, graph=window(data, name, MINED_FROM), unique=unique, drop_last=True,
            relative_margin=RELATIVE_MARGIN, num_hard_negatives=NUM_MINED,
        ).hard_negatives().numpy()  # fmt: skip
        random = np.random.default_rng(0).integers(0, len(found), found.shape)
        np.save(path, np.where(found < 0, random, found))
    return torch.from_numpy(np.load(path))


def online(
    data: Path, name: str, student: Any, texts: list[Any], batch_size: int, seed: int
) -> bse.ProximityBatchSampler:
    """Returns the sampler that composes from the student's own embeddings, with a filled bank."""
    size = len(texts[0])
    bank = bse.FeatureBank(size, features.width(data), two_towers=True)
    with torch.no_grad():
        for chunk in torch.arange(size).split(1024):
            bank.update(chunk, *(student.embed(column, texts[column], chunk) for column in (0, 1)))
    unique = unique_ids(data, name)
    return bse.ProximityBatchSampler(size, batch_size, drop_last=True, bank=bank, unique=unique, seed=seed)
