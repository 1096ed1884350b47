"""Pictures of calibration, thresholds and detection: a panel per system, on axes that all share."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xbuslib.analyses.calibration.reliability import WHO, pooled
from xbuslib.display import style
from xbuslib.runs.study import system_names

COLOURS = {"before": style.PALETTE[1], "after": style.PALETTE[0]}  # temperature scaling
MARKS = {"before": "o", "after": "s"}
FEW = 0.001  # of all pixels: the frequency in a bin with fewer says little


def reliability(bins: pd.DataFrame, region: str, label: str) -> Figure:
    """Share of lesion against predicted probability, before and after temperature scaling; below, how many pixels.

    bins: reliability.Reliability.bins. Thin lines are folds (before); hollow marks have under FEW of the pixels.
    """
    bins = bins[bins["region"] == region]
    table, names = pooled(bins), system_names(bins)
    columns, rows = min(4, len(names)), -(-len(names) // 4)
    figure, axes = style.subplots(2 * rows, columns, size=(max(6.2, 2.45 * columns), 2.95 * rows + 1.1), sharex=True,
                                  squeeze=False, height_ratios=[3.4, 1] * rows)
    pairs = [axes[2 * row:2 * row + 2, column] for row in range(rows) for column in range(columns)]
    for axis in np.ravel(pairs[len(names):]):
        axis.set_axis_off()
    for i, (name, (upper, lower)) in enumerate(zip(names, pairs, strict=False)):
        upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
        own = bins[(bins["system"] == name) & (bins["state"] == "before")]
        for _, fold in own.groupby(["fold", "seed"]):
            upper.plot(fold["probability"], fold["lesion"], color=COLOURS["before"], linewidth=0.6, alpha=0.35)
        for state, colour in COLOURS.items():
            part = table[(table["system"] == name) & (table["state"] == state)]
            if part.empty:  # an adopted system has no temperature
                continue
            share = part["pixels"] / part["pixels"].sum()
            upper.plot(part["probability"], part["lesion"], color=colour, linewidth=1.6)
            for few, face in ((False, colour), (True, "white")):
                shown = part[(share < FEW) == few]
                upper.plot(shown["probability"], shown["lesion"], MARKS[state], color=colour, markersize=3.8,
                           markerfacecolor=face, linestyle="")
            lower.step([*part["low"], 1], [*share, share.iloc[-1]], where="post", color=colour, linewidth=1.4,
                       linestyle="-" if state == "before" else "--")
        upper.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
        upper.set_title(textwrap.fill(names[name], 24), fontsize=9)
        lower.set(yscale="log", ylim=(1e-5, 2), yticks=[1e-4, 1e-2, 1],
                  xlabel="predicted probability" if i + columns >= len(names) else "")
        for axis, text in ((upper, "share that is lesion"), (lower, "share of\nall pixels")):
            axis.tick_params(labelleft=i % columns == 0, labelbottom=axis is lower)
            axis.set_ylabel(text if i % columns == 0 else "", fontsize=8)
    figure.legend(handles=[*(Line2D([], [], color=colour, marker=MARKS[state], linestyle="-", markersize=4,
                                    label=f"{state} temperature scaling") for state, colour in COLOURS.items()),
                           Line2D([], [], color=COLOURS["before"], linewidth=0.6, alpha=0.5, label="one fold, before"),
                           Line2D([], [], color="0.6", linestyle=":", label="well calibrated")],
                  loc="outside lower center", ncols=4)
    what = f"Reliability, {region}; strips on a log scale, hollow marks: under {FEW:.1%} of the pixels"
    return style.titled(figure, what, label)


def sweep(rows: pd.DataFrame, threshold: float, label: str) -> Figure:
    """Mean Dice against the threshold: the panel's system over the folds (thin) and their mean; grey, the others.

    rows: reliability.sweep. The line stands at the study's threshold.
    """
    names = system_names(rows)
    by_fold = rows.groupby([*WHO, "fold", "threshold"])["dice"].mean().reset_index()
    means = by_fold.groupby(["system", "threshold"])["dice"].mean()
    figure, panels = style.panels(names, "threshold")
    for name, axis in panels.items():
        axis.axvline(threshold, color="0.35", linewidth=1, linestyle=":")
        _others(axis, name, {other: (means[other].index, means[other]) for other in names})
        for _, fold in by_fold[by_fold["system"] == name].groupby("fold"):
            axis.plot(fold["threshold"], fold["dice"], color=COLOURS["after"], linewidth=0.6, alpha=0.5)
        axis.plot(means[name].index, means[name], color=COLOURS["before"], linewidth=2)
        axis.set(xlim=(0, 1), ylim=(-0.02, 1.02), xticks=[0, 0.25, 0.5, 0.75, 1])
        axis.xaxis.set_major_formatter("{x:g}")
    figure.supylabel("mean lesion Dice", fontsize=9)
    figure.legend(handles=[Line2D([], [], color=COLOURS["before"], linewidth=2, label="mean over folds"),
                           Line2D([], [], color=COLOURS["after"], linewidth=0.6, label="one fold"),
                           Line2D([], [], color="0.82", label="the other systems"),
                           Line2D([], [], color="0.35", linestyle=":", label=f"the study's threshold, {threshold:g}")],
                  loc="outside lower center", ncols=4)
    return style.titled(figure, "Dice by threshold; none is chosen on validation images", label)


def froc(curves: pd.DataFrame, label: str) -> Figure:
    """FROC: lesions found against false positives per image, both kinds of image; the dot is the study's threshold.

    curves: detection.curves. The other systems are grey.
    """
    names = system_names(curves)
    lines = {name: (part["false_positives"], part["sensitivity"]) for name, part in curves.groupby("system")}
    top = max(0.1, curves["false_positives"].max())
    figure, panels = style.panels(names, "false positives per image")
    for name, axis in panels.items():
        _others(axis, name, lines, drawstyle="steps-post")
        x, y = lines[name]
        axis.plot(x, y, color=COLOURS["before"], linewidth=2, drawstyle="steps-post")
        axis.plot(x.iloc[-1], y.iloc[-1], "o", color="black", markersize=5, zorder=3, clip_on=False)
        axis.set_xscale("symlog", linthresh=0.1)  # one system may have a hundred times the false positives of another
        axis.set(xlim=(-0.004, 1.2 * top), ylim=(-0.02, 1.02))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid()
    figure.supylabel("share of lesions found", fontsize=9)
    figure.legend(handles=[Line2D([], [], color=COLOURS["before"], linewidth=2, label="by minimum component score"),
                           Line2D([], [], marker="o", color="black", linestyle="", markersize=5,
                                  label="every component at the study's threshold"),
                           Line2D([], [], color="0.82", label="the other systems")],
                  loc="outside lower center", ncols=3)
    return style.titled(figure, "FROC: lesions found against false positives, normal images too (log scale beyond 0.1)",
                        label)


def _others(axis: Axes, name: str, lines: dict[str, tuple], **style) -> None:
    for other, (x, y) in lines.items():
        if other != name:
            axis.plot(x, y, color="0.82", linewidth=1, zorder=1, **style)
