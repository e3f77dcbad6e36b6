"""Shared code of the examples: arguments, log, checkpoints and result of a training run.

A program builds its model and data, makes a :class:`Run`, and writes its own training loop:

    for epoch in run.epochs():
        for indices, batch in run.steps(loader):
            loss = ...
            run.optimize(loss)
            run.record(indices, loss, embeddings)
        run.end_epoch(evaluate)
    return run.finish(evaluate)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import parsing
import processes
import torch
import torch.distributed as dist
from processes import gather_rows, num_processes, rank
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from batchsampler_ext import IndexedDataset, ProximityBatchSampler
from batchsampler_ext.metrics import equal_label_share, mean_cosine

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Arguments that may change when a run is resumed, because they do not affect its result.
NOT_THE_RUN = {"out", "log", "checkpoint", "checkpoint_every", "resume", "stop_after", "device", "threads", "quiet"}


# --- arguments -------------------------------------------------------------------------------------------------------
def program(
    parse: Callable[[Sequence[str] | None], argparse.Namespace], train: Callable[[argparse.Namespace], dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """Returns ``main(argv=None)`` of a training program, which returns the result of the run."""

    def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
        result = train(parse(argv))
        processes.end()
        return result

    return main


def new_parser(
    description: str | None, *, epochs: int, batch_size: int, lr: float, weight_decay: float = 0.0
) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that all programs have."""
    parser = parsing.Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=parsing.count, default=epochs, help="0: evaluates the untrained encoder")
    group.add_argument(
        "--batch-size",
        type=parsing.positive_int,
        default=batch_size,
        metavar="B",
        help="instances per batch, over all processes",
    )
    group.add_argument("--lr", type=parsing.positive, default=lr)
    group.add_argument("--weight-decay", type=parsing.non_negative, default=weight_decay)
    group.add_argument("--schedule", choices=("cosine", "linear", "constant"), default="cosine")
    group.add_argument("--warmup-epochs", type=parsing.non_negative, default=0.0)
    group.add_argument("--seed", type=parsing.count, default=0, help="of weights, augmentation and sampling")
    group.add_argument(
        "--max-samples", type=parsing.positive_int, metavar="N", help="trains on a random subset of this size"
    )

    group = parser.add_argument_group("running")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group.add_argument("--threads", type=parsing.positive_int, help="threads of torch and of the sampler")
    group.add_argument("--workers", type=parsing.count, default=0, help="number of processes that load data")
    group.add_argument("--amp", choices=AMP_DTYPES, default="off", help="automatic mixed precision")
    group.add_argument(
        "--eval-every",
        type=parsing.count,
        default=0,
        metavar="EPOCHS",
        help="epochs between evaluations; 0: evaluates at the end only",
    )
    group.add_argument("--out", type=Path, metavar="FILE", help="writes the result as JSON")
    group.add_argument("--log", type=Path, metavar="FILE", help="writes a JSON line for each epoch")
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="file to write at the end of each epoch")
    group.add_argument(
        "--checkpoint-every",
        type=parsing.count,
        default=0,
        metavar="STEPS",
        help="steps between further checkpoints within an epoch",
    )
    group.add_argument("--resume", action="store_true", help="continues from --checkpoint if the file exists")
    group.add_argument(
        "--stop-after", type=parsing.count, metavar="STEPS", help="saves a checkpoint and ends after this many steps"
    )
    group.add_argument("--quiet", action="store_true", help="shows no progress bars")
    return parser


