"""Losses between the members of a mini-batch: InfoNCE, and its debiased and hard variants.

Each anchor has one positive and m negatives. Let p be exp(cosine / t) of the positive, n_k that of negative k, u the
prior ``tau_plus`` and b the concentration ``beta``. Each loss is -log(p / (p + N)), where N is

    infonce   sum_k n_k                                                        van den Oord et al., 2018
    dcl       max((sum_k n_k - u m p) / (1 - u), m exp(-1 / t))                Chuang et al., NeurIPS 2020, equation 8
    hcl       the same, with sum_k w_k n_k, w_k = m n_k^b / sum_l n_l^b        Robinson et al., ICLR 2021, section 3

u is the probability that a random pair is a false negative. A larger b gives more weight to hard negatives. hcl with
b = 0 is dcl, and dcl with u = 0 is infonce. Everything is computed from logarithms, so no temperature overflows.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable

import parsing
import torch

KINDS = ("infonce", "dcl", "hcl")
NEVER = float("-inf")  # the cosine of pairs that are not negatives


def add_arguments(parser: argparse.ArgumentParser, *, temperature: float) -> None:
    group = parser.add_argument_group("loss")
    group.add_argument("--loss", choices=KINDS, default="infonce")
    group.add_argument("--temperature", type=parsing.positive, default=temperature, metavar="t")
    group.add_argument(
        "--tau-plus", type=parsing.share_below_1, default=0.1, help="dcl, hcl: prior of a false negative"
    )
    group.add_argument("--beta", type=parsing.non_negative, default=1.0, help="hcl: concentration on hard negatives")


def from_arguments(args: argparse.Namespace) -> Callable[..., torch.Tensor]:
    """Returns :func:`contrastive_loss` with the options of the arguments."""
    return functools.partial(
        contrastive_loss, kind=args.loss, temperature=args.temperature, tau_plus=args.tau_plus, beta=args.beta
    )


def contrastive_loss(
    positive: torch.Tensor,
    negatives: torch.Tensor,
    kind: str,
    temperature: float,
    *,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    include_positive: bool = True,
) -> torch.Tensor:
    """Returns the mean loss of n anchors.

    Args:
        positive: [n] cosines of the positives.
        negatives: [n, m] cosines of the negatives, NEVER for pairs that are not negatives.
        kind: one of KINDS.
        temperature: t.
        include_positive: False: -log(p / N), as in GraphCL's code.
    """
    positive, negatives = positive.float() / temperature, negatives.float() / temperature
    excluded = negatives == NEVER
    log_count = (~excluded).sum(1).log()
    if kind == "hcl":
        weights = (beta * negatives).masked_fill(excluded, NEVER)  # 0 * NEVER is nan
        total = (weights + negatives).logsumexp(1) - weights.logsumexp(1) + log_count
    else:
        total = negatives.logsumexp(1)
    if kind in ("dcl", "hcl"):
        false_share = (math.log(tau_plus) + log_count + positive - total).exp() if tau_plus else torch.zeros_like(total)
        debiased = total + torch.log1p(-false_share.clamp(max=1 - 1e-6)) - math.log1p(-tau_plus)
        floor = log_count - 1 / temperature  # no cosine is below -1
        total = torch.where(false_share < 1, torch.maximum(debiased, floor), floor)
    denominator = torch.logaddexp(positive, total) if include_positive else total
    return (denominator - positive).mean()


def all_pairs(z1: torch.Tensor, z2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the cosines of SimCLR's pairs: positive [2 B], negatives [2 B, 2 B].

    Each of the 2 B views is an anchor. All views of other instances are its negatives. z1, z2: unit rows [B, D].
    """
    count = len(z1)
    views = torch.cat([z1, z2]).float()
    own = torch.eye(count, dtype=torch.bool, device=views.device).repeat(2, 2)
    return (z1.float() * z2.float()).sum(1).repeat(2), (views @ views.T).masked_fill(own, NEVER)


def cross_pairs(
    a: torch.Tensor, b: torch.Tensor, ignored: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cosines of anchors a with rows of b: positive [B], negatives [B, B].

    a, b: unit rows [B, D]. ignored: bool [B, B], further pairs that are not negatives.
    """
    cosines = a.float() @ b.float().T
    excluded = torch.eye(len(a), dtype=torch.bool, device=a.device)
    return cosines.diagonal(), cosines.masked_fill(excluded if ignored is None else excluded | ignored, NEVER)
