"""Calibration against torchmetrics and scikit-learn, a temperature that is known, and numbers worked out by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error

from xbuslib.analyses.calibration import reliability, sentences
from xbuslib.errors import StudyError
from xbuslib.evaluation import calibration
from xbuslib.evaluation.calibration import RANGE, VALUES, counts


@pytest.fixture(scope="module")
def pixels():
    """Half-precision probabilities of 50 000 pixels, far from calibrated, and which of them are lesion."""
    rng = np.random.default_rng(0)
    probabilities = expit(rng.normal(-1, 3, 50_000)).astype(np.float16)
    return probabilities, rng.random(50_000) < 0.2 + 0.5 * probabilities.astype(float)


def clipped(probabilities):
    return np.clip(probabilities.astype(float), calibration.CLIP, 1 - calibration.CLIP)


def test_counts_hold_every_pixel_at_its_value():
    probabilities = np.array([[0, 0.25, 0.25], [1, 0.25, 0.5]], np.float16)
    lesion = np.array([[0, 0, 1], [1, 1, 0]], bool)
    counted = counts(probabilities, lesion)
    at = {value: int(np.flatnonzero(np.isclose(VALUES, value, rtol=0, atol=1e-9))[0]) for value in (0.25, 0.5)}
    assert counted.shape == (2, 15361) and counted.sum() == 6
    assert counted[:, at[0.25]].tolist() == [1, 2] and counted[:, at[0.5]].tolist() == [1, 0]
    assert counted[:, 0].tolist() == [1, 0] and counted[:, -1].tolist() == [0, 1]
    region = np.array([[1, 1, 0], [0, 0, 0]], bool)
    assert counts(probabilities, lesion, region).sum(axis=1).tolist() == [2, 0]


def test_minus_zero_is_zero():
    assert counts(np.array([-0.0, 0.0]), np.array([False, True]))[:, 0].tolist() == [1, 1]


@pytest.mark.parametrize("wrong", [np.nan, 1.1, -0.5, np.inf])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(StudyError, match=r"\[0, 1\]"):
        counts(np.array([0.5, wrong]), np.array([True, False]))


def test_ece_agrees_with_torchmetrics_and_scikit_learn(pixels):
    probabilities, lesion = pixels
    counted = counts(probabilities, lesion)
    ours = calibration.ece(counted)
    theirs = binary_calibration_error(torch.tensor(clipped(probabilities)), torch.tensor(lesion).long(), n_bins=15)
    assert ours == pytest.approx(theirs.item(), abs=1e-6) and ours > 0.1
    share, mean = calibration_curve(lesion, clipped(probabilities), n_bins=15, strategy="uniform")
    table = calibration.reliability(counted)
    assert np.allclose(table["lesion"], share) and np.allclose(table["probability"], mean)
    assert np.average(np.abs(share - mean), weights=table["pixels"]) == pytest.approx(ours, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.4])
def test_brier_and_nll_agree_with_scikit_learn(pixels, temperature):
    probabilities, lesion = pixels
    p = clipped(probabilities)
    p = expit(np.log(p / (1 - p)) / temperature)
    found = calibration.scores(counts(probabilities, lesion), temperature)
    assert found["brier"] == pytest.approx(brier_score_loss(lesion, p), abs=1e-12)
    assert found["nll"] == pytest.approx(log_loss(lesion, p), abs=1e-10)


def test_ece_by_hand():
    """Four pixels at 0.25 of which one is lesion, and two at 0.75 of which none is: (4·0 + 2·0.75) / 6."""
    counted = counts(np.array([0.25] * 4 + [0.75] * 2), np.array([1, 0, 0, 0, 0, 0], bool))
    assert calibration.ece(counted) == pytest.approx(0.25)
    table = calibration.reliability(counted)
    assert len(table) == 15 and table["pixels"].sum() == 6 and table["lesion"].isna().sum() == 13


@pytest.mark.parametrize("known", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(known):
    """Labels drawn with the probability sigmoid(z / T) of logits z: what calibrates sigmoid(z) is T."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 400_000)
    lesion = rng.random(400_000) < expit(logits / known)
    counted = counts(expit(logits), lesion)
    found = calibration.fit_temperature(counted)
    assert found == pytest.approx(known, rel=0.02)
    steps = [calibration.nll(counted, found * step) for step in (0.9, 1.0, 1.1)]
    assert steps[1] == min(steps)
    assert calibration.scores(counted, found)["ece"] < 0.01


