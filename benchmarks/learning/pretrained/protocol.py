"""The protocol of the study, written before its runs. docs/study/PRETRAINED.md has the reasons.

It depends on results in two places only: `best_parameters` (what a search has found) and `has_headroom` (which data
sets are dropped).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..statistics import half_width
from . import batches
from .train import HARDNESS, Run

LOSSES = tuple(HARDNESS)
Parameters: TypeAlias = dict[tuple[str, str], tuple[float, float]]  # (arm, loss) -> learning rate, temperature
TUNE_SEED = 1000
TEMPERATURES = (0.015, 0.15)  # log-uniform
PHASES = ("tune", "headroom", "confirm", "check", "batch size", "community", "window", "advice")
CURVE_ARMS = ("uniform", "walks", "b3", "b3, masked")
FEW_ARMS = (*CURVE_ARMS, "mined negatives")  # where runs are long
CURVE_SEEDS = 5
WINDOW_STARTS = (0, 10, 30, 100)
COMMUNITY_SIZES = (1, 8, None, 0)  # as in batches.Batches
ADVISED = ("uniform", "hardness")  # what the command `advise` recommends for Profile.advised_on: batches and loss
ADVICE_ARMS = ("uniform", "b3")  # it decides between these
HEADROOM = 2.0  # points of MRR@10 that uniform batches must gain over no training, with a 95% interval above zero


@dataclasses.dataclass(frozen=True)
class Tier:
    name: str
    num_steps: int
    batch_size: int  # of the search and the confirmation
    curve: tuple[int, ...]  # further batch sizes
    num_trials: int
    num_seeds: int
    learning_rates: tuple[float, float]  # log-uniform
    tuned_on: str
    confirmed_on: tuple[str, ...]
    num_curve_data: int  # how many data sets the later phases take
    arms: tuple[str, ...] = tuple(batches.ARMS)
    few_arms_on: tuple[str, ...] = ()  # data sets with FEW_ARMS, because their texts are long
    shares_parameters: bool = False  # all arms and losses have those of the trial with the best mean
    has_windows: bool = True  # has the phases "community" and "window"

    def arms_on(self, name: str) -> tuple[str, ...]:
        return FEW_ARMS if name in self.few_arms_on else self.arms


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a machine can do."""

    tiers: tuple[Tier, ...]
    curve_seeds: int = CURVE_SEEDS
    headroom_seeds: int = 5
    headroom: float = HEADROOM
    advised_on: str = "examples"  # a data set that no other phase has


