"""Pictures of a dataset: sizes, classes, places, gaps, and the images themselves with their outlines."""

import html
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from xbuslib.data import catalogue, originals
from xbuslib.data.catalogue import SIZE_BINS, size_bins
from xbuslib.data.images import read_grey, read_mask
from xbuslib.data.listing import find
from xbuslib.display import style

PANEL = 2.4  # inches of one gallery panel
SCALE_BAR = {"color": "white", "linewidth": 2.5, "solid_capstyle": "butt",  # the same in pictures and in the legend
             "path_effects": [withStroke(linewidth=4.5, foreground="black")]}


def size_histograms(table: pd.DataFrame, label: str) -> Figure:
    """Longest bounding-box side in original pixels, with the edges of Table 2, and, where known, in millimetres.

    table: long_side_px, long_side_mm, pathology; one row per lesion.
    """
    units = {"long_side_px": ("original pixels", 25), "long_side_mm": ("mm", 2.5)}
    known = [column for column in units if table[column].notna().any()]
    figure, axes = style.subplots(1, len(known), size=(4.5 * len(known), 3.4), squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    for axis, column in zip(axes[0], known, strict=True):
        unit, step = units[column]
        sns.histplot(table, x=column, bins=np.arange(0, table[column].max() + step, step), hue="pathology", alpha=1,
                     palette=style.CLASS_COLOURS, hue_order=list(style.CLASS_COLOURS)[::-1], multiple="stack",
                     edgecolor="white", legend=axis is right, ax=axis)
        axis.set(xlim=(0, None), xlabel=f"longest bounding-box side ({unit})", ylabel="lesions")
    for edge in SIZE_BINS:
        left.axvline(edge, color="0.3", linestyle="--", linewidth=1)
    low, high = SIZE_BINS
    bounds = (0, low, high, np.inf)
    top = left.get_ylim()[1]
    left.set_ylim(0, 1.22 * top)  # room for the counts
    for start, end, name in zip(bounds[:-1], bounds[1:], (f"≤ {low}", f"{low + 1}–{high}", f"> {high}"), strict=True):
        count = int(((table["long_side_px"] > start) & (table["long_side_px"] <= end)).sum())
        middle = (start + min(end, left.get_xlim()[1])) / 2
        left.text(middle, 1.2 * top, f"{name}\nn = {count}", ha="center", va="top", fontsize=8.5)
    right.get_legend().set_title("")
    return style.titled(figure, "Size of the lesions by class; dashed: edges of Table 2", label)


def birads_bars(counts: pd.DataFrame, label: str) -> Figure:
    """Lesions by BI-RADS category (rows of `counts`), stacked by class (its columns), with the numbers in the bars."""
    figure, axis = style.subplots(size=(6.4, 3.6))
    if counts.empty:
        axis.set_axis_off()
        return style.titled(figure, "No BI-RADS category is known", label)
    counts.plot.bar(stacked=True, width=0.8, rot=0, color=style.CLASS_COLOURS, ax=axis, xlabel="BI-RADS category",
                    ylabel="lesions")
    for bars in axis.containers:
        axis.bar_label(bars, fmt=lambda n: f"{n:.0f}" if n >= 3 else "", label_type="center", color="white", fontsize=8)
    axis.legend()
    return style.titled(figure, "Class by BI-RADS category", label)


def centroid_map(places: pd.DataFrame, label: str) -> Figure:
    """Where lesions lie in the frame: a 10 × 10 map of centroids and the number in each quadrant.

    places: x and y as fractions of the frame's width and height, quadrant.
    """
    figure, axis = style.subplots(size=(5.2, 4.4))
    sns.histplot(places, x="x", y="y", bins=10, binrange=(0, 1), thresh=None, cmap="Blues", cbar=True, ax=axis,
                 cbar_kws={"label": "lesions per cell", "shrink": 0.85})
    axis.plot(places["x"], places["y"], ".", color="0.25", markersize=3)
    axis.axhline(0.5, color="0.3", linestyle="--", linewidth=1)
    axis.axvline(0.5, color="0.3", linestyle="--", linewidth=1)
    for quadrant, n in places["quadrant"].value_counts().items():
        x, y = (0.98 if "right" in quadrant else 0.02), (0.97 if "lower" in quadrant else 0.03)
        axis.text(x, y, f"{quadrant}: {n}", ha="right" if x > 0.5 else "left", va="bottom" if y > 0.5 else "top",
                  fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5})
    axis.set(xlabel="x / width of the frame", ylabel="y / height of the frame (depth)", aspect=1, ylim=(1, 0))
    return style.titled(figure, "Centroids of the lesions in the frame", label)


