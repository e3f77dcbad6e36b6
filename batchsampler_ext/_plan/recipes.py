"""The recipes of the literature: which graph joins hard negatives, and how batches are cut from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from .._engine import validate
from .._engine.arrays import on_host
from ..graph import ProximityGraph
from .sources import Part, described


@dataclass(frozen=True)
class Recipe:
    """A recipe of :func:`compose`. None stands for a value that depends on the data.

    The graph is one of three. With ``rank_window`` (p, q), neighbors are those of rank p + 1 to q among all others.
    With ``num_candidates`` M, they are the ``num_neighbors`` K best of M random candidates. Else there is no graph.
    With ``batches_per_cluster``, batches are from clusters, and there is no graph.
    """

    rank_window: tuple[int, int] | None = None
    windows: Mapping[int, tuple[int, int] | None] | None = None  # of some sources, in place of rank_window
    num_candidates: int | None = None
    num_neighbors: int | None = None
    mutual: bool = False  # only edges that go both ways
    community_size: int | Sequence[int] | None = (
        None  # of each epoch, the last one stays. None: a batch is one community
    )
    batches_per_cluster: int | None = None
    follows_walks: bool = False  # communities are a partition by walks, instead of those with most edges inside

    def checked(
        self,
        parts: Sequence[Part],
        batch_size: int,
        sources_per_batch: int,
        graph: ProximityGraph | None,
        num_epochs: int,
        preset: str,
        given: Collection[str],
    ) -> Recipe:
        """Returns the recipe with integers in place of what was given. Raises errors that name the option.

        graph: the one that was given; windows and candidates do not count then. given: names of the options that are
        not the preset's.
        """
        largest = batch_size // sources_per_batch
        reason = "batch_size" if sources_per_batch == 1 else "batch_size / sources_per_batch"
        if "community_size" in given or self.community_size is None:
            sizes = _community_sizes(self.community_size, largest, reason)
        else:
            sizes = fitted_sizes(self.community_size, largest, reason, preset)
        hard = next((epoch for epoch, size in enumerate(sizes) if size > 1), 0)
        if hard >= num_epochs:
            raise ValueError(
                f"num_epochs: expected at least {hard + 1}, because each epoch has one of the community sizes "
                f"{list(sizes)}, and communities of 1 make uniform batches, got {num_epochs}"
            )
        result = replace(self, community_size=sizes, mutual=validate.flag(self.mutual, "mutual"))
        if self.batches_per_cluster is not None:
            number = validate.integer(self.batches_per_cluster, "batches_per_cluster", 1)
            return replace(result, batches_per_cluster=number)
        if graph is not None:
            return replace(
                result,
                rank_window=None,
                windows=None,
                num_candidates=None,
                num_neighbors=None,
                mutual=result.mutual and "mutual" in given,  # that of the preset is about its own graph
            )
        if self.rank_window is not None or self.windows is not None:
            window = None if self.rank_window is None else _integers(self.rank_window)
            windows = {source: None if own is None else _integers(own) for source, own in (self.windows or {}).items()}
            result = replace(result, rank_window=window, windows=windows, num_candidates=None, num_neighbors=None)
            is_own = "rank_window" not in given or self.windows is not None
            result._require_windows(parts, preset if is_own else None)
            return result
        if self.num_candidates is None:
            return result
        wanted = validate.integer(self.num_candidates, "num_candidates", 1)
        num_neighbors = 100 if self.num_neighbors is None else validate.integer(self.num_neighbors, "num_neighbors", 1)
        if "num_neighbors" in given:
            validate.integer(num_neighbors, "num_neighbors", 1, wanted, because=" (num_candidates)")
        num_candidates = min(wanted, max(max(len(part.rows) for part in parts) - 1, 1))
        return replace(result, num_candidates=num_candidates, num_neighbors=min(num_neighbors, num_candidates))

    def description(self) -> dict[str, Any]:
        """Returns the values as JSON has them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists, and sources strings
        return values

    def window_of(self, source: int) -> tuple[int, int] | None:
        return (self.windows or {}).get(source, self.rank_window)

    def max_neighbors(self) -> int:
        """Returns the number of neighbors of an instance, of the source with most; 0 without a graph. It is checked."""
        windows = [self.rank_window, *(self.windows or {}).values()]
        widths = [window[1] - window[0] for window in windows if window is not None]
        return max([*widths, self.num_neighbors or 0])

    def _require_windows(self, parts: Sequence[Part], preset: str | None) -> None:
        """preset: has ``rank_window``. None: the user gave it."""
        unknown = sorted(set(self.windows or {}) - {part.source for part in parts})
        if unknown:
            raise ValueError(f"rank_window: expected windows of sources, got one of the unknown source {unknown[0]}")
        small = []
        for part in parts:
            window = self.window_of(part.source)
            if window is None and self.rank_window is None and part.source not in (self.windows or {}):
                raise ValueError(f"rank_window: expected a window of each source, got none of source {part.source}")
            if window is not None and not 0 <= window[0] < window[1] < len(part.rows):
                small.append((part, window))
        if not small:
            return
        part, window = small[0]
        is_own = preset is not None and part.source not in (self.windows or {})
        if len(parts) == 1:
            size = len(part.rows)
            whose = f", the window of preset {preset!r}" if is_own else ""
            advice = f"a nearer window, such as rank_window={nearer_window(size)}" if size > 1 else "preset='uniform'"
            raise ValueError(
                f"rank_window: expected (p, q) with 0 <= p < q <= {size - 1} ({size} instances, itself excluded), got "
                f"{window}{whose}" + (f"; pass {advice}" if is_own else "")
            )
        whose = f"; {window} is the window of preset {preset!r}" if is_own else ""
        raise ValueError(
            f"rank_window: expected (p, q) with 0 <= p < q below the size of each source, got {window} for "
            f"{described([part for part, _ in small])}; rank_window={{{part.source}: (p, q)}} gives a source another "
            f"window, and {{{part.source}: None}} makes its batches uniform{whose}"
        )

    def community_size_of(self, epoch: int) -> int:
        """Returns the size of communities in an epoch. The recipe has been checked."""
        assert isinstance(self.community_size, tuple)
        return self.community_size[min(epoch, len(self.community_size) - 1)]


