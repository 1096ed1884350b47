"""Pictures of a whole study: scores by system, fold and seed, paired differences, lesion size, ablations.

`rows` are per-image rows of default scorings (Study.default). Images, folds and seeds are each drawn as what they are:
points are images or folds, never a mixture, and seeds are averaged unless they are the subject.
"""

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from statsmodels.nonparametric.smoothers_lowess import lowess

from xbuslib.analyses.performance.sentences import p_value
from xbuslib.data.catalogue import SIZE_BINS
from xbuslib.display import style
from xbuslib.display.strips import strips
from xbuslib.display.style import OTHER, OWN
from xbuslib.display.tables import HEADERS, signed
from xbuslib.evaluation.aggregation import fold_means
from xbuslib.evaluation.statistics import drawn_rows
from xbuslib.models import registry
from xbuslib.runs.study import system_names

RESAMPLES = 200  # of the band around a curve
SPAN = 0.75  # share of the images that each point of a curve is fitted to


def distribution(rows: pd.DataFrame, label: str, metric: str = "dice", system: str = "xbusnet") -> Figure:
    """Per-image scores by system: points and boxes (quartiles; whiskers to 1.5 interquartile ranges), fold means."""
    names = system_names(rows)
    scores = rows.groupby(["system", "case_id"])[metric].mean().reset_index()
    means = fold_means(rows, ["system"], [metric])
    figure, axis = style.subplots(size=(7.5, 0.42 * len(names) + 1.5))
    strips(axis, scores[metric], scores["system"], names, np.where(scores["system"] == system, OWN, OTHER))
    axis.plot(means[metric], means["system"].map(list(names).index), "D", color="white", markeredgecolor="black",
              markersize=5, zorder=4)
    axis.set(xlabel=f"{HEADERS[metric]} per image", xlim=(-0.03, 1.03))
    axis.grid(axis="x")
    points = [Line2D([], [], marker=".", linestyle="", color=colour, label=label) for colour, label, there in
              ((OTHER, "image", True), (OWN, f"image, {names.get(system)}", system in names)) if there]
    figure.legend(handles=[*points,
                           Line2D([], [], color="black", linewidth=2, label="median, in the box of the quartiles"),
                           Line2D([], [], marker="D", linestyle="", color="white", markeredgecolor="black",
                                  label="mean of a fold")], loc="outside lower center", ncols=4)
    return style.titled(figure, f"{HEADERS[metric]} of every image", label)


def fold_spread(rows: pd.DataFrame, label: str, metric: str = "dice", system: str = "xbusnet") -> Figure:
    """Fold means by system, and within each fold the lead of `system` over the others.

    What moves all systems of a fold together on the left cancels on the right.
    """
    names, means = system_names(rows), fold_means(rows, ["system"], [metric])
    panels = {f"mean {HEADERS[metric]} of a fold": means}
    if system in names and len(names) > 1:
        others = means[means["system"] != system]
        lead = others["fold"].map(means[means["system"] == system].set_index("fold")[metric]) - others[metric]
        panels[f"{names[system]} minus the other, in {HEADERS[metric]}, same fold"] = others.assign(**{metric: lead})
    figure, axes = style.subplots(1, len(panels), size=(9.0 if len(panels) > 1 else 6.5, 0.38 * len(names) + 1.6),
                                  sharey=True, squeeze=False)
    for axis, (xlabel, table) in zip(axes[0], panels.items(), strict=True):
        _spread(axis, table, names, metric, means["fold"])
        axis.set(xlabel=xlabel)
    for axis in axes[0, 1:]:
        axis.axvline(0, color="0.3", linewidth=1)
        axis.tick_params(left=False)
    _spread_legend(figure, axes[0, 0], means["fold"])
    return style.titled(figure, "Spread between folds", label)


def seed_spread(rows: pd.DataFrame, label: str, metric: str = "dice") -> Figure | None:
    """The mean over folds of each seed, by system; None where there is one seed."""
    if rows["seed"].nunique() < 2:
        return None
    names = system_names(rows)
    means = rows.groupby(["system", "seed", "fold"])[metric].mean().groupby(["system", "seed"]).mean().reset_index()
    figure, axis = style.subplots(size=(6.5, 0.38 * len(names) + 1.5))
    _spread(axis, means, names, metric, means["seed"])
    axis.set(xlabel=f"mean {HEADERS[metric]} over folds")
    _spread_legend(figure, axis, means["seed"])
    return style.titled(figure, "Spread between seeds", label)


