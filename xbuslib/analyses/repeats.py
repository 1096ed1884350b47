"""Repeated pictures as a table and as a picture: every pair side by side, for people to judge."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from xbuslib.data import catalogue, folds, repeats
from xbuslib.data.images import read_grey
from xbuslib.display import style, tables
from xbuslib.files import write_whole
from xbuslib.runs.source import Source

MOST = 40  # pairs in one picture; the table has them all
ROW, WIDTH, COLUMNS = 1.6, 4.0, 2  # inches of a pair's height and width; pairs beside each other
FEW, LISTED = 4, 20  # pairs in the figure and in the table of notebook 01
FILES = ["one_image", "other_image"]  # columns that name files of one machine


def find(dataset: str, root: Path) -> pd.DataFrame:
    """The pairs of a dataset's repeated pictures (repeats.described), the most alike first."""
    cases = catalogue.load(dataset, root)
    return _pairs(cases, repeats.pictures(cases))


def of_source(source: Source) -> pd.DataFrame:
    """`find` for an opened dataset, whose images with a lesion are not read again."""
    normals = source.all_cases[source.all_cases["pathology"] == "normal"]
    hashes = [repeats.pictures(source.cases, source.pictures_file, source.prepared.fingerprint)]
    if len(normals):
        hashes.append(repeats.hashes(normals["case_id"], map(read_grey, normals["image"])))
    return _pairs(source.all_cases, pd.concat(hashes, ignore_index=True))


def _pairs(cases: pd.DataFrame, hashes: pd.DataFrame) -> pd.DataFrame:
    found = repeats.within(hashes).sort_values("bits", kind="stable", ignore_index=True)  # equal pixels first: -1
    return repeats.described(cases, found)


def draw(pairs: pd.DataFrame) -> Figure:
    """Up to MOST pairs, one beside the other, with their cases, classes and the bits in which they differ."""
    shown = pairs.head(MOST)
    columns = min(COLUMNS, len(shown))
    rows, widths = -(-len(shown) // columns), ([1, 1, 0.2] * columns)[:-1]  # of two images and a gap
    figure, axes = style.subplots(rows, len(widths), size=(WIDTH * columns, ROW * rows + 0.5), squeeze=False,
                                  gridspec_kw={"width_ratios": widths})
    for axis in axes.ravel():
        axis.set_axis_off()
    for index, pair in enumerate(shown.itertuples()):
        row, column = divmod(index, columns)
        differ = "" if pair.what == "equal pixels" else f", {pair.bits} of {repeats.SIDE**2} bits differ"
        for side, axis in zip(("one", "other"), axes[row, 3 * column:3 * column + 2], strict=True):
            axis.imshow(read_grey(getattr(pair, f"{side}_image")), cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{getattr(pair, side)}, {getattr(pair, f'{side}_class')}\n{pair.what}{differ}", fontsize=6)
    return figure


def first_pairs(pairs: pd.DataFrame, label: str) -> Figure:
    """The FEW pairs that are most alike; label: of the dataset."""
    what = "Repeated images" if len(pairs) <= FEW else f"Repeated images: the {FEW} of {len(pairs)} pairs most alike"
    return style.titled(draw(pairs.head(FEW)), what, label)


def in_words(pairs: pd.DataFrame, fold_of: pd.Series) -> str:
    """What the pairs of `of_source` mean for a study, and up to LISTED of them in a folded table, as Markdown.

    fold_of: validation fold of each case with a lesion.
    """
    if pairs.empty:
        return "No two images are equal or look alike, not even with one of them mirrored."
    kinds = ", ".join(f"{n} {what}" for what, n in pairs["what"].value_counts().items())
    classes = (pairs["one_class"] != pairs["other_class"]).sum()
    scored = pairs[pairs["one"].isin(fold_of.index) & pairs["other"].isin(fold_of.index)]
    apart = len(folds.across(fold_of, scored))
    divided = (f"Divided between two folds, so that a system is scored on an image that it was trained on: {apart}."
               if apart else "No pair is divided between two folds.")
    text = (f"**Pairs of images that are equal or look alike: {len(pairs)}** ({kinds}), {classes} of them under two "
            f"classes. {divided}")
    people = pd.DataFrame({"image": pairs["one"], "class": pairs["one_class"], "other image": pairs["other"],
                           "its class": pairs["other_class"], "how": pairs["what"], "bits that differ": pairs["bits"]})
    title = "The pairs" if len(pairs) <= LISTED else f"The {LISTED} of {len(pairs)} pairs most alike"
    return text + "\n\n" + tables.folded(title, tables.markdown(people.head(LISTED), "", bold=False))


def write(pairs: pd.DataFrame, folder: Path) -> list[Path]:
    """repeats.csv and, where there are pairs, repeats.png in `folder`."""
    with write_whole(folder / "repeats.csv") as partial:
        pairs.drop(columns=FILES).to_csv(partial, index=False)
    if pairs.empty:
        return [folder / "repeats.csv"]
    figure = draw(pairs)
    with write_whole(folder / "repeats.png") as partial:
        figure.savefig(partial, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return [folder / "repeats.csv", folder / "repeats.png"]
