"""Pictures of the steps: scores and paired differences, lesion sizes, the learning curve, and what changed most."""

import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xbuslib.analyses.transfer.steps import Step
from xbuslib.display import style
from xbuslib.display.masks import error_legend, error_overlay
from xbuslib.evaluation.aggregation import fold_means
from xbuslib.runs import record

RULES = {"largest gain": 0.0, "upper quartile": 0.25, "median": 0.5, "lower quartile": 0.75, "largest loss": 1.0}


def steps_figure(steps: list[Step], changed: pd.DataFrame, label: str) -> Figure:
    """Left: mean lesion Dice of every step, a small mark per fold. Right: paired difference to the step before.

    changed: gains.changes.
    """
    names = [step.label for step in steps]
    systems = _systems(steps)
    figure, (left, right) = style.subplots(1, 2, size=(9.2, 1.9 + 0.62 * len(names)), sharey=True, width_ratios=(3, 2))
    for i, system in enumerate(systems):
        shift, colour = _shift(i, len(systems)), _colour(system, i)
        for y, step in enumerate(steps):
            own = step.default[step.default["system"] == system]
            if own.empty:
                continue
            folds = fold_means(own, ["system"], ["dice"])["dice"]
            left.plot(folds, [y + shift] * len(folds), "|", color=colour, markersize=9, alpha=0.6)
            left.plot(folds.mean(), y + shift, style.MARKERS[i], color=colour, markersize=7)
        rows = changed[changed["system"] == system]
        for y, (before, after) in enumerate(pairwise(names), 1):
            row = rows[(rows["step"] == after) & (rows["compared_with"] == before)]
            right.plot(row[["low", "high"]].to_numpy().T, [[y + shift]] * 2 if len(row) else [[], []], color=colour,
                       linewidth=3, solid_capstyle="butt")
            right.plot(row["mean_difference"], [y + shift] * len(row), style.MARKERS[i], color="white",
                       markeredgecolor=colour, markersize=6)
    style.name_rows(left, names)
    left.set_xlabel("mean lesion Dice (bars: folds)")
    right.axvline(0, color="0.3", linewidth=1)
    right.set_xlabel("difference to the step above,\nimage by image (95 % interval)")
    right.xaxis.set_major_locator(MaxNLocator(5))
    for axis in (left, right):
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    figure.legend(handles=_legend(systems), loc="outside lower center", ncols=4)
    return style.titled(figure, "Lesion Dice by step of training", label)


def size_figure(sized: pd.DataFrame, label: str) -> Figure:
    """A panel per size bin: mean Dice of every step and system; missed lesions as numbers beside the marks."""
    bins = list(sized["bin"].cat.categories[sized["bin"].cat.categories.isin(sized["bin"])])
    names = list(dict.fromkeys(sized["step"]))
    systems = dict(sized[["system", "paper_name"]].drop_duplicates().itertuples(index=False))
    figure, axes = style.subplots(1, len(bins), size=(9.2, 1.9 + 0.62 * len(names)), sharey=True, squeeze=False)
    for axis, bin in zip(axes[0], bins, strict=True):
        part = sized[sized["bin"] == bin]
        for i, system in enumerate(systems):
            for row in part[part["system"] == system].itertuples():
                y = names.index(row.step) + _shift(i, len(systems))
                axis.plot(row.dice, y, style.MARKERS[i], color=_colour(system, i), markersize=7)
                axis.annotate(f"{row.missed:g} missed", (row.dice, y), xytext=(7, 0), textcoords="offset points",
                              va="center", fontsize=7.5, color="0.35")
        axis.set_title(f"{bin} px ({part['n'].max()} lesions)", fontsize=9)
        axis.set_xlim(0, 1.12)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_xlabel("mean lesion Dice")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    style.name_rows(axes[0, 0], names)
    figure.legend(handles=_legend(systems), loc="outside lower center", ncols=4)
    return style.titled(figure, "Lesion Dice and missed lesions by size and step", label)


