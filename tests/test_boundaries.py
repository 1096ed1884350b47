"""HD95, ASSD and NSD in millimetres against distance transforms and by hand; what is not predicted; original frames."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from PIL import Image
from scipy import ndimage
from skimage.draw import ellipse, polygon

from xbuslib.analyses.calibration import boundaries, pictures
from xbuslib.data import originals
from xbuslib.errors import StudyError
from xbuslib.evaluation import boundary
from xbuslib.runs import record
from xbuslib.runs.trained import NewPredictions


def independent(prediction, reference, spacing):
    """(HD95, ASSD, NSD) by Euclidean distance transforms of the contours."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    there, back = (ndimage.distance_transform_edt(~other, sampling=spacing)[edge]
                   for edge, other in ((edges[0], edges[1]), (edges[1], edges[0])))
    both = np.concatenate([there, back])
    return (max(np.percentile(there, 95), np.percentile(back, 95)), both.mean(), (both <= 1.0 + 1e-6).mean())


def drawn(shape, *points):
    mask = np.zeros((90, 120), bool)
    mask[shape(*points, mask.shape)] = True
    return mask


REFERENCE = drawn(lambda r, c, a, b, size: ellipse(r, c, a, b, size), 40, 55, 22, 31)
MASKS = {
    "shifted": np.roll(REFERENCE, (4, 7), axis=(0, 1)),
    "tilted": drawn(lambda r, c, a, b, size: ellipse(r, c, a, b, size, rotation=0.6), 42, 60, 15, 35),
    "angular": drawn(polygon, [10, 70, 80, 30], [30, 20, 90, 110]),
    "two pieces": REFERENCE | drawn(lambda r, c, a, b, size: ellipse(r, c, a, b, size), 80, 108, 6, 8),
    "apart": drawn(lambda r, c, a, b, size: ellipse(r, c, a, b, size), 80, 108, 6, 8),
    "one pixel": drawn(lambda r, c, size: (r, c), 5, 5),
    "whole frame": np.ones((90, 120), bool),
    "at the edge": drawn(lambda r, c, a, b, size: ellipse(r, c, a, b, size), 0, 119, 30, 30),
}


@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.05, 0.17), (0.4, 0.15)], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_agrees_with_distance_transforms(name, spacing):
    found = boundary.distances(MASKS[name], REFERENCE, spacing)
    assert list(found.values()) == pytest.approx(independent(MASKS[name], REFERENCE, spacing), abs=1e-4)
    other = boundary.distances(REFERENCE, MASKS[name], spacing)
    assert list(other.values()) == pytest.approx(list(found.values()), abs=1e-5)  # symmetric


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI's, about a call of its own
def test_agrees_with_monai_s_metrics():
    for mask in MASKS.values():
        pair, given = [torch.from_numpy(m)[None, None] for m in (mask, REFERENCE)], {"include_background": True}
        theirs = (compute_hausdorff_distance(*pair, percentile=95, spacing=[0.05, 0.17], **given),
                  compute_average_surface_distance(*pair, symmetric=True, spacing=[0.05, 0.17], **given),
                  compute_surface_dice(*pair, class_thresholds=[1.0], spacing=[0.05, 0.17], **given))
        ours = boundary.distances(mask, REFERENCE, (0.05, 0.17))
        assert list(ours.values()) == pytest.approx([value.item() for value in theirs], abs=1e-6)


def test_squares_by_hand():
    """A 3×3 square moved by two columns. Contours: eight pixels each, one apart where the squares overlap.

    Pixels are 1.5 mm high and 0.5 mm wide, so columns are nearer than rows. From the left square, whose columns are
    10 to 12, to the right one, 12 to 14: column 12 lies on the other contour (0 mm), column 11 is one column away
    (0.5 mm), column 10 two (1 mm). Three pixels in column 10, two in column 11 (its middle is inside), three in 12.
    """
    left, right = (np.zeros((20, 30), bool) for _ in range(2))
    left[5:8, 10:13], right[5:8, 12:15] = True, True
    found = boundary.distances(left, right, (1.5, 0.5))
    assert found["assd"] == pytest.approx((3 * 1.0 + 2 * 0.5 + 3 * 0) / 8)
    assert found["hd95"] == pytest.approx(1.0) and found["nsd"] == 1.0  # 1 mm is within the tolerance
    further = boundary.distances(left, right, (1.5, 1.0))  # 2, 1 and 0 mm
    assert further["nsd"] == pytest.approx(5 / 8) and further["hd95"] == pytest.approx(2.0)
    lower = np.roll(left, 2, axis=0)
    turned = boundary.distances(left, lower, (1.5, 0.5))  # rows 5 to 7 against 7 to 9, 1.5 mm apart; and inside
    assert turned["hd95"] == pytest.approx(3.0) and turned["nsd"] == pytest.approx(6 / 16)