def test_a_temperature_moves_no_pixel_over_one_half():
    for temperature in (1 / calibration.RANGE, 0.7, 5.0, calibration.RANGE):
        assert ((calibration.scaled(temperature) >= 0.5) == (VALUES >= 0.5)).all()


def test_hopeless_probabilities_end_at_the_edge_of_the_range():
    """Sure and wrong half of the time: no temperature is high enough."""
    counted = counts(np.array([0.99] * 50 + [0.01] * 50), np.array([1, 0] * 50, bool))
    assert calibration.fit_temperature(counted) == pytest.approx(calibration.RANGE, rel=1e-3)


def test_lesion_region_by_hand():
    lesion = np.zeros((40, 60), bool)
    lesion[10:14, 20:30] = True  # 4 × 10: margins of 2 and 5
    region = calibration.lesion_region(lesion)
    assert region.sum() == 8 * 20 and region[8:16, 15:35].all()
    corner = np.zeros((10, 10), bool)
    corner[0, 9] = True  # one pixel: a margin of one, cut at the frame
    assert calibration.lesion_region(corner).sum() == 4
    assert not calibration.lesion_region(np.zeros((5, 5), bool)).any()


def test_bins_of_folds_are_pooled_by_their_pixels():
    who = {"system": "unet", "paper_name": "U-Net", "seed": 0, "region": "whole image", "state": "before"}
    parts = [counts(np.array([0.25, 0.25]), np.array([True, True])), counts(np.array([0.25]), np.array([False]))]
    bins = pd.concat([calibration.reliability(part).assign(fold=fold, **who) for fold, part in enumerate(parts)])
    row = reliability.pooled(bins).set_index("low").loc[3 / 15]
    assert (row["pixels"], row["lesion"], row["probability"]) == (3, pytest.approx(2 / 3), pytest.approx(0.25))


# ---- on a study -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(smoke_study):
    return reliability.sweep(smoke_study)


def test_the_sweep_at_one_half_is_the_study_s_dice(smoke_study, swept):
    ours = swept[swept["threshold"] == 0.5].set_index(["system", "fold"])["dice"]
    theirs = smoke_study.default.groupby(["system", "fold"])["dice"].mean()
    assert len(ours) == len(theirs) == 12 and np.allclose(ours.sort_index(), theirs.sort_index())


def test_the_sweep_holds_the_threshold_of_the_study(smoke_study):
    """0.33 is between the thresholds that are always swept."""
    config = smoke_study.facts["config"] | {"threshold": 0.33}
    study = dataclasses.replace(smoke_study, facts=smoke_study.facts | {"config": config})
    found = reliability.sweep(study)
    who, _, maps, masks = next(reliability.validated(study))
    own = found[(found["system"] == who["system"]) & (found["fold"] == who["fold"]) & (found["threshold"] == 0.33)]
    assert own["dice"].item() == pytest.approx(np.mean([dice(a >= 0.33, b) for a, b in zip(maps, masks, strict=True)]))
    assert set(reliability.sweep_summary(found, 0.33)["system"]) == set(smoke_study.systems)


def dice(prediction, reference):
    return 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum() + 1e-8)


def test_the_summary_of_a_sweep_by_hand():
    rows = pd.DataFrame([{"system": "unet", "paper_name": "U-Net", "fold": fold, "seed": 0, "threshold": t, "dice": d}
                         for fold in (0, 1) for t, d in ((0.25, 0.6), (0.5, 0.5 + 0.1 * fold), (0.75, 0.595))])
    row = reliability.sweep_summary(rows, 0.5).iloc[0]
    assert row["dice"] == pytest.approx(0.55) and row["dice_sd"] == pytest.approx(0.1 / np.sqrt(2))
    assert row["highest_at"] == 0.25 and row["gain_there"] == pytest.approx(0.05)
    assert (row["flat_from"], row["flat_to"]) == (0.25, 0.25)  # between it and 0.75 the curve dips
    level = rows.assign(dice=rows["dice"].where(rows["threshold"] != 0.5, 0.597))
    assert tuple(reliability.sweep_summary(level, 0.5).iloc[0][["flat_from", "flat_to"]]) == (0.25, 0.75)


