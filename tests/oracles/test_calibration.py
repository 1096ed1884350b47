"""Calibration a second time, pixel by pixel: ECE, reliability bins, NLL, Brier score and the temperature of a run.

docs/protocol.md, "Calibration, contours, detection": a calibrated probability p of lesion is right for a share p of
pixels; 15 bins of equal width, weighted by pixels; probabilities clipped to [2⁻¹², 1 − 2⁻¹²]; one temperature per run,
of least negative log-likelihood over its training images.
"""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar

from xbuslib.analyses.calibration import reliability
from xbuslib.evaluation import calibration


def clipped(probabilities):
    return np.clip(np.asarray(probabilities, np.float16).astype(float).ravel(), 2.0**-12, 1 - 2.0**-12)


def softened(p, temperature):
    return 1 / (1 + np.exp(-np.log(p / (1 - p)) / temperature))


def bins_of(p, y):
    """Of each of 15 bins: pixels, sum of probabilities, number of lesion pixels."""
    table = [[0, 0.0, 0] for _ in range(15)]
    for one, label in zip(p.tolist(), y.ravel().tolist(), strict=True):
        entry = table[min(14, math.floor(one * 15))]
        entry[0], entry[1], entry[2] = entry[0] + 1, entry[1] + one, entry[2] + label
    return table


def ece_of(p, y):
    return sum(n * abs(total / n - lesion / n) for n, total, lesion in bins_of(p, y) if n) / len(p)


def nll_of(p, y):
    return float(np.mean(np.where(y.ravel(), -np.log(p), -np.log(1 - p))))


def brier_of(p, y):
    return float(np.mean((p - y.ravel()) ** 2))


def best_temperature(p, y):
    """The least NLL on a grid of temperatures from 1/20 to 20, refined between the neighbours of the best."""
    grid = np.exp(np.linspace(-math.log(20), math.log(20), 121))
    costs = [nll_of(np.clip(softened(p, t), 1e-15, 1 - 1e-15), y) for t in grid]
    best = int(np.argmin(costs))
    ends = grid[max(0, best - 1)], grid[min(120, best + 1)]
    return minimize_scalar(lambda t: nll_of(softened(p, t), y), bounds=ends, method="bounded").x