PRESETS = {
    "walks": Recipe(num_candidates=4000, num_neighbors=100, follows_walks=True),
    "b3": Recipe(rank_window=(30, 130), mutual=True, community_size=32),
    "curriculum": Recipe(rank_window=(30, 130), mutual=True, community_size=(1, 2, 4, 8, 16, 32)),
    "clusters": Recipe(batches_per_cluster=4),
    "uniform": Recipe(),
}


def recipe_of(preset: str, *, has_graph: bool, has_sources: bool, has_max_score: bool, **given: Any) -> Recipe:
    """Returns a preset with the values that are not None in place of its own. Options without an effect are refused.

    has_graph, has_sources, has_max_score: whether these arguments of :func:`compose` are given.
    """
    recipe = PRESETS[validate.choice(preset, "preset", tuple(PRESETS))]
    given = {name: value for name, value in given.items() if value is not None}
    is_uniform = preset == "uniform" and not (has_graph or "rank_window" in given or "num_candidates" in given)
    if preset == "clusters" or is_uniform:
        _require_no_graph(preset, {**given, "graph": has_graph or None, "max_score": has_max_score or None})
    elif "batches_per_cluster" in given:
        raise ValueError(f"batches_per_cluster: expected None with preset={preset!r}")
    for name in ("rank_window", "num_candidates", "num_neighbors") if has_graph else ():
        if name in given:
            raise ValueError(f"{name}: expected None with graph, because it has the edges")
    has_window = "rank_window" in given or recipe.rank_window is not None
    if "num_candidates" in given:
        if "rank_window" in given:
            raise ValueError("rank_window, num_candidates: expected one of them, got both")
        recipe = replace(recipe, rank_window=None)
    elif "num_neighbors" in given and has_window:
        reason = "with rank_window" if "rank_window" in given else "without num_candidates"
        raise ValueError(f"num_neighbors: expected None {reason}, because a window has q - p neighbors")
    if isinstance(given.get("rank_window"), Mapping):
        if not has_sources:
            raise ValueError("rank_window: expected (p, q) without sources, got a dict")
        given["windows"] = _by_source(given.pop("rank_window"))
    return replace(recipe, **given)