def test_the_same_mask_is_at_no_distance():
    assert boundary.distances(REFERENCE, REFERENCE, (0.1, 0.2)) == {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}


def test_nothing_predicted_has_no_distance():
    found = boundary.distances(np.zeros_like(REFERENCE), REFERENCE, (0.1, 0.1))
    assert np.isnan([found["hd95"], found["assd"]]).all() and found["nsd"] == 0
    with pytest.raises(ValueError, match="reference"):
        boundary.distances(REFERENCE, np.zeros_like(REFERENCE), (0.1, 0.1))


@pytest.mark.parametrize("name", MASKS)
def test_cropped_is_not_other(name, monkeypatch):
    cropped = boundary.distances(MASKS[name], REFERENCE, (0.05, 0.17))
    monkeypatch.setattr(boundary, "_crop", lambda *masks: masks)
    assert boundary.distances(MASKS[name], REFERENCE, (0.05, 0.17)) == cropped


# ---- on a study -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(smoke_study, phantom_root):
    return smoke_study.case_table(str(phantom_root))


@pytest.fixture(scope="module")
def one_run(smoke_study, tmp_path_factory):
    """The study with one run, whose maps are made up: the reference mask moved, nothing, everything, …"""
    folder = tmp_path_factory.mktemp("boundaries") / "seed_0"
    shutil.copytree(smoke_study.run_folder("unet", 0), folder)
    ids = list(record.probabilities(folder))
    masks = smoke_study.prepared.masks[smoke_study.prepared.rows(ids)].astype(np.float16)
    masks[0], masks[1] = 0, 1
    np.savez(folder / "probabilities.npz", case_ids=np.array(ids), probabilities=masks)
    listed = smoke_study.runs[smoke_study.runs["system"].eq("unet") & smoke_study.runs["fold"].eq(0)]
    return dataclasses.replace(smoke_study, runs=listed.assign(folder=str(folder))), ids


def test_a_study_s_cases_in_millimetres(one_run, table):
    study, ids = one_run
    unknown = table.assign(pixel_mm=table["pixel_mm"].where(table["case_id"] != ids[2]))
    rows = boundaries.per_image(study, unknown).set_index("case_id")
    sizes = {case.case_id: Image.open(case.image).size for case in table.itertuples()}
    pixel = table.set_index("case_id")["pixel_mm"]
    empty = rows.loc[ids[0]]
    diagonal = np.hypot(*sizes[ids[0]]) * pixel[ids[0]]
    assert empty["empty"] and empty["nsd"] == 0 and np.isnan(empty["hd95_found"])
    assert empty["hd95"] == empty["assd"] == pytest.approx(diagonal)
    assert rows.loc[ids[2], ["hd95", "assd", "nsd", "hd95_found"]].isna().all()
    case = table[table["case_id"] == ids[1]].iloc[0]
    mask = np.asarray(Image.open(case["mask"]).convert("L")) > 127  # at its own size, by another way
    whole = independent(np.ones_like(mask), mask, (pixel[ids[1]],) * 2)
    assert rows.loc[ids[1], ["hd95", "assd", "nsd"]].tolist() == pytest.approx(whole, abs=1e-3)
    rest = rows.loc[ids[3:]]  # the reference itself, through 64 pixels: off by less than such a pixel
    coarse = np.array([np.hypot(*sizes[i]) / 64 * pixel[i] for i in ids[3:]])
    assert (rest["assd"].to_numpy() < coarse).all() and (rest["hd95"] > 0).any()

    summary = boundaries.summary(rows.reset_index()).iloc[0]
    known = rows.drop(ids[2])
    assert summary["n"] == len(ids) - 1 and summary["empty"] == 1
    assert summary["hd95"] == pytest.approx(known["hd95"].mean())
    assert summary["hd95_found"] == pytest.approx(known.drop(ids[0])["hd95"].mean())
    assert summary["hd95_median"] == pytest.approx(known["hd95"].median())
    again = rows.reset_index().assign(seed=1, hd95=np.r_[np.zeros(3), np.full(len(rows) - 3, 80.0)])  # another seed
    of_seeds = boundaries.summary(pd.concat([rows.reset_index(), again])).iloc[0]
    both = (known["hd95"].to_numpy() + again["hd95"].drop(2).to_numpy()) / 2
    assert of_seeds["hd95_median"] == pytest.approx(np.median(both)) and of_seeds["n"] == len(known)