CONFIRMED_ON = ("docstrings", "glosses", "captions", "wikisplit")
ENCODER_ARMS = tuple(arm for arm in batches.ARMS if arm not in ("b3, nearest", "online"))  # its runs are long
ENCODER = Tier(
    "encoder", 100, 32, (64,), 3, 5, (1e-5, 3e-4), "glosses", ("captions", "docstrings"), 1, ENCODER_ARMS,
    few_arms_on=("docstrings",), shares_parameters=True, has_windows=False,
)  # fmt: skip
LARGE_ENCODER = Tier(
    "encoder", 1000, 256, (32, 64, 1024), 8, 5, (1e-5, 3e-4), "descriptions", CONFIRMED_ON, 2,
    tuple(arm for arm in batches.ARMS if arm != "online"),
)  # fmt: skip
PROFILES = {
    "cpu": Profile(
        tiers=(
            Tier("head", 200, 256, (32, 64, 1024), 8, 20, (1e-4, 1e-2), "descriptions", CONFIRMED_ON, 2),
            Tier("static", 200, 256, (32, 64, 1024), 6, 8, (3e-4, 3e-2), "descriptions", CONFIRMED_ON, 2),
            ENCODER,
        ),
    ),
    # What takes too long on a CPU: the encoder with ten times the steps, larger batches, and windows. Wants 24 GB.
    "gpu": Profile(tiers=(LARGE_ENCODER,)),
    "smoke": Profile(
        tiers=(
            Tier("head", 4, 32, (16,), 1, 2, (1e-3, 1e-2), "numpy", ("networkx",), 1),
            Tier("static", 4, 32, (16,), 1, 2, (1e-3, 1e-2), "numpy", ("networkx",), 1),
            dataclasses.replace(
                ENCODER, num_steps=2, curve=(), num_trials=1, num_seeds=1, tuned_on="numpy", confirmed_on=("networkx",)
            ),
        ),
        curve_seeds=2,
        headroom_seeds=1,
        headroom=-100,  # all phases are run, whatever four steps gain
        advised_on="numpy",
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A run, and the phase that it belongs to."""

    phase: str
    run: Run


def draw(tier: Tier, trial: int) -> tuple[float, float]:
    """Returns learning rate and temperature of a trial: the same for all arms and losses."""
    generator = np.random.default_rng(trial)
    ranges = (tier.learning_rates, TEMPERATURES)
    lr, temperature = (float(f"{math.exp(generator.uniform(*map(math.log, r))):.3g}") for r in ranges)
    return lr, temperature


def tasks(profile: Profile, tier: Tier, phase: str, done: Iterable[tuple[Task, float]]) -> Iterator[Task]:
    """Yields the tasks of a phase. done: those of earlier phases, with their MRR@10 in percent."""
    done = list(done)
    if phase == "tune":
        for trial in range(tier.num_trials):
            for loss in LOSSES:
                for arm in tier.arms:
                    yield task(phase, tier, tier.tuned_on, arm, loss, tier.batch_size, draw(tier, trial), TUNE_SEED)
        return
    best = best_parameters(tier, done)
    if phase == "headroom":
        for name in tier.confirmed_on:
            yield task(phase, tier, name, "uniform", "infonce", tier.batch_size, best["uniform", "infonce"], 0, steps=0)
            for seed in range(profile.headroom_seeds):
                yield task(phase, tier, name, "uniform", "infonce", tier.batch_size, best["uniform", "infonce"], seed)
        return
    if phase == "advice":
        name = profile.advised_on
        yield task(phase, tier, name, "uniform", "infonce", tier.batch_size, best["uniform", "infonce"], 0, steps=0)
        for seed in range(tier.num_seeds):
            for loss in LOSSES:
                for arm, found in advice_runs(loss, best):
                    yield task(phase, tier, name, arm, loss, tier.batch_size, found, seed)
        return
    names = [name for name in tier.confirmed_on if has_headroom(profile, tier, name, done)]
    if phase == "confirm":
        for name in names:
            for seed in range(tier.num_seeds):
                for loss in LOSSES:
                    for arm in tier.arms_on(name):
                        yield task(phase, tier, name, arm, loss, tier.batch_size, best[arm, loss], seed)
        return
    seeds = range(min(profile.curve_seeds, tier.num_seeds))
    if phase == "check":
        for name in names:
            for seed in seeds:
                for loss in LOSSES:
                    for arm, found in swapped(tier.arms_on(name), loss, best):
                        yield task(phase, tier, name, arm, loss, tier.batch_size, found, seed)
        return
    for name in names[: tier.num_curve_data]:
        for seed in seeds:
            for point in points(tier, phase):
                for loss in LOSSES:
                    if not is_known(tier, point, loss, best):
                        found = parameters(tier, point, loss, best)
                        yield task(phase, tier, name, point.arm, loss, point.batch_size, found, seed)


def swapped(arms: Sequence[str], loss: str, best: Parameters) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yields arms whose parameters are not those of uniform batches with these, and uniform batches with the others.

    Uniform batches with hardness weighting also get the parameters of InfoNCE.
    """
    uniform = best["uniform", loss]
    others = [arm for arm in arms if best[arm, loss] != uniform]
    yield from ((arm, uniform) for arm in others)
    for found in dict.fromkeys([*(best[arm, loss] for arm in others), best["uniform", "infonce"]]):
        if found != uniform:
            yield "uniform", found


def advice_runs(loss: str, best: Parameters) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yields arms with their parameters. Uniform batches with hardness weighting also get those of InfoNCE."""
    for arm in ADVICE_ARMS:
        yield from ((arm, found) for found in dict.fromkeys([best[arm, loss], best[arm, "infonce"]]))


class Point(NamedTuple):
    """A point of a curve, with the learning rate and the temperature of uniform batches with InfoNCE."""

    arm: str
    batch_size: int
    is_tuned: bool = False  # has those that the search found for its arm and loss instead


def points(tier: Tier, phase: str) -> Iterator[Point]:
    """Yields the points of all curves of a phase."""
    if phase == "batch size":
        for batch_size in sorted({tier.batch_size, *tier.curve}):
            yield from (Point(arm, batch_size) for arm in CURVE_ARMS)
            yield Point("uniform", batch_size, is_tuned=True)
    elif tier.has_windows:
        starts = WINDOW_STARTS if phase == "window" else (30,)
        sizes = COMMUNITY_SIZES if phase == "community" else (None,)
        for start, size, is_masked in itertools.product(starts, sizes, (False, True)):
            yield Point(batches.variant(start, size, is_masked), tier.batch_size)


def parameters(tier: Tier, point: Point, loss: str, best: Parameters) -> tuple[float, float]:
    """Returns learning rate and temperature of a point."""
    lr, temperature = best[point.arm, loss] if point.is_tuned else best["uniform", "infonce"]
    return float(f"{lr * math.sqrt(point.batch_size / tier.batch_size):.3g}"), temperature  # the usual rule for Adam


def is_known(tier: Tier, point: Point, loss: str, best: Parameters) -> bool:
    """Returns whether the phase "confirm" or "check" has this point, or a tuned point equals the other one."""
    if point.is_tuned and best[point.arm, loss] == best["uniform", "infonce"]:
        return True
    if point.batch_size != tier.batch_size or point.arm not in tier.arms:
        return False
    found = best["uniform", "infonce"]
    return point.is_tuned or point.arm == "uniform" or found in (best[point.arm, loss], best["uniform", loss])


def task(
    phase: str, tier: Tier, name: str, arm: str, loss: str, batch_size: int, found: tuple[float, float], seed: int,
    steps: int | None = None,
) -> Task:  # fmt: skip
    return Task(
        phase, Run(tier.name, name, arm, loss, batch_size, *found, tier.num_steps if steps is None else steps, seed)
    )


def best_parameters(tier: Tier, done: list[tuple[Task, float]]) -> Parameters:
    """Returns (arm, loss) -> learning rate and temperature of the best trial."""
    found: dict[tuple[str, str], dict[tuple[float, float], float]] = {}
    for task, value in done:
        run = task.run
        if task.phase == "tune" and run.tier == tier.name:
            found.setdefault((run.arm, run.loss), {})[run.lr, run.temperature] = value
    if not tier.shares_parameters:
        return {key: max(values, key=lambda tried: (values[tried], tried)) for key, values in found.items()}
    means = {
        tried: np.mean([values.get(tried, -np.inf) for values in found.values()])
        for values in found.values()
        for tried in values
    }
    return dict.fromkeys(found, max(means, key=means.__getitem__))


def has_headroom(profile: Profile, tier: Tier, name: str, done: list[tuple[Task, float]]) -> bool:
    """Returns whether uniform batches gain enough over no training, and the interval is above zero if there is one."""
    before, trained = headroom_runs(tier, name, done)
    gains = trained - before
    return bool(gains.mean() >= profile.headroom and not gains.mean() - half_width(gains) <= 0)


def headroom_runs(tier: Tier, name: str, done: list[tuple[Task, float]]) -> tuple[float, np.ndarray]:
    """Returns MRR@10 before training, and of all runs after it."""
    values = [
        (task.run.num_steps, value)
        for task, value in done
        if task.phase == "headroom" and (task.run.tier, task.run.data) == (tier.name, name)
    ]
    before = next(value for steps, value in values if steps == 0)
    return before, np.array([value for steps, value in values if steps])


def with_values(rows: Iterable[Any]) -> list[tuple[Task, float]]:
    """Returns the tasks of rows of the CSV, with their MRR@10."""
    return [(row.task(), row.mrr_at_10) for row in rows]


def pending(profile: Profile, tier: Tier, phase: str, rows: Sequence[Any]) -> Iterator[Task]:
    """Yields the tasks of a phase that are not in the CSV; none before the phases that they depend on are complete."""
    done = with_values(rows)
    known = {task for task, _ in done}
    for earlier in PHASES[: min(PHASES.index(phase), 2)]:
        if not all(task in known for task in tasks(profile, tier, earlier, done)):
            return
    yield from (task for task in tasks(profile, tier, phase, done) if task not in known)
