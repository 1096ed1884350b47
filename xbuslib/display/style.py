"""One style for every figure, and one way to save it: PNG, vector PDF and the numbers it was drawn from."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xbuslib.display.tables import save_table
from xbuslib.files import write_whole

# Okabe and Ito's palette: distinct with any colour vision (jfly.uni-koeln.de/color).
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"]
CLASS_COLOURS = {"benign": PALETTE[0], "malignant": PALETTE[1]}
REFERENCE, SECOND = PALETTE[3], PALETTE[5]  # outline of the reference mask, and of a second one beside it
OWN, OTHER = PALETTE[1], PALETTE[0]  # the system that a study is about, and any other
MARKERS = "osD^vP*Xp<>h"  # of folds and seeds, distinct without colour too
RESOLUTION = 180  # dots per inch of the PNG
FOOTER = "footer"

plt.rcParams.update({
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "figure.titlesize": 11, "axes.spines.top": False,
    "axes.spines.right": False, "axes.prop_cycle": plt.cycler(color=PALETTE), "axes.axisbelow": True,
    "legend.frameon": False, "grid.color": "0.9", "figure.dpi": 100, "savefig.dpi": RESOLUTION,
    "pdf.fonttype": 42,  # text stays text
    "image.interpolation": "nearest",
})


def subplots(*shape: int, size: tuple[float, float], **options) -> tuple[Figure, Axes | np.ndarray]:
    """As plt.subplots, `size` in inches; the figure is closed, so that a notebook shows it once, where it is named."""
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def panels(names: dict[str, str], xlabel: str = "") -> tuple[Figure, dict[str, Axes]]:
    """A panel for each of `names` (key: title), four in a row, all with the same axes; `xlabel` under the lowest."""
    columns, rows = min(4, len(names)), -(-len(names) // 4)
    figure, axes = subplots(rows, columns, size=(max(6.2, 2.45 * columns), 2.2 * rows + 1.2), sharex=True, sharey=True,
                            squeeze=False)
    found = dict(zip(names, axes.flat, strict=False))
    for i, (name, axis) in enumerate(found.items()):
        axis.set_title(textwrap.fill(names[name], 24), fontsize=9)
        axis.set_xlabel(xlabel if i + columns >= len(names) else "")
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(names):]:
        axis.set_axis_off()
    return figure, found


def titled(figure: Figure, what: str, label: str) -> Figure:
    """What is drawn as the title, and below the figure, small and grey, of which study. Called last, after legends."""
    figure.suptitle(what, fontsize=10)
    _fix_legends(figure)
    figure.text(0.01, 0, textwrap.fill(label, int(17 * figure.get_figwidth())), fontsize=7, color="0.45", va="top",
                gid=FOOTER)  # below the edge: saved and shown figures are cut around all that is drawn
    return figure


def _fix_legends(figure: Figure) -> None:
    """Keep legends outside of the axes where they are, with their space.

    Matplotlib ties them to the edge of what is drawn, so that cutting a figure would move them onto the footer.
    """
    if not figure.legends:
        return
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [legend.get_window_extent() for legend in figure.legends]
    for legend, box in zip(figure.legends, boxes, strict=True):
        legend.set_bbox_to_anchor((0, 0, 1, 1), transform=figure.transFigure)
        legend.set_loc((box.x0 / width, box.y0 / height))
    below = max(box.y1 for box in boxes) / height
    figure.get_layout_engine().set(rect=(0, below, 1, 1 - below))


def footer(figure: Figure) -> str:
    """What `titled` wrote below the figure."""
    return next(" ".join(text.get_text().split()) for text in figure.texts if text.get_gid() == FOOTER)


def name_rows(axis: Axes, names: Iterable[str]) -> None:
    """Names from top to bottom, at y = 0, 1, …; without any, no axis."""
    names = [textwrap.fill(name, 24) for name in names]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(max(1, len(names)) - 0.4, -0.6)  # the first on top
    if not names:
        axis.set_axis_off()


def save(figure: Figure, folder: Path, name: str, data: pd.DataFrame | None = None) -> list[Path]:
    """Write <name>.png, <name>.pdf and, with `data`, <name>.csv into `folder`; returns their paths.

    The PNG carries the figure's title, which the report takes as its caption.
    """
    written = [folder / f"{name}.png", folder / f"{name}.pdf"]
    title = {"Title": " ".join(figure.get_suptitle().split())}
    undated = {"CreationDate": None, "Creator": None, "Producer": None}  # the same numbers give the same file
    for path, metadata in zip(written, ({"Software": None} | title, undated), strict=True):
        with write_whole(path) as partial:
            figure.savefig(partial, dpi=RESOLUTION, bbox_inches="tight", metadata=metadata)
    return written if data is None else [*written, save_table(data, folder, name)]