def nearer_window(num_instances: int) -> tuple[int, int]:
    """Returns a window for fewer instances than a preset needs: the same proportions, within the nearest quarter."""
    last = max(num_instances // 4, 1)
    return last // 4, last


def _require_no_graph(preset: str, given: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` if an option is given that needs edges. Values that ask for nothing are allowed."""
    for name, value in given.items():
        if value is None or (name == "batches_per_cluster" and preset == "clusters"):
            continue
        if preset == "uniform" and name == "mutual" and value is False:
            continue
        if preset == "uniform" and name == "community_size" and all(map(_is_one, _as_list(value))):
            continue
        reason = "whose batches are from clusters" if preset == "clusters" else "whose batches are random"
        if name == "max_score":
            reason = "which has no edges, and negative_mask does not know it"
        raise ValueError(f"{name}: expected None with preset={preset!r}, {reason}")


def _by_source(windows: Mapping[Any, Any]) -> dict[int, Any]:
    return {validate.integer(source, "rank_window", 0): window for source, window in windows.items()}


def _integers(window: Any) -> tuple[int, int]:
    try:
        if isinstance(window, _NOT_LISTS):
            raise TypeError
        first, last = window
    except (TypeError, ValueError):
        raise TypeError(f"rank_window: expected two integers (p, q), got {validate.shown(window)}") from None
    return validate.integer(first, "rank_window", 0), validate.integer(last, "rank_window", 0)


_NOT_LISTS = (str, bytes, bytearray, memoryview)  # sequences that do not count as lists of numbers


def _as_list(value: Any) -> list[Any]:
    """Returns the sizes of epochs: of a sequence or array, or of a single number."""
    value = on_host(value, "community_size")
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 1:
        return list(value.tolist())
    if isinstance(value, range) and value[2**24 :]:
        raise ValueError(f"community_size: expected at most 2**24 sizes, one for each epoch, got {value}")
    return list(value) if isinstance(value, Sequence) and not isinstance(value, _NOT_LISTS) else [value]


def _is_one(value: Any) -> bool:
    return hasattr(value, "__index__") and np.ndim(value) == 0 and value == 1


def _community_sizes(value: Any, largest: int, reason: str) -> tuple[int, ...]:
    """Returns the size for each epoch. The last one stays. None: all of a batch is one community."""
    if value is None:
        return (largest,)
    sizes = _as_list(value)
    if not sizes:
        raise ValueError("community_size: expected a size for at least one epoch, got none")
    checked = tuple(validate.integer(size, "community_size", 1, largest, because=f" ({reason})") for size in sizes)
    for size in checked:
        if largest % size:
            raise ValueError(f"community_size: expected a divisor of {reason} {largest}, got {size}")
    return checked


def fitted_sizes(value: int | Sequence[int], largest: int, reason: str, preset: str) -> tuple[int, ...]:
    """Returns for each size of a preset the largest divisor of ``largest`` that is not above it, without repetition."""
    sizes = _as_list(value)
    divisors = [size for size in range(1, min(largest, max(sizes)) + 1) if largest % size == 0]
    fitted = tuple(dict.fromkeys(max(own for own in divisors if own <= size) for size in sizes))
    if fitted[-1] == 1 < min(largest, sizes[-1]):
        raise ValueError(
            f"community_size: expected a size with preset={preset!r} and {reason} {largest}, which has no divisor from "
            f"2 to {sizes[-1]}; pass community_size={largest}, or a batch_size that has one"
        )
    return fitted