def missing_bars(missing: pd.Series, n: int, label: str) -> Figure:
    """How many of `n` lesions lack each attribute (index of `missing`), as horizontal bars."""
    figure, axis = style.subplots(size=(6.4, 0.27 * len(missing) + 1.1))
    ordered = missing.sort_values()
    bars = axis.barh(ordered.index.str.replace("_", " "), ordered, color=style.PALETTE[0])
    axis.bar_label(bars, [f"{count} ({count / n:.0%})" for count in ordered], padding=3, fontsize=8)
    axis.set(xlim=(0, max(1.0, 1.25 * ordered.max())), xlabel=f"lesions without the attribute (of {n})")
    return style.titled(figure, "Attributes that are missing for some lesions", label)


def gallery(cases: pd.DataFrame, titles: list[str], what: str, label: str, columns: int = 4) -> Figure:
    """Images at their own size and aspect with the outline of the reference mask and a 10 mm scale bar.

    cases: rows of the case table; regions of the files named in `other_masks` are outlined too. titles: one for each
    image; what: the figure's title; label: of the dataset.
    """
    columns = max(1, min(columns, len(cases)))
    rows = max(1, -(-len(cases) // columns))
    figure, axes = style.subplots(rows, columns, squeeze=False,
                                    size=(max(PANEL * columns, 5.5), (PANEL + 0.35) * rows + 0.6))
    for axis in axes.flat:
        axis.set_axis_off()
    outlined = [_panel(axis, case, title) for axis, case, title in
                zip(axes.flat, cases.itertuples(), titles, strict=False)]
    lines = [Line2D([], [], color=style.REFERENCE, label="reference lesion")] if max(outlined, default=0) else []
    if max(outlined, default=0) > 1:
        lines.append(Line2D([], [], color=style.SECOND, linestyle="--", label="other annotated region (not used)"))
    if cases["pixel_mm"].notna().any():
        lines.append(Line2D([], [], label="10 mm", **SCALE_BAR))
    figure.get_layout_engine().set(hspace=0.06)
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    return style.titled(figure, what, label)


def _panel(axis: Axes, case, title: str) -> int:
    """One image; returns 0 without an outline, 1 with the reference, 2 with other regions too."""
    image = read_grey(case.image)
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=8.5)
    if case.pixel_mm and np.isfinite(case.pixel_mm):
        height, width = image.shape
        axis.plot([0.04 * width, 0.04 * width + 10 / case.pixel_mm], [0.96 * height] * 2, **SCALE_BAR)
    if case.mask is None:
        return 0
    axis.contour(originals.mask(case), levels=[0.5], colors=style.REFERENCE, linewidths=1.2)
    others = getattr(case, "other_masks", None)
    for name in others.split("&") if isinstance(others, str) else []:
        axis.contour(read_mask(find(Path(case.image).parent, name.strip())), levels=[0.5], colors=style.SECOND,
                     linewidths=1.2, linestyles="--")
    return 1 + isinstance(others, str)


def answer(dataset: str, table: pd.DataFrame, sizes: pd.DataFrame, unit: str) -> str:
    """What the dataset holds and what was left out, as Markdown.

    table: the case table of catalogue.load, whose attrs["left_out"] is given; sizes: long_side_<unit>, long_side_px,
    fraction, one row per lesion.
    """
    counts, sides = table["pathology"].value_counts(), sizes[f"long_side_{unit}"]
    normal = counts.get("normal", 0)
    left_out = {0: "No image is left out.",
                1: "The normal image, which has no lesion, is left out of training and scores."}.get(
        normal, f"The {normal} normal images, which have no lesion, are left out of training and scores.")
    files = [html.escape(sentence, quote=False) for sentence in table.attrs.get("left_out", [])]
    rest = f" Other files: {'; '.join(files)}." if files else " Nothing else is left out." if normal else ""
    unknown = [row.label for row in map(catalogue.dataset, dataset.split(catalogue.JOIN)) if not row.patients]
    each = f" (not recorded in {' and '.join(unknown)}, where each image counts as one)" if unknown else ""
    short, middle, long = size_bins(list(sizes["long_side_px"])).values()
    return (f"**The dataset ({catalogue.label(dataset)}) holds {len(table)} images of {table['patient_id'].nunique()} "
            f"patients{each}; the {len(sizes)} with a lesion are used** ({counts.get('benign', 0)} benign, "
            f"{counts.get('malignant', 0)} malignant). {left_out}{rest} {_regions(table)} The lesions are "
            f"{sides.min():.1f} to {sides.max():.1f} {unit} long (median {sides.median():.1f} {unit}) and fill "
            f"{sizes['fraction'].mean():.1%} of the image on average; in original pixels {short} are at most "
            f"{SIZE_BINS[0]} long, {middle} up to {SIZE_BINS[1]} and {long} longer.")


def _regions(table: pd.DataFrame) -> str:
    """How many images have a second annotated region, and what it is to the reference."""
    others, more = table.reindex(columns=["other_masks", "more_masks"]).notna().sum()
    texts = {"a second region is annotated, which counts as background": others,
             "the reference is the union of several masks": more}
    return " ".join(f"In {n} image{'s' * (n > 1)} {text}." for text, n in texts.items() if n) or \
        "No image has a second annotated region."
