"""Checks contents, tags and sizes of wheels and source distributions, and that a tag of git fits them.

python tests/tools/check_release.py [--tag TAG] FILE...
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import zipfile
from pathlib import Path

MAX_MEGABYTES = {"sdist": 5, "cpu": 5, "cuda": 60}
ROOT = Path(__file__).parents[2]
WHEEL = re.compile(
    r"batchsampler_ext-(?P<version>[\d.]+(?:rc\d+)?)(?P<cuda>\+cu13)?-cp3\d+-cp3\d+-(?:manylinux\w+\.?)+_(?:x86_64|aarch64)\.whl"
)
MODULE = r"batchsampler_ext/{}\.cpython-3[\w-]+-linux-gnu\.so"
PYTHON = re.compile(r"batchsampler_ext/([a-z_]+/)*[a-z_]+\.(py|pyi)|batchsampler_ext/py\.typed")
INFO = re.compile(
    r"batchsampler_ext-[^/]+\.dist-info/(METADATA|RECORD|WHEEL|entry_points\.txt|licenses/LICENSE|sboms/\S+)"
)


def package_files() -> set[str]:
    """Returns the Python files of the checkout, which every wheel must have."""
    found = (path.relative_to(ROOT).as_posix() for path in (ROOT / "batchsampler_ext").rglob("*"))
    return {name for name in found if PYTHON.fullmatch(name)}


def version() -> str:
    match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert match
    return match[1]


def wheel_faults(path: Path) -> list[str]:
    named = WHEEL.fullmatch(path.name)
    if named is None:
        return ["name: expected batchsampler_ext-VERSION[+cu13]-cp3X-cp3X-manylinux_..., without 't' for free-threaded"]
    faults = [] if named["version"] == version() else [f"version: expected {version()}"]
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    modules = ["_core", "_cuda"] if named["cuda"] else ["_core"]
    for module in modules:
        found = {name for name in names if re.fullmatch(MODULE.format(module), name)}
        if len(found) != 1:
            faults.append(f"{module}: expected one module, got {sorted(found)}")
        names -= found
    faults += [f"misses {name}" for name in sorted(package_files() - names)]
    info = {name for name in names if INFO.fullmatch(name)}
    if not any(name.endswith("LICENSE") for name in info):
        faults.append("misses LICENSE")
    return faults + [f"should not have {name}" for name in sorted(names - package_files() - info)]


def sdist_faults(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    wanted = {"CMakeLists.txt", "LICENSE", "PKG-INFO", "pyproject.toml", "tests/conftest.py"} | package_files()
    wanted |= {item.relative_to(ROOT).as_posix() for item in (ROOT / "csrc").rglob("*.*") if item.is_file()}
    faults = [f"misses {name}" for name in sorted(wanted - names)]
    built = re.compile(r"(\.venv|build|dist)/.*|.*\.(so|o|pyc|whl)")
    return faults + [f"should not have {name}" for name in sorted(names) if built.fullmatch(name)]


def tag_faults(tag: str) -> list[str]:
    faults = [] if tag == f"v{version()}" else [f"expected v{version()}, the version in pyproject.toml"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version())} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE):
        faults.append(f"CHANGELOG.md: expected '## {version()} (YYYY-MM-DD)'")
    return faults


def file_faults(path: Path) -> list[str]:
    kind = "sdist" if path.name.endswith(".tar.gz") else "cuda" if "+cu" in path.name else "cpu"
    faults = sdist_faults(path) if kind == "sdist" else wheel_faults(path)
    if path.stat().st_size > MAX_MEGABYTES[kind] * 1e6:
        faults.append(f"size: expected at most {MAX_MEGABYTES[kind]} MB")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tag")
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    checked = {f"{path.name}, {path.stat().st_size / 1e6:.1f} MB": file_faults(path) for path in args.files}
    if args.tag:
        checked[f"tag {args.tag}"] = tag_faults(args.tag)
    for name, faults in checked.items():
        print("\n  ".join([f"{name}: {'FAILED' if faults else 'good'}", *faults[:20]]))
    return 1 if any(checked.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
