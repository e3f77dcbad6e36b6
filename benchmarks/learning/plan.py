"""The plan of the study: phases, samplers, searches and comparisons. docs/study/STUDY.md gives the reasons.

The plan was written before the runs. It depends on results only through the parameters that a search has found.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

Parameters = dict[str, Any]

SAMPLERS = ("uniform", "knn", "proximity")
# Arms whose option no longer exists. Their recorded results are reported, but they are not run again.
RETIRED = ("refresh_every=10", "refresh_every=30", "async_refresh", "async_refresh, refresh_every=30", "warm start")
NUM_TRIALS, TUNE_SEED = 8, 1000
# Phases in their order. All but the first use the parameters that the search of the system has found.
PHASES = ("tune", "confirm", "check", "ablations", "remedies", "sensitivity", "walks", "losses")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A system on a data set. arguments: those of its program in examples/, where {data} is the folder of the data."""

    data: str
    arguments: tuple[str, ...]
    num_seeds: int
    # Which runs with equal parameters separate the effects of sampler and parameters; see seed_tasks.
    check: Literal["both", "as uniform"] | None = "both"


@dataclasses.dataclass(frozen=True)
class System:
    """A program of examples/, and the data for its search and its confirmation."""

    name: str
    metric: str  # of the program's result: the target of the search and the comparisons
    arguments: tuple[str, ...]  # of all runs
    tune: Setting
    confirm: tuple[Setting, ...]
    # The search. ranges: log-uniform; trial i has the same values for all samplers. candidates: values of M.
    ranges: dict[str, tuple[float, float]]
    candidates: tuple[int, ...]
    losses: tuple[str, ...] = ("infonce",)
    tau_plus: float = 0.0  # prior of a false negative for the other losses, about its share in uniform batches
    num_loss_seeds: int = 0
    # Seeds of the phases about the sampler's own parameters; above 0 where runs are short and an effect is visible.
    num_dissection_seeds: int = 0
    num_trials: int = NUM_TRIALS


@dataclasses.dataclass(frozen=True)
class Task:
    """One training run."""

    system: str
    data: str
    phase: str
    arm: str  # a name within the phase: a sampler, or the parameter that is varied
    sampler: str
    loss: str
    seed: int
    parameters: str  # options of the program, as JSON with sorted names
    num_epochs: int | None = None  # 0: the untrained encoder

    def key(self) -> tuple[str, ...]:
        """Returns the key by which recorded results are found."""
        return (self.system, self.data, self.phase, self.arm, self.loss, str(self.seed), self.parameters)


def make_task(system: str, data: str, phase: str, arm: str, sampler: str, seed: int, parameters: Parameters,
              loss: str = "infonce", num_epochs: int | None = None) -> Task:  # fmt: skip
    encoded = json.dumps(parameters, sort_keys=True)
    return Task(system, data, phase, arm, sampler, loss, seed, encoded, num_epochs)


def draw_parameters(system: System, sampler: str, trial: int) -> Parameters:
    """Returns the parameters of a trial of random search."""
    common, own = np.random.default_rng([trial, 0]), np.random.default_rng([trial, 1])
    parameters: Parameters = {
        name: float(f"{math.exp(common.uniform(math.log(low), math.log(high))):.3g}")
        for name, (low, high) in system.ranges.items()
    }
    if sampler == "proximity":
        for name, choices in {"num_candidates": system.candidates, "num_neighbors": (32, 100)}.items():
            parameters[name] = choices[int(own.integers(len(choices)))]
        parameters["num_neighbors"] = min(parameters["num_neighbors"], parameters["num_candidates"])
    return parameters


def common(system: System, parameters: Parameters) -> Parameters:
    """Returns the parameters that all samplers have."""
    return {name: parameters[name] for name in system.ranges}


# Changes to the parameters found for proximity batches, one arm each.
Variants = dict[str, Parameters]


def sensitivity(system: System, best: Parameters) -> Variants:
    return (
        {f"M={m}": {"num_candidates": m, "num_neighbors": min(best["num_neighbors"], m)} for m in (64, 250, 1000, 4000)}
        | {f"K={k}": {"num_neighbors": k} for k in (8, 32, 100) if k <= best["num_candidates"]}
        | {f"alpha={a}": {"restart_prob": a, "planner": "walks"} for a in (0.05, 0.9)}
    )


