"""Figures of a study: what is drawn is what was computed, and twelve long names stay readable."""

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.performance import figures, paper_tables
from xbuslib.analyses.performance.comparisons import compare_all
from xbuslib.display import style
from xbuslib.evaluation import statistics
from xbuslib.evaluation.aggregation import fold_means
from xbuslib.models import registry

LABEL = ("simulated phantom, profile quick, 96 px, 200 iterations, CLIP random, ResNet-18 random, SAM random, "
         "5 folds, seed 0")


@pytest.fixture(scope="module")
def rows():
    """All twelve systems of the registry, five folds of six images, made up."""
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        {"system": name, "paper_name": entry.paper, "policy": "none", "attributes": "none", "fold": fold, "seed": 0,
         "case_id": f"case{fold}{i}", "patient_id": f"case{fold}{i}", "dice": rng.uniform(), "iou": rng.uniform()}
        for name, entry in registry.REGISTRY.items() for fold in range(5) for i in range(6)])


@pytest.fixture(scope="module")
def tests(rows):
    found = pd.concat([pd.DataFrame([statistics.compare(rows, "xbusnet", name, metric)
                                     for name in registry.names() if name != "xbusnet"]) for metric in ("dice", "iou")])
    return found.assign(p_holm=found["p"], against_name=[registry.REGISTRY[name].paper for name in found["against"]])


def overlaps(figure):
    """Pairs of drawn texts whose boxes overlap, after layout."""
    figure.draw_without_rendering()
    texts = [text for text in (figure._suptitle, figure._supxlabel, figure._supylabel) if text is not None]
    texts += [text for legend in figure.legends for text in legend.texts]
    for axis in figure.axes:
        texts += [*axis.texts, axis.title] + [part.label for part in (axis.xaxis, axis.yaxis)] if axis.axison else []
        for part in (axis.xaxis, axis.yaxis):
            low, high = sorted(part.get_view_interval())
            texts += [tick.label1 for tick in [*part.get_major_ticks(), *part.get_minor_ticks()]
                      if low <= tick.get_loc() <= high]
    texts = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent().padded(-1) for text in texts]
    return [(a.get_text(), b.get_text()) for i, a in enumerate(texts) for j, b in enumerate(texts[:i])
            if boxes[i].overlaps(boxes[j])]


def drawn(axis, marker):
    """x of everything drawn with a marker, line by line."""
    return [np.asarray(line.get_xdata()) for line in axis.lines if line.get_marker() == marker]


def sized(rows):
    sides = {case: 60 + 12 * i for i, case in enumerate(rows["case_id"].unique())}
    return rows.assign(size=rows["case_id"].map(sides))


def test_distribution_draws_every_image_and_fold_mean(rows):
    figure = figures.distribution(rows, LABEL)
    axis = figure.axes[0]
    points, diamonds = axis.collections[0].get_offsets(), next(line for line in axis.lines if line.get_marker() == "D")
    boxes = [line.get_xdata() for line in axis.lines if line.get_linewidth() == 2]
    means = fold_means(rows, ["system"], ["dice"])
    for i, name in enumerate(registry.names()):
        own = rows[rows["system"] == name]
        assert sorted(points[np.rint(points[:, 1]) == i, 0]) == sorted(own["dice"])
        assert sorted(diamonds.get_xdata()[diamonds.get_ydata() == i]) == pytest.approx(
            sorted(means.loc[means["system"] == name, "dice"]))
        assert list(boxes[i]) == pytest.approx([own["dice"].median()] * 2)
    assert [t.get_text().replace("\n", " ") for t in figure.axes[0].get_yticklabels()] == [
        entry.paper for entry in registry.REGISTRY.values()]
    assert overlaps(figure) == []


def test_fold_spread_pairs_within_folds(rows):
    figure = figures.fold_spread(rows, LABEL)
    table = rows.groupby(["system", "fold"])["dice"].mean().unstack("fold")
    first_fold = drawn(figure.axes[1], style.MARKERS[0])[0]
    lead = [np.nan if name == "xbusnet" else table.loc["xbusnet", 0] - table.loc[name, 0] for name in registry.names()]
    assert first_fold == pytest.approx(lead, nan_ok=True)  # nothing beside itself
    assert drawn(figure.axes[0], "|")[0] == pytest.approx([table.loc[name].mean() for name in registry.names()])
    assert overlaps(figure) == []
    alone = figures.fold_spread(rows[rows["system"] == "unet"], LABEL)
    assert len(alone.axes) == 1


def test_seeds_are_drawn_where_there_are_several(rows):
    assert figures.seed_spread(rows, LABEL) is None
    figure = figures.seed_spread(pd.concat([rows, rows.assign(seed=1, dice=rows["dice"] / 2)]), LABEL)
    (whole,), (half,) = drawn(figure.axes[0], "o"), drawn(figure.axes[0], "s")
    assert len(whole) == 12 and whole == pytest.approx(2 * half)
    assert overlaps(figure) == []


def test_forest_draws_intervals_and_names_their_p(tests):
    figure = figures.forest(tests, LABEL)
    for axis, metric in zip(figure.axes, ("dice", "iou"), strict=True):
        part = tests[tests["metric"] == metric]
        assert np.ravel(drawn(axis, "o")) == pytest.approx(part["mean_difference"].to_numpy())
        bars = [x for x in drawn(axis, "None") if x[0] != x[1]]
        assert bars == pytest.approx(part[["low", "high"]].to_numpy())
        assert len(axis.texts) == 11 and all(" r = " in text.get_text() for text in axis.texts)
    assert figure._suptitle.get_text().startswith("XBusNet minus")
    assert overlaps(figure) == []
    assert "Nothing to compare" in figures.forest(tests.iloc[:0], LABEL)._suptitle.get_text()


