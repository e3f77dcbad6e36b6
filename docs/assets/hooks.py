"""What MkDocs does not do by itself. mkdocs.yml names this file.

Pages of the repository outside docs/ become pages of the site, and links lead to them. Links to source files, which the
site does not have, become the name of the file. References in docstrings, such as :class:`Plan`, become links. A page
that loads anything from the network is an error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OTHER_PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "benchmarks/README.md"]
RANKS = {"CHANGELOG.md": 0.2, "api.md": 0.5, "troubleshooting.md": 3}  # in results of the search, of 1
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
LOADED = re.compile(r"""(?:\bsrc=|<link\b[^>]*\bhref=)["'](?:https?:)?//[^"']*""")
ROLE = re.compile(r":(?:attr|class|func|meth|mod):<code>([\w.]+)</code>")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> None:
    for name in OTHER_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    uri = page.file.src_uri
    page.meta["search"] = {"boost": RANKS.get(uri, 1)}
    here = uri if uri in OTHER_PAGES else f"docs/{uri}"

    def replaced(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        page_of_site = path.removeprefix("docs/")
        if (path.startswith("docs/") or path in OTHER_PAGES) and files.get_file_from_path(page_of_site):
            return f"{image}[{text}]({posixpath.relpath(page_of_site, posixpath.dirname(uri) or '.')}{anchor})"
        if not (ROOT / path).exists():
            raise PluginError(f"{here}: {target} does not exist")
        return f"`{path}`" if path.endswith(text.strip("`/")) else f"{text} (`{path}`)"

    parts = FENCE.split(markdown)  # code is at odd places
    return "".join(part if i % 2 else LINK.sub(replaced, part) for i, part in enumerate(parts))


def on_page_content(html: str, page: Page, **_: Any) -> str:
    if page.file.src_uri == "api.md":
        html = re.sub(r"\bdocs/([\w/]+)\.md", r'<a href="\1.html">\g<0></a>', html)
    return ROLE.sub(r'<autoref identifier="batchsampler_ext.\1" optional><code>\1</code></autoref>', html)


def on_post_page(output: str, page: Page, **_: Any) -> None:
    loaded = LOADED.search(output)
    if loaded:
        raise PluginError(f"{page.file.src_uri}: expected a page that opens without a network, got {loaded[0]}")
