#!/usr/bin/env python3
"""Retrieval between paired texts: in-batch InfoNCE, one shared tower or two.

    python examples/retrieval.py captions.tsv --out result.json
    torchrun --nproc-per-node 8 examples/retrieval.py captions.tsv --encoder bert --model bert-base-uncased --amp bf16

Data: a text file with one group of related texts per line, separated by tabs, such as captions of a photo or a question
and its answers. Texts 1 and 2 of a line are a pair, 3 and 4 another. Pairs of the same line are known false negatives.
--mask-known leaves them out of the loss, --no-link-labels out of the graph.

Metrics, on held-out lines: recall at 1 and 5, and the mean reciprocal rank, of the first text of the same line. With
one tower, every text is a query for all others. With two towers, first texts of pairs are queries for second texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import losses
import parsing
import processes
import sampling
import texts
import torch
from torch import nn

from batchsampler_ext import knn

MAX_RANK = 100


class Towers(nn.Module):
    """Embeds texts as unit vectors by towers 0 and 1, which may be the same."""

    def __init__(self, args: argparse.Namespace, num_tokens: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList()
        for _ in range(args.towers):
            encoder = texts.new_encoder(args, num_tokens)
            self.towers.append(nn.Sequential(encoder, nn.Linear(encoder.width, args.dim)))

    def embed(self, tokens: torch.Tensor, tower: int) -> torch.Tensor:
        return nn.functional.normalize(self.towers[tower % len(self.towers)](tokens).float(), dim=1)

    def forward(self, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns unit rows [B, dim] of both towers. pairs: int64 [B, 2, T] tokens."""
        return self.embed(pairs[:, 0], 0), self.embed(pairs[:, 1], 1)


def train(args: argparse.Namespace) -> dict[str, Any]:
    processes.start(args)
    kept_in, kept_aside = read_groups(args)
    all_pairs = [(row, group[i : i + 2]) for row, group in enumerate(kept_in) for i in range(0, len(group) - 1, 2)]
    chosen = [all_pairs[i] for i in common.random_choice(len(all_pairs), args.max_samples)]
    groups = torch.tensor([row for row, _ in chosen])
    pair_texts = [text for _, pair in chosen for text in pair]
    tokens = texts.Tokens(args, pair_texts)
    pairs = tokens(pair_texts).view(len(chosen), 2, -1)
    test_tokens = tokens([text for group in kept_aside for text in group])

    model = Towers(args, tokens.size).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=args.weight_decay)
    # With one tower, the bank concatenates both texts of a pair, as the paper does with views.
    has_towers = args.towers == 2
    sampler = sampling.make_sampler(
        args, len(pairs), args.dim * (1 if has_towers else 2), two_towers=has_towers, labels=groups
    )
    run = common.Run("retrieval", args.data.stem, args, model, optimizer, sampler, labels=groups)
    loader = run.loader(pairs)
    loss_of = losses.from_arguments(args)

    def for_bank(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (a.detach(), b.detach()) if has_towers else (torch.cat([a, b], 1).detach(),)

    run.fill_bank(loader, lambda batch: for_bank(*model(batch)))
    groups = groups.to(run.device)
    for _ in run.epochs():
        for indices, batch in run.steps(loader):
            with run.autocast():
                a, b = run.model(batch)
            all_a, all_b = processes.gather_rows(a), processes.gather_rows(b)
            members = groups[processes.gather_rows(indices.to(run.device))]
            known = members[:, None] == members[None, :] if args.mask_known else None
            directions = ((all_a, all_b), (all_b, all_a))
            loss = sum(loss_of(*losses.cross_pairs(anchors, others, known)) for anchors, others in directions)
            run.optimize(loss / 2)
            run.record(indices, loss / 2, *for_bank(a, b))
        run.end_epoch(lambda: evaluate(model, args, test_tokens, kept_aside))
    return run.finish(lambda: evaluate(model, args, test_tokens, kept_aside))


def read_groups(args: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]]:
    """Returns training lines and held-out lines: those of --test, or a random choice that is equal for all seeds."""

    def read(path: Path) -> list[list[str]]:
        parsing.check_file(path, "data" if path == args.data else "--test")
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        return [group for group in lines if len(group) >= 2]

    groups = read(args.data)
    if args.test:
        return groups, read(args.test)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(args.split)).tolist()
    num_test = len(groups) // 10 if args.test_groups is None else args.test_groups
    if num_test >= len(groups):
        raise SystemExit(f"--test-groups: expected fewer than {len(groups)}, the lines of the data, got {num_test}")
    return [groups[i] for i in order[num_test:]], [groups[i] for i in order[:num_test]]


def evaluate(
    model: Towers, args: argparse.Namespace, tokens: torch.Tensor, groups: Sequence[Sequence[str]]
) -> dict[str, float]:
    rows = torch.tensor([row for row, group in enumerate(groups) for _ in group])
    device = torch.device(args.device)
    if args.towers == 1:
        embeddings = texts.embed(lambda part: model.embed(part, 0), tokens, device)
        return ranking(embeddings, rows, embeddings, rows, are_same=True)
    place = torch.cat([torch.arange(len(group)) for group in groups])
    queries, documents = place % 2 == 0, place % 2 == 1
    a = texts.embed(lambda part: model.embed(part, 0), tokens[queries], device)
    b = texts.embed(lambda part: model.embed(part, 1), tokens[documents], device)
    return ranking(a, rows[queries], b, rows[documents], are_same=False)


def ranking(
    queries: torch.Tensor,
    query_groups: torch.Tensor,
    documents: torch.Tensor,
    document_groups: torch.Tensor,
    *,
    are_same: bool,
) -> dict[str, float]:
    """Returns metrics of the rank of the first document of a query's group.

    are_same: queries are the documents, and do not count as their own result.
    """
    found = knn(queries, documents, min(len(documents), MAX_RANK + are_same)).ids.long()
    is_other = found != torch.arange(len(queries))[:, None] if are_same else torch.ones_like(found, dtype=torch.bool)
    is_hit = is_other & (document_groups[found] == query_groups[:, None])
    never = torch.tensor(2**31)
    rank = is_other.cumsum(1).where(is_hit, never).amin(1).double()
    return {
        "recall_at_1": float((rank <= 1).double().mean()),
        "recall_at_5": float((rank <= 5).double().mean()),
        "mrr": float((1 / rank).where(rank <= MAX_RANK, torch.zeros_like(rank)).mean()),
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common.new_parser(__doc__, epochs=10, batch_size=256, lr=2e-3)
    parser.add_argument("data", type=Path, help="tab-separated groups of texts")
    parser.add_argument("--test", type=Path, help="groups to evaluate on; default: held-out lines of the data")
    parser.add_argument("--test-groups", type=parsing.positive_int, help="number of held-out lines; default: a tenth")
    parser.add_argument("--split", type=parsing.count, default=0, help="seed of the choice of held-out lines")
    parser.add_argument("--towers", type=int, choices=(1, 2), default=1)
    parser.add_argument("--dim", type=parsing.positive_int, default=128, help="width of embeddings")
    parser.add_argument("--mask-known", action="store_true", help="texts of the same line are not negatives")
    texts.add_arguments(parser, encoder="bag", width=256)
    losses.add_arguments(parser, temperature=0.07)
    sampling.add_arguments(parser)
    return parser.parse_args(argv)


main = common.program(parse, train)

if __name__ == "__main__":
    main()
