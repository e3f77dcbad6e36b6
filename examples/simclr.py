#!/usr/bin/env python3
"""SimCLR (Chen et al., ICML 2020): contrastive learning of images by two random views.

    python examples/simclr.py cifar10 --width 16 --epochs 20 --out result.json
    torchrun --nproc-per-node 8 examples/simclr.py imagenet --arch resnet50 --image-size 224 --batch-size 512 \\
        --optimizer sgd --lr 0.6 --weight-decay 1e-6 --temperature 0.1 --warmup-epochs 10 --amp bf16 --workers 8

Data: one folder per class in DATA/train and DATA/test (or DATA/val), for CIFAR-10, ImageNet-100 or ImageNet-1k. Classes
are only used for evaluation and for counting false negatives. Views are made on the device, from images scaled to
--image-size. In contrast to the paper there is no LARS optimizer, so batches should have at most about 1024 images.

Metrics: test accuracy of 200 weighted nearest neighbors and of a linear classifier, on the backbone's frozen features.
"""

from __future__ import annotations

import argparse
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


class SimCLR(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.backbone, width = vision.new_backbone(args)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, args.dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns unit rows [B, dim]."""
        return nn.functional.normalize(self.head(self.backbone(images)).float(), dim=1)


def train(args: argparse.Namespace) -> dict[str, Any]:
    processes.start(args)
    images, test_images = vision.load(args)
    model = vision.synchronized(SimCLR(args), args.device).to(args.device)
    optimizer = vision.new_optimizer(args, model)
    sampler = sampling.make_sampler(args, len(images), 2 * args.dim, labels=images.labels)
    run = common.Run("simclr", args.data.name, args, model, optimizer, sampler, labels=images.labels)
    loader = run.loader(images)
    view = vision.new_view(args, blur=0.5)
    loss_of = losses.from_arguments(args)

    def views(batch: torch.Tensor, network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        with run.autocast():
            return network(torch.cat([view(batch), view(batch)])).chunk(2)

    def evaluate() -> dict[str, float]:
        return vision.evaluate(model.backbone, images, test_images, args)

    run.fill_bank(loader, lambda batch: (torch.cat(views(batch, model), 1),))
    run.calibrate(loader, lambda batch: views(batch, model))
    for _ in run.epochs():
        for indices, batch in run.steps(loader):
            z1, z2 = views(batch, run.model)
            loss = loss_of(*losses.all_pairs(processes.gather_rows(z1), processes.gather_rows(z2)))
            run.optimize(loss)
            run.record(indices, loss, torch.cat([z1, z2], 1))
        run.end_epoch(evaluate)
    return run.finish(evaluate)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common.new_parser(__doc__, epochs=100, batch_size=256, lr=1e-3, weight_decay=1e-4)
    vision.add_arguments(parser, crop_min=0.08)
    parser.add_argument(
        "--dim", type=parsing.positive_int, default=128, help="width of the projections that the loss compares"
    )
    losses.add_arguments(parser, temperature=0.5)
    sampling.add_arguments(parser)
    return parser.parse_args(argv)


main = common.program(parse, train)

if __name__ == "__main__":
    main()