# --- a run -----------------------------------------------------------------------------------------------------------
class Run:
    """A training run: epochs and steps with a progress bar, optimizer, statistics, checkpoints and the result.

    Args:
        system: name of the system in the result.
        data: name of the data in the result.
        args: arguments of :func:`new_parser` and ``sampling.add_arguments``.
        model: the model on its device. In training, call ``run.model``, which is distributed under torchrun.
        sampler: from ``sampling.make_sampler``.
        labels: int64 [N] or None. False negatives are pairs with equal labels.
    """

    def __init__(
        self,
        system: str,
        data: str,
        args: argparse.Namespace,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sampler: ProximityBatchSampler,
        *,
        labels: torch.Tensor | None = None,
    ) -> None:
        self.args, self.sampler, self.bank = args, sampler, sampler.bank
        self.device = torch.device(args.device)
        self.num_steps = args.epochs * len(sampler)
        self._names = {"system": system, "data": data}
        self._labels = None if labels is None else labels.to(self.device)
        self._optimizer = optimizer
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=args.amp == "fp16")
        self._state = {
            "model": model,
            "optimizer": optimizer,
            "schedule": self._schedule,
            "scaler": self._scaler,
            "bank": self.bank,
        }
        self._plain_model = model
        self.model: Any = model if num_processes() == 1 else DistributedDataParallel(model)
        if num_processes() > 1:
            torch.manual_seed(1_000_003 * (args.seed + 1) + rank())  # different views in each process

        self.step = 0
        self._epoch, self._num_trained = 0, 0  # batches trained in this epoch
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, similarity, false negatives
        self._seconds = self._fill_seconds = self._sampler_seconds_before = 0.0
        self._history: list[dict[str, float]] = []
        self._epoch_is_complete = False
        self._rng: dict[str, torch.Tensor] | None = None
        if args.resume and args.checkpoint.exists():
            self._load()
        self._first_step = self.step

    # --- the loop
    def autocast(self) -> AbstractContextManager[Any]:
        dtype = AMP_DTYPES[self.args.amp]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def loader(self, dataset: Any, make: Callable[..., DataLoader[Any]] = DataLoader) -> DataLoader[Any]:
        """Returns a loader of (indices, samples) for this process. make: class of the loader."""
        return make(
            IndexedDataset(dataset),
            batch_sampler=self.sampler,
            num_workers=self.args.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # for workers' seeds; torch's own is that of the augmentations
        )

    def fill_bank(self, loader: Any, encode: Callable[[Any], tuple[torch.Tensor, ...]]) -> None:
        """With --fill-bank, stores embeddings of the training data before the first step.

        Args:
            loader: the loader of training, so each process embeds its share. The N mod B instances that it leaves out
                get no embedding.
            encode: returns embeddings (and documents) of the samples of a batch.
        """
        if not self.args.fill_bank or self.args.sampler == "uniform" or self.step or not self.args.epochs:
            return
        start, sampler_seconds = time.perf_counter(), self._sampler_seconds()
        self._plain_model.eval()
        bar = self._bar(len(loader), 0, "filling the bank")
        self.bank.fill_from(
            lambda batch: (batch[0], *encode(batch[1].to(self.device, non_blocking=True))),
            loader,
            progress=lambda done, total: bar.update(),
        )
        bar.close()
        self._plain_model.train()
        seconds = self._elapsed(start)
        self._fill_seconds = seconds - (self._sampler_seconds() - sampler_seconds)
        self._seconds += seconds

    def calibrate(self, loader: Any, forward: Callable[[Any], object], num_passes: int = 50) -> None:
        """With --epochs 0, sets the untrained statistics of batch norm to means over training batches."""
        norms = [m for m in self._plain_model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if self.args.epochs or not norms:
            return
        self._plain_model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all passes
        with torch.no_grad():
            for _, (_, batch) in zip(range(num_passes), loader, strict=False):
                forward(batch.to(self.device))

    def epochs(self) -> Iterator[int]:
        while self._epoch < self.args.epochs and not self._must_stop():
            self.sampler.set_epoch(self._epoch)
            self._plain_model.train()
            yield self._epoch

    def steps(self, loader: DataLoader[Any]) -> Iterator[tuple[torch.Tensor, Any]]:
        """Yields the remaining batches of the epoch, with the samples on the device."""
        bar = self._bar(len(self.sampler), self._num_trained, f"epoch {self._epoch + 1} of {self.args.epochs}")
        start = time.perf_counter()
        batches = iter(loader)
        if self._rng is not None:
            self._set_rng(self._rng)
            self._rng = None
        self._epoch_is_complete = False
        while self._num_trained < len(self.sampler):  # cover_by_walks has more, but schedules assume this number
            if (following := next(batches, None)) is None:
                break
            if self._must_stop():
                self._save()
                break
            indices, batch = following
            yield indices, batch.to(self.device, non_blocking=True)
            self.step += 1
            self._num_trained += 1
            bar.update()
            if self.step % 10 == 0:
                bar.set_postfix_str(f"loss {float(self._sums[0]) / self._num_trained:.4f}", refresh=False)
            if self.args.checkpoint_every and self.step % self.args.checkpoint_every == 0:
                self._seconds += self._elapsed(start)
                self._save()
                start = time.perf_counter()
        self._epoch_is_complete = self._num_trained >= len(self.sampler)
        bar.close()
        self._seconds += self._elapsed(start)

    def optimize(self, loss: torch.Tensor) -> None:
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()

    def record(
        self, indices: torch.Tensor, loss: torch.Tensor, embeddings: torch.Tensor, documents: torch.Tensor | None = None
    ) -> None:
        """Stores the embeddings of the step, [b, D] of this process, in the bank, and adds to the statistics."""
        embeddings = embeddings.detach()
        if self.args.sampler != "uniform":
            self.bank.update(indices, embeddings, *(() if documents is None else (documents.detach(),)))
        everyone = gather_rows(indices.to(self.device))
        share = torch.tensor(math.nan) if self._labels is None else equal_label_share(self._labels[everyone])
        row = torch.stack(
            [part.to(self._sums) for part in (loss.detach(), mean_cosine(gather_rows(embeddings).float()), share)]
        )
        self._sums += row

    def end_epoch(self, evaluate: Callable[[], dict[str, float]]) -> None:
        """Records the statistics of the epoch, and metrics if they are due. Writes the log and a checkpoint."""
        if not self._epoch_is_complete:
            return
        loss, similarity, share = (self._sums / max(1, self._num_trained)).tolist()
        entry = {"epoch": self._epoch + 1, "step": self.step, "loss": loss, "in_batch_similarity": similarity}
        if self._labels is not None:
            entry["false_negative_share"] = share
        entry |= {"train_seconds": self._seconds, "sampler_seconds": self._sampler_seconds()}
        self._epoch, self._num_trained = self._epoch + 1, 0
        self._sums.zero_()
        if self.args.eval_every and self._epoch % self.args.eval_every == 0 and self._epoch < self.args.epochs:
            entry |= self._evaluated(evaluate)
        self._history.append(entry)
        self._write_log()
        self._save()

    def finish(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, Any]:
        """Returns the result, prints it, and writes it with --out. It has no metrics if --stop-after ended the run."""
        is_finished = self._epoch >= self.args.epochs
        metrics = self._evaluated(evaluate) if is_finished else {}
        if is_finished and self._history:
            self._history[-1] |= metrics
            self._write_log()
        args = self.args
        result = {
            **self._names,
            "sampler": args.sampler,
            "loss": getattr(args, "loss", None),
            "seed": args.seed,
            "parameters": {name: value if _is_plain(value) else str(value) for name, value in vars(args).items()},
            "finished": is_finished,
            "num_instances": self.bank.num_instances,
            "num_steps": self.step,
            "train_seconds": self._seconds,
            "sampler_seconds": self._sampler_seconds(),
            "fill_seconds": self._fill_seconds,  # forward passes of --fill-bank
            "metrics": metrics,
            "history": self._history,
        }
        if rank() == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "stopped before the end"
            name = ", ".join([*self._names.values(), f"{args.sampler} batches"])
            seconds = f"{self._seconds:.1f} s, of which sampler {result['sampler_seconds']:.1f} s"
            print(f"{name}: {self.step} steps in {seconds}: {shown}")
            if args.out:
                write(args.out, json.dumps(result, indent=1) + "\n")
        return result

    # --- inside
    def _bar(self, total: int, done: int, name: str) -> tqdm[Any]:
        return tqdm(
            total=total, initial=done, desc=name, leave=False, disable=True if self.args.quiet or rank() else None
        )

    def _lr_factor(self, step: int) -> float:
        warmup = self.args.warmup_epochs * len(self.sampler)
        if step < warmup:
            return (step + 1) / warmup
        done = min(1, (step - warmup) / max(1, self.num_steps - warmup))
        return {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[self.args.schedule]

    def _must_stop(self) -> bool:
        return self.args.stop_after is not None and self.step - self._first_step >= self.args.stop_after

    def _elapsed(self, start: float) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _sampler_seconds(self) -> float:
        seconds = self.sampler.stats().total_seconds + self.bank.stats().update_seconds
        return self._sampler_seconds_before + seconds

    def _evaluated(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Returns metrics, computed by one process. The random numbers of training stay as they were."""
        metrics: dict[str, float] = {}
        if rank() == 0:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices), torch.no_grad():
                torch.manual_seed(self.args.seed)
                self._plain_model.eval()
                metrics = evaluate()
                self._plain_model.train()
        if num_processes() > 1:
            dist.barrier()
        return metrics

    def _write_log(self) -> None:
        if self.args.log and rank() == 0:
            write(self.args.log, "".join(json.dumps(entry) + "\n" for entry in self._history))

    # --- checkpoints
    def _save(self) -> None:
        if self.args.checkpoint is None:
            return
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        rngs: list[Any] = [rng]
        if num_processes() > 1:
            rngs = [None] * num_processes()
            dist.all_gather_object(rngs, rng)
        if rank() > 0:
            return
        checkpoint = {
            "parameters": _parameters(self.args),
            "state": {name: part.state_dict() for name, part in self._state.items()},
            "sampler": self.sampler.state_dict(self._num_trained or None),
            "rngs": rngs,
            "sums": self._sums,
            "seconds": self._seconds,
            "sampler_seconds": self._sampler_seconds(),
            "fill_seconds": self._fill_seconds,
            **{name: getattr(self, f"_{name}") for name in ("epoch", "num_trained", "history")},
            "step": self.step,
        }
        partial = self.args.checkpoint.with_name(self.args.checkpoint.name + ".partial")
        torch.save(checkpoint, partial)
        os.replace(partial, self.args.checkpoint)

    def _load(self) -> None:
        checkpoint = torch.load(self.args.checkpoint, map_location="cpu", weights_only=True)
        asked, saved = _parameters(self.args), checkpoint["parameters"]
        if changed := [name for name in asked if asked[name] != saved.get(name)]:
            raise SystemExit(f"--resume: the checkpoint was made with another {', '.join(sorted(changed))}")
        if len(checkpoint["rngs"]) != num_processes():
            raise SystemExit(f"--resume: the checkpoint is of {len(checkpoint['rngs'])} processes")
        for name, part in self._state.items():
            part.load_state_dict(checkpoint["state"][name])
        self.sampler.load_state_dict(checkpoint["sampler"])
        self._sums.copy_(checkpoint["sums"])
        self._seconds, self._sampler_seconds_before = checkpoint["seconds"], checkpoint["sampler_seconds"]
        self._fill_seconds = checkpoint["fill_seconds"]
        self._epoch, self._num_trained = checkpoint["epoch"], checkpoint["num_trained"]
        self._history, self.step = checkpoint["history"], checkpoint["step"]
        self._rng = checkpoint["rngs"][rank()]

    def _set_rng(self, rng: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and self.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"], self.device)


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments that must be equal in a checkpoint and the run that resumes from it."""
    values = {name: value for name, value in vars(args).items() if name not in NOT_THE_RUN}
    return {name: value if _is_plain(value) else str(value) for name, value in values.items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list))


# --- statistics and files --------------------------------------------------------------------------------------------
def random_choice(num_all: int, num_wanted: int | None, seed: int = 0) -> Sequence[int]:
    """Returns num_wanted random indices below num_all, or all in order. Seeds of training do not change them."""
    if num_wanted is None or num_wanted >= num_all:
        return range(num_all)
    return torch.randperm(num_all, generator=torch.Generator().manual_seed(seed))[:num_wanted].tolist()


def write(path: Path, text: str) -> None:
    """Writes a file that appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
