"""One style for every figure, and one way to save it: PNG, vector PDF and the numbers it was drawn from."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xbuslib.files import write_whole

# Okabe and Ito's palette: told apart with any colour vision (jfly.uni-koeln.de/color).
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"]
CLASS_COLOURS = {"benign": PALETTE[0], "malignant": PALETTE[1]}
REFERENCE, SECOND = PALETTE[3], PALETTE[5]  # outline of the reference mask, and of a second one beside it
RESOLUTION = 180  # dots per inch of the PNG

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
    figure, axes = plt.subplots(*shape, figsize=size, layout=options.pop("layout", "constrained"), **options)
    plt.close(figure)
    return figure, axes


def save(figure: Figure, folder: Path, name: str, data: pd.DataFrame | None = None) -> list[Path]:
    """Write <name>.png, <name>.pdf and, with `data`, <name>.csv into `folder`; returns their paths."""
    written = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path, metadata in zip(written, ({"Software": None}, {"CreationDate": None, "Creator": None, "Producer": None}),
                              strict=True):  # no date: the same numbers give the same file
        with write_whole(path) as partial:
            figure.savefig(partial, dpi=RESOLUTION, bbox_inches="tight", metadata=metadata)
    return written if data is None else [*written, save_table(data, folder, name)]


def save_table(data: pd.DataFrame, folder: Path, name: str) -> Path:
    """Write <name>.csv into `folder`, with the index where it has a name; returns its path."""
    path = folder / f"{name}.csv"
    with write_whole(path) as partial:
        data.to_csv(partial, index=any(data.index.names))
    return path
