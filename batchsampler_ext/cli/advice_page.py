"""Writes what ``advise`` has found as an HTML page: one file without scripts, and without anything to download."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from .. import __version__
from .._engine.text_tables import printable
from .._plan.advice import Outcome
from .._plan.measures import MAX_MEASURED
from .advice_report import STUDY, columns, costs, data_line, meanings, note, skipped_line
from .advising import Findings, Neighbor, Row
from .shown_rows import Text

_NUM_BINS, _TAIL = 40, 0.005  # of the histogram; share of the values at either end that its last bins take in
_WIDTH, _HEIGHT = 640, 180  # units of the histogram
_KINDS = {"uniform": "hardest other in uniform batches", "recommended": "hardest other in recommended batches"}

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Batches for $title</title>
<style>
$style
</style>
</head>
<body>
<main>
<h1>How to compose batches for $title</h1>
<p>$data.</p>
<section class="advice">
<h2>Recommendation</h2>
<p class="summary">$summary.</p>
<ul>
$reasons
</ul>
<p class="soft">$study</p>
$hints
<p>On the command line (set --epochs to the number of epochs that you train):</p>
<pre class="wrapped">$command</pre>
<p>The same in Python:</p>
<pre>$call</pre>
</section>
<section>
<h2>Words on this page</h2>
<dl>
$words
</dl>
</section>
<section>
<h2>Settings compared</h2>
<p>Each line is a setting: ranks of neighbors, and a size of communities. An epoch was composed with each of them, and
at most $most batches of it were measured. $skipped</p>
<div class="scroll"><table>
$settings
</table></div>
<dl>
$columns
</dl>
</section>
<section>
<h2>Scores of the hardest negatives</h2>
<p>$histogram_text</p>
$histogram
</section>
<section>
<h2>$rows_title</h2>
<p>$rows_text</p>
$rows
</section>
<section>
<h2>Cost</h2>
<div class="scroll"><table>
$costs
</table></div>
</section>
<footer>Made by batchsampler_ext $version.</footer>
</main>
</body>
</html>
""")

_STYLE = """:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #5b6470; --line: #d8dde3;
  --box: #f4f6f8; --bar: #cfe0f5; --good: #1a7f4b; --warn: #b3401f; --own: #1a7f4b; --uniform: #6b7683;
  --recommended: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e4e8ec; --soft: #9aa5b1; --line: #343b43;
  --box: #1d2126; --bar: #24405f; --good: #58c98c; --warn: #f08a63; --own: #58c98c; --uniform: #9aa5b1;
  --recommended: #f0995c; } }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
.advice { border: 1px solid var(--line); border-left: 4px solid var(--good); border-radius: 6px; padding: 0 1rem;
  background: var(--box); }
.advice h2 { margin-top: 1rem; }
.summary { font-size: 1.15rem; font-weight: 600; }
li { margin: .4rem 0; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--line); border-radius: 6px; background: var(--back);
  font-size: .85rem; }
.wrapped { white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, td.text, .note { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; width: 100%; }
td.bar { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)); }
tr.recommended { outline: 2px solid var(--good); outline-offset: -2px; font-weight: 600; }
.good { color: var(--good); } .warn { color: var(--warn); } .text .warn { font-weight: 600; }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem; color: var(--soft); }
@media (min-width: 40rem) { dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
  dd { margin: 0; } }
.row { border: 1px solid var(--line); border-radius: 6px; padding: .75rem; margin: 1rem 0; }
.row p { margin: .3rem 0; overflow-wrap: anywhere; }
.row table { width: 100%; }
.row th, .row td { padding: .3rem .4rem; }
.row tr.first td { border-top: 2px solid var(--line); }
.soft, footer { color: var(--soft); }
img { max-width: 96px; max-height: 96px; min-width: 56px; object-fit: contain; vertical-align: middle;
  border-radius: 4px; }
.gallery { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; } figure.first { border-left: 2px solid var(--line); padding-left: .5rem; }
figcaption { font-size: .75rem; line-height: 1.3; color: var(--soft); margin-top: .2rem; }
svg { display: block; width: 100%; height: auto; }
.own { fill: var(--own); stroke: var(--own); } .uniform { fill: var(--uniform); stroke: var(--uniform); }
.recommended { fill: var(--recommended); stroke: var(--recommended); }
path { fill-opacity: .18; stroke-width: 2; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .85rem; }
.legend span { white-space: nowrap; margin-right: 1.2rem; }
.legend svg { display: inline-block; width: 1rem; height: .8rem; margin-right: .4rem; }
footer { margin-top: 2rem; font-size: .85rem; }"""


