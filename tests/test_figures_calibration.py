"""Figures of notebook 12: what is drawn is what was computed, and twelve long names stay readable."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.test_figures_study import LABEL, overlaps
from xbuslib.analyses.calibration import boundaries_figures, detection, figures, pictures, reliability
from xbuslib.evaluation import calibration
from xbuslib.models import registry
from xbuslib.runs import record
from xbuslib.runs.trained import NewPredictions

NAMES = {name: entry.paper for name, entry in registry.REGISTRY.items()}


def made_up(folds, row):
    """A row (or several, as a frame) per system and fold from row(rng)."""
    rng = np.random.default_rng(0)
    return pd.concat([row(rng).assign(system=name, paper_name=paper, fold=fold, seed=0)
                      for name, paper in NAMES.items() for fold in range(folds)], ignore_index=True)


@pytest.fixture(scope="module")
def bins():
    def both(rng):
        probabilities = rng.beta(0.3, 0.5, 4000)
        counted = calibration.counts(probabilities, rng.random(4000) < probabilities**1.5)
        return pd.concat([calibration.reliability(counted, calibration.scaled(t)).assign(state=state)
                          for state, t in zip(reliability.STATES, (1, 2.0), strict=True)])
    return made_up(3, both).assign(region="lesion region")


def test_reliability_draws_the_pooled_bins(bins):
    figure = figures.reliability(bins, "lesion region", LABEL)
    assert overlaps(figure) == []
    upper = next(axis for axis in figure.axes if axis.get_title() == NAMES["ukan"])
    pooled = reliability.pooled(bins).query("system == 'ukan' and state == 'after'")
    lines = [line for line in upper.lines if line.get_linewidth() == 1.6]
    assert np.allclose(lines[1].get_xdata(), pooled["probability"])
    assert np.allclose(lines[1].get_ydata(), pooled["lesion"])
    assert len([line for line in upper.lines if line.get_linewidth() == 0.6]) == 3  # folds


def test_sweep_draws_the_mean_over_folds():
    rows = made_up(5, lambda rng: pd.DataFrame({"threshold": reliability.THRESHOLDS,
                                                "dice": np.sort(rng.uniform(size=19))[::-1]}))
    figure = figures.sweep(rows, 0.5, LABEL)
    assert overlaps(figure) == []
    axis = next(axis for axis in figure.axes if axis.get_title() == NAMES["bussam"])
    mean = rows[rows["system"] == "bussam"].groupby("threshold")["dice"].mean()
    drawn = next(line for line in axis.lines if line.get_linewidth() == 2)
    assert np.allclose(drawn.get_ydata(), mean) and list(axis.lines[0].get_xdata()) == [0.5, 0.5]


@pytest.mark.parametrize("silent", [False, True], ids=["some", "no component at all"])
def test_froc_ends_at_the_study_s_threshold(silent):
    images = made_up(2, lambda rng: pd.DataFrame({
        "case_id": [f"c{i}" for i in range(5)], "normal": [False] * 4 + [True], "lesions": [1] * 4 + [0], "found": 0,
        "false_positives": 0}))
    parts = made_up(2, lambda rng: pd.DataFrame({
        "case_id": rng.choice(["c0", "c1", "c2", "c3"], 6), "normal": False, "score": rng.uniform(0.5, 1, 6),
        "hit": rng.random(6) < 0.5}))
    curves = detection.curves(detection.Detections(images, parts.iloc[:0] if silent else parts))
    figure = figures.froc(curves, LABEL)
    assert overlaps(figure) == []
    axis = next(axis for axis in figure.axes if axis.get_title() == NAMES["unet"])
    dot = next(line for line in axis.lines if line.get_marker() == "o")
    last = curves[curves["system"] == "unet"].iloc[-1]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (last["false_positives"], last["sensitivity"])


def contours(rng):
    empty = rng.random(12) < 0.2
    return pd.DataFrame({"case_id": range(12), "pixel_mm": 0.1, "empty": empty,
                         "nsd": np.where(empty, 0, rng.random(12)), "hd95": np.where(empty, 70, rng.uniform(0, 9, 12)),
                         "assd": np.where(empty, 70, rng.uniform(0, 3, 12))})


def test_distances_tell_found_from_penalised():
    rows = made_up(5, contours)
    figure = boundaries_figures.distances(rows, LABEL)
    assert overlaps(figure) == []
    points, part = figure.axes[0].collections[0], rows[rows["system"] == "xbusnet"]
    own = np.rint(points.get_offsets()[:, 1]) == list(NAMES).index("xbusnet")
    hollow = (points.get_facecolors()[:, :3] == 1).all(axis=1)
    assert own.sum() == len(part) and list(points.get_offsets()[own & hollow, 0]) == [70] * part["empty"].sum()
    assert sorted(points.get_offsets()[own, 0]) == sorted(part["hd95"])
    assert boundaries_figures.distances(rows.assign(pixel_mm=np.nan), LABEL) is None


@pytest.mark.parametrize("least, most", [(2.1, 4.6), (3.2, 8.0), (0.02, 70), (0.9, 11)])
def test_distances_have_ticks_that_can_be_read(least, most):
    rows = made_up(1, contours).assign(empty=False)
    rows["hd95"] = np.linspace(least, most, len(rows))
    figure = boundaries_figures.distances(rows, LABEL)
    assert overlaps(figure) == []
    low, high = figure.axes[0].get_xlim()
    assert sum(low <= tick <= high for tick in figure.axes[0].get_xticks()) >= 2


def test_distances_of_several_seeds_are_one_point_per_image():
    first = made_up(1, contours)
    second = first.assign(seed=1, hd95=first["hd95"] + 1, empty=False)
    figure = boundaries_figures.distances(pd.concat([first, second]), LABEL)
    drawn = np.asarray(figure.axes[0].collections[0].get_offsets())[:, 0]
    assert sorted(drawn) == pytest.approx(sorted(first["hd95"] + 0.5))
    assert not (figure.axes[0].collections[0].get_facecolors()[:, :3] == 1).all(axis=1).any()  # something was predicted


def test_false_area_draws_every_fold_and_image():
    rows = made_up(5, lambda rng: pd.DataFrame({"case_id": [f"case{i}" for i in (45, 61, 209, 213)],
                                                "false_percent": rng.uniform(0, 8, 4) * (rng.random(4) < 0.5)}))
    figure = boundaries_figures.false_area(rows, LABEL)
    assert overlaps(figure) == []
    drawn = np.concatenate([line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 60])
    assert sorted(drawn) == pytest.approx(sorted(rows["false_percent"]))
    assert boundaries_figures.false_area(rows.iloc[:0], LABEL) is None


@pytest.mark.parametrize("normals, entries", [(2, ["case0", "case1", "mean"]), (133, ["normal image", "mean"])])
def test_many_normal_images_share_an_entry_of_the_legend(normals, entries):
    rows = made_up(1, lambda rng: pd.DataFrame({"case_id": [f"case{i}" for i in range(normals)],
                                                "false_percent": rng.uniform(0, 8, normals)}))
    figure = boundaries_figures.false_area(rows, LABEL)
    assert overlaps(figure) == []
    assert [text.get_text() for text in figure.legends[0].texts] == entries


def test_normal_images_are_marked_at_a_threshold_that_half_precision_rounds():
    """0.4 is 0.3999 in half precision, and so is what lies just below it."""
    maps = np.full((1, 8, 8), 0.39995, np.float32)
    maps[0, :2] = 0.4  # a quarter
    run = NewPredictions("unet", "UNet", 0, 0, [], maps[:0], ["n"], record.halved(maps, 0.4))
    study = SimpleNamespace(
        facts={"config": {"threshold": 0.4}}, default=pd.DataFrame({"system": ["unet"], "paper_name": ["UNet"]}),
        prepared=SimpleNamespace(masks=np.zeros((1, 8, 8), bool), images=np.zeros((1, 8, 8), np.uint8),
                                 rows=lambda ids: [0]), label_of_maps=LABEL)
    assert pictures.on_normal_images(study, [run]).axes[1].get_xlabel() == "25.0% of the frame"
