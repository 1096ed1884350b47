"""Distances of contours over all pairs of contour pixels: docs/protocol.md, "Calibration, contours, detection".

Contour: pixels of a mask with a 4-neighbour outside it, the frame's outside included. HD95 is the larger of the two
directed 95th percentiles, ASSD the mean over both contours, NSD the share of both within 1 mm.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xbuslib.analyses.calibration import boundaries
from xbuslib.evaluation.boundary import distances


def contour(mask):
    height, width = mask.shape

    def inside(y, x):
        return 0 <= y < height and 0 <= x < width and mask[y, x]

    return np.array([(y, x) for y, x in zip(*np.nonzero(mask), strict=True)
                     if not all(inside(*near) for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)))], float)


def percentile_95(values):
    """Linear between the two ordered values around 0.95 · (n − 1)."""
    ordered, place = sorted(values), 0.95 * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def by_pairs(prediction, reference, spacing):
    one, other = contour(prediction) * spacing, contour(reference) * spacing
    apart = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))  # (n, m) mm
    there, back = apart.min(axis=1).tolist(), apart.min(axis=0).tolist()
    both = there + back
    return {"hd95": max(percentile_95(there), percentile_95(back)), "assd": sum(both) / len(both),
            "nsd": sum(d <= 1 + 1e-6 for d in both) / len(both)}


def blobs(rng, height=16, width=22):
    """Two random masks of scattered pixels and two overlapping discs, one of which may touch the frame."""
    y, x = np.mgrid[:height, :width]
    a, b = (np.hypot(y - cy, x - cx) < r for cy, cx, r in
            zip(rng.uniform(0, height, 2), rng.uniform(3, width, 2), rng.uniform(3, 7, 2), strict=True))
    return a | (rng.random((height, width)) < 0.02), b | (rng.random((height, width)) < 0.02)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.07, 0.07), (0.31, 0.083), (0.2, 1.3)])
@pytest.mark.parametrize("seed", range(4))
def test_all_three_distances_over_all_pairs(spacing, seed):
    prediction, reference = blobs(np.random.default_rng(seed))
    found = distances(prediction, reference, spacing)
    for name, value in by_pairs(prediction, reference, np.array(spacing)).items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


def test_a_contour_at_the_frame_is_a_contour():
    whole, cut = np.ones((9, 12), bool), np.ones((9, 12), bool)
    cut[:, :5] = False
    found = distances(whole, cut, (0.5, 0.25))
    for name, value in by_pairs(whole, cut, np.array((0.5, 0.25))).items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    assert found["hd95"] > 0.9


def test_one_millimetre_is_still_within_the_tolerance():
    a, b = np.zeros((8, 12), bool), np.zeros((8, 12), bool)
    a[3:5, 2:4] = b[3:5, 6:8] = True  # columns 2–3 and 6–7, every pixel three or four columns away
    assert distances(a, b, (0.25, 0.25))["nsd"] == 1.0
    assert distances(a, b, (0.25, 0.26))["nsd"] == 0.5
    assert distances(a, b, (0.25, 0.34))["nsd"] == 0.0


def test_the_order_of_the_masks_does_not_matter_and_equal_masks_agree():
    a, b = blobs(np.random.default_rng(11))
    assert distances(a, b, (0.3, 0.2)) == pytest.approx(distances(b, a, (0.3, 0.2)))
    assert distances(a, a, (0.3, 0.2)) == {"hd95": 0, "assd": 0, "nsd": 1}


def test_nothing_predicted_has_no_contour():
    reference = blobs(np.random.default_rng(1))[1]
    found = distances(np.zeros_like(reference), reference, (1, 1))
    assert math.isnan(found["hd95"]) and math.isnan(found["assd"]) and found["nsd"] == 0
    with pytest.raises(ValueError, match="reference"):
        distances(reference, np.zeros_like(reference), (1, 1))


# ---- through a small study --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory, phantom_root):
    """A UNet of 32 pixels on two folds: the study, its cases and each validated map, by fold and case."""
    from xbuslib.analyses.calibration.reliability import validated
    from xbuslib.config import resolve
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source
    from xbuslib.runs.study import open_study

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(tmp_path_factory.mktemp("contours")))
        config = resolve("smoke", {"iterations": 25, "folds": 2, "learning_rate": 5e-3, "image_size": 32})
        source = open_source("phantom", phantom_root, None, config, "contours")
        for fold in (0, 1):
            run_fold("unet", fold, config, source, study="contours")
        opened = open_study("contours")
        maps = {case: one for _, ids, found, _ in validated(opened) for case, one in zip(ids, found, strict=True)}
        return SimpleNamespace(study=opened, table=opened.case_table(str(phantom_root)), maps=maps)


@pytest.mark.parametrize("threshold", [0.5, 0.999])
def test_a_study_is_measured_in_millimetres_at_original_resolution(study, threshold):
    """An image without a prediction counts as its diagonal; at a high threshold there are some."""
    config = study.study.facts["config"] | {"threshold": threshold}
    changed = replace(study.study, facts=study.study.facts | {"config": config})
    table = study.table.copy()
    table.loc[table["case_id"] == sorted(study.maps)[0], "pixel_mm"] = np.nan
    rows, files = boundaries.per_image(changed, table), table.set_index("case_id")
    assert sorted(rows["case_id"]) == sorted(study.maps)
    for row in rows.itertuples():
        reference = np.asarray(Image.open(files.loc[row.case_id, "mask"]).convert("L")) > 127
        mm, small = files.loc[row.case_id, "pixel_mm"], Image.fromarray(study.maps[row.case_id].astype(np.float32))
        prediction = np.asarray(small.resize(reference.shape[::-1], Image.BILINEAR)) >= threshold
        assert row.empty == (not prediction.any())
        if math.isnan(mm):
            assert all(math.isnan(getattr(row, name)) for name in ("hd95", "assd", "nsd"))
        elif row.empty:
            diagonal = mm * math.hypot(*reference.shape)
            assert (row.hd95, row.assd, row.nsd) == pytest.approx((diagonal, diagonal, 0))
            assert math.isnan(row.hd95_found) and math.isnan(row.assd_found)
        else:
            wanted = by_pairs(prediction, reference, np.array((mm, mm)))
            assert (row.hd95, row.assd, row.nsd) == pytest.approx(
                (wanted["hd95"], wanted["assd"], wanted["nsd"]), rel=1e-3), "up to a pixel that interpolation rounds"
            assert (row.hd95_found, row.assd_found) == (row.hd95, row.assd)
    assert rows["empty"].any() == (threshold > 0.5)

    known = rows[rows["pixel_mm"].notna()]
    summary = boundaries.summary(rows).iloc[0]
    assert (summary["n"], summary["empty"]) == (len(known), known["empty"].sum())
    assert summary["hd95_median"] == pytest.approx(known["hd95"].median())
    for name in ("hd95", "assd", "nsd", "hd95_found"):
        folds = [part[name].dropna().mean() for _, part in known.groupby("fold")]
        assert summary[name] == pytest.approx(np.mean(folds)), name
        assert summary[f"{name}_sd"] == pytest.approx(np.std(folds, ddof=1)), name