def page(
    findings: Findings,
    command: str,
    call: str,
    towers: Sequence[str],
    texts: Mapping[int, Text],
    images: Mapping[int, bytes],
) -> bytes:
    """Returns the page in UTF-8.

    Args:
        command, call: shell and Python code that compose with the recommended setting.
        towers: files of the embeddings.
        texts, images: of the instances that are shown, JPEG files. Empty: ids are shown.
    """
    advice, has_documents = findings.advice, findings.settings["has_documents"]
    content = _PAGE.substitute(
        title=_text(" and ".join(Path(path).name for path in towers)),
        style=_STYLE,
        data=_text(data_line(findings)),
        summary=_text(advice.summary),
        reasons=_items(advice.reasons),
        hints=f"<p>Hints about these batches:</p>\n<ul>\n{_items(advice.outcome.hints)}\n</ul>"
        if advice.outcome.hints
        else "",
        command=_text(command),
        call=escape(call),
        words=_definitions(_words(has_documents)),
        most=MAX_MEASURED,
        skipped=_text(" ".join(skipped_line(findings))),
        settings=_settings(findings),
        columns=_definitions(meanings(findings)),
        histogram_text=_text(_histogram_text(has_documents)),
        histogram=_histogram(findings),
        rows_title=f"Neighbors of {len(findings.rows)} random rows",
        rows_text=_text(_rows_text(has_documents, findings.settings["not_ranked"])),
        rows="\n".join(_row(row, texts, images, has_documents) for row in findings.rows),
        costs="\n".join(
            f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in costs(findings).items()
        ),
        study=STUDY,
        version=__version__,
    )
    return content.encode("utf-8", "replace")


def _text(text: str) -> str:
    """Returns the text for HTML. Control characters, which HTML does not allow, become spaces."""
    return escape(printable(text))


def _items(sentences: Iterable[str]) -> str:
    return "\n".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)


def _definitions(terms: Mapping[str, str]) -> str:
    return "\n".join(f"<dt>{_text(term)}</dt><dd>{_text(meaning)}</dd>" for term, meaning in terms.items())


def _words(has_documents: bool) -> dict[str, str]:
    result = {"teacher": "the encoder that made the embeddings. Scores on this page are its scores."}
    if has_documents:
        result["own document"] = "the document in the same row of the data as the query. It is the positive."
        result["negative"] = (
            "the document of another instance in a batch. Training pushes it away from the query. A hard negative "
            "scores high. A false negative would be a right answer."
        )
    else:
        result["negative"] = (
            "another instance in a batch. Training pushes it away. A hard negative scores high. A false negative "
            "should be near."
        )
    return result | {
        "rank": "place among all other instances by score. Rank 1 is the nearest neighbor.",
        "community": "a group of instances that are neighbors of each other, of the chosen ranks. A batch consists of "
        "communities, drawn at random. Larger communities make harder batches.",
        "uniform batches": "random batches, to compare with.",
    }


def _settings(findings: Findings) -> str:
    shown = columns(findings)
    outcomes = [findings.uniform, *findings.outcomes]
    shares = {"similarity": _shares(outcomes), "accuracy": [outcome.accuracy or 0.0 for outcome in outcomes]}
    lines = [f"<tr>{''.join(_head(name) for name in shown)}</tr>"]
    for number, outcome in enumerate(outcomes):
        is_chosen, cells = note(findings, outcome) == "recommended", []
        for name, cell in shown.items():
            attributes = ""
            if name in shares:
                attributes = f' class="bar" style="--share: {shares[name][number]:.1%}"'
            elif name == "note":
                attributes = f' class="note {"good" if is_chosen else "warn"}"'
            cells.append(f"<td{attributes}>{_text(cell(outcome))}</td>")
        lines.append(f"<tr{' class=recommended' if is_chosen else ''}>{''.join(cells)}</tr>")
    return "\n".join(lines)


def _head(name: str) -> str:
    return f'<th class="note">{name}</th>' if name == "note" else f"<th>{_text(name)}</th>"


