"""Makes the data sets of the study: pairs of texts from open packages, and from two files that must be there.

python -m benchmarks.learning.pretrained.pairs DIR [NAME ...]

| name | query -> document | source | split |
|---|---|---|---|
| docstrings | first paragraph of a docstring -> code of the function | packages.txt, by pip | by package |
| glosses | word -> gloss | WordNet 3.0, the Debian package wordnet-base | by word |
| examples | sentence with a word -> its gloss | likewise | by gloss |
| descriptions | short -> long description of a package | Debian's package lists | by long description |
| captions | a caption of a photo -> another caption of it | DIR/text/captions.tsv | by photo |
| wikisplit | first -> second sentence of a row | DIR/text/wikisplit.tsv | by row |
| numpy, networkx | as docstrings, of the installed package | for the profile "smoke" | by module |

A line of captions.tsv holds the captions of one photo, and a line of wikisplit.tsv a long sentence and the two that it
was split into, separated by tabs (Multi30k and WikiSplit in the study).

Writes DIR/pairs/NAME/{train,test}.jsonl, one {"query", "document", "group", "part"} per line. Pairs of a group are
positives of each other: two pairs of captions from one photo. `positive_ids` marks these and equal texts. Text that is
in a test pair is in no training pair.
"""

from __future__ import annotations

import argparse
import ast
import collections
import importlib.util
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SEED = 0
NUM_TEST = 3000
MOST_TRAINING_PAIRS = 85_000
MOST_OF_PACKAGE = 1500  # pairs of docstrings that one package may give
MOST_EQUAL = 8  # training pairs with an equal text: they fit into the batches of an epoch, even large ones
PACKAGES = Path(__file__).with_name("packages.txt")


class Pair(NamedTuple):
    query: str
    document: str
    group: str  # pairs with equal groups are positives of each other
    part: str  # all pairs of a part are on one side of the split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets to make; default: all")
    options = parser.parse_args()
    if unknown := set(options.names) - SOURCES.keys():
        parser.error(f"NAME: expected some of {', '.join(SOURCES)}, got {', '.join(sorted(unknown))}")
    for name in options.names or SOURCES:
        make(options.data, name)


