"""The audit of the paper: closed forms against masks counted pixel by pixel, and the figures of the specification."""

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.audit import claims, masks, scales
from xbuslib.analyses.performance import printed
from xbuslib.data import folds
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics


@pytest.fixture(scope="module")
def table():
    return masks.stored()


@pytest.fixture(scope="module")
def lesions(table):
    return masks.lesions(table)


def scored(tp, fp, fn, tn):
    """Both metric families of one image with these counts."""
    prediction = np.repeat([1, 1, 0, 0], [tp, fp, fn, tn]).astype(bool)[None]
    reference = np.repeat([1, 0, 1, 0], [tp, fp, fn, tn]).astype(bool)[None]
    return metrics.per_image([prediction], [reference]).iloc[0]


# ---- closed forms against counted pixels -------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(60, 20, 20, 900), (70, 30, 10, 890), (50, 0, 50, 900), (40, 160, 0, 800)])
def test_lesion_dice_behind_a_two_class_dice(counts):
    tp, fp, fn, _ = counts
    row, fraction = scored(*counts), (tp + fn) / sum(counts)
    assert scales.lesion_dice(row["dice_two_class"], fraction, fp / (fp + fn)) == pytest.approx(row["dice"], abs=1e-6)
    if fp == fn:
        assert scales.two_class_dice(row["dice"], fraction) == pytest.approx(row["dice_two_class"], abs=1e-6)
    background = 2 * row["dice_two_class"] - row["dice"]
    assert scales.lesion_iou(row["iou_two_class"], background) == pytest.approx(row["iou"], abs=1e-6)


def test_a_dice_that_no_such_image_has_is_refused():
    with pytest.raises(ValueError, match=r"no two-class Dice of 0\.3"):
        scales.lesion_dice(0.3, 0.067)


def test_an_empty_answer():
    images = [scored(0, 0, n, 1000 - n) for n in (20, 100, 400)]
    empty = scales.nothing_predicted(np.array([0.02, 0.1, 0.4]))
    mean = pd.DataFrame(images).mean()
    assert list(empty) == pytest.approx(mean[["dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class"]])


def test_released_fpr_depends_on_the_share_of_false_positives_alone():
    for fp, fn in ((0, 7), (7, 0), (5, 5), (1, 9), (120, 30)):
        for tp, tn in ((1, 200), (90, 3)):
            assert scales.released_fpr(fp / (fp + fn)) == pytest.approx(scored(tp, fp, fn, tn)["fpr_released"])
    band = scales.released_fpr(np.linspace(0, 1, 1001))
    assert (band.min(), band.max()) == (pytest.approx(1 / 6), pytest.approx(1 / 5))


def test_images_without_an_error_behind_a_low_released_fpr():
    """Four faultless images and six with the least value there is."""
    values = [scored(10, 0, 0, 90)["fpr_released"]] * 4 + [scored(5, 0, 5, 90)["fpr_released"]] * 6
    assert scales.faultless_share(np.mean(values)) == pytest.approx(0.4)
    assert scales.faultless_share(0.19) == 0


def test_dice_from_rates_counts_pixels():
    """FPR .1 and FNR .2 in images of 1000 pixels with lesions of 100 and 300."""
    rows = pd.DataFrame([scored(80, 90, 20, 810), scored(240, 70, 60, 630)])
    assert rows["fpr"].tolist() == pytest.approx([0.1, 0.1]) and rows["fnr"].tolist() == pytest.approx([0.2, 0.2])
    assert scales.dice_from_rates(0.1, 0.2, np.array([0.1, 0.3])) == pytest.approx(rows["dice"].mean(), abs=1e-6)


def test_flooded_images_have_the_same_rates_and_a_higher_dice():
    """One image of five marked from edge to edge, the others missing 100 of 400 pixels each: rates .2 and .2."""
    rows = pd.DataFrame([scored(400, 600, 0, 0)] + [scored(300, 0, 100, 600)] * 4)
    assert (rows["fpr"].mean(), rows["fnr"].mean()) == (pytest.approx(0.2), pytest.approx(0.2))
    fractions = np.full(5, 0.4)
    assert scales.dice_if_flooded(0.2, 0.2, fractions) == pytest.approx(rows["dice"].mean(), abs=1e-6)
    assert scales.dice_if_flooded(0.2, 0.2, fractions) > scales.dice_from_rates(0.2, 0.2, fractions)