def _spread(axis: Axes, table: pd.DataFrame, names: dict[str, str], metric: str, each: pd.Series) -> None:
    """By system a bar at the mean, and a mark for each fold or seed: `each`, those of the whole figure."""
    shared = {"data": table, "x": metric, "y": "system", "order": list(names), "linestyle": "none", "errorbar": None,
              "legend": False, "ax": axis}
    sns.pointplot(**shared, color="black", marker="|", markersize=15, markeredgewidth=2)
    values = sorted(each.unique())
    sns.pointplot(**shared, hue=each.name, hue_order=values, markersize=6, markeredgewidth=0, alpha=0.85,
                  palette=[style.PALETTE[i % 7] for i in range(len(values))],
                  markers=[style.MARKERS[i % len(style.MARKERS)] for i in range(len(values))])
    axis.grid(axis="both")
    axis.set(ylabel="")
    style.name_rows(axis, names.values())


def _spread_legend(figure: Figure, axis: Axes, each: pd.Series) -> None:
    labels = [f"mean over {each.name}s", *(f"{each.name} {value}" for value in sorted(each.unique()))]
    figure.legend(axis.lines, labels, loc="outside lower center", ncols=6)


def forest(tests: pd.DataFrame, label: str) -> Figure:
    """Mean paired differences with bootstrap 95 % intervals, a panel per metric (`comparisons.compare_all`)."""
    metrics, names = list(tests["metric"].unique()), dict(zip(tests["against"], tests["against_name"], strict=True))
    figure, axes = style.subplots(1, max(1, len(metrics)), size=(10, 0.42 * max(1, len(names)) + 1.5), sharey=True,
                                  squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        part = tests[tests["metric"] == metric]
        notes = [f"{p_value(row.p_holm)}, r = {signed(row.rank_biserial, 2)}" for row in part.itertuples()]
        _intervals(axis, part["mean_difference"], part["low"], part["high"], notes)
        axis.set(xlabel=f"difference in {HEADERS[metric]} per image (95 % interval)")
    style.name_rows(axes[0, 0], names.values())
    who = registry.entry(tests["system"].iloc[0]).paper if len(tests) else ""
    return style.titled(figure, f"{who} minus each other system; p adjusted by Holm, r rank-biserial" if who else
                        "Nothing to compare", label)


def size_curves(sized: pd.DataFrame, label: str, system: str = "xbusnet") -> Figure:
    """Dice against lesion length, a panel per system: images, local trend (lowess) and its bootstrap 95 % band.

    sized: `paper_tables.sized(study, "pixels")`. Lines mark the edges of Table 2's bins; the trend of `system`, dashed,
    is in every panel. The band is pointwise: it resamples patients.
    """
    names = system_names(sized)
    scores = sized.groupby(["system", "case_id"]).agg(size=("size", "first"), dice=("dice", "mean"),
                                                        patient=("patient_id", "first"))
    grid = np.geomspace(scores["size"].min(), scores["size"].max(), 40)
    curves = {name: curve(scores.loc[name, "size"], scores.loc[name, "dice"], grid, scores.loc[name, "patient"])
              for name in names}
    ticks = [t for t in (25, 50, 100, 200, 400, 800) if grid[0] * 0.9 <= t <= grid[-1] * 1.1]
    figure, panels = style.panels(names, "longest bounding-box side\n(original pixels, log scale)")
    for name, axis in panels.items():
        colour = OWN if name == system else OTHER
        middle, low, high = curves[name]
        axis.plot(scores.loc[name, "size"], scores.loc[name, "dice"], ".", color="0.55", markersize=3.5)
        axis.fill_between(grid, low, high, color=colour, alpha=0.25, linewidth=0)
        axis.plot(grid, middle, color=colour, linewidth=2)
        if system in curves and name != system:
            axis.plot(grid, curves[system][0], color=OWN, linewidth=1.2, linestyle="--")
        for edge in SIZE_BINS:
            axis.axvline(edge, color="0.7", linestyle=":", linewidth=1)
        axis.set(xscale="log", ylim=(-0.03, 1.03))
        axis.set_xticks(ticks, ticks)
        axis.minorticks_off()
    figure.supylabel("Dice per image", fontsize=9)
    lines = [Line2D([], [], color=OWN, linestyle="--", label=names[system])] if system in names else []
    figure.legend(handles=[*lines, Line2D([], [], color="0.7", linestyle=":", label="edges of Table 2's bins")],
                  loc="outside lower right", ncols=2)
    return style.titled(figure, "Dice by lesion size", label)


def curve(size: pd.Series, score: pd.Series, grid: np.ndarray,
          patients: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowess of `score` on log `size` at `grid`, and the ends of its pointwise bootstrap 95 % band, cut to [0, 1]."""
    x, y, at, rng = np.log(size.to_numpy()), score.to_numpy(), np.log(grid), np.random.default_rng(0)
    draws = [drawn_rows(patients, rng) for _ in range(RESAMPLES)]
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold too few sizes near a point: nan there
        middle = lowess(y, x, frac=SPAN, it=0, xvals=at)
        band = np.array([lowess(y[drawn], x[drawn], frac=SPAN, it=0, xvals=at) for drawn in draws])
    low, high = np.nanquantile(band, (0.025, 0.975), axis=0)
    return tuple(np.clip(line, 0, 1) for line in (middle, low, high))


def missed_map(table: pd.DataFrame, label: str) -> Figure:
    """Share of lesions without any overlap, by system and size bin, with the counts (`paper_tables.table_2`)."""
    names, bins = system_names(table), list(table["bin"].unique())
    cells = table.assign(share=(table["missed"] / table["n"].where(table["n"] > 0)).fillna(0),
                         text=[f"{row.missed:g} of {row.n}" if row.n else "none" for row in table.itertuples()])
    share, text = (cells.pivot(index="system", columns="bin", values=values).loc[list(names), bins]
                   for values in ("share", "text"))
    figure, axis = style.subplots(size=(6.2, 0.36 * len(names) + 1.6))
    sns.heatmap(share, annot=text, fmt="", cmap="Blues", vmin=0, vmax=max(0.4, 2 * share.max(axis=None)), cbar=False,
                annot_kws={"fontsize": 8.5, "color": "0.15"}, ax=axis,  # no cell too dark for its text
                xticklabels=[f"{name}\nn = {table.loc[table['bin'] == name, 'n'].max()}" for name in bins],
                yticklabels=[textwrap.fill(name, 24) for name in names.values()])
    axis.tick_params(length=0, rotation=0)
    unit = "" if "m" in bins[0] or "px" in bins[0] else " (original pixels)"
    axis.set(xlabel=f"longest bounding-box side{unit}", ylabel="")
    return style.titled(figure, "Missed lesions: no overlap at all", label)


def ablations(rows: pd.DataFrame, label: str, metric: str = "dice") -> Figure:
    """Left: fold means of the full model and its ablations. Right: what removing SFA does with and without LFE.

    Lines that are not parallel are an interaction. Thin lines are folds, those that both ends have. What is not in
    `rows` is not drawn.
    """
    names = system_names(rows)
    table = fold_means(rows, ["system"], [metric]).pivot(index="system", columns="fold", values=metric)
    figure, (left, right) = style.subplots(1, 2, size=(9.6, 3.9), width_ratios=(1.15, 1))
    for y, name in enumerate(names):
        left.plot(table.loc[name], [y] * table.shape[1], "D", color="white", markeredgecolor="0.35", markersize=5)
        left.errorbar(table.loc[name].mean(), y, xerr=table.loc[name].std(ddof=1), fmt="o", capsize=4, zorder=3,
                      color=OWN if name == "xbusnet" else OTHER)
    style.name_rows(left, names.values())
    left.set(xlabel=f"{HEADERS[metric]}: folds (diamonds), mean ± SD")
    left.grid(axis="x")
    for suffix, company, colour, marker in (("", "with LFE", OWN, "o"), ("-no-lfe", "without LFE", OTHER, "s")):
        pair = [f"xbusnet{suffix}", f"xbusnet{suffix}-no-sfa"]
        at = [x for x in (0, 1) if pair[x] in table.index]
        there = table.loc[[pair[x] for x in at]].dropna(axis=1)
        right.plot(at, there, color=colour, linewidth=0.7, alpha=0.5)
        right.plot(at, there.mean(axis=1), color=colour, marker=marker, linewidth=2.2,
                   label=company + (" (not complete)" if len(at) < 2 else ""))
    right.set_xticks((0, 1), ("with SFA", "without SFA"))
    right.set(xlim=(-0.25, 1.25), ylabel=f"{HEADERS[metric]}: mean over folds (thin: one fold)")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    right.grid(axis="y")
    return style.titled(figure, "Ablations", label)


def effects(table: pd.DataFrame, label: str) -> Figure:
    """The effects of `statistics.interaction` with their bootstrap 95 % intervals."""
    figure, axis = style.subplots(size=(7, 0.45 * max(1, len(table)) + 1.4))
    _intervals(axis, table["mean"], table["low"], table["high"], [f"n = {n}" for n in table["n"]])
    style.name_rows(axis, table["effect"])
    axis.set(xlabel="difference in Dice per image (95 % interval)")
    return style.titled(figure, "What SFA brings", label)


def _intervals(axis: Axes, mean: pd.Series, low: pd.Series, high: pd.Series, notes: list[str]) -> None:
    """Intervals from top to bottom around a line at zero, each with a note in a column of its own on the right."""
    for y, (m, a, b, note) in enumerate(zip(mean, low, high, notes, strict=True)):
        axis.plot([a, b], [y, y], color=OTHER, linewidth=2)
        axis.plot(m, y, "o", color=OTHER, markersize=5.5)
        axis.annotate(note, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(axis="x")
