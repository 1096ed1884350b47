"""Distributions in strips: every value a point, and over the points the box of their quartiles."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from xbuslib.display import style


def strips(axis: Axes, values: pd.Series, groups: pd.Series, names: dict[str, str], colours: np.ndarray | str,
           hollow: pd.Series | bool = False) -> None:
    """A strip for each of `names` (group: label), top to bottom, with its box: whiskers to 1.5 interquartile ranges.

    values, groups: one per point; colours, hollow (bool: not filled): one per point, or one for all.
    """
    heights = groups.map({group: y for y, group in enumerate(names)})
    colours = np.broadcast_to(colours, len(values))
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(values))  # the same numbers, the same picture
    axis.scatter(values, heights + jitter, 9, facecolors=np.where(hollow, "white", colours), edgecolors=colours,
                 linewidths=0.8 * np.asarray(hollow), alpha=np.where(np.broadcast_to(hollow, len(values)), 1, 0.5))
    dark = {"color": "0.2"}  # not seaborn's boxplot, which leans on what matplotlib 3.13 takes away
    axis.boxplot([values[heights == y] for y in range(len(names))], positions=range(len(names)), widths=0.62, zorder=3,
                 orientation="horizontal", showfliers=False, boxprops=dark, whiskerprops=dark, capprops=dark,
                 medianprops={"color": "black", "linewidth": 2})
    style.name_rows(axis, names.values())
