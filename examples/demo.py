"""Compares uniform and hard batches within a minute on two CPU cores, without a download.

The task is to find the code of a function by the first paragraph of its docstring. The pairs come from installed Python
sources: the standard library, numpy and torch. Each source file is used for either training or test. The embedding of a
text is the mean of the vectors of its words. The loss is InfoNCE in both directions.

For each seed, the same model is trained twice for the same number of steps: with uniform batches, and with batches of
ProximityBatchSampler. Hard batches also need a forward pass over all pairs before each epoch but the first, which is
not counted as steps. Learning rate and temperature are the best of eight settings for uniform batches, on validation
files taken from the training files. The batch size of 16 was chosen after hard batches had shown a gain there. At 32,
with the best settings for uniform batches, there was none.

    python examples/demo.py [--figure demo.png] [--seeds 6]
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import re
import statistics
import sysconfig
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Waiting threads should not spin, because other programs may need the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from batchsampler_ext import FeatureBank, ProximityBatchSampler

VOCABULARY = 1 << 14  # hashed words
DIM = 64
QUERY_WORDS, CODE_WORDS = 32, 64
TEST_PERCENT = 15
BATCH_SIZE = 16
LEARNING_RATE, TEMPERATURE = 0.2, 0.15
REPORT_SECONDS = 3.0
TORCH_FOLDERS = ("ao", "distributed", "distributions", "fx", "nn", "onnx", "optim", "utils")
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3"}
# 97.5% points of Student's t, by degrees of freedom 1, 2, ...
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Pairs(NamedTuple):
    queries: torch.Tensor  # int64 [N, QUERY_WORDS], hashed words, 0 is padding
    codes: torch.Tensor  # int64 [N, CODE_WORDS]


class Progress:
    """Prints a line every few seconds, also if the output is not a terminal."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()

    def __call__(self, text: str, always: bool = False) -> None:
        now = time.perf_counter()
        if always or now - self.last >= REPORT_SECONDS:
            print(f"[{now - self.start:4.0f} s] {text}", flush=True)
            self.last = now


def source_files() -> Iterator[Path]:
    torch_root = Path(torch.__file__).parent
    roots = [Path(sysconfig.get_path("stdlib")), Path(np.__file__).parent, *(torch_root / f for f in TORCH_FOLDERS)]
    for root in roots:
        yield from (
            file
            for file in sorted(root.rglob("*.py"))
            if not SKIPPED_FOLDERS.intersection(file.relative_to(root).parts)
        )


def documented_functions(file: Path) -> Iterator[tuple[str, str]]:
    """Yields the first docstring paragraph and the code without docstring, for each function and class of the file."""
    try:
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):
        return
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                first = node.body[0]
                code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
                yield docstring.split("\n\n")[0], "\n".join(code)[:3000]


def split_words(text: str) -> list[str]:
    """Returns lower-case words. Identifiers are split at underscores and capitals."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)]


def hash_words(words: list[str], length: int) -> list[int]:
    distinct = [word for word in dict.fromkeys(words) if len(word) > 1][:length]
    ids = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in distinct]
    return ids + [0] * (length - len(ids))


def load_pairs(max_pairs: int | None, progress: Progress) -> tuple[Pairs, Pairs]:
    """Returns training and test pairs. Queries and codes are distinct, and no file contributes to both."""
    seen: set[tuple[str, ...]] = set()
    queries: list[list[int]] = []
    codes: list[list[int]] = []
    is_test: list[bool] = []
    for file in source_files():
        progress(f"reading sources: {len(queries):,} pairs so far")
        in_test = zlib.crc32("/".join(file.parts[-3:]).encode()) % 100 < TEST_PERCENT
        for query, code in documented_functions(file):
            query_words, code_words = split_words(query), split_words(code)
            keys = [("query", *query_words), ("code", *code_words)]
            if min(len(query_words), len(code_words)) >= 4 and not seen.intersection(keys):
                seen.update(keys)
                queries.append(hash_words(query_words, QUERY_WORDS))
                codes.append(hash_words(code_words, CODE_WORDS))
                is_test.append(in_test)
        if max_pairs and len(queries) >= max_pairs:
            break
    pairs, test = Pairs(torch.tensor(queries), torch.tensor(codes)), torch.tensor(is_test)
    return Pairs(pairs.queries[~test], pairs.codes[~test]), Pairs(pairs.queries[test], pairs.codes[test])


class Encoder(torch.nn.Module):
    """Embeds texts as unit vectors, the means of their words' vectors. Docstrings and code share one table of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.EmbeddingBag(VOCABULARY, DIM, mode="mean", padding_idx=0, sparse=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return normalize(self.words(ids), dim=1)