def pixels(n=4000, temperature=1.0, seed=0):
    """Half-precision maps of a system whose logits are `temperature` times too large, and which pixels are lesion."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, (2, n // 2))
    lesion = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return (1 / (1 + np.exp(-logits * temperature))).astype(np.float16), lesion


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_scores_pixel_by_pixel(spread):
    maps, lesion = pixels(temperature=spread)
    maps[0, :40], maps[1, :40] = 0, 1  # half precision rounds to both ends
    counted, p = calibration.counts(maps, lesion), clipped(maps)
    assert calibration.ece(counted) == pytest.approx(ece_of(p, lesion), abs=1e-9)
    for t in (1.0, 0.6, 2.5):
        found, scaled = calibration.scores(counted, t), softened(p, t)
        assert found["ece"] == pytest.approx(ece_of(scaled, lesion), abs=1e-9)
        assert found["nll"] == pytest.approx(nll_of(scaled, lesion), abs=1e-9)
        assert found["brier"] == pytest.approx(brier_of(scaled, lesion), abs=1e-9)


def test_reliability_bins_by_hand():
    maps, lesion = pixels(n=600)
    maps[maps > 0.8] = 0.8  # the last bins stay empty
    table = calibration.reliability(calibration.counts(maps, lesion))
    assert len(table) == 15
    for number, (row, (n, total, hits)) in enumerate(zip(table.itertuples(), bins_of(clipped(maps), lesion),
                                                         strict=True)):
        assert (row.low, row.high) == pytest.approx((number / 15, (number + 1) / 15)) and row.pixels == n
        if n:
            assert (row.probability, row.lesion) == pytest.approx((total / n, hits / n), abs=1e-9)
        else:
            assert math.isnan(row.probability) and math.isnan(row.lesion)
    assert table["pixels"].iloc[-1] == 0 and table["pixels"].sum() == 600


@pytest.mark.parametrize("spread", [0.4, 1.0, 2.5])
def test_the_temperature_is_that_of_least_nll(spread):
    maps, lesion = pixels(temperature=spread)
    found = calibration.fit_temperature(calibration.counts(maps, lesion))
    assert found == pytest.approx(best_temperature(clipped(maps), lesion), rel=2e-3)
    assert found == pytest.approx(spread, rel=0.15), "what made the logits too large is undone"


def test_lesion_region_is_half_a_box_wider_on_each_side():
    lesion = np.zeros((20, 30), bool)
    lesion[8:12, 10:20] = np.eye(4, 10, dtype=bool) | np.eye(4, 10, 6, dtype=bool)  # a box 4 high and 10 wide
    wanted = np.zeros_like(lesion)
    wanted[6:14, 5:25] = True
    assert np.array_equal(calibration.lesion_region(lesion), wanted)
    corner, wanted = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    corner[0, 0] = wanted[:2, :2] = True  # one pixel at least, cut at the frame
    assert np.array_equal(calibration.lesion_region(corner), wanted)
    assert not calibration.lesion_region(np.zeros((6, 6), bool)).any()


# ---- through a small study, as notebook 12 does -----------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory, phantom_root):
    """A UNet of 32 pixels on two folds, trained until its maps say something of the lesion."""
    from xbuslib.config import resolve
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source
    from xbuslib.runs.study import open_study
    from xbuslib.runs.trained import every_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(tmp_path_factory.mktemp("calibrated")))
        config = resolve("smoke", {"iterations": 25, "folds": 2, "learning_rate": 5e-3, "image_size": 32})
        source = open_source("phantom", phantom_root, None, config, "calibrated")
        for fold in (0, 1):
            run_fold("unet", fold, config, source, study="calibrated")
        opened = open_study("calibrated")
        table = opened.case_table(str(phantom_root))
        return SimpleNamespace(study=opened, table=table, runs=list(every_run(opened, table)))


def reference(study, ids):
    """(n, 32, 32) masks of cases, read from the files (one a case in the phantom), nearest neighbour."""
    files = study.table.set_index("case_id")
    small = []
    for case in ids:
        mask = np.asarray(Image.open(files.loc[case, "mask"]).convert("L")) > 127
        small.append(np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((32, 32), Image.NEAREST)) > 0)
    return np.stack(small)


def test_a_runs_temperature_is_fitted_on_its_training_lesions(study):
    for run in study.runs:
        maps, masks = clipped(run.training), reference(study, run.training_ids)
        found = reliability.fit(study.study, run)
        assert found["temperature"] == pytest.approx(best_temperature(maps, masks), rel=2e-3)
        assert (found["system"], found["fold"], found["seed"]) == ("unet", run.fold, 0)
        assert abs(math.log(best_temperature(maps, ~masks) / found["temperature"])) > 0.5, \
            "on inverted masks another one would come out"
        assert 1 / 19 < found["temperature"] < 19


def test_no_validation_image_takes_part_in_the_fit(study):
    validated = {who["fold"]: set(ids) for who, ids, *_ in reliability.validated(study.study)}
    lesions = set(study.table.loc[study.table["pathology"] != "normal", "case_id"])
    for run in study.runs:
        assert set(run.training_ids) == lesions - validated[run.fold]
    assert validated[0] | validated[1] == lesions and not validated[0] & validated[1]


def test_scores_before_and_after_on_validation_images(study):
    temperatures = pd.DataFrame([reliability.fit(study.study, run) for run in study.runs])
    found = reliability.score(study.study, temperatures)
    boxes = {"whole image": lambda mask: np.ones_like(mask), "lesion region": calibration.lesion_region}
    maps_of = {who["fold"]: (ids, maps) for who, ids, maps, _ in reliability.validated(study.study)}
    assert len(found.rows) == 8  # two folds, two regions, before and after
    for row in found.rows.itertuples():
        ids, maps = maps_of[row.fold]
        masks = reference(study, ids)
        inside = np.stack([boxes[row.region](mask) for mask in masks])
        temperature = temperatures.loc[temperatures["fold"] == row.fold, "temperature"].item()
        p, y = clipped(maps[inside]), masks[inside]
        p = softened(p, temperature) if row.state == "after" else p
        assert row.temperature == temperature
        assert row.ece == pytest.approx(ece_of(p, y), abs=1e-7)
        assert row.nll == pytest.approx(nll_of(p, y), abs=1e-7)
        assert row.brier == pytest.approx(brier_of(p, y), abs=1e-7)
        bins = found.bins[(found.bins["fold"] == row.fold) & (found.bins["region"] == row.region)
                          & (found.bins["state"] == row.state)]
        assert bins["pixels"].tolist() == [n for n, *_ in bins_of(p, y)]
    after = found.rows[(found.rows["region"] == "lesion region") & (found.rows["state"] == "after")]
    table = reliability.summary(found, "lesion region")
    assert table["ece after"].item() == pytest.approx(after["ece"].mean(), abs=1e-9)
    assert table["ece after_sd"].item() == pytest.approx(after["ece"].std(ddof=1), abs=1e-9)
    assert table["temperature"].item() == pytest.approx(temperatures["temperature"].mean(), abs=1e-9)


def test_bins_of_all_folds_are_pooled_by_pixels(study):
    temperatures = pd.DataFrame([reliability.fit(study.study, run) for run in study.runs])
    pooled = reliability.pooled(reliability.score(study.study, temperatures).bins)
    before = pooled[(pooled["region"] == "whole image") & (pooled["state"] == "before")]
    p, y = [], []
    for _, ids, maps, _ in reliability.validated(study.study):
        p.append(clipped(maps))
        y.append(reference(study, ids).ravel())
    for row, (n, total, lesion) in zip(before.itertuples(), bins_of(np.concatenate(p), np.concatenate(y)), strict=True):
        assert row.pixels == n
        if n:
            assert (row.probability, row.lesion) == pytest.approx((total / n, lesion / n), abs=1e-9)


def test_dice_by_threshold(study):
    swept = reliability.sweep(study.study)
    assert sorted(swept["threshold"].unique()) == pytest.approx(np.arange(1, 20) / 20)
    for who, ids, maps, _ in reliability.validated(study.study):
        masks = reference(study, ids)
        for threshold in (0.3, 0.5, 0.75):
            cut = maps.astype(float) >= threshold
            dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(cut, masks, strict=True)]
            row = swept[(swept["fold"] == who["fold"]) & np.isclose(swept["threshold"], threshold)]
            assert row["dice"].item() == pytest.approx(np.mean(dice), abs=1e-6)