def test_precision_reading_gives_back_the_counts():
    tp, fp, fn, tn = 55, 12, 9, 924
    missed = (fp / (tp + fp) + fn / (tn + fn)) / 2
    reading = scales.precision_reading(missed, scored(tp, fp, fn, tn)["fnr_two_class"], (tp + fn) / 1000)
    assert reading["precision"] == pytest.approx(tp / (tp + fp), abs=1e-6)
    assert reading["recall"] == pytest.approx(tp / (tp + fn), abs=1e-6)
    assert reading["fpr"] == pytest.approx(fp / (fp + tn), abs=1e-6)


# ---- the figures of the specification ----------------------------------------------------------------------------


def test_headline(lesions):
    mean, table_3 = lesions["fraction"].mean(), printed.table_3().mean()
    assert scales.lesion_dice(0.8765, mean) == pytest.approx(0.770, abs=1e-3)
    assert [scales.lesion_dice(0.8765, mean, share) for share in (0.3, 0.7)] == pytest.approx([0.768, 0.771], abs=1e-3)
    assert scales.lesion_dice(0.839, mean) == pytest.approx(0.70, abs=5e-3)
    assert scales.lesion_iou(table_3["iou"], 2 * 0.8765 - 0.770) == pytest.approx(0.66, abs=5e-3)
    assert scales.nothing_predicted(lesions["fraction"]).tolist() == pytest.approx([0.482, 0.466, 0.167, 0.5], abs=1e-3)


def test_folds_and_log(lesions):
    by_fold = scales.by_fold(lesions)
    assert by_fold["images"].tolist() == [51, 51, 50, 50, 50]
    assert by_fold["fraction"].tolist() == pytest.approx([0.063, 0.070, 0.067, 0.071, 0.066], abs=6e-4)
    assert by_fold["lesion_dice"].tolist() == pytest.approx([0.784, 0.797, 0.736, 0.749, 0.783], abs=1e-3)
    assert by_fold["log_lesion_dice"].tolist() == pytest.approx([0.780, 0.806, 0.725, 0.749, 0.755], abs=1e-3)
    assert by_fold["log_one_minus_loss"].tolist() == pytest.approx([0.784, 0.806, 0.727, 0.742, 0.754], abs=1e-3)
    log = scales.log().mean()
    assert log[["dice", "iou", "fnr"]].tolist() == pytest.approx([0.8729, 0.8124, 0.1121], abs=5e-5)
    assert scales.log()["fpr"].between(*scales.RELEASED_FPR).all()


def test_bins(lesions):
    bins = scales.by_bin(lesions)
    assert bins["lesions"].tolist() == [49, 142, 61]
    assert bins["fraction"].tolist() == pytest.approx([0.015, 0.050, 0.150], abs=5e-4)
    assert bins["lesion_dice"].tolist() == pytest.approx([0.706, 0.800, 0.754], abs=1e-3)
    assert bins["lesion_iou"].tolist() == pytest.approx([0.594, 0.699, 0.638], abs=1e-3)
    assert bins["background_dice"].tolist() == pytest.approx([0.996, 0.989, 0.957], abs=1e-3)


def test_scales_of_table_1(lesions):
    rows = scales.scales(lesions).set_index("system")
    order = ["unet", "uresnet", "ukan", "anatosegnet", "bussam", "cliptnseg", "xbusnet"]
    assert rows.loc[order, "dice_from_rates"].tolist() == pytest.approx([.61, .73, .71, .72, .79, .33, .47], abs=6e-3)
    assert rows.loc[order, "implied_iou"].tolist() == pytest.approx(
        [.101, .315, .293, .324, .514, .573, .663], abs=1e-3)
    assert rows.loc[order, "least_iou"].tolist()[:5] == pytest.approx([.150, .315, .367, .335, .525], abs=1e-3)
    assert rows.loc[order[:5], "two_class_scale"].tolist() == pytest.approx([.79, .85, .87, .86, .91], abs=6e-3)
    assert rows["family"].to_dict() == printed.FAMILY
    assert list(rows.sort_values("lesion_scale", ascending=False).index) == [
        "bussam", "xbusnet", "ukan", "anatosegnet", "uresnet", "cliptnseg", "unet"]
    assert rows.index[rows["fpr_in_band"]].tolist() == ["cliptnseg"]
    assert (rows["low"] <= rows["lesion_scale"]).all() and (rows["lesion_scale"] <= rows["high"]).all()
    assert rows.loc["ukan", "over_least"] == pytest.approx(0.011, abs=1e-3)
    assert rows.loc[["unet", "uresnet", "anatosegnet", "bussam"], "over_least"].between(0.02, 0.07).all()


