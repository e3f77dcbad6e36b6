"""Tables and figures of the study, from its CSV. Differences are in points of MRR@10, paired by seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ..figures import save
from ..statistics import half_width, interval, paired_differences
from ..tables import groups, line, replace_between, table_head
from .batches import arm_of
from .protocol import (
    ADVICE_ARMS,
    ADVISED,
    LOSSES,
    WINDOW_STARTS,
    Parameters,
    Point,
    Profile,
    Tier,
    best_parameters,
    has_headroom,
    headroom_runs,
    parameters,
    pending,
    points,
    with_values,
)
from .results import Row

BEGIN, END = "<!-- tables: python -m benchmarks.learning.pretrained.study report -->", "<!-- end of tables -->"
SUMMARY_BEGIN, SUMMARY_END = "<!-- summary -->", "<!-- end of summary -->"
SUMMARY_ARMS = ("uniform", "b3", "b3, masked", "mined negatives")
COLORS = {"uniform": "tab:blue", "walks": "tab:green", "b3": "tab:red", "b3, masked": "tab:orange"}
COLORS_OF_LOSSES = {"infonce": "tab:blue", "hardness": "tab:orange"}
COMMUNITY_NAMES = ("1", "8", "32", "B")  # of protocol.COMMUNITY_SIZES
STYLES = dict(zip(LOSSES, ("-", "--"), strict=True))


class Runs:
    """The runs of one tier on one data set."""

    def __init__(self, rows: Iterable[Row], tier: Tier, data: str, best: Parameters) -> None:
        others = ("tune", "headroom")
        self.rows = [row for row in rows if (row.tier, row.data) == (tier.name, data) and row.phase not in others]
        self.tier, self.data, self.best, self.title = tier, data, best, f"{tier.name}, {data}"

    def has(self, phase: str) -> bool:
        return any(row.phase == phase for row in self.rows)

    def by_seed(self, **wanted: Any) -> dict[str, float]:
        """Returns MRR@10 by seed, of the runs with these fields."""
        return {
            str(row.seed): row.mrr_at_10
            for row in self.rows
            if all(getattr(row, name) == value for name, value in wanted.items())
        }

    def at(self, point: Point, loss: str) -> np.ndarray:
        """Returns differences of a point of a curve to uniform batches of the same size with InfoNCE."""
        uniform = Point("uniform", point.batch_size)
        return paired_differences(self.values_at(point, loss), self.values_at(uniform, "infonce"))

    def tried(self, arm: str, loss: str) -> list[tuple[float, float]]:
        """Returns the parameters that an arm was run with, first those that the search found."""
        size = self.tier.batch_size
        found = [
            (row.lr, row.temperature) for row in self.rows if (row.arm, row.loss, row.batch_size) == (arm, loss, size)
        ]
        return list(dict.fromkeys([self.best[arm, loss], *found]))

    def values_at(self, point: Point, loss: str) -> dict[str, float]:
        """Returns MRR@10 by seed, of all phases that have the point."""
        return self.with_parameters(point.arm, loss, parameters(self.tier, point, loss, self.best), point.batch_size)

    def values(self, arm: str, loss: str) -> dict[str, float]:
        """Returns MRR@10 by seed, of an arm with the parameters that the search found for it with this loss."""
        return self.with_parameters(arm, loss, self.best[arm, loss])

    def as_uniform(self, arm: str, loss: str) -> np.ndarray:
        """Returns differences of an arm with the parameters of uniform batches to these.

        Empty if the arm has these parameters anyway.
        """
        return paired_differences(self.checked(arm, loss, "uniform"), self.values("uniform", loss))

    def as_it(self, arm: str, loss: str) -> np.ndarray:
        """Returns differences of an arm to uniform batches with its parameters. Empty if these have them anyway."""
        return paired_differences(self.values(arm, loss), self.checked("uniform", loss, arm))

    def checked(self, arm: str, loss: str, source: str) -> dict[str, float]:
        """Returns MRR@10 by seed, of an arm with the parameters of another one. Empty if they are its own."""
        found = self.best[source, loss]
        return {} if found == self.best[arm, loss] else self.with_parameters(arm, loss, found)

    def with_parameters(
        self, arm: str, loss: str, found: tuple[float, float], batch_size: int | None = None
    ) -> dict[str, float]:
        """Returns MRR@10 by seed. batch_size: None for that of the tier."""
        lr, temperature = found
        size = batch_size or self.tier.batch_size
        return self.by_seed(arm=arm, loss=loss, batch_size=size, lr=lr, temperature=temperature)

    def as_infonce(self, arm: str, loss: str) -> np.ndarray:
        """Returns differences to uniform batches with InfoNCE, both with the parameters of the latter."""
        found = self.with_parameters(arm, loss, self.best["uniform", "infonce"])
        return paired_differences(found, self.values("uniform", "infonce"))

    def over_uniform(self, arm: str, loss: str, base: str = "infonce") -> np.ndarray:
        """Returns differences to uniform batches with the loss `base`."""
        return paired_differences(self.values(arm, loss), self.values("uniform", base))


def write(folder: Path, suffix: str, rows: list[Row], profile: Profile) -> None:
    """Writes the tables between the markers of PRETRAINED<suffix>.md, and the figures to figures<suffix>."""
    path = folder / f"PRETRAINED{suffix}.md"
    if not path.exists():
        title = "# Hard batches for a pretrained encoder\n\nPRETRAINED.md says what the words mean.\n"
        path.write_text("\n".join([title, SUMMARY_BEGIN, SUMMARY_END, "", BEGIN, END, ""]), "utf-8")
    replace_between(path, SUMMARY_BEGIN, SUMMARY_END, summary(rows, profile))
    replace_between(path, BEGIN, END, all_tables(rows, profile))
    draw(folder / f"figures{suffix}", rows, profile)


def all_tables(rows: list[Row], profile: Profile) -> str:
    done = with_values(rows)
    tiers = reported_tiers(rows, profile)
    parts = [f"### Headroom\n\n{headroom(rows, profile, tiers)}"]
    for tier in tiers:
        all_runs = runs_of(tier, rows, profile)
        for runs in all_runs:
            if runs.has("confirm"):
                parts += [f"### {runs.title}, B = {tier.batch_size}\n\n{confirmation(runs)}"]
            if table := equal_parameters(runs):
                parts += [f"### {runs.title}: equal parameters\n\n{table}"]
        for runs in all_runs[: tier.num_curve_data]:
            for title, table in (
                ("batch size", batch_sizes(runs)),
                ("community size", communities(runs)),
                ("window", windows(runs)),
            ):
                if table:
                    parts += [f"### {runs.title}: {title}\n\n{table}"]
        if table := hardness_weighting(all_runs):
            parts += [f"### {tier.name}: hardness weighting\n\n{table}"]
        parts += [f"### {tier.name}: what the search chose\n\n{search(tier, done)}"]
    if any(row.phase == "advice" for row in rows):
        parts += [f"### Advice, checked on {profile.advised_on}\n\n{advice(rows, profile)}"]
    return "\n\n".join(parts)


def summary(rows: list[Row], profile: Profile) -> str:
    """Returns gains over uniform batches with InfoNCE, all with the parameters of these."""
    pairs = [pair for pair in itertools.product(SUMMARY_ARMS, LOSSES) if pair != ("uniform", "infonce")]
    names = [f"{arm}, {loss}" for arm, loss in pairs]
    place = 1 + pairs.index(("b3", "hardness"))
    names.insert(place, "b3 over uniform, both hardness")
    lines = table_head("model", "data", *names)
    for tier in reported_tiers(rows, profile):
        for runs in [*runs_of(tier, rows, profile), advised_runs(tier, rows, profile)]:
            gains = [with_half_width(runs.as_infonce(*pair)) for pair in pairs]
            if any(gains):
                found = [runs.with_parameters(arm, "hardness", runs.best["uniform", "infonce"]) for arm in ADVICE_ARMS]
                gains.insert(place, with_half_width(paired_differences(found[1], found[0])))
                lines.append(line([tier.name, runs.data, *gains]))
    return "\n".join(lines)


def with_half_width(gains: np.ndarray) -> str:
    return f"{gains.mean():+.2f}\u00a0±\u00a0{half_width(gains):.2f}" if len(gains) > 1 else ""


def runs_of(tier: Tier, rows: list[Row], profile: Profile) -> list[Runs]:
    """Returns the runs on each data set with headroom."""
    done = with_values(rows)
    best = best_parameters(tier, done)
    return [Runs(rows, tier, name, best) for name in tier.confirmed_on if has_headroom(profile, tier, name, done)]


def reported_tiers(rows: list[Row], profile: Profile) -> list[Tier]:
    """Returns the tiers whose phase "headroom" is complete."""
    begun = {row.tier for row in rows if row.phase == "headroom"}
    return [tier for tier in profile.tiers if tier.name in begun and not any(pending(profile, tier, "headroom", rows))]


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


def confirmation(runs: Runs) -> str:
    """Returns the 2 x 2 of batches and loss."""
    lines = table_head(
        "batches", "seeds", "InfoNCE", "over uniform", "hardness", "over uniform, InfoNCE", "over uniform, hardness",
        "mean cosine of negatives",
    )  # fmt: skip
    for arm in runs.tier.arms:
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
                    f"{cosines:.3f}",
                ]
            )
        )
    return "\n".join(lines)


def equal_parameters(runs: Runs) -> str:
    """Returns the table of arms for which the search found other parameters than for uniform batches."""
    lines = table_head(
        "batches", "loss", "learning rate", "temperature", "uniform's", "", "each tuned", "both as uniform",
        "both as it",
    )  # fmt: skip
    for loss in LOSSES:
        for arm in runs.tier.arms:
            both = [interval(runs.as_uniform(arm, loss)), interval(runs.as_it(arm, loss))]
            if any(both):
                found = [f"{value:g}" for source in (arm, "uniform") for value in runs.best[source, loss]]
                each = interval(runs.over_uniform(arm, loss, loss))
                lines.append(line([arm, loss, *found, each, *both]))
    return "\n".join(lines) + "\n\nPoints over uniform batches with the same loss." if len(lines) > 2 else ""


def hardness_weighting(all_runs: Sequence[Runs]) -> str:
    """Returns what hardness weighting gains in uniform batches, with all parameters that these were run with."""
    confirmed = [runs for runs in all_runs if runs.has("confirm")]
    tried = dict.fromkeys(found for runs in confirmed for found in runs.tried("uniform", "hardness"))
    lines = table_head("data", *(f"{lr:g}, {temperature:g}" for lr, temperature in tried))
    for runs in confirmed:
        infonce = runs.values("uniform", "infonce")
        found = [runs.with_parameters("uniform", "hardness", both) for both in tried]
        lines.append(line([runs.data, *(interval(paired_differences(values, infonce)) for values in found)]))
    note = (
        "Points over uniform batches with InfoNCE. Columns: learning rate and temperature, first those of the search."
    )
    return "\n".join(lines) + f"\n\n{note}" if confirmed else ""


def batch_sizes(runs: Runs) -> str:
    if not runs.has("batch size"):
        return ""
    curves = curves_of(runs.tier, "batch size")
    curves["uniform, tuned"] = [point for point in points(runs.tier, "batch size") if point.is_tuned]
    sizes = [point.batch_size for point in curves["uniform"]]
    lines = table_head("batches", "loss", *(f"B = {size}" for size in sizes))
    for arm, curve in curves.items():
        for loss in LOSSES:
            cells = [
                mean(runs.values_at(point, loss))
                if (arm, loss) == ("uniform", "infonce")
                else interval(runs.at(point, loss))
                for point in curve
            ]
            if not curve[0].is_tuned or runs.best["uniform", loss] != runs.best["uniform", "infonce"]:
                lines.append(line([arm, loss, *cells]))
    return "\n".join(lines) + "\n\nUniform batches with InfoNCE: MRR@10. Others: points over these."


def communities(runs: Runs) -> str:
    return variants(runs, "community", COMMUNITY_NAMES, "")


def windows(runs: Runs) -> str:
    names = [f"p = {start}" for start in WINDOW_STARTS]
    return variants(runs, "window", names, " Windows hold ranks p + 1 to p + 100.")


def variants(runs: Runs, phase: str, names: Sequence[str], note: str) -> str:
    """Returns the table of variants of "b3", all with its learning rate and temperature.

    Empty if a variant has no value, or the tier no variants.
    """
    lines = table_head("mask", "loss", *names)
    for arm, curve in curves_of(runs.tier, phase).items():
        for loss in LOSSES:
            cells = [interval(runs.at(point, loss)) for point in curve]
            if not all(cells):
                return ""
            lines.append(line(["yes" if arm == "b3, masked" else "no", loss, *cells]))
    return "\n".join(lines) + f"\n\nPoints over uniform batches with InfoNCE.{note}" if len(lines) > 2 else ""


def curves_of(tier: Tier, phase: str) -> dict[str, list[Point]]:
    """Returns the curves of a phase: one of CURVE_ARMS -> points."""
    if phase == "batch size":
        return groups((point for point in points(tier, phase) if not point.is_tuned), lambda point: point.arm)
    return groups(points(tier, phase), lambda point: "b3, masked" if arm_of(point.arm).is_masked else "b3")


def advice(rows: list[Row], profile: Profile) -> str:
    """Returns the table of the advised batches and loss on the data set that no other phase has."""
    others = [pair for pair in itertools.product(ADVICE_ARMS, LOSSES) if pair != ("uniform", "infonce")]
    names = [f"{', '.join(pair)}{' (advised)' if pair == ADVISED else ''}" for pair in others]
    extra = "uniform, hardness, parameters of InfoNCE"
    lines = table_head("tier", "seeds", "before training", "uniform, infonce", *names, extra)
    for tier in profile.tiers:
        of_tier = [row for row in rows if (row.phase, row.tier) == ("advice", tier.name)]
        runs = advised_runs(tier, rows, profile)
        if runs.rows:
            uniform = runs.values("uniform", "infonce")
            before = [f"{row.mrr_at_10:.2f}" for row in of_tier if row.num_steps == 0]
            gains = [*(runs.over_uniform(*pair) for pair in others), runs.as_infonce("uniform", "hardness")]
            lines.append(line([tier.name, str(len(uniform)), *before, mean(uniform), *map(interval, gains)]))
    return "\n".join(lines) + "\n\nThe last columns are points over uniform batches with InfoNCE."


def advised_runs(tier: Tier, rows: list[Row], profile: Profile) -> Runs:
    """Returns the runs of the phase "advice" after training."""
    chosen = [row for row in rows if row.phase == "advice" and row.num_steps]
    return Runs(chosen, tier, profile.advised_on, best_parameters(tier, with_values(rows)))


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
    shown = [runs for tier in reported_tiers(rows, profile) for runs in runs_of(tier, rows, profile)]
    draw_arms(folder / "pretrained_batches.png", [runs for runs in shown if runs.has("confirm")])
    draw_batch_sizes(folder / "pretrained_batch_size.png", [runs for runs in shown if runs.has("batch size")])
    draw_variants(folder / "pretrained_windows.png", [runs for runs in shown if windows(runs) and communities(runs)])


def draw_arms(path: Path, shown: Sequence[Runs]) -> None:
    """One panel per tier and data set: points of each arm over uniform batches with InfoNCE, for both losses.

    Filled: with the learning rate and the temperature of uniform batches with InfoNCE. Hollow: with others, which the
    search found for the arm.
    """
    if not shown:
        return
    rows = groups(shown, lambda runs: runs.tier.name).values()
    columns = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.5 * columns, 2.6 * len(rows)), squeeze=False, sharey="row"
    )
    for axis_row, of_tier in zip(axes, rows, strict=True):
        for axis in axis_row[len(of_tier) :]:
            axis.axis("off")
        arms = [arm for arm in of_tier[0].tier.arms if any(runs.values(arm, LOSSES[0]) for runs in of_tier)]
        for axis, runs in zip(axis_row, of_tier, strict=False):
            for offset, loss, marker in ((-0.15, "infonce", "o"), (0.15, "hardness", "s")):
                look = {"fmt": marker, "color": COLORS_OF_LOSSES[loss], "markersize": 4, "capsize": 2}
                whiskers(axis, [runs.as_infonce(arm, loss) for arm in arms], offset, label=loss, **look)
                others = [
                    runs.over_uniform(arm, loss) if runs.best[arm, loss] != runs.best["uniform", "infonce"] else []
                    for arm in arms
                ]
                label = f"{loss}, with parameters of its own"
                whiskers(axis, others, offset + 0.15, label=label, markerfacecolor="white", **look)
            axis.axvline(0, color="0.5", linewidth=1)
            axis.set_yticks(range(len(arms)), arms, fontsize=8)
            axis.set_ylim(len(arms) - 0.5, -0.5)
            axis.set_title(f"{runs.title}, B = {runs.tier.batch_size}", fontsize=9)
            axis.set_xlabel("MRR@10: points over uniform, infonce", fontsize=8)
    legend_below(figure, axes[0, 0])
    save(figure, path)


def whiskers(axis, found: Sequence[np.ndarray], offset: float, **look) -> None:
    """Draws the mean and the 95% interval of each arm that has two values."""
    places = [place for place, values in enumerate(found) if len(values) > 1]
    if places:
        centers, halves = zip(*((found[place].mean(), half_width(found[place])) for place in places), strict=True)
        axis.errorbar(centers, np.array(places) + offset, xerr=halves, **look)


def draw_batch_sizes(path: Path, shown: Sequence[Runs]) -> None:
    """Points over uniform batches with InfoNCE of the same size, over B. Above, InfoNCE; below, hardness weighting."""
    if not shown:
        return
    figure, axes = plt.subplots(2, len(shown), figsize=(2.6 * len(shown), 5.4), squeeze=False, sharey="col")
    for column, runs in zip(axes.T, shown, strict=True):
        for axis, loss in zip(column, LOSSES, strict=True):
            draw_curves(
                axis,
                runs,
                "batch size",
                sorted({runs.tier.batch_size, *runs.tier.curve}),
                "B, pairs in a batch",
                (loss,),
            )
            axis.set_title(f"{runs.title}, {loss}", fontsize=9)
    legend_below(figure, *axes[:, 0])
    save(figure, path)


def draw_variants(path: Path, shown: Sequence[Runs]) -> None:
    """Above, communities; below, windows: points over uniform batches with InfoNCE, with and without the mask."""
    if not shown:
        return
    figure, axes = plt.subplots(2, len(shown), figsize=(2.6 * len(shown), 5.4), squeeze=False)
    for (above, below), runs in zip(axes.T, shown, strict=True):
        draw_curves(above, runs, "community", COMMUNITY_NAMES, "community size")
        draw_curves(below, runs, "window", WINDOW_STARTS, "number of nearest ranks that are skipped, p")
        above.set_title(runs.title, fontsize=9)
    legend_below(figure, axes.flat[0])
    save(figure, path)


def legend_below(figure, *axes) -> None:
    handles, labels = (
        list(itertools.chain(*parts))
        for parts in zip(*(axis.get_legend_handles_labels() for axis in axes), strict=True)
    )
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, fontsize=9, frameon=False
    )


def draw_curves(axis, runs: Runs, phase: str, names: Sequence, label: str, losses: Sequence[str] = LOSSES) -> None:
    axis.axhline(0, color=COLORS["uniform"], linewidth=1, label="uniform, infonce")
    shift = 0.0  # so that intervals do not cover each other
    for arm, curve in curves_of(runs.tier, phase).items():
        for loss in losses:
            found = [(place + shift, runs.at(point, loss)) for place, point in enumerate(curve)]
            shift += 0.06
            found = [(place, values) for place, values in found if len(values) > 1]
            if found and (arm, loss) != ("uniform", "infonce"):
                places, values = zip(*found, strict=True)
                halves = [half_width(differences) for differences in values]
                look = {"fmt": STYLES[loss], "color": COLORS[arm], "marker": "o", "markersize": 3, "capsize": 2}
                centers = [differences.mean() for differences in values]
                axis.errorbar(places, centers, halves, label=f"{arm}, {loss}", **look)
    axis.set_xticks(np.arange(len(names)) + shift / 2, [str(name) for name in names])
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylabel("MRR@10: points over uniform, infonce", fontsize=8)
