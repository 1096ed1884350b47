"""Contours in millimetres on the images themselves, and what is marked on normal images."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xbuslib.data import originals
from xbuslib.display import style
from xbuslib.display.masks import FALSE_POSITIVE, error_overlay
from xbuslib.runs import record
from xbuslib.runs.study import Study, system_names
from xbuslib.runs.trained import NewPredictions

SHOWN = ("unet", "uresnet", "xbusnet")  # the plain network, the encoder of XBusNet's local branch alone, the whole
LEVELS = {0.1: "nearly the closest", 0.5: "median", 0.9: "nearly the furthest"}  # quantiles of the cases shown
BAR_MM = 5
MARGIN = 0.35  # of the lesion's longest side, around both contours


def contours(study: Study, rows: pd.DataFrame, table: pd.DataFrame) -> Figure | None:
    """Reference and predicted contours on three lesions: the 10 %, 50 % and 90 % quantiles of one system's HD95.

    rows: boundaries.per_image; table: `Study.case_table`. The system is XBusNet, or the study's first one; the others
    of SHOWN are below it on the same lesions. None if no lesion has a pixel size and a prediction.
    """
    names = system_names(rows[rows["system"].isin(SHOWN)]) or system_names(rows)
    first = "xbusnet" if "xbusnet" in names else next(iter(names))
    order = [first, *(name for name in names if name != first)][:3]
    there = rows["fold"].isin(study.shared_folds(order))  # of a partial study
    ranked = rows[(rows["system"] == first) & rows["hd95_found"].notna() & there].drop_duplicates("case_id")
    ranked = ranked.sort_values(["hd95_found", "case_id"], ignore_index=True)
    if ranked.empty:
        return None
    chosen = [ranked.iloc[round(level * (len(ranked) - 1))] for level in LEVELS]
    figure, axes = style.subplots(len(order), len(chosen), size=(7.8, 2.6 * len(order) + 0.6), squeeze=False)
    for column, (case, words) in enumerate(zip(chosen, LEVELS.values(), strict=True)):
        row = next(table[table["case_id"] == case["case_id"]].itertuples())
        image, reference = originals.image(row), originals.mask(row)
        masks = {name: _predicted(study, name, case, reference.shape) for name in order}
        window = _window(reference, np.logical_or.reduce([reference, *masks.values()]))
        for axis, name in zip(axes[:, column], order, strict=True):
            found = rows[(rows["system"] == name) & (rows["case_id"] == case["case_id"])].sort_values("seed").iloc[0]
            _contour_panel(axis, image[window], reference[window], masks[name][window], row.pixel_mm)
            axis.set_title(f"{names[name]}: " + (f"HD95 {found['hd95_found']:.1f} mm" if masks[name].any()
                                                 else "nothing predicted"), fontsize=8.5)
        axes[-1, column].set_xlabel(f"{case['case_id']}: {words} of {names[first]}", fontsize=8.5)
    figure.legend(handles=[Line2D([], [], color=style.REFERENCE, label="reference"),
                           Line2D([], [], color=style.SECOND, label="prediction"),
                           Line2D([], [], color="0.3", linewidth=3, label=f"white bar: {BAR_MM} mm")],
                  loc="outside lower center", ncols=3)
    return style.titled(figure, "Contours at original resolution", study.label_of_maps)


def _predicted(study: Study, system: str, case: pd.Series, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: what the run (first seed) that validated the case predicts, at original resolution."""
    small = record.probabilities(study.run_folder(system, case["fold"]))[case["case_id"]]
    return originals.at_size(small, *shape[::-1]) >= study.facts["config"]["threshold"]


def _window(reference: np.ndarray, either: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around all contours, with a margin."""
    where = np.argwhere(either)  # (pixels, 2)
    margin = int(MARGIN * np.ptp(np.argwhere(reference), axis=0).max()) + 2
    low, high = np.maximum(where.min(axis=0) - margin, 0), np.minimum(where.max(axis=0) + margin, either.shape)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _contour_panel(axis: Axes, image: np.ndarray, reference: np.ndarray, predicted: np.ndarray,
                   pixel_mm: float) -> None:
    """(H, W) image and masks, with a bar of BAR_MM."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    for mask, colour in ((reference, style.REFERENCE), (predicted, style.SECOND)):
        if mask.any() and not mask.all():
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    height, width = image.shape
    axis.plot([0.05 * width, 0.05 * width + BAR_MM / pixel_mm], [0.94 * height] * 2, color="white", linewidth=3)
    axis.set(xticks=[], yticks=[], xlim=(0, width - 1), ylim=(height - 1, 0))
    axis.spines[:].set_visible(False)


def on_normal_images(study: Study, normals: list[NewPredictions]) -> Figure | None:
    """What three systems mark on the normal images, by the runs of one fold and seed; None without such images."""
    threshold = study.facts["config"]["threshold"]
    names = system_names(study.default[study.default["system"].isin(SHOWN)]) or system_names(study.default)
    first = [next((run for run in normals if run.system == name and run.normal_ids), None) for name in list(names)[:3]]
    runs = [run for run in first if run is not None]
    runs = [run for run in runs if run.fold == runs[0].fold]  # of a partial study
    if not runs:
        return None
    cases = runs[0].normal_ids[:4]
    figure, axes = style.subplots(1 + len(runs), len(cases), squeeze=False,
                                  size=(1.75 * len(cases) + 0.5, 1.75 * (1 + len(runs)) + 0.8))
    empty = np.zeros(study.prepared.masks.shape[1:], bool)
    for column, case in enumerate(cases):
        image = study.prepared.images[study.prepared.rows([case])[0]]
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=255)
        axes[0, column].set_title(case, fontsize=8.5)
        for axis, run in zip(axes[1:, column], runs, strict=True):
            marked = record.marked(run.normals[column], threshold)
            axis.imshow(error_overlay(image, marked, empty))
            axis.set_xlabel(f"{marked.mean():.1%} of the frame", fontsize=8)
    for axis, text in zip(axes[:, 0], ["image", *(run.paper_name for run in runs)], strict=True):
        axis.set_ylabel(text, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.legend(handles=[Patch(color=FALSE_POSITIVE, label="marked as lesion")], loc="outside lower center")
    return style.titled(figure, f"Normal images: what fold {runs[0].fold} marks where there is no lesion",
                        study.label_of_maps)