def test_false_positives_larger_than_the_lesion(lesions):
    rows = scales.pooled_bounds(lesions).set_index("system")
    assert rows.loc["xbusnet", "false_area"] == pytest.approx(0.092, abs=1e-3)
    assert rows.loc["xbusnet", "false_area"] > rows.loc["xbusnet", "mean_lesion"] == pytest.approx(0.067, abs=1e-3)
    assert rows.loc[["xbusnet", "cliptnseg"], "pooled_dice"].tolist() == pytest.approx([0.56, 0.39], abs=5e-3)


def test_xbusnets_fpr_as_one_minus_precision(lesions):
    """The specification says about .82, .855 and .836, from symmetric errors; here the rates themselves are solved."""
    reading = scales.precision_reading(0.0994, 0.0776, lesions["fraction"].mean())
    assert reading[["precision", "recall", "harmonic_mean"]].tolist() == pytest.approx([0.82, 0.855, 0.836], abs=0.01)


def test_only_the_longest_box_side_fits(lesions):
    rows = scales.size_definitions(lesions).set_index("definition")
    assert rows.index[rows["fits"]].tolist() == ["longest box side"]
    counts = {name: tuple(rows.loc[name, list(printed.BINS)]) for name in rows.index}
    assert counts["box width"] == (55, 139, 58) and counts["box height"] == (103, 131, 18)
    assert counts["box diagonal"] == (24, 127, 101) and counts["max Feret diameter"] == (39, 139, 74)
    assert counts["ellipse major axis"] == (47, 144, 61) and counts["√area"] == (108, 124, 20)
    assert counts["equivalent circle"] == (88, 138, 26) and counts["longest box side, at 352²"] == (129, 116, 7)
    assert rows.loc["longest box side", ["dice", "iou"]].tolist() == pytest.approx([0.87661, 0.81493], abs=1e-5)
    assert rows.loc[["box width", "ellipse major axis"], "dice"].tolist() == pytest.approx([0.87603, 0.87696], abs=1e-5)
    assert rows.loc[rows.index.str.endswith("352²"), "off_dice"].between(0.0019, 0.0141).all()
    sides = masks.LENGTHS["longest box side"](lesions)
    assert (round(sides.mean()), sides.median(), sides.min(), sides.max()) == (201, 179, 52, 599)


def test_counts_that_fit_are_few(lesions):
    fitting, ways = scales.counts_that_fit(lesions)
    assert ways == 253 * 254 // 2 and len(fitting) < 5  # stars and bars
    assert [49, 142, 61] in fitting.tolist() and (fitting.sum(axis=1) == 252).all()


def test_means_two_ways(lesions):
    rows = scales.means_two_ways(lesions)
    assert rows["over_folds"].round(4).to_dict() == pytest.approx(
        {"dice": 0.8765, "iou": 0.8149, "fpr": 0.0994, "fnr": 0.0776})
    assert rows.loc[list(scales.TEXT_MEANS), "over_images"].round(4).to_dict() == pytest.approx(scales.TEXT_MEANS)
    own = printed.table_1().set_index("system").loc["xbusnet"]
    assert [own[f"{name}_sd"] for name in rows.index] == rows["sd"].round(3).tolist()


def test_tables_1_and_2(lesions):
    rows = scales.tables_1_and_2(lesions).set_index("system")
    assert set(rows.index[rows["agrees"]]) == {"xbusnet", "bussam", "cliptnseg"}
    assert rows.loc["uresnet", ["dice_off", "iou_off"]].tolist() == pytest.approx([0.020, 0.020], abs=1e-3)
    assert rows.loc["unet", ["dice_off", "iou_off"]].tolist() == pytest.approx([-0.006, -0.015], abs=1e-3)
    assert rows.loc["ukan", ["dice_off", "iou_off"]].tolist() == pytest.approx([-0.007, -0.008], abs=1e-3)
    assert rows.loc["anatosegnet", ["dice_off", "iou_off"]].tolist() == pytest.approx([0.006, 0.007], abs=1e-3)