def make(data: Path, name: str) -> None:
    """Writes a data set, unless its files are there."""
    folder = data / "pairs" / name
    if (folder / "test.jsonl").exists():
        return
    train, test = split(list(SOURCES[name](data)))
    folder.mkdir(parents=True, exist_ok=True)
    for side, pairs in (("train", train), ("test", test)):  # test.jsonl last: it says that the set is complete
        lines = (json.dumps(pair._asdict(), ensure_ascii=False) for pair in pairs)
        (folder / f"{side}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    print(f"{name}: {len(train)} training pairs, {len(test)} test pairs", flush=True)


def split(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Returns training and test pairs. Whole parts are drawn for the test, until it has NUM_TEST pairs or a quarter."""
    pairs = sorted(set(pairs))
    num_test = min(NUM_TEST, len(pairs) // 4)
    generator = random.Random(SEED)
    parts = sorted({pair.part for pair in pairs})
    generator.shuffle(parts)
    sizes = dict(zip(*np.unique([pair.part for pair in pairs], return_counts=True), strict=True))
    tested, count = set(), 0
    for part in parts:
        if count >= num_test:
            break
        tested.add(part)
        count += int(sizes[part])
    test = [pair for pair in pairs if pair.part in tested]
    generator.shuffle(test)
    test = test[:num_test]
    texts = {text for pair in test for text in (pair.query, pair.document)}
    train = [pair for pair in pairs if pair.part not in tested and not {pair.query, pair.document} & texts]
    generator.shuffle(train)
    return limited(train[:MOST_TRAINING_PAIRS]), test


def limited(pairs: list[Pair]) -> list[Pair]:
    """Returns the pairs without those whose query, document or group MOST_EQUAL pairs before have."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    kept = []
    for pair in pairs:
        keys = [("query", pair.query), ("document", pair.document), ("group", pair.group)]
        if all(counts[key] < MOST_EQUAL for key in keys):
            counts.update(keys)
            kept.append(pair)
    return kept


def read(data: Path, name: str, side: str) -> list[Pair]:
    """Reads the pairs of a side, "train" or "test"."""
    lines = (data / "pairs" / name / f"{side}.jsonl").read_text("utf-8").splitlines()
    return [Pair(**json.loads(line)) for line in lines]


def positive_ids(pairs: list[Pair]) -> np.ndarray:
    """Returns int64 [N, 3], ids of query text, document text and group. Pairs that share one are positives."""
    columns = ([pair.query for pair in pairs], [pair.document for pair in pairs], [pair.group for pair in pairs])
    return np.stack([np.unique(column, return_inverse=True)[1] for column in columns], 1)


# --- sources ---------------------------------------------------------------------------------------------------------
def installed(package: str) -> Iterator[Pair]:
    """Yields the pairs of docstrings of an installed package."""
    (folder,) = importlib.util.find_spec(package).submodule_search_locations  # type: ignore[union-attr, misc]
    for path in sorted(Path(folder).rglob("*.py")):
        yield from of_module(path.read_bytes(), str(path.relative_to(folder)))


def docstrings(data: Path) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES.read_text("utf-8").split():
            yield from of_wheel(downloaded_wheel(package, Path(folder) / package), package.split("==")[0])


def downloaded_wheel(package: str, folder: Path) -> Path:
    """Downloads a package of PyPI to an own folder. Returns the path of its wheel."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), package]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def of_wheel(path: Path, package: str) -> list[Pair]:
    """Returns at most MOST_OF_PACKAGE pairs of a wheel's modules. Tests are left out."""
    found: set[Pair] = set()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and not re.search(r"(^|[/_])tests?([/_.]|$)", name):
                found.update(of_module(archive.read(name), package))
    pairs = sorted(found)
    random.Random(SEED).shuffle(pairs)
    return pairs[:MOST_OF_PACKAGE]


def of_module(source: bytes, package: str) -> Iterator[Pair]:
    """Yields a pair for each function with a docstring of 4 to 60 words in its first paragraph and two statements."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # another version of Python, or a template
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not (text := ast.get_docstring(node)):
            continue
        query = " ".join(text.split("\n\n")[0].split())
        if 4 <= len(query.split()) <= 60 and len(node.body) >= 3:
            node.body = node.body[1:]
            node.decorator_list = []
            code = " ".join(ast.unparse(node).split())[:1000]
            yield Pair(query, code, f"{query}\n{code}", package)


def synsets() -> Iterator[str]:
    """Yields the lines of WordNet's data files (wndb(5WN)), one per synset."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["apt-get", "download", "-qq", "wordnet-base"], check=True, cwd=folder, stderr=subprocess.DEVNULL
        )
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg", "-x", str(package), folder], check=True)
        for part in ("noun", "verb", "adj", "adv"):
            lines = (Path(folder) / "usr/share/wordnet" / f"data.{part}").read_text("utf-8").splitlines()
            yield from (line for line in lines if line[:1].isdigit())


def glosses(data: Path) -> Iterator[Pair]:
    for line in synsets():
        fields, gloss = line.split(" | ", 1)
        words = fields.split()
        gloss = gloss.split('; "')[0].strip()  # without its examples
        for word in words[4 : 4 + 2 * min(int(words[3], 16), 2) : 2]:
            text = re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ")
            yield Pair(text, gloss, gloss, text.lower())


def examples(data: Path) -> Iterator[Pair]:
    for line in synsets():
        gloss, *quoted = line.split(" | ", 1)[1].strip().split('; "')
        yield from (Pair(text.strip('" ;'), gloss, gloss, gloss) for text in quoted[:2])


def descriptions(data: Path) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        own = [f"Dir::State::lists={folder}", f"Dir::Cache={folder}", "Acquire::Languages=en", "Debug::NoLocking=1"]
        command = ["apt-get", *(word for setting in own for word in ("-o", setting)), "update", "-qq"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        for path in sorted(Path(folder).glob("*_main_i18n_Translation-en*")):
            shown = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], check=True, capture_output=True)
            for entry in shown.stdout.decode("utf-8").split("\n\n"):
                yield from of_entry(entry)


def of_entry(entry: str) -> Iterator[Pair]:
    """Yields the pair of an entry of Debian's translations: the short description and the first paragraph after it."""
    if "\nDescription-en: " not in entry:
        return
    short, _, rest = entry.split("\nDescription-en: ", 1)[1].partition("\n")
    long = " ".join(rest.split("\n .")[0].split())
    if len(short.split()) >= 2 and len(long.split()) >= 8:
        yield Pair(short.strip(), long, long, long)


def captions(data: Path) -> Iterator[Pair]:
    for number, texts in enumerate(table(data, "captions")):
        for first, second in zip(texts[:4:2], texts[1:4:2], strict=False):
            yield Pair(first, second, str(number), str(number))


def wikisplit(data: Path) -> Iterator[Pair]:
    for number, texts in enumerate(table(data, "wikisplit")):
        yield Pair(texts[1], texts[2], str(number), str(number))


def require_text(data: Path, names: Iterable[str]) -> None:
    """Ends the program if a file that a data set is made from is not there."""
    for name in names:
        if name in ("captions", "wikisplit") and not (data / "text" / f"{name}.tsv").exists():
            raise SystemExit(f"{name}: expected {data / 'text' / name}.tsv, which {Path(__file__).name} describes")


def table(data: Path, name: str) -> Iterator[list[str]]:
    require_text(data, [name])
    lines = (data / "text" / f"{name}.tsv").read_text("utf-8").splitlines()
    yield from (line.split("\t") for line in lines)


SOURCES: dict[str, Callable[[Path], Iterator[Pair]]] = {
    source.__name__: source for source in (docstrings, glosses, examples, descriptions, captions, wikisplit)
} | {package: lambda data, package=package: installed(package) for package in ("numpy", "networkx")}

if __name__ == "__main__":
    main()
