"""Figures 2 and 3: chosen cases in rows, systems in columns; where errors and activation lie, over all systems."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from xbuslib.analyses.cases.selection import UNCHANGED
from xbuslib.data.images import Prepared
from xbuslib.display import style
from xbuslib.display.masks import FALSE_NEGATIVE, FALSE_POSITIVE, error_legend, error_overlay
from xbuslib.runs import record

WIDTH = 7.2  # inches: a printed page between its margins
PANEL = 1.45  # inches, of a panel of Figures 2 and 3: 145 pixels in a notebook
SMALL = 7.5  # points, in panels an inch wide
HEAT = colormaps["cividis"]  # even steps of lightness with any colour vision, and bright where the map is high
OPACITY = 0.55  # of the highest activation: the image under it stays visible
OUTLINED = [withStroke(linewidth=1.8, foreground="black")]
ZONES = {"inside": ("inside the lesion", style.PALETTE[0]), "near": ("near its boundary", style.PALETTE[5]),
         "elsewhere": ("elsewhere", "0.8")}
ERRORS = {"missed_inside": ("missed, inside the lesion", FALSE_NEGATIVE, ""),
          "missed_near": ("missed, near its boundary", FALSE_NEGATIVE, "////"),
          "added_near": ("added, near its boundary", FALSE_POSITIVE, "////"),
          "added_elsewhere": ("added, elsewhere", FALSE_POSITIVE, "")}


def error_grid(prepared: Prepared, panels: pd.DataFrame, maps: dict[tuple[str, str], np.ndarray], threshold: float,
               title: str) -> Figure:
    """Figure 2: a row for each case; image, ground truth, and the errors of each system in its order in `panels`.

    `panels` (selection.panels): rule, case_id, system, paper_name, dice; `maps` (system, case_id): (S, S)
    probabilities; `title`: what is drawn and, on a line of its own, of which study.
    """
    def draw(axis: Axes, panel, image: np.ndarray, mask: np.ndarray) -> None:
        axis.imshow(error_overlay(image, record.marked(maps[panel.system, panel.case_id], threshold), mask))
        axis.text(0.04, 0.05, f"Dice {panel.dice:.2f}", transform=axis.transAxes, fontsize=SMALL, color="white",
                  path_effects=OUTLINED)

    figure, _ = _grid(prepared, panels, draw)
    error_legend(figure)
    return style.titled(figure, *title.split("\n", 1))


def cam_grid(prepared: Prepared, panels: pd.DataFrame, maps: dict[tuple[str, str], np.ndarray], title: str,
             caption: str) -> Figure:
    """Figure 3, in the form of Figure 2. `panels` (gradcam's table): rule, case_id, system, paper_name; `maps`
    (system, case_id): (S, S) in [0, 1]; `caption` below: target, layers. Where a map has no activation the panel says
    so."""
    def draw(axis: Axes, panel, image: np.ndarray, mask: np.ndarray) -> None:
        cam = maps[panel.system, panel.case_id]
        axis.imshow(heat_overlay(image, cam))
        if not cam.any():
            axis.text(0.5, 0.06, "no activation", transform=axis.transAxes, fontsize=SMALL, color="white",
                      ha="center", path_effects=OUTLINED)

    figure, axes = _grid(prepared, panels, draw)
    figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), ax=axes, location="bottom", shrink=0.35, aspect=40,
                    label="Grad-CAM, share of the panel's maximum", pad=0.01)
    figure.supxlabel("\n".join(textwrap.wrap(caption, int(17 * figure.get_figwidth()))), fontsize=SMALL)
    return style.titled(figure, *title.split("\n", 1))


def heat_overlay(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """(S, S, 3) in [0, 1]: the grey image under a map in [0, 1], which is the more opaque the higher it is."""
    opacity = OPACITY * cam[..., None]
    return (1 - opacity) * image[..., None] / 255.0 + opacity * HEAT(cam)[..., :3]


def composition(table: pd.DataFrame, title: str) -> Figure:
    """Diverging bars of selection.error_composition (and paper_name): false negatives left, false positives right."""
    figure, axis = style.subplots(size=(WIDTH, 1.5 + 0.3 * len(table)))
    places = np.arange(len(table))
    for names, sign in ((("missed_near", "missed_inside"), -1), (("added_near", "added_elsewhere"), 1)):
        edge = np.zeros(len(table))
        for name in names:
            label, colour, hatch = ERRORS[name]
            values = sign * table[name].to_numpy()
            axis.barh(places, values, left=edge, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5,
                      height=0.72, label=label)
            edge += values
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="area of the errors, % of the lesions' area   (← missed   |   added →)")
    axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axis.grid(axis="x")
    axis.spines["left"].set_visible(False)
    style.name_rows(axis, table["paper_name"])
    axis.tick_params(axis="y", length=0)
    handles, labels = axis.get_legend_handles_labels()
    order = [labels.index(label) for label, *_ in ERRORS.values()]
    figure.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=2)
    return style.titled(figure, *title.split("\n", 1))


def activation(summary: pd.DataFrame, table: pd.DataFrame, title: str) -> Figure:
    """Where the activation lies, and whether the maps depend on the trained weights (gradcam.summary and the table
    it was made of)."""
    figure, (left, right) = style.subplots(1, 2, size=(WIDTH, 2 + 0.3 * len(summary)), sharey=True,
                                             width_ratios=(3, 2))
    first = table.drop_duplicates("case_id")
    names = ["spread evenly", *summary["paper_name"]]
    places, edge = np.arange(len(names)), np.zeros(len(names))
    for zone, (label, colour) in ZONES.items():
        values = 100 * np.r_[first[f"{zone}_area"].mean(), summary[zone].fillna(0)]
        left.barh(places, values, left=edge, color=colour, edgecolor="white", linewidth=0.5, height=0.72, label=label)
        edge += values
    for place, row in enumerate(summary.itertuples(), 1):
        if row.without_activation:
            left.text(98, place, f"{row.without_activation} of {row.cases} maps without activation", ha="right",
                      va="center", fontsize=SMALL, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    left.set(xlabel="share of the activation, %", xlim=(0, 100))
    style.name_rows(left, names)
    left.tick_params(axis="y", length=0)

    # rows of nan are maps without activation or, "after", systems with nothing trained after the layer
    for which, marker, colour, shift, label in (("all", "o", style.PALETTE[1], -0.15, "all trained weights"),
                                                ("after", "D", style.PALETTE[2], 0.15, "those after the layer")):
        for place, system in enumerate(summary["system"], 1):
            values = table.loc[table["system"] == system, f"spearman_{which}"].dropna()
            right.plot(values, [place + shift] * len(values), linestyle="", marker=marker, color=colour, markersize=3,
                       alpha=0.45)
        right.plot(summary[f"spearman_{which}"], places[1:] + shift, linestyle="", marker=marker, color=colour,
                   markersize=6, label=f"{label} at random")
    right.plot([], [], "o", color="0.5", markersize=3, alpha=0.6, label="single cases (large marks: means)")
    right.axvline(UNCHANGED, color="0.4", linestyle="--", linewidth=1, label="taken as unchanged from here")
    right.set(xlabel="rank correlation with\nthe trained map", xlim=(-1.1, 1.1), xticks=(-1, -0.5, 0, 0.5, 1))
    right.xaxis.set_major_formatter("{x:g}")
    right.tick_params(axis="y", length=0)
    right.grid(axis="x")
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return style.titled(figure, *title.split("\n", 1))


def _grid(prepared: Prepared, panels: pd.DataFrame, draw) -> tuple[Figure, np.ndarray]:
    """Cases in rows; the image, the ground truth and each system in columns."""
    systems, cases = panels.drop_duplicates("system"), panels.drop_duplicates("case_id")
    size = PANEL * (len(systems) + 2) + 0.4, PANEL * len(cases) + 1.1
    figure, axes = style.subplots(len(cases), len(systems) + 2, size=size, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, name in zip(axes[0], ["image", "ground truth", *systems["paper_name"]], strict=True):
        axis.set_title(_wrap(name, 18), fontsize=9)
    by_key = {(panel.system, panel.case_id): panel for panel in panels.itertuples()}
    for line, case in zip(axes, cases.itertuples(), strict=True):
        row = prepared.rows([case.case_id])[0]
        image, mask = prepared.images[row], prepared.masks[row]
        line[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        line[1].imshow(mask, cmap="gray", vmin=0, vmax=1)
        _label_row(line[0], f"{_wrap(case.rule, 20)}\n{case.case_id}")
        for axis, system in zip(line[2:], systems["system"], strict=True):
            draw(axis, by_key[system, case.case_id], image, mask)
            outline = axis.contour(mask, levels=[0.5], colors="white", linewidths=0.8)
            outline.set_path_effects(OUTLINED)
    return figure, axes


def _label_row(axis: Axes, text: str) -> None:
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_ylabel(text, fontsize=SMALL)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
