"""Documents fields by the comments behind them, as in ``graph_ms: float  # time for building the graph``."""

from __future__ import annotations

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.lineno is not None:
            _, _, comment = attr.lines_collection[attr.filepath][attr.lineno - 1].partition("  # ")
            if comment:
                attr.docstring = griffe.Docstring(comment, parent=attr)
