"""Real embeddings for the benchmarks: from files, or made of what is installed anyway.

Random vectors are near to nothing and have no hubs; what selection, walks and partitions cost depends on both.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from batchsampler_ext.cli.inspection import load_features, load_labels

PACKAGES = ("networkx", "numpy", "scipy", "sklearn", "sympy")  # ours, and those that torch brings
MIN_CHARACTERS = 80  # of a docstring
DIM = 128


@dataclass(frozen=True)
class Embeddings:
    name: str
    features: torch.Tensor  # float32 [N, d]
    labels: torch.Tensor | None  # int64 [N]


def from_files(features: str, labels: str | None) -> Embeddings:
    """``.npy`` files, as ``inspect`` reads them."""
    rows = np.array(load_features(features), dtype=np.float32)
    known = None if labels is None else torch.as_tensor(np.array(load_labels(labels, len(rows)), dtype=np.int64))
    return Embeddings(Path(features).name, torch.from_numpy(rows), known)


def digits() -> Embeddings:
    """scikit-learn's 1,797 handwritten digits, pixels, centered."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.data.astype(np.float32))
    return Embeddings("digits", pixels - pixels.mean(0), torch.from_numpy(data.target).long())


def docstrings() -> Embeddings:
    """Text vectors (tf-idf, truncated SVD) of the docstrings of PACKAGES; labels are their modules, two levels deep."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    module_of = {text: module for package in PACKAGES for module, text in package_docstrings(package)}
    counts = TfidfVectorizer(max_features=20_000, sublinear_tf=True, stop_words="english").fit_transform(module_of)
    vectors = TruncatedSVD(DIM, n_iter=2, random_state=0).fit_transform(counts)
    labels = np.unique(list(module_of.values()), return_inverse=True)[1]
    features = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    return Embeddings("docstrings", features, torch.from_numpy(labels).long())


def package_docstrings(package: str) -> Iterator[tuple[str, str]]:
    """(module, docstring) of each function and class in the sources of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        if "tests" in path.parts:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages' own spelling
            tree = ast.parse(path.read_bytes())
        module = ".".join((package, *path.relative_to(root).with_suffix("").parts[:1]))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                text = ast.get_docstring(node)
                if text is not None and len(text) >= MIN_CHARACTERS:
                    yield module, text
