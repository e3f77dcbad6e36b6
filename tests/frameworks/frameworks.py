"""The rows of the matrix."""

from __future__ import annotations

from tests.frameworks.matrix import Framework

FRAMEWORKS = [
    Framework("torch", "tests.frameworks.plain:train_plain"),
    Framework("torchdata StatefulDataLoader", "tests.frameworks.plain:train_stateful", packages=("torchdata",)),
]
