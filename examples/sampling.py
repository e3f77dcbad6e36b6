"""The sampler of an example: its arguments, its construction, and the share of each process in its batches."""

from __future__ import annotations

import argparse

import parsing
import torch
from processes import num_processes

from batchsampler_ext import (
    BatchPlanner,
    FeatureBank,
    GraphConfig,
    ProximityBatchSampler,
    UniformPlanner,
    WalkPlanner,
)
from batchsampler_ext.planners import PLANNERS

BANK_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser, *, fill_bank: bool = False) -> None:
    group = parser.add_argument_group("sampler")
    group.add_argument(
        "--sampler",
        choices=("uniform", "knn", "proximity"),
        default="proximity",
        help="knn: a random root and its exact nearest neighbors, as in the paper's comparison",
    )
    group.add_argument("--num-candidates", type=parsing.positive_int, default=1000, metavar="M")
    group.add_argument("--num-neighbors", type=parsing.positive_int, default=100, metavar="K")
    group.add_argument("--restart-prob", type=parsing.share, default=0.2, metavar="ALPHA")
    group.add_argument(
        "--restart-prob-end",
        type=parsing.share,
        metavar="ALPHA",
        help="value in the last epoch, with linear change before",
    )
    group.add_argument("--refresh-every", type=parsing.positive_int, metavar="STEPS",
                       help="steps between graphs, for planners that walk (default: 100)")  # fmt: skip
    group.add_argument("--range-min", type=parsing.count, default=0, help="number of nearest candidates to skip")
    group.add_argument("--max-score", type=float, help="no edges to candidates with a cosine above this")
    group.add_argument("--link-labels", action=argparse.BooleanOptionalAction, default=True,
                       help="no: no edges between instances with equal labels")  # fmt: skip
    group.add_argument("--fill-bank", action=argparse.BooleanOptionalAction, default=fill_bank,
                       help="embeds all data before the first epoch, which is otherwise uniform")  # fmt: skip
    group.add_argument("--planner", choices=[name for name in PLANNERS if name != "uniform"], default="partition",
                       help="cover_by_walks: the authors' epoch, cut to the length of the others")  # fmt: skip
    group.add_argument("--order", choices=("rwr", "rw", "bfs", "dfs"), default="rwr", help="for planners that walk")
    group.add_argument("--hardness", choices=("soft", "default", "hard"), default="default", help="for partitions")
    group.add_argument(
        "--candidate-group-size", type=parsing.positive_int, help="number of instances that share their candidates"
    )
    group.add_argument("--bank-dtype", choices=BANK_DTYPES, default="bf16")


def make_sampler(
    args: argparse.Namespace,
    num_instances: int,
    dim: int,
    *,
    labels: torch.Tensor | None = None,
    two_towers: bool = False,
) -> ProximityBatchSampler:
    """Returns the sampler for the arguments, with its bank. Ragged batches are left out.

    All processes together train on one hard batch of args.batch_size instances.

    labels: int64 [N], -1 = unknown; used by --no-link-labels.
    """
    if args.batch_size > num_instances:
        raise SystemExit(
            f"--batch-size: expected at most {num_instances}, the number of instances, got {args.batch_size}"
        )
    if args.sampler == "proximity" and args.num_neighbors > args.num_candidates:
        raise SystemExit(
            f"--num-neighbors: expected at most --num-candidates, {args.num_candidates}, got {args.num_neighbors}"
        )
    bank = FeatureBank(
        num_instances, dim, two_towers=two_towers, dtype=BANK_DTYPES[args.bank_dtype], device=args.device
    )
    if not args.link_labels and labels is None:
        raise SystemExit("--no-link-labels: expected data with labels, got no labels")
    first, last = args.restart_prob, args.restart_prob_end

    def restart_prob(epoch: int) -> float:
        return first if last is None else first + (last - first) * min(1, epoch / max(1, args.epochs - 1))

    try:
        planner = make_planner(args)
        is_knn = args.sampler == "knn"
        config = GraphConfig(
            num_candidates=num_instances - 1 if is_knn else args.num_candidates,
            num_neighbors=max(1, args.batch_size - 1) if is_knn else args.num_neighbors,
            candidate_group_size=args.candidate_group_size,
            labels=None if args.link_labels else labels,
            max_score=args.max_score,
            range_min=args.range_min,
        )
        return ProximityBatchSampler(
            num_instances, args.batch_size // num_processes(), drop_last=True, bank=bank, graph=config, planner=planner,
            refresh_every=None if planner.covers_once else args.refresh_every, restart_prob=restart_prob,
            seed=args.seed,
        )  # fmt: skip
    except ValueError as error:  # the message names the argument
        raise SystemExit(str(error)) from None


def make_planner(args: argparse.Namespace) -> BatchPlanner:
    if args.sampler == "uniform":
        return UniformPlanner()
    if args.sampler == "knn":
        return WalkPlanner(order="knn")
    walk = {"order": args.order}
    options = {"partition": {"hardness": args.hardness}, "walks": walk, "cover_by_walks": walk}
    return PLANNERS[args.planner](**options.get(args.planner, {}))
