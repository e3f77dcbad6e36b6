"""Files that comments and documents name exist, and links lead to headings that exist."""

from __future__ import annotations

import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["batchsampler_ext", "benchmarks", "cmake", "csrc", "docs", "examples", "tests"]
ENDINGS = ["cmake", "cpp", "cu", "cuh", "h", "ini", "md", "py", "pyi", "sh", "tsv"]
NAME = re.compile(rf"(?<![\w./*-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:{'|'.join(ENDINGS)})\b")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def written_files() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.suffix == ".md" or path.name in ("CMakeLists.txt", "Makefile")]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix[1:] in ENDINGS]
    return found


def test_named_files_exist():
    absent = {
        f"{path.relative_to(ROOT)} names {name}"
        for path in written_files()
        for name in NAME.findall(path.read_text(encoding="utf-8"))
        if "NAME" not in name and not ((ROOT / name).exists() or (path.parent / name).exists())
    }
    assert not absent, "\n".join(sorted(absent))


@functools.cache
def anchors_of(path: Path) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them: those of equal headings get numbers."""
    seen: dict[str, int] = {}
    found = set()
    for heading in HEADING.findall(without_code(path.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = seen[anchor] = seen.get(anchor, -1) + 1
        found.add(f"{anchor}-{number}" if number else anchor)
    return found


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def test_links_lead_to_files_and_headings():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    absent = []
    for path in documents:
        for name, anchor in LINK.findall(without_code(path.read_text(encoding="utf-8"))):
            target = (path.parent / name).resolve() if name else path
            if not target.exists():
                absent.append(f"{path.relative_to(ROOT)}: {name} is not there")
            elif anchor and target.suffix == ".md" and anchor not in anchors_of(target):
                absent.append(f"{path.relative_to(ROOT)}: {name} has no heading #{anchor}")
    assert not absent, "\n".join(absent)
