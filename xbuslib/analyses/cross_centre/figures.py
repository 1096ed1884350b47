"""Pictures of a study at another hospital: what its images look like, what is lost, on whom, and three cases."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xbuslib.analyses.cases.figures import error_grid
from xbuslib.analyses.cross_centre.drop import quartile_cases
from xbuslib.analyses.cross_centre.targets import Target
from xbuslib.data import catalogue
from xbuslib.data.images import Prepared
from xbuslib.display import style
from xbuslib.display.tables import HEADERS
from xbuslib.runs.study import Study

SHOWN = (0.2, 0.4, 0.6, 0.8)  # quantiles of the lesions' share of the frame: the rule by which images are shown
HERE, THERE = style.PALETTE[0], style.PALETTE[1]  # in its own study, at the target


def gallery(study: Study, targets: list[Target], label: str) -> Figure:
    """Images as the systems see them, a row per dataset, with the outline of the reference.

    Chosen by rule: the lesions at the quantiles SHOWN of their share of the frame.
    """
    rows = [(catalogue.label(study.facts["dataset"]) + "\n(the study's own)", study.prepared, study.cases)]
    rows += [(textwrap.fill(target.label, 20, break_on_hyphens=False), target.prepared, target.table)
             for target in targets]
    figure, axes = style.subplots(len(rows), len(SHOWN), size=(8, 2.05 * len(rows) + 0.8), squeeze=False)
    for line, (name, prepared, cases) in zip(axes, rows, strict=True):
        ordered = cases.sort_values(["lesion_fraction", "case_id"], ignore_index=True)
        for axis, share in zip(line, SHOWN, strict=True):
            case = ordered.iloc[round(share * (len(ordered) - 1))]
            _outlined(axis, prepared, case["case_id"])
            axis.set_title(f"{case['case_id']}, {case['pathology']}", fontsize=8)
        line[0].set_ylabel(name, fontsize=8.5)
    figure.legend(handles=[Line2D([], [], color=style.REFERENCE, label="reference")], loc="outside lower center")
    return style.titled(figure, "The images as the systems see them; from small lesions (left) to large ones", label)


def _outlined(axis, prepared: Prepared, case_id: str) -> None:
    row = prepared.rows([case_id])[0]
    axis.imshow(prepared.images[row], cmap="gray", vmin=0, vmax=255)
    axis.contour(prepared.masks[row], levels=[0.5], colors=style.REFERENCE, linewidths=1.2)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def drop(table: pd.DataFrame, gains: pd.DataFrame, label: str, metric: str = "dice") -> Figure:
    """Left: means in the study and at the target. Right: their difference, 95 % over patients (thick), and over
    patients and folds (thin).

    table: default rows of cross_centre_drop.drops. gains: ensemble_gain, whose ensembles are drawn on the left.
    """
    places = list(table["target"].unique())
    counts = [(table["target"] == place).sum() for place in places]
    height = sum(0.42 * n + 0.62 for n in counts) + 1.5
    figure, axes = style.subplots(len(places), 2, size=(9.2, height), sharex="col", squeeze=False,
                                    height_ratios=[n + 0.6 for n in counts])
    merged = gains.set_index(["target", "system"])["ensemble"]
    for (left, right), place in zip(axes, places, strict=True):
        part = table[table["target"] == place].reset_index(drop=True)
        for y, row in enumerate(part.itertuples()):
            left.plot([row.in_domain, row.at_target], [y, y], color="0.7", linewidth=1.5, zorder=1)
            left.plot(row.in_domain, y, "o", color="white", markeredgecolor=HERE, markeredgewidth=1.6, markersize=7)
            left.plot(row.at_target, y, "o", color=THERE, markersize=7)
            score = merged.get((place, row.system), np.nan)
            left.plot(score, y, "D", color="white", markeredgecolor=THERE, markersize=5)
            right.plot([row.low_folds, row.high_folds], [y, y], color="0.45", linewidth=1)
            right.plot([row.low, row.high], [y, y], color=THERE, linewidth=3.5, solid_capstyle="butt")
            right.plot(row.difference, y, "o", color="white", markeredgecolor="black", markersize=5.5)
        left.set_yticks(range(len(part)), [textwrap.fill(name, 22) for name in part["paper_name"]])
        right.set_yticks(range(len(part)), [""] * len(part))
        right.axvline(0, color="0.3", linewidth=1)
        for axis in (left, right):
            axis.set_ylim(len(part) - 0.4, -0.6)
            axis.grid(axis="x")
            axis.tick_params(axis="y", length=0)
        counted = f"{part['n_in_domain'].iloc[0]} and {part['n_target'].iloc[0]} images"
        left.set_title(f"{place}  ({counted})", loc="left", fontsize=9)
    axes[-1, 0].set(xlabel=f"mean {HEADERS[metric]} over images")
    axes[-1, 1].set(xlabel="target minus own study (95 % interval)")
    axes[-1, 1].xaxis.set_major_locator(MaxNLocator(6))
    handles = [Line2D([], [], marker="o", linestyle="", color="white", markeredgecolor=HERE, markeredgewidth=1.6,
                      label="in its own study"),
               Line2D([], [], marker="o", linestyle="", color=THERE, label="target, mean over folds"),
               Line2D([], [], marker="D", linestyle="", color="white", markeredgecolor=THERE, label="fold ensemble"),
               Line2D([], [], color=THERE, linewidth=3.5, label="over patients"),
               Line2D([], [], color="0.45", linewidth=1, label="over patients and folds")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2)
    return style.titled(figure, f"{HEADERS[metric]} in its own study and at another hospital", label)


def groups(table: pd.DataFrame, label: str, metric: str = "dice") -> Figure:
    """Differences by class, BI-RADS category and device, a panel per target (cross_centre_drop.by_group)."""
    places, names = list(table["target"].unique()), table.drop_duplicates("system")
    lines = {place: table.loc[table["target"] == place, ["by", "group", "n_target"]].drop_duplicates()
             for place in places}
    step = 0.7 / max(1, len(names) - 1) if len(names) > 1 else 0
    heights = [len(lines[place]) for place in places]
    row_inches = max(0.34, 0.13 * len(names))
    figure, axes = style.subplots(len(places), 1, size=(7.4, row_inches * sum(heights) + 0.5 * len(places) + 1.3),
                                    sharex=True, squeeze=False, height_ratios=[n + 0.5 for n in heights])
    for axis, place in zip(axes[:, 0], places, strict=True):
        at = {(row.by, row.group): y for y, row in enumerate(lines[place].itertuples())}
        for i, system in enumerate(names["system"]):
            part = table[(table["target"] == place) & (table["system"] == system)]
            shift = i * step - 0.35 if len(names) > 1 else 0
            y = np.array([at[row.by, row.group] for row in part.itertuples()]) + shift
            axis.hlines(y, part["low"], part["high"], color=style.PALETTE[i % 7], linewidth=1.6)
            axis.plot(part["difference"], y, style.MARKERS[i % 8], color=style.PALETTE[i % 7], markersize=4.5)
        axis.set_yticks(range(len(at)), [f"{_group(row.by, row.group)}, n = {row.n_target}"
                                         for row in lines[place].itertuples()])
        axis.set_ylim(len(at) - 0.5, -0.5)
        axis.axvline(0, color="0.3", linewidth=1)
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        axis.set_title(place, loc="left", fontsize=9)
        for edge in np.arange(1, len(at)) - 0.5:
            axis.axhline(edge, color="0.92", linewidth=0.8, zorder=0)
    axes[-1, 0].set(xlabel=f"{HEADERS[metric]}, target minus the same group in the own study (95 % over patients)"
                            + ("\na device minus all of the study" if "device" in set(table["by"]) else ""))
    figure.legend(handles=[Line2D([], [], marker=style.MARKERS[i % 8], color=style.PALETTE[i % 7], markersize=4.5,
                                  label=row.paper_name) for i, row in enumerate(names.itertuples())],
                  loc="outside lower center", ncols=4)
    return style.titled(figure, "Where the score changes", label)


def cases(target: Target, scores: pd.DataFrame, ensembles: pd.DataFrame, maps: dict[str, np.ndarray], threshold: float,
          label: str) -> Figure:
    """Errors of the fold ensembles on three cases of one target, chosen by rule (quartile_cases).

    scores, ensembles: cross_centre.at_target of the runs and of the ensembles; maps: {system: (n, S, S)} ensembles.
    """
    chosen = quartile_cases(scores[scores["target"] == target.label])
    panels = chosen.merge(ensembles[ensembles["target"] == target.label], on="case_id")
    found = {(system, case): probabilities for system in maps
             for case, probabilities in zip(target.cases["case_id"], maps[system], strict=True)}
    title = f"Fold ensembles at {target.label}\n{textwrap.fill(label, 95)}"
    return error_grid(target.prepared, panels, found, threshold, title)


def _group(by: str, group: str) -> str:
    return textwrap.fill(f"{by} {group}" if by == "BI-RADS" else str(group), 30)