def test_ablations():
    rows, line = scales.ablation()
    assert [line["intercept"], line["slope"]] == pytest.approx([-0.121, 1.069], abs=1e-3)
    assert line["sd"] == pytest.approx(0.003, abs=5e-4)
    rows = rows.set_index("system")
    assert rows["removed"].to_dict() == {"xbusnet": 0, "xbusnet-no-lfe-no-sfa": 2, "xbusnet-no-gfe": 1,
                                         "xbusnet-no-sfa": 1}
    assert rows["iou_off"].tolist() == pytest.approx([-0.001, -0.008, -0.005, 0.009], abs=1e-3)
    assert rows["drop"].tolist()[1:3] == pytest.approx([0.0193, 0.0312])


def test_exclusions_and_prompt(table, lesions):
    assert table.loc[table["released_fold"].isna(), "case_id"].tolist() == ["case045", "case061", "case209", "case213"]
    several = lesions.loc[lesions["other_regions"] > 0].set_index("case_id")["released_fold"]
    assert several.groupby(several).size().to_dict() == {0: 5, 2: 1, 4: 1}
    assert set(several.index.str[4:]) == {"022", "036", "038", "085", "092", "140", "151"}
    means = lesions[["ellipse_dice", "ellipse_iou", "ellipse_dice_two_class", "box_dice", "box_iou"]].mean()
    assert means.tolist() == pytest.approx([0.873, 0.781, 0.930, 0.797, 0.668], abs=1e-3)
    assert lesions["ellipse_dice"].median() == pytest.approx(0.887, abs=1e-3)


# ---- the claims, the stored figures and the masks ----------------------------------------------------------------


def test_every_claim_is_whole(table, lesions, tmp_path):
    whole = claims.claims(lesions, table)
    assert whole.index.is_unique and whole.notna().all(axis=None) and (whole != "").all(axis=None)
    assert not whole.apply(lambda column: column.str.contains(r"\bnan\b")).any(axis=None)
    assert set(whole["kind"]) == {"arithmetic", "inference", "agrees"}
    assert "lesion Dice 0.770" in whole.at["dice", "computed"] and "0.763" in whole.at["dice", "computed"]
    assert "49 / 142 / 61" in whole.at["bins", "computed"] and "0.135 to 0.145" in whole.at["fnr", "computed"]
    assert "0.204 to 0.214" in whole.at["fnr", "computed"] and "lesion Dice 0.873" in whole.at["prompt", "computed"]
    lines = claims.save_markdown(whole, tmp_path / "claims.md").read_text().splitlines()
    assert len(lines) == 4 + len(whole) and len({line.replace("\\|", "").count("|") for line in lines[2:]}) == 1


def test_stored_figures_are_those_of_the_masks(blu_root, tmp_path):
    """To the six digits that are stored, and with the folds of the authors' lists."""
    measured = masks.measure(blu_root)
    masks.write(measured, tmp_path / "again.csv")
    again = pd.read_csv(tmp_path / "again.csv", comment="#")
    pd.testing.assert_frame_equal(again, masks.stored(), rtol=1e-5)
    kept = measured[measured["pathology"] != "normal"]
    lists = folds.read(blu_root / "released_folds", kept.assign(patient_id=kept["case_id"]))
    assert (kept.set_index("case_id")["released_fold"] == lists[kept["case_id"]]).all()


def test_no_pixels_and_a_source_in_the_stored_file():
    text = masks.STORED.read_text()
    assert text.startswith(masks.SOURCE) and "CC BY 4.0" in text and len(text) < 60_000


def test_where_the_measures_come_from(phantom_root):
    stored, source = masks.load("", str(phantom_root))
    assert "stored" in source and "not used" in source and stored.equals(masks.stored())
    assert "not used" not in masks.load("", "")[1]
    with pytest.raises(StudyError, match="does not hold the 256 published BLU cases"):
        masks.load("blu", str(phantom_root))
    with pytest.raises(StudyError, match="needs its folder"):
        masks.load("blu", "")
