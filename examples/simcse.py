#!/usr/bin/env python3
"""Unsupervised SimCSE (Gao et al., EMNLP 2021): two views of a sentence differ only by dropout.

    python examples/simcse.py sentences.txt --sts sts.tsv --out result.json
    torchrun --nproc-per-node 4 examples/simcse.py sentences.txt --sts sts.tsv --model bert-base-uncased \\
        --pooler cls --batch-size 64 --lr 3e-5 --amp bf16

Data: a text file with one sentence per line, and a tab-separated table of rated pairs with the columns dataset, split,
score, sentence1 and sentence2. Without --model, a small transformer is trained from scratch. There is one epoch, so the
bank is filled before it. With --no-fill-bank, partitions stay uniform. Sentences of the table's test pairs are left out
of training, unless --no-exclude is given.

Metrics: Spearman's correlation of cosine and rating over all test pairs of each data set, and the mean over data sets.
As in the paper, the head after the pooled state is used in training only.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import losses
import numpy as np
import parsing
import processes
import sampling
import texts
import torch
from scipy.stats import spearmanr
from torch import nn


class SimCSE(nn.Module):
    def __init__(self, args: argparse.Namespace, num_tokens: int) -> None:
        super().__init__()
        self.encoder = texts.new_encoder(args, num_tokens)
        self.head = nn.Sequential(nn.Linear(self.encoder.width, self.encoder.width), nn.Tanh())
        # A transformer contains dropout, so its views differ without this layer.
        is_bag = isinstance(self.encoder, texts.BagEncoder)
        self.dropout = nn.Dropout(args.dropout) if is_bag else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns unit rows [B, width] of both views. Every row is encoded twice."""
        states = self.head(self.dropout(self.encoder(tokens.repeat(2, 1))))
        z1, z2 = nn.functional.normalize(states.float(), dim=1).chunk(2)
        return z1, z2


class RatedPairs(NamedTuple):
    first: list[str]
    second: list[str]
    scores: list[float]


def read_sts(path: Path) -> dict[str, RatedPairs]:
    """Returns the test pairs of each data set."""
    pairs: dict[str, RatedPairs] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["split"] == "test":
                of_dataset = pairs.setdefault(row["dataset"], RatedPairs([], [], []))
                of_dataset.first.append(row["sentence1"])
                of_dataset.second.append(row["sentence2"])
                of_dataset.scores.append(float(row["score"]))
    return pairs


def plain(sentence: str) -> str:
    """Returns the letters and digits of a sentence, for comparing training and test sentences."""
    return "".join(letter for letter in sentence.lower() if letter.isalnum())


def read_sentences(args: argparse.Namespace, sts: dict[str, RatedPairs]) -> list[str]:
    """Returns distinct sentences, without those of the test pairs."""
    seen = (
        {plain(sentence) for pairs in sts.values() for sentence in (*pairs.first, *pairs.second)}
        if args.exclude
        else set()
    )
    sentences = []
    for line in args.data.read_text(encoding="utf-8").splitlines():
        if (key := plain(line)) and key not in seen:
            seen.add(key)
            sentences.append(line)
    return [sentences[i] for i in common.random_choice(len(sentences), args.max_samples)]


def train(args: argparse.Namespace) -> dict[str, Any]:
    processes.start(args)
    parsing.check_file(args.data, "data")
    parsing.check_file(args.sts, "--sts")
    sts = read_sts(args.sts)
    sentences = read_sentences(args, sts)
    tokens = texts.Tokens(args, sentences)
    data = tokens(sentences)
    test = {name: (tokens(pairs.first), tokens(pairs.second), pairs.scores) for name, pairs in sts.items()}

    model = SimCSE(args, tokens.size).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=args.weight_decay)
    sampler = sampling.make_sampler(args, len(data), 2 * model.encoder.width)
    run = common.Run("simcse", args.data.stem, args, model, optimizer, sampler)
    loader = run.loader(data)
    loss_of = losses.from_arguments(args)

    def evaluate() -> dict[str, float]:
        metrics = {}
        for name, (first, second, scores) in test.items():
            a, b = (texts.embed(model.encoder, part, run.device) for part in (first, second))
            metrics[name] = float(spearmanr(nn.functional.cosine_similarity(a, b).numpy(), scores).statistic)
        return {**metrics, "mean": float(np.mean(list(metrics.values())))}

    run.fill_bank(loader, lambda batch: (torch.cat(model(batch), 1),))
    for _ in run.epochs():
        for indices, batch in run.steps(loader):
            with run.autocast():
                z1, z2 = run.model(batch)
            loss = loss_of(*losses.cross_pairs(processes.gather_rows(z1), processes.gather_rows(z2)))
            run.optimize(loss)
            run.record(indices, loss, torch.cat([z1, z2], 1))
        run.end_epoch(evaluate)
    return run.finish(evaluate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common.new_parser(__doc__, epochs=1, batch_size=64, lr=3e-4)
    parser.set_defaults(schedule="linear")
    parser.add_argument("data", type=Path, help="text file with one sentence per line")
    parser.add_argument("--sts", type=Path, required=True, help="rated pairs to evaluate on")
    parser.add_argument("--exclude", action=argparse.BooleanOptionalAction, default=True,
                        help="leave sentences of the test pairs out of training")  # fmt: skip
    parser.add_argument(
        "--dropout",
        type=parsing.share_below_1,
        default=0.1,
        help="bag: dropout between encoder and head; bert contains dropout",
    )
    texts.add_arguments(parser, encoder="bert", width=128)
    losses.add_arguments(parser, temperature=0.05)
    sampling.add_arguments(parser, fill_bank=True)
    return parser.parse_args(argv)


main = common.program(parse, train)

if __name__ == "__main__":
    main()
