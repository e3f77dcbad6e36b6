"""Writes scikit-learn's bundled handwritten digits as features and labels, for a first look without a download.

python examples/digits_features.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def main(directory: str) -> None:
    digits = load_digits()
    features = digits.data - digits.data.mean(axis=0)  # pixels are positive, so cosines mean more without the mean
    Path(directory).mkdir(parents=True, exist_ok=True)
    np.save(Path(directory) / "digits_features.npy", features.astype(np.float32))
    np.save(Path(directory) / "digits_labels.npy", digits.target.astype(np.int64))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
