"""Repeated pictures as a table and as a picture: every pair side by side, for people to judge."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from xbuslib.data import catalogue, repeats
from xbuslib.data.images import read_grey
from xbuslib.display import style
from xbuslib.files import write_whole

MOST = 40  # pairs in one picture; the table has them all
ROW, COLUMNS = 1.6, 2  # inches of a pair's height; pairs beside each other


def find(dataset: str, root: Path) -> pd.DataFrame:
    """The pairs of a dataset's repeated pictures (repeats.described), the most alike first."""
    cases = catalogue.load(dataset, root)
    pairs = repeats.described(cases, repeats.within(repeats.pictures(cases)))
    return pairs.sort_values("bits", kind="stable").reset_index(drop=True)


def draw(pairs: pd.DataFrame) -> Figure:
    """Up to MOST pairs, one beside the other, with their cases, classes and the bits in which they differ."""
    shown = pairs.head(MOST)
    rows = -(-len(shown) // COLUMNS)
    figure, axes = style.subplots(rows, 2 * COLUMNS, size=(8.0, ROW * rows + 0.5), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for index, pair in enumerate(shown.itertuples()):
        row, column = divmod(index, COLUMNS)
        for side, axis in zip(("one", "other"), axes[row, 2 * column:2 * column + 2], strict=True):
            axis.imshow(read_grey(getattr(pair, f"{side}_image")), cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{getattr(pair, side)}\n{getattr(pair, f'{side}_class')}, {pair.what}"
                           + (f", {pair.bits} bits" if pair.what != "equal pixels" else ""), fontsize=6)
    return figure


def write(pairs: pd.DataFrame, folder: Path) -> list[Path]:
    """repeats.csv and, where there are pairs, repeats.png in `folder`."""
    with write_whole(folder / "repeats.csv") as partial:
        pairs.drop(columns=["one_image", "other_image"]).to_csv(partial, index=False)
    if pairs.empty:
        return [folder / "repeats.csv"]
    figure = draw(pairs)
    with write_whole(folder / "repeats.png") as partial:
        figure.savefig(partial, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return [folder / "repeats.csv", folder / "repeats.png"]