def _shares(outcomes: Sequence[Outcome]) -> list[float]:
    """Returns the lengths of bars: similarities from the smallest, or zero, to the largest."""
    values = [outcome.similarity for outcome in outcomes]
    low, high = min(0.0, *values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _histogram_text(has_documents: bool) -> str:
    other = "the document of another instance" if has_documents else "another instance"
    text = f"For each query, its highest score with {other} in its batch. Hard batches move this to the right."
    if has_documents:
        text += (
            " The scores with the own documents are beside it. The more the curves overlap, the more often the teacher "
            "may take a negative for the right answer. The column accuracy counts this."
        )
    return text


def _histogram(findings: Findings) -> str:
    """Returns a figure with a curve for each kind of scores."""
    curves = {kind: part.hardest for kind, part in findings.hardness.items()}
    if findings.settings["has_documents"]:
        curves = {"own": findings.hardness["uniform"].own, **curves}
    curves = {kind: values[np.isfinite(values)] for kind, values in curves.items()}
    curves = {kind: values for kind, values in curves.items() if len(values)}
    if not curves:
        return "<p>No finite scores.</p>"
    ends = [np.quantile(values, [_TAIL, 1 - _TAIL]) for values in curves.values()]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    high = high if high > low else low + 1e-6 * max(abs(low), 1.0)
    edges = np.linspace(low, high, _NUM_BINS + 1)
    shares = {kind: np.histogram(np.clip(values, low, high), edges)[0] / len(values) for kind, values in curves.items()}
    largest = max(float(share.max()) for share in shares.values())
    paths = "".join(f'<path class="{kind}" d="{_curve(share / largest)}"/>' for kind, share in shares.items())
    names = {"own": "own document", **_KINDS}
    legend = "".join(
        f'<span><svg viewBox="0 0 10 8" aria-hidden="true"><rect class="{kind}" width="10" height="8"/></svg>'
        f"{names[kind]}</span>"
        for kind in shares
    )
    ticks = "".join(f"<span>{value:.3g}</span>" for value in np.linspace(low, high, 5))
    return (
        f'<p class="legend">{legend}</p>\n<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Histograms of scores">{paths}</svg>\n<div class="axis">{ticks}</div>\n'
        f'<p class="soft">{_text(findings.settings["metric"])} score; height: share of queries</p>'
    )


def _curve(heights: np.ndarray) -> str:
    """Returns the outline of bars. heights: 0 to 1."""
    step = _WIDTH / len(heights)
    points = [f"M0 {_HEIGHT}"]
    for place, height in enumerate(heights):
        points.append(f"V{_HEIGHT - 2 - (_HEIGHT - 4) * height:.1f}H{(place + 1) * step:g}")
    return "".join(points) + f"V{_HEIGHT}Z"


def _rows_text(has_documents: bool, not_ranked: str | None) -> str:
    what = "documents" if has_documents else "instances"
    question = (
        "answer the query, too" if has_documents else "match the query, so that training should not push them away"
    )
    text = (
        f"The {what} of some ranks, with their scores. Look at them: do those of the first ranks {question}? Then use "
        "a window that begins after them. Rows are numbered from 0."
    )
    text += {
        None: "",
        "labels": " Ranks do not count rows with an equal label.",
        "unique": " Ranks do not count rows with an equal id in --unique.",
    }[not_ranked]
    if has_documents:
        text += (
            ' "Above own" marks a document that scores higher than the own one. It is either a false negative, or one '
            "that the teacher gets wrong."
        )
    return text


def _row(row: Row, texts: Mapping[int, Text], images: Mapping[int, bytes], has_documents: bool) -> str:
    """Returns the box of a sample row."""
    text = texts.get(row.instance)
    lines = [f"<h3>Row {row.instance:,}</h3>\n<p>{_image(images, row.instance)}{_text(text.query) if text else ''}</p>"]
    if row.own_score is not None:
        own = text.document if text and text.document is not None else f"document {row.instance:,}"
        lines.append(f"<p>Own document, score <strong>{row.own_score:.3f}</strong>: {_text(own)}</p>")
    shown = _gallery(row, images) if images and not texts else _neighbors(row, texts, has_documents, images)
    return '<div class="row">\n' + "\n".join([*lines, shown]) + "\n</div>"


def _neighbors(row: Row, texts: Mapping[int, Text], has_documents: bool, images: Mapping[int, bytes]) -> str:
    """Returns a table of the neighbors, with their texts or else their rows."""
    lines = ["<tr><th>rank</th><th>score</th><th></th></tr>"]
    for neighbor, is_first in _in_groups(row):
        text = texts.get(neighbor.instance)
        shown = f"row {neighbor.instance:,}"
        if text is not None:
            shown = text.document if has_documents and text.document is not None else text.query
        lines.append(
            f"<tr{' class=first' if is_first else ''}><td>{neighbor.rank}</td><td>{neighbor.score:.3f}</td>"
            f'<td class="text">{_image(images, neighbor.instance)}{_mark(neighbor)}{_text(shown)}</td></tr>'
        )
    return f'<div class="scroll"><table>\n{"".join(lines)}\n</table></div>'


def _gallery(row: Row, images: Mapping[int, bytes]) -> str:
    """Returns the images of the neighbors, with rank and score under each."""
    figures = [
        f"<figure{' class=first' if is_first else ''}>"
        f"{_image(images, neighbor.instance) or f'row {neighbor.instance:,}'}<figcaption>rank "
        f"{neighbor.rank}<br>{neighbor.score:.3f}<br>{_mark(neighbor)}</figcaption></figure>"
        for neighbor, is_first in _in_groups(row)
    ]
    return f'<div class="gallery">{"".join(figures)}</div>'


def _in_groups(row: Row) -> Iterator[tuple[Neighbor, bool]]:
    """Yields each neighbor, and whether ranks were left out before it."""
    previous = 0
    for neighbor in row.neighbors:
        yield neighbor, neighbor.rank > previous + 1
        previous = neighbor.rank


def _mark(neighbor: Neighbor) -> str:
    return '<span class="warn">above own</span> ' if neighbor.is_above else ""


def _image(images: Mapping[int, bytes], instance: int) -> str:
    content = images.get(instance)
    if content is None:
        return ""
    return f'<img alt="image {instance}" src="data:image/jpeg;base64,{base64.b64encode(content).decode()}"> '