def test_no_pixel_size_at_all(one_run, table):
    rows = boundaries.per_image(one_run[0], table.assign(pixel_mm=np.nan))
    assert len(rows) == len(one_run[1]) and boundaries.summary(rows).empty


def test_maps_at_original_size():
    ramp = np.tile(np.linspace(0, 1, 8), (8, 1))
    large = originals.at_size(ramp, 80, 20)
    assert large.shape == (20, 80) and np.ptp(large, axis=0).max() < 1e-6
    expected = np.interp((np.arange(80) + 0.5) / 10 - 0.5, np.arange(8), ramp[0])  # pixel centres; flat at the ends
    assert np.allclose(large[0], expected, atol=1e-6)
    fine = np.arange(16.0).reshape(1, 16) % 2 * np.ones((16, 1))
    assert np.allclose(originals.at_size(fine, 4, 4)[:, 1:-1], 0.5, atol=0.1)  # averaged, not picked
    assert originals.at_size(np.ones((352, 352), np.float32), 100, 90).max() == 1  # not 1.0000001: a probability


# ---- the files ------------------------------------------------------------------------------------------------


def test_the_case_table_is_the_study_s_with_its_normals(smoke_study, table):
    assert set(smoke_study.cases["case_id"]) < set(table["case_id"]) and "normal" in set(table["pathology"])
    case = next(table[table["pathology"] != "normal"].itertuples())
    mask = originals.mask(case)
    row = smoke_study.prepared.rows([case.case_id])[0]
    assert mask.shape[::-1] == tuple(smoke_study.prepared.original_sizes[row])


def test_other_files_are_refused(smoke_study, phantom_root, tmp_path):
    other = shutil.copytree(phantom_root, tmp_path / "other")
    case = smoke_study.case_table(str(other)).iloc[0]
    Image.fromarray(255 - np.asarray(Image.open(case["image"]).convert("L"))).save(case["image"])
    with pytest.raises(StudyError, match=r"other images, masks or metadata than study smoke-study.*-p data DIR"):
        smoke_study.case_table(str(other))


def test_missing_files_are_named(smoke_study, tmp_path):
    with pytest.raises(StudyError, match=r"(?s)dataset \(phantom\) are needed once more.*nowhere"):
        smoke_study.case_table(str(tmp_path / "nowhere"))
    blu = dataclasses.replace(smoke_study, facts=smoke_study.facts | {"dataset": "blu"})
    with pytest.raises(StudyError, match="XBUS_DATA"):
        blu.case_table()


def test_two_masks_are_one_reference(tmp_path):
    for name, column in (("a.png", 1), ("a_1.png", 5)):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:4, column:column + 2] = 255
        Image.fromarray(mask).save(tmp_path / name)
    table = pd.DataFrame({"mask": [str(tmp_path / "a.png")], "more_masks": ["a_1.png"]})
    assert originals.mask(next(table.itertuples())).sum() == 8


def test_pictures_of_a_partial_study_show_folds_that_all_shown_systems_have(smoke_study, phantom_root):
    runs = smoke_study.runs[(smoke_study.runs["system"] != "uresnet") | (smoke_study.runs["fold"] == 1)]
    partial = dataclasses.replace(smoke_study, runs=runs)
    table = smoke_study.case_table(str(phantom_root))
    figure = pictures.contours(partial, boundaries.per_image(partial, table), table)
    shown = {axis.get_xlabel().partition(":")[0] for axis in figure.axes[-3:]}
    assert shown <= set(partial.cases.loc[partial.cases["fold"] == 1, "case_id"])
    empty, case = np.zeros((1, *partial.prepared.masks.shape[1:]), np.float16), table.query("pathology == 'normal'")
    normals = [NewPredictions(name, name, fold, 0, [], empty[:0], list(case["case_id"][:1]), empty)
               for name, fold in (("unet", 0), ("uresnet", 1), ("xbusnet", 0))]
    figure = pictures.on_normal_images(partial, normals)
    assert [axis.get_ylabel() for axis in figure.axes] == ["image", "unet", "xbusnet"]
