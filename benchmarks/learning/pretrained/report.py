"""Tables and figures of the study, from its CSV. Differences are in points of MRR@10, paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ..figures import save
from ..statistics import half_width, interval, paired_differences
from ..tables import groups, line, replace_between, table_head
from .batches import variant
from .protocol import (
    ADVISED,
    CURVE_ARMS,
    LOSSES,
    WINDOW_STARTS,
    Profile,
    Tier,
    best_parameters,
    has_headroom,
    headroom_runs,
    pending,
    with_values,
)
from .results import Row

BEGIN, END = "<!-- tables: python -m benchmarks.learning.pretrained.study report -->", "<!-- end of tables -->"
COLORS = {"uniform": "tab:blue", "walks": "tab:green", "b3": "tab:red", "b3, masked": "tab:orange"}
STYLES = dict(zip(LOSSES, ("-", "--"), strict=True))


class Runs:
    """The runs of one tier on one data set."""

    def __init__(self, rows: Iterable[Row], tier: Tier, data: str) -> None:
        self.rows = [row for row in rows if (row.tier, row.data) == (tier.name, data) and row.phase != "tune"]
        self.batch_size = tier.batch_size

    def values(self, arm: str, loss: str, batch_size: int | None = None) -> dict[str, float]:
        """Returns MRR@10 by seed."""
        size = batch_size or self.batch_size
        return {
            str(row.seed): row.mrr_at_10
            for row in self.rows
            if (row.arm, row.loss, row.batch_size) == (arm, loss, size) and row.phase not in ("headroom", "check")
        }

    def checked(self, arm: str, loss: str) -> np.ndarray:
        """Returns differences to uniform batches with the same loss and parameters, for arms tuned to others."""
        checked = [row for row in self.rows if (row.phase, row.arm, row.loss) == ("check", arm, loss)]
        values = {str(row.seed): row.mrr_at_10 for row in checked}
        return paired_differences(values, self.values("uniform", loss))

    def over_uniform(self, arm: str, loss: str, batch_size: int | None = None, base: str = "infonce") -> np.ndarray:
        """Returns differences to uniform batches of the same size with the loss `base`."""
        return paired_differences(self.values(arm, loss, batch_size), self.values("uniform", base, batch_size))


def write(folder: Path, rows: list[Row], profile: Profile) -> None:
    """Writes the tables between the markers of PRETRAINED.md, and the figures."""
    path = folder / "PRETRAINED.md"
    if not path.exists():
        path.write_text(f"{BEGIN}\n{END}\n", "utf-8")
    replace_between(path, BEGIN, END, all_tables(rows, profile))
    draw(folder / "figures", rows, profile)


def all_tables(rows: list[Row], profile: Profile) -> str:
    done = with_values(rows)
    tiers = [tier for tier in profile.tiers if is_complete(profile, tier, "headroom", rows)]
    parts = [f"### Headroom\n\n{headroom(rows, profile, tiers)}"]
    for tier in tiers:
        names = [name for name in tier.confirmed_on if has_headroom(profile, tier, name, done)]
        for name in names:
            runs = Runs(rows, tier, name)
            if any(row.phase == "confirm" for row in runs.rows):
                parts += [f"### {tier.name}, {name}, B = {tier.batch_size}\n\n{confirmation(runs, tier)}"]
        for name in names[: tier.num_curve_data]:
            runs = Runs(rows, tier, name)
            for title, table in (
                ("batch size", batch_sizes(runs, tier)),
                ("community size", communities(runs)),
                ("window", windows(runs)),
            ):
                if table:
                    parts += [f"### {tier.name}, {name}: {title}\n\n{table}"]
        parts += [f"### {tier.name}: what the search chose\n\n{search(tier, done)}"]
    if any(row.phase == "advice" for row in rows):
        parts += [f"### Advice, checked on {profile.advised_on}\n\n{advice(rows, profile)}"]
    return "\n\n".join(parts)


def is_complete(profile: Profile, tier: Tier, phase: str, rows: list[Row]) -> bool:
    return any(row.phase == phase and row.tier == tier.name for row in rows) and not list(
        pending(profile, tier, phase, rows)
    )


def headroom(rows: list[Row], profile: Profile, tiers: Sequence[Tier]) -> str:
    lines = table_head("tier", "data", "before training", "uniform batches, InfoNCE", "gain", "")
    done = with_values(rows)
    for tier in tiers:
        for name in tier.confirmed_on:
            before, trained = headroom_runs(tier, name, done)
            verdict = "" if has_headroom(profile, tier, name, done) else "left out"
            lines.append(
                line([tier.name, name, f"{before:.2f}", f"{trained.mean():.2f}", interval(trained - before), verdict])
            )
    return "\n".join(lines)


def confirmation(runs: Runs, tier: Tier) -> str:
    """Returns the 2 x 2 of batches and loss."""
    lines = table_head(
        "batches", "seeds", "InfoNCE", "over uniform", "hardness", "over uniform, InfoNCE", "over uniform, hardness",
        "uniform's parameters, InfoNCE", "uniform's parameters, hardness", "mean cosine of negatives",
    )  # fmt: skip
    for arm in tier.arms:
        plain, hard = (runs.values(arm, loss) for loss in LOSSES)
        if not plain:
            continue
        cosines = np.mean(
            [
                row.in_batch_similarity
                for row in runs.rows
                if (row.phase, row.arm, row.loss) == ("confirm", arm, "infonce")
            ]
        )
        lines.append(
            line(
                [
                    arm,
                    f"{min(len(plain), len(hard))}",
                    mean(plain),
                    "" if arm == "uniform" else interval(runs.over_uniform(arm, "infonce")),
                    mean(hard),
                    interval(runs.over_uniform(arm, "hardness")),
                    "" if arm == "uniform" else interval(runs.over_uniform(arm, "hardness", base="hardness")),
                    *(interval(runs.checked(arm, loss)) for loss in LOSSES),
                    f"{cosines:.3f}",
                ]
            )
        )
    note = "Uniform's parameters: arms with another learning rate or temperature, run with those of uniform batches."
    return "\n".join(lines) + f"\n\n{note}"


def batch_sizes(runs: Runs, tier: Tier) -> str:
    sizes = sorted({row.batch_size for row in runs.rows if row.phase in ("confirm", "batch size")})
    if len(sizes) < 2:
        return ""
    lines = table_head("batches", "loss", *(f"B = {size}" for size in sizes))
    for arm in CURVE_ARMS:
        for loss in LOSSES:
            cells = [
                mean(runs.values(arm, loss, size))
                if (arm, loss) == ("uniform", "infonce")
                else interval(runs.over_uniform(arm, loss, size))
                for size in sizes
            ]
            lines.append(line([arm, loss, *cells]))
    return "\n".join(lines) + "\n\nUniform batches with InfoNCE: MRR@10. Others: points over these."


def advice(rows: list[Row], profile: Profile) -> str:
    """Returns the table of the advised batches and loss on the data set that no other phase has."""
    batches, loss = ADVISED
    lines = table_head(
        "tier", "seeds", "before training", "uniform, InfoNCE", f"{batches}, {loss}", "over uniform, InfoNCE",
        f"uniform, {loss}", f"{batches}, InfoNCE",
    )  # fmt: skip
    for tier in profile.tiers:
        of_tier = [row for row in rows if (row.phase, row.tier) == ("advice", tier.name)]
        runs = Runs([row for row in of_tier if row.num_steps], tier, profile.advised_on)
        if not runs.rows:
            continue
        advised = runs.values(batches, loss)
        compared = ADVISED, ("uniform", loss), (batches, "infonce")
        lines.append(
            line(
                [
                    tier.name,
                    str(len(advised)),
                    *(f"{row.mrr_at_10:.2f}" for row in of_tier if row.num_steps == 0),
                    mean(runs.values("uniform", "infonce")),
                    mean(advised),
                    *(interval(runs.over_uniform(*pair)) for pair in compared),
                ]
            )
        )
    return "\n".join(lines) + "\n\nThe last two columns are points over uniform batches with InfoNCE, too."


def communities(runs: Runs) -> str:
    lines = table_head("mask", "loss", "1", "8", "32", "B")
    for is_masked, arms in community_arms().items():
        for loss in LOSSES:
            cells = [interval(runs.over_uniform(arm, loss)) for arm in arms.values()]
            if not all(cells):
                return ""
            lines.append(line(["yes" if is_masked else "no", loss, *cells]))
    return "\n".join(lines) + "\n\nPoints over uniform batches with InfoNCE."


def windows(runs: Runs) -> str:
    lines = table_head("mask", "loss", *(f"p = {start}" for start in WINDOW_STARTS))
    for is_masked, arms in window_arms().items():
        for loss in LOSSES:
            cells = [interval(runs.over_uniform(arm, loss)) for arm in arms.values()]
            if not all(cells):
                return ""
            lines.append(line(["yes" if is_masked else "no", loss, *cells]))
    return "\n".join(lines) + "\n\nPoints over uniform batches with InfoNCE. Windows hold ranks p + 1 to p + 100."


def community_arms() -> dict[bool, dict[str, str]]:
    """Returns whether masked -> community size -> arm."""
    sizes = {"1": 1, "8": 8, "32": None, "B": 0}
    return {
        is_masked: {size: variant(30, value, is_masked) for size, value in sizes.items()} for is_masked in (False, True)
    }


def window_arms() -> dict[bool, dict[int, str]]:
    """Returns whether masked -> p -> arm."""
    return {
        is_masked: {start: variant(start, None, is_masked) for start in WINDOW_STARTS} for is_masked in (False, True)
    }


def search(tier: Tier, done: list) -> str:
    lines = table_head("batches", "loss", "learning rate", "temperature", "MRR@10")
    values = {(task.run.arm, task.run.loss, task.run.lr): value for task, value in done
              if (task.phase, task.run.tier) == ("tune", tier.name)}  # fmt: skip
    for (arm, loss), (lr, temperature) in best_parameters(tier, done).items():
        lines.append(line([arm, loss, f"{lr:g}", f"{temperature:g}", f"{values[arm, loss, lr]:.2f}"]))
    return "\n".join(lines)


def mean(values: dict[str, float]) -> str:
    return f"{np.mean(list(values.values())):.2f}" if values else ""


# --- figures ---------------------------------------------------------------------------------------------------------
def draw(folder: Path, rows: list[Row], profile: Profile) -> None:
    folder.mkdir(exist_ok=True)
    done = with_values(rows)
    shown = [
        (tier, name, Runs(rows, tier, name))
        for tier in profile.tiers
        if is_complete(profile, tier, "headroom", rows)
        for name in tier.confirmed_on
        if has_headroom(profile, tier, name, done)
    ]
    draw_arms(folder / "pretrained_batches.png", shown)
    curves = [(tier, name, runs) for tier, name, runs in shown if any(row.phase == "batch size" for row in runs.rows)]
    draw_batch_sizes(folder / "pretrained_batch_size.png", curves)
    draw_hardness(folder / "pretrained_windows.png", [c for c in curves if windows(c[2]) and communities(c[2])])


def draw_arms(path: Path, shown: Sequence[tuple[Tier, str, Runs]]) -> None:
    """One panel per tier and data set: points of each arm over uniform batches with InfoNCE, for both losses."""
    shown = [entry for entry in shown if any(row.phase == "confirm" for row in entry[2].rows)]
    if not shown:
        return
    rows = [list(of_tier) for of_tier in groups(shown, lambda entry: entry[0].name).values()]
    columns = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(3.4 * columns, 2.6 * len(rows)), squeeze=False, sharey=True
    )
    for axis_row, of_tier in zip(axes, rows, strict=True):
        for axis in axis_row[len(of_tier) :]:
            axis.axis("off")
        for axis, (tier, name, runs) in zip(axis_row, of_tier, strict=False):
            for offset, loss, marker in ((-0.15, "infonce", "o"), (0.15, "hardness", "s")):
                found = [runs.over_uniform(arm, loss) for arm in tier.arms]
                places = np.array([place for place, values in enumerate(found) if len(values) > 1]) + offset
                centers = [values.mean() for values in found if len(values) > 1]
                halves = [half_width(values) for values in found if len(values) > 1]
                color = "tab:blue" if loss == "infonce" else "tab:orange"
                axis.errorbar(
                    centers, places, xerr=halves, fmt=marker, color=color, markersize=4, capsize=2, label=loss
                )
            axis.axvline(0, color="0.5", linewidth=1)
            axis.set_yticks(range(len(tier.arms)), tier.arms, fontsize=8)
            axis.set_ylim(len(tier.arms) - 0.5, -0.5)
            axis.set_title(f"{tier.name}, {name}, B = {tier.batch_size}", fontsize=9)
            axis.set_xlabel("points over uniform, InfoNCE", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    save(figure, path)


def draw_batch_sizes(path: Path, curves: Sequence[tuple[Tier, str, Runs]]) -> None:
    """One panel per tier and data set: points over uniform batches with InfoNCE of the same size, over B."""
    if not curves:
        return
    figure, axes = plt.subplots(1, len(curves), figsize=(3.6 * len(curves), 3.4), squeeze=False)
    for axis, (tier, name, runs) in zip(axes.flat, curves, strict=True):
        sizes = sorted({tier.batch_size, *tier.curve})
        for arm in CURVE_ARMS:
            for loss in LOSSES:
                if (arm, loss) != ("uniform", "infonce"):
                    curve(axis, sizes, [runs.over_uniform(arm, loss, size) for size in sizes], arm, loss)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_title(f"{tier.name}, {name}", fontsize=9)
        axis.set(xlabel="B", ylabel="points over uniform, InfoNCE")
        axis.axhline(0, color=COLORS["uniform"], linewidth=1)
    axes[0, 0].legend(fontsize=6)
    save(figure, path)


def draw_hardness(path: Path, curves: Sequence[tuple[Tier, str, Runs]]) -> None:
    """Above, communities; below, windows: points over uniform batches with InfoNCE, with and without the mask."""
    if not curves:
        return
    figure, axes = plt.subplots(2, len(curves), figsize=(3.6 * len(curves), 6), squeeze=False)
    for column, (tier, name, runs) in enumerate(curves):
        for axis, by_mask, title in (
            (axes[0, column], community_arms(), "community size"),
            (axes[1, column], window_arms(), "number of nearest ranks that are skipped, p"),
        ):
            for is_masked, arms in by_mask.items():
                for loss in LOSSES:
                    found = [runs.over_uniform(arm, loss) for arm in arms.values()]
                    curve(axis, range(len(arms)), found, "b3, masked" if is_masked else "b3", loss)
            axis.set_xticks(range(len(arms)), [str(key) for key in arms])
            axis.axhline(0, color=COLORS["uniform"], linewidth=1)
            axis.set_xlabel(title, fontsize=8)
            axis.set_ylabel("points over uniform, InfoNCE", fontsize=8)
        axes[0, column].set_title(f"{tier.name}, {name}", fontsize=9)
    axes[0, 0].legend(fontsize=6)
    save(figure, path)


def curve(axis, places, found: Sequence[np.ndarray], arm: str, loss: str) -> None:
    points = [(x, v.mean(), half_width(v)) for x, v in zip(places, found, strict=True) if len(v) > 1]
    if points:
        x, centers, halves = np.array(points).T
        look = {"fmt": STYLES[loss], "color": COLORS[arm], "marker": "o", "markersize": 3, "capsize": 2}
        axis.errorbar(x, centers, halves, label=f"{arm}, {loss}", **look)
