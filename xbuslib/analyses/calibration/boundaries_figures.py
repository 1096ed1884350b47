"""Pictures of contours in millimetres, and of what is predicted where there is no lesion."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from xbuslib.display import style
from xbuslib.display.strips import strips
from xbuslib.display.style import MARKERS, OTHER, OWN
from xbuslib.evaluation.boundary import TOLERANCE_MM
from xbuslib.runs.study import system_names

LEAST_MM = 0.05  # left end of the log scales: half a pixel of a breast probe
NAMED = 10  # normal images that the legend names one by one


def distances(rows: pd.DataFrame, label: str, system: str = "xbusnet") -> Figure | None:
    """HD95, ASSD and NSD of every image: points and boxes by system; hollow points where nothing was predicted.

    rows: boundaries.per_image, of which means over seeds are drawn. None if the pixel size of no case is known.
    """
    rows = rows.dropna(subset="pixel_mm")
    if rows.empty:
        return None
    images = rows.groupby(["system", "paper_name", "fold", "case_id"], sort=False)
    rows = images[["hd95", "assd", "nsd", "empty"]].mean().reset_index()
    names, colours = system_names(rows), np.where(rows["system"] == system, OWN, OTHER)
    titles = {"hd95": "HD95 (mm)", "assd": "ASSD (mm)", "nsd": f"NSD at {TOLERANCE_MM:g} mm"}
    figure, axes = style.subplots(1, 3, size=(10.2, 0.42 * len(names) + 1.7), sharey=True)
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        values = rows[measure] if measure == "nsd" else rows[measure].clip(lower=LEAST_MM)
        strips(axis, values, rows["system"], names, colours, hollow=rows["empty"] == 1)
        axis.set(xlabel=title, **({"xlim": (-0.03, 1.03)} if measure == "nsd" else {"xscale": "log"}))
        if measure != "nsd":
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))  # linear ticks where fewer than two of them fit
            axis.minorticks_off()
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(axis="x")
    figure.legend(handles=[Line2D([], [], marker="o", linestyle="", color=OTHER, markersize=3, label="image"),
                           Line2D([], [], marker="o", linestyle="", color=OTHER, markerfacecolor="white", markersize=4,
                                  label="nothing predicted: the image's diagonal, NSD 0"),
                           Line2D([], [], color="black", linewidth=2, label="median, in the box of the quartiles")],
                  loc="outside lower center", ncols=3)
    return style.titled(figure, "Contours at original resolution; log scale for distances", label)


def false_area(rows: pd.DataFrame, label: str) -> Figure | None:
    """What each fold's system marks as lesion on normal images, in percent of the frame; None without such images.

    rows: detection.false_area.
    """
    if rows.empty:
        return None
    names, cases = system_names(rows), sorted(rows["case_id"].unique())
    figure, axis = style.subplots(size=(7.2, 0.36 * len(names) + 1.7))
    for i, case in enumerate(cases):
        marker, colour, entry = MARKERS[i % len(MARKERS)], style.PALETTE[i % 7], case
        if len(cases) > NAMED:
            marker, colour, entry = ".", OTHER, None if i else "normal image"
        part = rows[rows["case_id"] == case]
        heights = [list(names).index(system) + 0.5 * ((i + 0.5) / len(cases) - 0.5) for system in part["system"]]
        axis.plot(part["false_percent"], heights, marker, color=colour, alpha=0.7, markersize=5, label=entry)
    means = rows.groupby("system")["false_percent"].mean()
    axis.plot(means[list(names)], range(len(names)), "|", color="black", markersize=15, markeredgewidth=2,
              label="mean")
    style.name_rows(axis, names.values())
    axis.set_xscale("symlog", linthresh=0.1)
    axis.set(xlabel="percent of the frame marked as lesion (log scale beyond 0.1)", xlim=(-0.01, 100))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=6)
    return style.titled(figure, "Normal images: a mark per image and fold; anything here is a false positive", label)
