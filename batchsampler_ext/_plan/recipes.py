"""The recipes of the literature: which graph joins hard negatives, and how batches are cut from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .._engine import validate


@dataclass(frozen=True)
class Recipe:
    """A recipe of :func:`compose`. None stands for a value that depends on the data.

    The graph is one of three. With ``rank_window`` (p, q), neighbors are those of rank p + 1 to q among all others.
    With ``num_candidates`` M, they are the ``num_neighbors`` K best of M random candidates. Else there is no graph.
    """

    rank_window: tuple[int, int] | None = None
    num_candidates: int | None = None
    num_neighbors: int | None = None
    mutual: bool = False  # only edges that go both ways
    community_size: int | None = None  # None: a batch is one community

    def checked(self, num_instances: int, batch_size: int) -> Recipe:
        """Returns the recipe with the values that it has for so many instances. Raises errors that name the option."""
        size = batch_size if self.community_size is None else self.community_size
        size = validate.integer(size, "community_size", 1, batch_size, because=" (batch_size)")
        if batch_size % size:
            raise ValueError(f"community_size: expected a divisor of batch_size {batch_size}, got {size}")
        result = replace(self, community_size=size, mutual=validate.flag(self.mutual, "mutual"))
        most = num_instances - 1
        if self.rank_window is not None:
            first, last = _integers(self.rank_window)
            if not 0 <= first < last <= most:
                raise ValueError(
                    f"rank_window: expected (p, q) with 0 <= p < q <= {most} ({num_instances} instances, itself "
                    f"excluded), got {self.rank_window}"
                )
            return replace(result, rank_window=(first, last), num_candidates=None, num_neighbors=None)
        if self.num_candidates is None:
            return result
        num_candidates = validate.integer(min(self.num_candidates, most), "num_candidates", 1)
        num_neighbors = validate.integer(min(self.num_neighbors or 100, num_candidates), "num_neighbors", 1)
        return replace(result, num_candidates=num_candidates, num_neighbors=num_neighbors)


PRESETS = {
    "walks": Recipe(num_candidates=4000, num_neighbors=100),
    "b3": Recipe(rank_window=(30, 130), mutual=True, community_size=32),
    "uniform": Recipe(),
}


def _integers(window: Any) -> tuple[int, int]:
    try:
        first, last = window
    except (TypeError, ValueError):
        raise TypeError(f"rank_window: expected two integers (p, q), got {window!r}") from None
    return validate.integer(first, "rank_window", 0), validate.integer(last, "rank_window", 0)


def recipe_of(preset: str, **given: Any) -> Recipe:
    """Returns a preset with the values that are not None in place of its own."""
    recipe = PRESETS[validate.choice(preset, "preset", tuple(PRESETS))]
    given = {name: value for name, value in given.items() if value is not None}
    if "num_candidates" in given:
        if "rank_window" in given:
            raise ValueError("rank_window, num_candidates: expected one of them, got both")
        recipe = replace(recipe, rank_window=None)
    elif "num_neighbors" in given and recipe.num_candidates is None:
        raise ValueError("num_neighbors: expected None without num_candidates, because a window has q - p neighbors")
    return replace(recipe, **given)
