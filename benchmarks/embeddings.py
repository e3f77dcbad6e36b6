"""Real embeddings for the benchmarks, from files or from installed packages.

Random vectors have neither near neighbors nor hubs. The time of selection, walks and partitions depends on both.
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

from batchsampler_ext.cli.inputs import load_labels, load_matrix

PACKAGES = ("networkx", "numpy", "scipy", "sklearn", "sympy")  # our dependencies, and those of torch
MIN_CHARACTERS = 80  # of a docstring
DIM = 128


@dataclass(frozen=True)
class Embeddings:
    name: str
    features: torch.Tensor  # float32 [N, d]
    labels: torch.Tensor | None  # int64 [N]


def from_files(features: str, labels: str | None) -> Embeddings:
    """Reads ``.npy`` files as ``inspect`` does."""
    rows = np.array(load_matrix(features, "FEATURES"), dtype=np.float32)
    known = None if labels is None else torch.as_tensor(np.array(load_labels(labels, len(rows)), dtype=np.int64))
    return Embeddings(Path(features).name, torch.from_numpy(rows), known)


def digits() -> Embeddings:
    """Returns the centered pixels of scikit-learn's 1,797 handwritten digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.data.astype(np.float32))
    return Embeddings("digits", pixels - pixels.mean(0), torch.from_numpy(data.target).long())


def docstrings() -> Embeddings:
    """Returns text vectors (tf-idf, truncated SVD) of docstrings of PACKAGES. Labels are modules, two levels deep."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    module_of = {text: module for package in PACKAGES for module, text in package_docstrings(package)}
    counts = TfidfVectorizer(max_features=20_000, sublinear_tf=True, stop_words="english").fit_transform(module_of)
    vectors = TruncatedSVD(DIM, n_iter=2, random_state=0).fit_transform(counts)
    labels = np.unique(list(module_of.values()), return_inverse=True)[1]
    features = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    return Embeddings("docstrings", features, torch.from_numpy(labels).long())


def package_docstrings(package: str) -> Iterator[tuple[str, str]]:
    """Yields (module, docstring) for each function and class in the sources of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        if "tests" in path.parts:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the source of the packages
            tree = ast.parse(path.read_bytes())
        module = ".".join((package, *path.relative_to(root).with_suffix("").parts[:1]))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                text = ast.get_docstring(node)
                if text is not None and len(text) >= MIN_CHARACTERS:
                    yield module, text
