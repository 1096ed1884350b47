"""Pictures of notebook 11: change of Dice per varied prompt, decisions that it turns, and how good a first pass is."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from xbuslib.analyses.robustness.robustness import FLIP, confusion
from xbuslib.analyses.robustness.variations import VARIATIONS
from xbuslib.display import style
from xbuslib.prompts.words import SIZES

BASELINES = {"reference": "from the reference prompt", "first_pass": "from the first-pass prompt",
             "none": "from the attributes alone"}
WORSE, BETTER = style.PALETTE[1], style.PALETTE[0]
SIZE_STYLE = {"small": (WORSE, "o"), "medium": (style.PALETTE[2], "s"), "large": (BETTER, "D")}
LEAST = 0.02  # of Dice, to either side: an axis never shows less, so that next to nothing looks like it
HEADING = 0.9  # rows that a group's heading takes


def changes(table: pd.DataFrame, label: str) -> Figure:
    """Mean change of Dice with its bootstrap 95 % interval, a panel per baseline (`robustness.summary`).

    On the right of each: share of the images whose Dice moves by more than FLIP.
    """
    figure, axes, places = _panels(table, 0.24)
    for axis, (_, part) in zip(axes, table.groupby("baseline", sort=False), strict=True):
        for row in part.itertuples():
            y, colour = places[row.variation], WORSE if row.wrong else BETTER
            axis.plot([row.low, row.high], [y, y], color=colour, linewidth=2)
            axis.plot(row.change, y, "o", color=colour, markersize=5)
            axis.annotate(f"{row.worse + row.better:.0%}", (1.06, y), xycoords=("axes fraction", "data"), va="center",
                          ha="right", fontsize=8)
        axis.annotate(f"|change|\n> {FLIP}", (1.06, -1.1), xycoords=("axes fraction", "data"), va="bottom",
                      ha="right", fontsize=8)
    _widen(axes)
    figure.legend(handles=[Line2D([], [], color=BETTER, marker="o", label="left out, reworded, or another source"),
                           Line2D([], [], color=WORSE, marker="o", label="wrong prompt")],
                  loc="outside lower center", ncols=2)
    return style.titled(figure, "Change of Dice per image when the prompt is varied (mean, 95 % interval)", label)


def changes_by_size(table: pd.DataFrame, label: str) -> Figure:
    """The same by size class of the lesion, with `n` in the legend (`robustness.summary` by ("size",))."""
    figure, axes, places = _panels(table, 0.33)
    for axis, (_, part) in zip(axes, table.groupby("baseline", sort=False), strict=True):
        for row in part.itertuples():
            colour, marker = SIZE_STYLE[row.size]
            y = places[row.variation] + 0.26 * (SIZES.index(row.size) - 1)
            axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.5)
            axis.plot(row.change, y, marker, color=colour, markersize=4)
    _widen(axes)
    n = table.groupby("size")["n"].max()
    figure.legend(handles=[Line2D([], [], color=colour, marker=marker, label=f"{size}, n = {n[size]}")
                           for size, (colour, marker) in SIZE_STYLE.items() if size in n],
                  loc="outside lower center", ncols=3)
    return style.titled(figure, "Change of Dice per image by size class of the lesion (mean, 95 % interval)", label)


def flips(table: pd.DataFrame, label: str) -> Figure:
    """Share of images whose Dice falls and rises by more than FLIP, a panel per baseline (`robustness.summary`)."""
    figure, axes, places = _panels(table, 0.24)
    widest = max(5.0, 110 * table[["worse", "better"]].to_numpy().max())
    for axis, (_, part) in zip(axes, table.groupby("baseline", sort=False), strict=True):
        y = [places[name] for name in part["variation"]]
        axis.barh(y, -100 * part["worse"], 0.7, color=WORSE)
        axis.barh(y, 100 * part["better"], 0.7, color=BETTER)
        axis.set_xlim(-widest, widest)
        axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axis.set_xlabel("per cent of the images")
    figure.legend(handles=[Patch(color=WORSE, label=f"Dice falls by more than {FLIP}"),
                           Patch(color=BETTER, label=f"Dice rises by more than {FLIP}")],
                  loc="outside lower center", ncols=2)
    return style.titled(figure, f"Images whose Dice changes by more than {FLIP} under another prompt", label)


def first_pass(found: pd.DataFrame, shares: pd.DataFrame, label: str) -> Figure:
    """How good a first pass is: counts of size class and of quadrant, reference against found, and the shares of
    `robustness.hits` with 95 % intervals."""
    figure, axes = style.subplots(1, 3, size=(13, 3.9), width_ratios=(1, 1.15, 1.1))
    for axis, what in zip(axes, ("size", "quadrant"), strict=False):
        _counts(axis, confusion(found, what))
        axis.set(xlabel=f"{what} by the first pass", ylabel=f"{what} of the reference")
    axis, short = axes[2], shares["what"].str.replace("quadrant right, ", "… ", regex=False)
    for y, row in enumerate(shares.itertuples()):
        axis.plot([100 * row.low, 100 * row.high], [y, y], color=style.PALETTE[0], linewidth=2)
        axis.plot(100 * row.share, y, "o", color=style.PALETTE[0], markersize=5.5)
        axis.plot(100 * row.constant, y, "|", color=style.PALETTE[1], markersize=15, markeredgewidth=2)
        axis.annotate(f"{row.hits} of {row.n}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axis.set(yticks=range(len(shares)), yticklabels=short, ylim=(len(shares) - 0.5, -0.5), xlim=(-2, 102),
             xlabel="per cent of the cases (95 % interval)")
    axis.grid(axis="x")
    figure.legend(handles=[Line2D([], [], marker="|", linestyle="", color=style.PALETTE[1], markersize=12,
                                  markeredgewidth=2, label="always the most frequent class of the reference")],
                  loc="outside lower right")
    return style.titled(figure, "Size and location as the first pass finds them", label)


def _widen(axes: list[Axes]) -> None:
    """The panels share their axis, so one of them is enough."""
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(min(low, -LEAST), max(high, LEAST))


def _counts(axis: Axes, table: pd.DataFrame) -> None:
    """A table of counts as a heat map with its numbers."""
    top = max(1, table.to_numpy().max())
    axis.imshow(table, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for (i, j), count in np.ndenumerate(table.to_numpy()):
        axis.text(j, i, str(count), ha="center", va="center", color="white" if count > 0.6 * top else "0.15")
    axis.set_xticks(range(table.shape[1]), [name.replace(" ", "\n") for name in table.columns])
    axis.set_yticks(range(table.shape[0]), [name.replace(" ", "\n") for name in table.index])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _panels(table: pd.DataFrame, row: float) -> tuple[Figure, list[Axes], dict[str, float]]:
    """A panel per baseline, and the height of each variation of `table`, top to bottom, under its group's heading;
    `row` in inches."""
    places, headings, y = {}, {}, 0.0
    there = set(table["variation"])
    for variation in (v for v in VARIATIONS if v.name in there):
        if variation.group not in headings:
            headings[variation.group] = y
            y += HEADING
        places[variation.name] = y
        y += 1
    baselines = list(table["baseline"].unique())
    figure, axes = style.subplots(1, len(baselines), size=(3.0 + 3.6 * len(baselines), row * y + 1.9), sharex=True,
                                    sharey=True, squeeze=False)
    for axis, baseline in zip(axes[0], baselines, strict=True):
        axis.axvline(0, color="0.3", linewidth=1)
        axis.grid(axis="x")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set(title=BASELINES[baseline], xlabel="change of Dice", ylim=(y - 0.4, -0.6))
        axis.tick_params(axis="y", length=0)
        if (itself := f"policy {baseline}") in places:
            axis.annotate("(this baseline)", (0.02, places[itself]), xycoords=("axes fraction", "data"), va="center",
                          fontsize=8, color="0.45")
        for height in list(headings.values())[1:]:
            axis.axhline(height - 0.5, color="0.8", linewidth=0.7)
    heights = headings | places
    axes[0, 0].set_yticks(list(heights.values()), list(heights))
    for tick in axes[0, 0].get_yticklabels()[:len(headings)]:
        tick.set_fontweight("bold")
    return figure, list(axes[0]), places
