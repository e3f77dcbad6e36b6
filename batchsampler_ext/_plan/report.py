"""The report of a plan: a table, a figure of characters, and hints."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from .._engine.text_tables import number, table

_MEASURES = {
    "in_batch_similarity": ("in-batch similarity", ".4f"),
    "in_batch_accuracy": ("in-batch accuracy", ".2%"),
    "edges_inside": ("edges inside batches", ".2%"),
}
_MAX_BINS, _BAR, _WIDTH = 12, 16, 100
_TAIL = 0.005  # share of the values of a column that may be beyond the ranges, at either end


class PlanReport(dict[str, dict[str, float]]):
    """The result of :meth:`Plan.report`: means of "planned" and "uniform" batches. ``print`` shows all of it.

    Attributes:
        own_rank: median rank of a query's own document among all documents, for at most 256 queries and a sample of
            2**17 documents. None without documents.
        figure: lines of text, a histogram of the scores of hardest negatives.
        hints: sentences about what looks wrong. Often empty.
        recall: share of the exact neighbors of sampled instances that an approximate search found. None if the plan
            has no approximate search.
    """

    def __init__(
        self,
        kinds: Mapping[str, dict[str, float]],
        own_rank: float | None,
        figure: str,
        hints: Sequence[str],
        metric: str,
        recall: float | None = None,
        search: str | None = None,
    ) -> None:
        """search: a sentence about the search of neighbors."""
        super().__init__(kinds)
        self.own_rank, self.figure, self.hints, self._metric = own_rank, figure, list(hints), metric
        self.recall, self._search = recall, search

    def __str__(self) -> str:
        measures = [name for name in _MEASURES if name in self["planned"]]
        lines = [
            table(
                "Mini-batches",
                ["", *(_MEASURES[name][0] for name in measures)],
                [
                    [kind, *(number(means[name], _MEASURES[name][1]) for name in measures)]
                    for kind, means in self.items()
                ],
            ),
            "",
            f"Similarity is the mean {self._metric} score of an instance and another one of its batch.",
        ]
        if "in_batch_accuracy" in measures:
            lines.append("Accuracy is the share of queries whose own document scores highest in the batch.")
        if self.own_rank is not None:
            lines.append(f"Among all documents, a query's own document has a median rank of {self.own_rank:,.0f}.")
        if self._search is not None:
            lines.append(textwrap.fill(self._search, _WIDTH))
        if self.figure:
            lines += ["", self.figure]
        if self.hints:
            lines += ["", "Hints", *map(indented, self.hints)]
        return "\n".join(lines)


def indented(text: str) -> str:
    """Returns a sentence in lines below a heading."""
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def histogram(title: str, columns: Mapping[str, np.ndarray]) -> str:
    """Returns lines of text: a row per range of values, and for each column a bar and the share of its values.

    columns: name -> values. Values beyond the last ranges are counted there. Empty if there are no finite values.
    """
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if not known:
        return ""
    ends = [np.quantile(values, [_TAIL, 1 - _TAIL]) for values in known.values()]
    step, edges = _ranges(min(low for low, _ in ends), max(high for _, high in ends))
    shares = {}
    for name, values in known.items():
        places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        shares[name] = np.bincount(places, minlength=len(edges) - 1) / len(values)
    largest = max(float(share.max()) for share in shares.values())
    digits = max(0, -math.floor(math.log10(step)))
    labels = [f"{low:.{digits}f} to {high:.{digits}f}" for low, high in itertools.pairwise(edges)]
    width = max(map(len, [*labels, "score"]))
    head = "  ".join(["score".ljust(width), *(name.ljust(_BAR + 5) for name in shares)])
    lines = [title, f"  {head}".rstrip()]
    for row, label in enumerate(labels):
        cells = [_cell(float(share[row]), largest) for share in shares.values()]
        lines.append("  " + "  ".join([label.rjust(width), *cells]).rstrip())
    return "\n".join(lines)


def _cell(share: float, largest: float) -> str:
    bar = "#" * round(_BAR * share / largest) or ("." if share else "")
    return f"{share:4.0%} {bar}".ljust(_BAR + 5) if share else " " * (_BAR + 5)


def _ranges(low: float, high: float) -> tuple[float, np.ndarray]:
    """Returns a round step, and at most _MAX_BINS + 1 multiples of it that enclose low and high."""
    least = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-30) / (_MAX_BINS - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return step, step * np.arange(first, last + 1)
