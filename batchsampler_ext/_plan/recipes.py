"""The recipes of the literature: which graph joins hard negatives, and how batches are cut from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .._engine import validate
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
        self, parts: Sequence[Part], batch_size: int, sources_per_batch: int, graph: ProximityGraph | None
    ) -> Recipe:
        """Returns the recipe with integers in place of what was given. Raises errors that name the option.

        graph: the one that was given; windows and candidates do not count then.
        """
        largest = batch_size // sources_per_batch
        reason = "batch_size" if sources_per_batch == 1 else "batch_size / sources_per_batch"
        result = replace(
            self,
            community_size=_community_sizes(self.community_size, largest, reason),
            mutual=validate.flag(self.mutual, "mutual"),
        )
        if self.batches_per_cluster is not None:
            if graph is not None:
                raise ValueError("graph: expected None with preset='clusters'")
            return replace(
                result, batches_per_cluster=validate.integer(self.batches_per_cluster, "batches_per_cluster", 1)
            )
        if graph is not None:
            num_instances = sum(len(part.rows) for part in parts)
            if len(graph) != num_instances or graph.num_instances != num_instances:
                raise ValueError(f"graph: expected a graph of {num_instances} rows as queries has, got {len(graph)}")
            return replace(result, rank_window=None, windows=None, num_candidates=None, num_neighbors=None)
        if self.rank_window is not None or self.windows is not None:
            window = None if self.rank_window is None else _integers(self.rank_window)
            windows = {source: None if own is None else _integers(own) for source, own in (self.windows or {}).items()}
            result = replace(result, rank_window=window, windows=windows, num_candidates=None, num_neighbors=None)
            result._require_windows(parts)
            return result
        if self.num_candidates is None:
            return result
        most = max(max(len(part.rows) for part in parts) - 1, 1)
        num_candidates = validate.integer(min(self.num_candidates, most), "num_candidates", 1)
        num_neighbors = validate.integer(min(self.num_neighbors or 100, num_candidates), "num_neighbors", 1)
        return replace(result, num_candidates=num_candidates, num_neighbors=num_neighbors)

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

    def _require_windows(self, parts: Sequence[Part]) -> None:
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
        most = len(part.rows) - 1
        if len(parts) == 1:
            raise ValueError(
                f"rank_window: expected (p, q) with 0 <= p < q <= {most} ({len(part.rows)} instances, itself "
                f"excluded), got {window}"
            )
        raise ValueError(
            f"rank_window: expected (p, q) with 0 <= p < q below the size of each source, got {window} for "
            f"{described([part for part, _ in small])}; rank_window={{{part.source}: (p, q)}} gives a source another "
            f"window, and {{{part.source}: None}} makes its batches uniform"
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


def recipe_of(preset: str, **given: Any) -> Recipe:
    """Returns a preset with the values that are not None in place of its own."""
    recipe = PRESETS[validate.choice(preset, "preset", tuple(PRESETS))]
    given = {name: value for name, value in given.items() if value is not None}
    has_clusters = recipe.batches_per_cluster is not None
    for name in given:
        if has_clusters != (name == "batches_per_cluster"):
            raise ValueError(f"{name}: expected None with preset={preset!r}")
    if "num_candidates" in given:
        if "rank_window" in given:
            raise ValueError("rank_window, num_candidates: expected one of them, got both")
        recipe = replace(recipe, rank_window=None)
    elif "num_neighbors" in given and recipe.num_candidates is None:
        raise ValueError("num_neighbors: expected None without num_candidates, because a window has q - p neighbors")
    if isinstance(given.get("rank_window"), Mapping):
        given["windows"] = _by_source(given.pop("rank_window"))
    elif "rank_window" in given:
        given["windows"] = None
    return replace(recipe, **given)


def _by_source(windows: Mapping[Any, Any]) -> dict[int, Any]:
    return {validate.integer(source, "rank_window", 0): window for source, window in windows.items()}


def _integers(window: Any) -> tuple[int, int]:
    try:
        first, last = window
    except (TypeError, ValueError):
        raise TypeError(f"rank_window: expected two integers (p, q), got {window!r}") from None
    return validate.integer(first, "rank_window", 0), validate.integer(last, "rank_window", 0)


def _community_sizes(value: Any, largest: int, reason: str) -> tuple[int, ...]:
    """Returns the size for each epoch. The last one stays."""
    if value is None:
        return (largest,)
    sizes = value if isinstance(value, Sequence) else [value]
    if not sizes:
        raise ValueError("community_size: expected a size for at least one epoch, got none")
    checked = tuple(validate.integer(size, "community_size", 1, largest, because=f" ({reason})") for size in sizes)
    for size in checked:
        if largest % size:
            raise ValueError(f"community_size: expected a divisor of {reason} {largest}, got {size}")
    return checked