def test_a_curve_through_a_line_is_the_line():
    size = pd.Series(np.geomspace(50, 500, 60))
    score, grid = 0.2 + 0.1 * np.log(size / 50), np.array([60.0, 100.0, 400.0])
    for line in figures.curve(size, score, grid, size.index):
        assert line == pytest.approx(0.2 + 0.1 * np.log(grid / 50), abs=1e-9)


def test_the_band_holds_the_curve_and_stays_within_the_scale():
    rng = np.random.default_rng(0)
    size = pd.Series(rng.uniform(50, 500, 80))
    middle, low, high = figures.curve(size, pd.Series(rng.integers(0, 2, 80) * 1.0), np.geomspace(50, 500, 9),
                                      size.index)
    assert (low < middle).all() and (middle < high).all() and low.min() >= 0 and high.max() <= 1
    assert (high - low).max() < 0.8


def test_the_band_resamples_patients_with_all_of_their_images():
    """Of one patient with forty images every resample is the same; forty patients spread."""
    rng = np.random.default_rng(0)
    size, score = pd.Series(rng.uniform(50, 500, 40)), pd.Series(rng.integers(0, 2, 40) * 1.0)
    grid = np.geomspace(60, 400, 5)
    middle, low, high = figures.curve(size, score, grid, pd.Series(["one"] * 40))
    assert low == pytest.approx(middle, abs=1e-9) and high == pytest.approx(middle, abs=1e-9)
    _, low, high = figures.curve(size, score, grid, pd.Series(range(40)))
    assert (high - low > 0.1).all()


def test_size_curves_draw_the_band_of_patients(rows):
    """The same sizes and scores, once of one patient."""
    own = sized(rows[rows["system"] == "unet"])
    widths = [np.ptp(figures.size_curves(table, LABEL).axes[0].collections[0].get_paths()[0].vertices[:, 1])
              for table in (own, own.assign(patient_id="one"))]
    assert widths[0] > widths[1]


def test_size_curves_have_a_panel_per_system(rows):
    figure = figures.size_curves(sized(rows), LABEL)
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes]
    assert titles == [entry.paper for entry in registry.REGISTRY.values()]
    assert sorted(drawn(figure.axes[0], ".")[0]) == sorted(sized(rows)["size"].unique())
    assert overlaps(figure) == []
    narrow = figures.size_curves(sized(rows[rows["system"].isin(["uresnet", "xbusnet"])]), LABEL)
    assert overlaps(narrow) == []


def test_missed_lesions_are_counted_in_their_bin(rows):
    table = pd.DataFrame([(name, size, i, 7 if size != "> 250" else 0) for i, name in enumerate(registry.names()[:5])
                          for size in ("≤ 110", "111–250", "> 250")], columns=["system", "bin", "missed", "n"])
    table["paper_name"] = [registry.REGISTRY[name].paper for name in table["system"]]
    table = table.sample(frac=1, random_state=0).sort_values("bin", kind="stable")  # order of rows must not matter
    figure = figures.missed_map(table, LABEL)
    texts = {(int(text.get_position()[1]), text.get_text()) for text in figure.axes[0].texts}
    assert {(i, f"{i} of 7") for i in range(5)} | {(i, "none") for i in range(5)} == texts
    shown = figure.axes[0].collections[0].get_array()
    assert shown[4].max() == pytest.approx(4 / 7) and shown[0].max() == 0


def test_ablations_draw_the_interaction(rows):
    own = rows[rows["system"].isin(paper_tables.ABLATIONS)]
    figure = figures.ablations(own, LABEL)
    mean = {name: group.groupby("fold")["dice"].mean().mean() for name, group in own.groupby("system")}
    thick = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines if line.get_linewidth() > 2}
    assert thick["with LFE"] == pytest.approx([mean["xbusnet"], mean["xbusnet-no-sfa"]])
    assert thick["without LFE"] == pytest.approx([mean["xbusnet-no-lfe"], mean["xbusnet-no-lfe-no-sfa"]])
    assert overlaps(figure) == []
    some = figures.ablations(own[own["system"] != "xbusnet-no-lfe"], LABEL)
    assert "without LFE (not complete)" in {line.get_label() for line in some.axes[1].lines}


def test_figures_of_near_random_predictions(smoke_study):
    """Two folds, many a Dice of 0: everything is drawn all the same."""
    rows = smoke_study.default
    for figure in (figures.distribution(rows, LABEL), figures.fold_spread(rows, LABEL),
                   figures.forest(compare_all(smoke_study), LABEL),
                   figures.size_curves(paper_tables.sized(smoke_study, "pixels"), LABEL),
                   figures.missed_map(paper_tables.table_2(smoke_study), LABEL),
                   figures.ablations(rows[rows["system"].isin(paper_tables.ABLATIONS)], LABEL),
                   figures.effects(statistics.interaction(rows), LABEL)):
        figure.draw_without_rendering()
        assert "simulated phantom" in style.footer(figure)
    assert figures.ablations(rows[rows["system"] == "unet"].iloc[:0], LABEL) is not None