def learning_curve(points: pd.DataFrame, label: str) -> Figure | None:
    """Mean Dice over images of other hospitals, a line for all, a part or none of the dataset's own training images.

    Dotted between points whose trainings on the dataset differ in length, as the length may explain the difference.
    points: gains.curve. A panel per system; None if no line has two points.
    """
    if points.empty or points.groupby(["system", "train_images"]).size().max() < 2:
        return None
    systems = dict(points[["system", "paper_name"]].drop_duplicates().itertuples(index=False))
    most = max(1, points["images_before"].max())
    points = points.assign(line=points["own_images"].where(points["own_images"] != "part", points["train_images"]))
    lines = points.sort_values("train_images")["line"].unique()
    figure, axes = style.subplots(1, len(systems), size=(1.6 + 3.9 * len(systems), 3.9), sharey=True, squeeze=False)
    for axis, (system, name) in zip(axes[0], systems.items(), strict=True):
        part = points[points["system"] == system]
        for i, own in enumerate(lines):
            line, colour = part[part["line"] == own].sort_values("images_before"), style.PALETTE[i % 7]
            axis.plot(line["images_before"], line["dice"], style.MARKERS[i], color=colour, label=str(own))
            for ends in pairwise(line.itertuples()):
                alike = ends[0].iterations == ends[1].iterations
                axis.plot([end.images_before for end in ends], [end.dice for end in ends], "-" if alike else ":",
                          color=colour, linewidth=1.4)
        folds = int(part["folds"].max())
        axis.set_title(f"{name}, {folds} fold{'s' * (folds > 1)}", fontsize=9)
        axis.set_xlabel("training images of other hospitals")
        axis.set_xlim(-0.05 * most, 1.05 * most)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid()
    axes[0, 0].set_ylabel("mean lesion Dice")
    dotted = any(line.get_linestyle() == ":" for axis in axes.flat for line in axis.lines)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6,
                  title="training images of the dataset itself" + " (dotted: trainings differ in length)" * dotted)
    return style.titled(figure, "Learning curve", label)


def cases_figure(steps: list[Step], system: str, label: str) -> Figure | None:
    """Five lesions by rule, those at RULES of the change of Dice from the first step to the last, and their errors.

    None unless the first and the last step have the maps of at least two runs' images.
    """
    shown = [step for step in steps if step.study is not None and system in set(step.rows["system"])]
    if len(shown) < 2:
        return None
    scores = [step.default[step.default["system"] == system].groupby("case_id")["dice"].mean() for step in shown]
    change = (scores[-1] - scores[0]).sort_values(ascending=False, kind="stable")
    chosen = {rule: change.index[round(share * (len(change) - 1))] for rule, share in RULES.items()}
    maps = [_maps(step, system, set(chosen.values())) for step in shown]
    prepared, threshold = shown[0].study.prepared, steps[0].config["threshold"]
    figure, axes = style.subplots(1 + len(shown), len(chosen), size=(8.4, 1.65 * (1 + len(shown)) + 0.9))
    for column, (rule, case) in zip(axes.T, chosen.items(), strict=True):
        row = prepared.rows([case])[0]
        image, mask = prepared.images[row], prepared.masks[row]
        column[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        column[0].contour(mask, levels=[0.5], colors=style.REFERENCE, linewidths=1)
        column[0].set_title(f"{rule}\n{case}", fontsize=8)
        for axis, step_maps, score in zip(column[1:], maps, scores, strict=True):
            axis.imshow(error_overlay(image, step_maps[case] >= threshold, mask))
            axis.contour(mask, levels=[0.5], colors="white", linewidths=0.8)
            axis.set_title(f"Dice {score[case]:.2f}", fontsize=8)
    for axis, name in zip(axes[:, 0], ["image", *(step.label for step in shown)], strict=True):
        axis.set_ylabel(textwrap.fill(name, 18, break_on_hyphens=False), fontsize=8.5)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    error_legend(figure)
    name = shown[0].default.loc[shown[0].default["system"] == system, "paper_name"].iloc[0]
    return style.titled(figure, f"{name}: what changed, {shown[0].label} → {shown[-1].label}", label)


def _maps(step: Step, system: str, cases: set[str]) -> dict[str, np.ndarray]:
    """{case_id: (S, S) probabilities}, the mean over seeds."""
    found: dict[str, list[np.ndarray]] = {}
    for folder in step.compared.runs.query("system == @system")["folder"]:
        for case, probabilities in record.probabilities(Path(folder)).items():
            if case in cases:
                found.setdefault(case, []).append(probabilities)
    return {case: np.mean(each, axis=0) for case, each in found.items()}


def _systems(steps: list[Step]) -> dict[str, str]:
    """{registry name: paper's name}."""
    rows = pd.concat([step.rows[["system", "paper_name"]] for step in steps]).drop_duplicates()
    return dict(rows.itertuples(index=False))


def _shift(i: int, n: int) -> float:
    return 0.26 * (i - (n - 1) / 2)


def _colour(system: str, i: int) -> str:
    return style.OWN if system == "xbusnet" else [colour for colour in style.PALETTE if colour != style.OWN][i % 6]


def _legend(systems: dict[str, str]) -> list[Line2D]:
    return [Line2D([], [], linestyle="", marker=style.MARKERS[i], color=_colour(system, i), label=name)
            for i, (system, name) in enumerate(systems.items())]
