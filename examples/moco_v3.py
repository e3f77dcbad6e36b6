#!/usr/bin/env python3
"""MoCo v3 (Chen, Xie and He, ICCV 2021): contrastive learning of images with a momentum encoder and no queue.

    python examples/moco_v3.py cifar10 --width 16 --epochs 20 --out result.json
    torchrun --nproc-per-node 8 examples/moco_v3.py imagenet --arch resnet50 --image-size 224 --batch-size 512 \\
        --hidden 4096 --dim 256 --optimizer sgd --lr 0.6 --weight-decay 1.5e-6 --warmup-epochs 10 --amp bf16 --workers 8

Data and metrics are those of simclr.py. The encoder is a backbone with a projection, followed by a prediction. The
momentum encoder is a moving average of backbone and projection, without prediction. The loss is symmetric in both
views. Negatives are the outputs of the momentum encoder for other images of the batch. In contrast to the paper there
is no LARS optimizer, and there are only ResNets.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from typing import Any

import common
import losses
import parsing
import processes
import sampling
import torch
import vision
from torch import nn


class MoCo(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.backbone, width = vision.new_backbone(args)
        self.projection = vision.projector([width, args.hidden, args.dim], last_norm=True)
        self.prediction = vision.projector([args.dim, args.hidden, args.dim], last_norm=False)
        self.momentum_encoder = copy.deepcopy(nn.Sequential(self.backbone, self.projection)).requires_grad_(False)

    def forward(
        self, x1: torch.Tensor, x2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns unit rows [B, dim]: queries q1, q2 and keys k1, k2 of both views."""
        queries = [self.prediction(self.projection(self.backbone(x))) for x in (x1, x2)]
        q1, q2, k1, k2 = (nn.functional.normalize(row.float(), dim=1) for row in (*queries, *self.keys(x1, x2)))
        return q1, q2, k1, k2

    @torch.no_grad()
    def keys(self, *views: torch.Tensor) -> list[torch.Tensor]:
        return [self.momentum_encoder(x) for x in views]

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        online = nn.Sequential(self.backbone, self.projection)
        for slow, fast in zip(self.momentum_encoder.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


def train(args: argparse.Namespace) -> dict[str, Any]:
    processes.start(args)
    images, test_images = vision.load(args)
    model = vision.synchronized(MoCo(args), args.device).to(args.device)
    optimizer = vision.new_optimizer(args, model)
    sampler = sampling.make_sampler(args, len(images), 2 * args.dim, labels=images.labels)
    run = common.Run("moco_v3", args.data.name, args, model, optimizer, sampler, labels=images.labels)
    loader = run.loader(images)
    # As in the paper, the two views differ in blur and solarization.
    jitter = (0.4, 0.4, 0.2, 0.1)
    view1 = vision.new_view(args, blur=1.0, jitter=jitter)
    view2 = vision.new_view(args, blur=0.1, solarize=0.2, jitter=jitter)

    def evaluate() -> dict[str, float]:
        return vision.evaluate(model.backbone, images, test_images, args)

    def encode(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with run.autocast():
            return (torch.cat(model.keys(view1(batch), view2(batch)), 1),)

    run.fill_bank(loader, encode)
    run.calibrate(loader, lambda batch: model.backbone(view1(batch)))
    for _ in run.epochs():
        for indices, batch in run.steps(loader):
            done = run.step / run.num_steps
            model.update_momentum_encoder(1 - (1 - args.momentum) * (1 + math.cos(math.pi * done)) / 2)
            with run.autocast():
                q1, q2, k1, k2 = run.model(view1(batch), view2(batch))
            loss = sum(
                losses.contrastive_loss(
                    *losses.cross_pairs(processes.gather_rows(q), processes.gather_rows(k)), "infonce", args.temperature
                )
                for q, k in ((q1, k2), (q2, k1))
            )
            run.optimize(2 * args.temperature * loss)
            # Keys change slowly, so the bank's keys of earlier steps are still comparable.
            run.record(indices, loss, torch.cat([k1, k2], 1))
        run.end_epoch(evaluate)
    return run.finish(evaluate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common.new_parser(__doc__, epochs=100, batch_size=256, lr=1e-3, weight_decay=1e-4)
    vision.add_arguments(parser, crop_min=0.2)
    parser.add_argument(
        "--dim", type=parsing.positive_int, default=128, help="width of the rows that the loss compares"
    )
    parser.add_argument(
        "--hidden",
        type=parsing.positive_int,
        default=512,
        help="width of the hidden layers of projection and prediction",
    )
    parser.add_argument(
        "--momentum", type=parsing.share, default=0.99, help="initial value, which rises to 1 by a cosine"
    )
    parser.add_argument("--temperature", type=parsing.positive, default=0.2)
    sampling.add_arguments(parser)
    return parser.parse_args(argv)


main = common.program(parse, train)

if __name__ == "__main__":
    main()