def test_scores_of_a_study_are_those_of_its_maps(smoke_study):
    """One run's scores, counted once more from its maps; a temperature of one changes nothing."""
    temperatures = pd.DataFrame([{"system": row.system, "fold": row.fold, "seed": row.seed, "temperature": 1.0}
                                 for row in smoke_study.runs.itertuples()])
    found = reliability.score(smoke_study, temperatures)
    who, _, maps, masks = next(reliability.validated(smoke_study))
    mine = found.rows["system"].eq(who["system"]) & found.rows["fold"].eq(who["fold"])
    rows = found.rows[mine].set_index(["region", "state"])
    theirs = binary_calibration_error(torch.tensor(clipped(maps.ravel())), torch.tensor(masks.ravel()).long(), 15)
    assert rows.loc[("whole image", "before"), "ece"] == pytest.approx(theirs.item(), abs=1e-6)
    assert rows.loc[("lesion region", "before"), "brier"] == pytest.approx(
        np.concatenate([(clipped(p) - m)[calibration.lesion_region(m)] ** 2
                        for p, m in zip(maps, masks, strict=True)]).mean(), abs=1e-12)
    for region in reliability.REGIONS:
        before, after = rows.loc[(region, "before")], rows.loc[(region, "after")]
        assert before[reliability.SCORES].tolist() == after[reliability.SCORES].tolist()
    table = reliability.summary(found, "whole image").set_index("system")
    folds = found.rows.query("system == 'unet' and region == 'whole image' and state == 'before'")["ece"]
    assert len(table) == 6 and table.loc["unet", "ece before"] == pytest.approx(folds.mean())
    assert table.loc["unet", "ece before_sd"] == pytest.approx(folds.std(ddof=1))


def test_what_is_said_of_calibration_by_hand():
    near = pd.DataFrame({"paper_name": ["UNet", "XBusNet"], "ece before": [0.041, 0.037], "ece after": [0.031, 0.039],
                         "temperature": [1.2, 0.9], "fold_list": "0, 1"})
    wide = near.assign(**{"ece before": [0.0151, 0.0162], "ece after": [0.0152, 0.0163]})
    temperatures = pd.DataFrame({"temperature": [1.2, 1.2, 0.9]})
    assert sentences.calibrated(near, wide, temperatures) == (
        "Around the lesion, the predicted probability differs from the share of lesion pixels by **0.037 (XBusNet) to "
        "0.041 (UNet)** on average (expected calibration error, ECE; 0 is perfect); over the whole image by 0.015 "
        "(UNet) to 0.016 (XBusNet). A temperature is one number per run, fitted to its training images, by which the "
        "logits are divided; its mean is above 1, which means too confident on these images, for 1 of 2 systems. The "
        "division lowers the ECE on the validation images of 1 of 2 systems around the lesion (by 0.004 in the median) "
        "and of 0 over the whole image.")  # 0.004 = (0.010 - 0.002) / 2; over the whole image it rises
    lacking = [pd.concat([region, region[:1].assign(paper_name="U-KAN", fold_list="0", **{"ece before": 0.9})])
               for region in (near, wide)]  # of a partial study
    assert sentences.calibrated(*lacking, temperatures) == sentences.calibrated(near, wide, temperatures)
    assert "by **0.041 (UNet)** on average (expected calibration error, ECE; 0 is perfect); over the whole image by " \
        "0.015 (UNet). A" in sentences.calibrated(near[:1], wide[:1], temperatures)
    assert "In 1 of 2 runs the temperature ends at the edge" in sentences.calibrated(
        near, wide, pd.DataFrame({"temperature": [1.2, RANGE]}))


def test_what_is_said_of_other_thresholds_and_of_normal_images():
    peaks = pd.DataFrame({"paper_name": ["UNet", "XBusNet", "U-KAN"], "gain_there": [0.0099, 0.01, 0.0421],
                          "highest_at": [0.4, 0.6, 0.35], "fold_list": "0, 1"})
    assert sentences.thresholds(peaks, 0.5) == (
        "Another threshold than 0.5 would raise Dice by at least 0.01 for 2 of 3 systems; the largest gain is that of "
        "U-KAN (0.042 at 0.35).")
    lacking = pd.concat([peaks, peaks[:1].assign(paper_name="D", gain_there=0.5, fold_list="0")])  # of a partial study
    assert sentences.thresholds(lacking, 0.5) == sentences.thresholds(peaks, 0.5)
    for normals, where in ((1, "the normal image"), (7, "at least one of the 7 normal images")):
        areas = pd.DataFrame({"any_prediction": [0.0, 0.5], "normals": [normals, normals]})
        assert sentences.normal_images(areas) == f"1 of 2 systems mark something on {where}."