def remedies(system: System, best: Parameters) -> Variants:
    """Remedies against false negatives. The figure of accuracy over their share uses these and sensitivity."""
    return (
        {f"range_min={r}": {"range_min": r} for r in (1, 10)}
        | {f"max_score={s}": {"max_score": s} for s in (0.5, 0.7)}
        | {"labels never linked": {"link_labels": False}}
    )


def walks(system: System, best: Parameters) -> Variants:
    """Other kinds of walks than the independent walks with restart of the ablations.

    On a graph with K = M all candidates are neighbors, so walks are as easy as uniform batches. But some instances
    repeat in an epoch and others are missing. This arm measures the effect of repetition alone.
    """
    random_graph = {"num_candidates": best["num_neighbors"], "num_neighbors": best["num_neighbors"]}
    return {s: {"order": s, "planner": "walks"} for s in ("rw", "bfs", "dfs")} | {
        "independent walks on a random graph": {"planner": "walks"} | random_graph
    }


def ablations(system: System, best: Parameters) -> Variants:
    return {
        "rows_per_draw=1": {"candidate_group_size": 1},  # arms keep the names under which they were recorded
        "the paper's epoch": {"planner": "cover_by_walks"},
        "independent walks": {"planner": "walks"},
        "hardness=soft": {"hardness": "soft"},
        "hardness=hard": {"hardness": "hard"},
        "alpha from 0.2 to 0.05": {"restart_prob_end": 0.05, "planner": "walks"},
        "fp32 bank": {"bank_dtype": "fp32"},
        "filled bank": {"fill_bank": True},
        "refresh_every=10": {"refresh_every": 10},
        "refresh_every=30": {"refresh_every": 30},
        "async_refresh": {"async_refresh": True},
        "async_refresh, refresh_every=30": {"async_refresh": True, "refresh_every": 30},
        "warm start": {"warm_start": True},
    }


VARIANTS: dict[str, Callable[[System, Parameters], Variants]] = {
    "sensitivity": sensitivity,
    "remedies": remedies,
    "walks": walks,
    "ablations": ablations,
}


def tune_tasks(system: System) -> Iterator[Task]:
    for trial in range(system.num_trials):
        for sampler in SAMPLERS:
            drawn = draw_parameters(system, sampler, trial)
            yield make_task(system.name, system.tune.data, "tune", sampler, sampler, TUNE_SEED, drawn)


def tasks(system: System, phase: str, best: dict[str, Parameters]) -> Iterator[Task]:
    """Yields the tasks of a phase after the search, one seed after the other. best: parameters by sampler."""
    for setting in system.confirm if phase in ("confirm", "check") else system.confirm[:1]:
        for seed in range(num_seeds(system, setting, phase)):
            yield from seed_tasks(system, setting, phase, best, seed)


def num_seeds(system: System, setting: Setting, phase: str) -> int:
    if phase == "losses":
        return system.num_loss_seeds
    return system.num_dissection_seeds if phase in VARIANTS else setting.num_seeds


def seed_tasks(system: System, setting: Setting, phase: str, best: dict[str, Parameters], seed: int) -> Iterator[Task]:
    where = (system.name, setting.data, phase)
    if phase == "confirm":
        yield make_task(*where, "untrained", "uniform", seed, common(system, best["uniform"]), num_epochs=0)
        for sampler in SAMPLERS:
            yield make_task(*where, sampler, sampler, seed, best[sampler])
    elif phase == "check":
        # Runs each other sampler with the learning rate and temperature of uniform batches. With check "both", also
        # runs uniform batches with those of the other sampler.
        uniform = common(system, best["uniform"])
        for sampler in SAMPLERS[1:]:
            if setting.check and common(system, best[sampler]) != uniform:
                yield make_task(*where, f"{sampler} as uniform", sampler, seed, best[sampler] | uniform)
                if setting.check == "both":
                    yield make_task(*where, f"uniform as {sampler}", "uniform", seed, common(system, best[sampler]))
    elif phase == "losses":
        for loss in system.losses[1:]:
            for sampler in ("uniform", "proximity"):
                # Both samplers have the learning rate and temperature of uniform batches.
                parameters = best[sampler] | common(system, best["uniform"]) | {"tau_plus": system.tau_plus}
                yield make_task(*where, sampler, sampler, seed, parameters, loss)
    else:
        for arm, change in VARIANTS[phase](system, best["proximity"]).items():
            if change.items() <= best["proximity"].items():
                continue  # the same as the confirmation
            yield make_task(*where, arm, "proximity", seed, best["proximity"] | change)
