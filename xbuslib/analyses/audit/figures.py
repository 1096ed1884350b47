"""Pictures for the audit of the paper's numbers: two scales of Dice, meanings of "length", and Table 1 on one scale."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xbuslib.analyses.audit import scales
from xbuslib.display import style

PRINTED, LESION, LOGGED = style.PALETTE[1], style.PALETTE[0], style.PALETTE[2]
LOWEST = 0.3  # two-class Dice at the foot of the first figure


def two_scales(bins: pd.DataFrame, folds: pd.DataFrame, mean_fraction: float, marked: dict[str, float]) -> Figure:
    """Two-class Dice against lesion Dice for the mean lesion of each size, with printed values and the log's folds.

    bins: scales.by_bin; folds: scales.by_fold; marked: name: printed two-class Dice.
    """
    figure, axis = style.subplots(size=(7.2, 5.2))
    lesion = np.linspace(0, 1, 101)
    curves = zip([*bins["bin"] + " px", "mean lesion"], [*bins["fraction"], mean_fraction], [":", "--", "-.", "-"],
                 strict=True)
    for name, fraction, line in curves:
        axis.plot(lesion, scales.two_class_dice(lesion, fraction), line, color="black" if line == "-" else "0.45",
                  label=f"{name}, {fraction:.1%} of the image")
    axis.plot(lesion, lesion, color="0.8", label="equal")
    for name, printed in marked.items():
        implied = scales.lesion_dice(printed, mean_fraction)
        axis.plot([0, implied, implied], [printed, printed, LOWEST], color=PRINTED, linewidth=1)
        axis.plot(implied, printed, "o", color=PRINTED, markersize=6)
        axis.text(0.02, printed + 0.004, f"{name}, printed {printed:g}", color=PRINTED, va="bottom", fontsize=8)
        axis.text(implied - 0.008, LOWEST + 0.015, f"{implied:.2f}", color=PRINTED, va="bottom", ha="right")
    axis.plot(folds["log_one_minus_loss"], folds["log_dice"], "D", color=LOGGED, markersize=5, markeredgecolor="white",
              label="authors' log, five folds: 1 − loss and Dice")
    axis.set(xlim=(0, 1), ylim=(LOWEST, 1), xlabel="lesion Dice (Section 2.4)",
             ylabel="mean of lesion and background Dice", title="One answer on two scales, lesions of BLU at 352²")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def size_definitions(table: pd.DataFrame) -> Figure:
    """How far XBusNet's row of Table 2, weighted by each definition's counts, is from its image means; log scale.

    table: scales.size_definitions.
    """
    figure, axis = style.subplots(size=(7.6, 5.0))
    y = np.arange(len(table))
    axis.axvspan(1e-5, scales.ROUNDING, color=style.PALETTE[5], alpha=0.3, linewidth=0)
    axis.text(scales.ROUNDING * 0.92, -0.75, "rounding", ha="right", va="center", fontsize=8)
    for metric, marker, colour in (("dice", "o", PRINTED), ("iou", "s", LESION)):
        axis.plot(table[f"off_{metric}"], y, marker, color=colour, markersize=6,
                  label="Dice" if metric == "dice" else "IoU")
    counts = table.iloc[:, 1:4].astype(str).agg(" / ".join, axis=1)
    labels = [f"{name}  ({count})" for name, count in zip(table["definition"], counts, strict=True)]
    axis.set(xscale="log", xlim=(1e-5, 0.03), ylim=(len(table) - 0.4, -1.2), yticks=y, yticklabels=labels,
             xlabel="distance from the mean over images",
             title="Which “length” gives Table 2? XBusNet's row, BLU\n(in brackets: lesions per bin)")
    for tick, fits in zip(axis.get_yticklabels(), table["fits"], strict=True):
        tick.set_fontweight("bold" if fits else "normal")
    axis.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def one_scale(table: pd.DataFrame) -> Figure:
    """Table 1 sorted by lesion Dice: what is printed, what it is on the lesion scale, and between which bounds.

    table: scales.scales.
    """
    figure, axis = style.subplots(size=(7.6, 3.9))
    ordered = table.sort_values("lesion_scale", ignore_index=True)
    for y, row in enumerate(ordered.itertuples()):
        moved = row.family == "two_class"
        if moved:
            axis.annotate("", (row.lesion_scale + 0.006, y), (row.dice - 0.006, y),
                          arrowprops={"arrowstyle": "->", "color": PRINTED})
            axis.plot([row.low, row.high], [y, y], color=LESION, linewidth=7, alpha=0.35, solid_capstyle="butt")
        else:
            axis.plot([row.dice - row.dice_sd, row.dice + row.dice_sd], [y, y], color="0.6", linewidth=1.3)
        axis.plot(row.dice, y, "o", color=PRINTED, markerfacecolor="white", markersize=8, zorder=3)
        axis.plot(row.lesion_scale, y, "o", color=LESION, markersize=5, zorder=4)
        axis.plot(row.dice_from_rates, y, "x", color="black", markersize=6, zorder=2)
        axis.text(0.965, y, f"{row.lesion_scale:.3f}", va="center", ha="right", color=LESION,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})
    axis.set(yticks=range(len(ordered)), yticklabels=ordered["name"], xlim=(0.28, 0.97),
             ylim=(-0.6, len(ordered) - 0.4), xlabel="Dice",
             title="Table 1 on the lesion scale, BLU (blue figures: lesion Dice)")
    axis.grid(axis="y")
    lines = [Line2D([], [], marker="o", color=PRINTED, markerfacecolor="white", linestyle="", label="printed"),
             Line2D([], [], marker="o", color=LESION, linestyle="", markersize=5, label="lesion Dice"),
             Line2D([], [], color=LESION, linewidth=7, alpha=0.35, label="bounds if two-class"),
             Line2D([], [], color="0.6", linewidth=1.3, label="printed ± SD of folds"),
             Line2D([], [], marker="x", color="black", linestyle="", label="from printed FPR and FNR")]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    return figure
