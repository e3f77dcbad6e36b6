"""Reads the docstrings of the package as its authors mean them. mkdocs.yml names this file."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """An example is a section of code, not a box of text."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """The comment behind a field describes it, as in ``graph_ms: float  # time for building the graph``."""
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.lineno is not None:
            _, _, comment = attr.lines_collection[attr.filepath][attr.lineno - 1].partition("  # ")
            if comment:
                attr.docstring = griffe.Docstring(comment, parent=attr)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """``batchsampler_ext.compose`` is the function, which hides the module of the same name."""
        pkg.set_member("compose", pkg["compose.compose"])