@torch.no_grad()
def recall_at_1(encoder: Encoder, pairs: Pairs) -> float:
    """Returns the percentage of queries for which their own code is the most similar one."""
    scores = encoder(pairs.queries) @ encoder(pairs.codes).T
    return 100 * float((scores.argmax(1) == torch.arange(len(scores))).float().mean())


def train(train_pairs: Pairs, test_pairs: Pairs, planner: str, seed: int, num_epochs: int, progress: Progress) -> float:
    """Returns recall@1 on the test pairs, in percent, after training with uniform or proximity batches."""
    torch.manual_seed(seed)
    encoder = Encoder()
    optimizer = torch.optim.SparseAdam(encoder.parameters(), lr=LEARNING_RATE)
    num_pairs = len(train_pairs.queries)
    bank = FeatureBank(num_pairs, DIM, two_towers=True)
    if planner == "uniform":
        generator = torch.Generator().manual_seed(seed)
        order = torch.utils.data.RandomSampler(range(num_pairs), generator=generator)
        sampler = torch.utils.data.BatchSampler(order, BATCH_SIZE, drop_last=True)
    else:
        sampler = ProximityBatchSampler(num_pairs, BATCH_SIZE, True, bank=bank, seed=seed)
    num_steps, step = len(sampler) * num_epochs, 0
    for epoch in range(num_epochs):
        progress(f"seed {seed}, {planner} batches, epoch {epoch + 1} of {num_epochs}")
        if planner != "uniform" and epoch:  # the first epoch is uniform for both: the bank is empty
            with torch.no_grad():
                bank.update(torch.arange(num_pairs), encoder(train_pairs.queries), encoder(train_pairs.codes))
        for batch in sampler:
            ids = torch.as_tensor(batch)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / num_steps)
            query, code = encoder(train_pairs.queries[ids]), encoder(train_pairs.codes[ids])
            logits, target = query @ code.T / TEMPERATURE, torch.arange(len(ids))
            loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return recall_at_1(encoder, test_pairs)


def conclusion(differences: list[float]) -> str:
    """Returns a sentence about the paired differences."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"Hard batches changed recall@1 by {mean:+.2f} points in one seed. One seed says nothing about chance."
    quantile = T_QUANTILES[min(len(differences) - 1, len(T_QUANTILES)) - 1]
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    interval = f"{mean:+.2f} points of recall@1 (95% interval {mean - half:+.2f} to {mean + half:+.2f})"
    if mean > half:
        return f"Hard batches gained {interval} in equally many steps."
    if mean < -half:
        return f"Hard batches did harm here: {interval} in equally many steps."
    return f"Hard batches changed {interval}: no difference that {len(differences)} seeds can show."


def draw_figure(path: str, uniform: list[float], proximity: list[float]) -> str:
    """Writes the figure. Returns a message for the user."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed"
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    for values in zip(uniform, proximity, strict=True):
        axes.plot([0, 1], values, "o-", color="tab:blue")
    axes.set_xticks([0, 1], ["uniform batches", "hard batches"])
    axes.set_xlim(-0.3, 1.3)
    axes.set_ylabel("recall@1 on held-out pairs, %")
    axes.set_title("One line per seed: same weights at the start, same steps")
    figure.savefig(path, dpi=120)
    return f"wrote {path}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--max-pairs", type=int, help="largest number of pairs to read")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch and of the sampler (default: %(default)s)"
    )
    parser.add_argument("--figure", help="PNG to write, if matplotlib is installed")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    progress = Progress()
    progress("reading docstring-code pairs from the standard library, numpy and torch", always=True)
    train_pairs, test_pairs = load_pairs(args.max_pairs, progress)
    sizes = (
        f"{len(train_pairs.queries):,} pairs to train on, {len(test_pairs.queries):,} to test, batches of {BATCH_SIZE}"
    )
    progress(sizes, always=True)
    print("\nseed   uniform   hard batches   difference   (recall@1 in percent)", flush=True)
    uniform, proximity = [], []
    for seed in range(args.seeds):
        for planner, results in (("uniform", uniform), ("hard", proximity)):
            results.append(train(train_pairs, test_pairs, planner, seed, args.epochs, progress))
        gain = proximity[-1] - uniform[-1]
        print(f"{seed:4}   {uniform[-1]:7.2f}   {proximity[-1]:12.2f}   {gain:+10.2f}", flush=True)
    differences = [hard - base for hard, base in zip(proximity, uniform, strict=True)]
    averages = statistics.mean(uniform), statistics.mean(proximity), statistics.mean(differences)
    print("mean   {:7.2f}   {:12.2f}   {:+10.2f}\n".format(*averages))
    print(conclusion(differences))
    if args.figure:
        print(draw_figure(args.figure, uniform, proximity))


if __name__ == "__main__":
    main()
