"""Cases by rule, on a table made by hand; contrast and zones on images counted by hand; errors against the CSVs."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.cases import selection
from xbuslib.data import catalogue
from xbuslib.data.images import Prepared
from xbuslib.errors import StudyError
from xbuslib.runs.study import open_study

N = 12
NAMES = [f"case{i:03d}" for i in range(N)]


@pytest.fixture
def table():
    """Twelve cases whose gCNR rises with their number: quarter 9–11, lowest third 0–3."""
    return pd.DataFrame({
        "case_id": NAMES, "fold": [i % 2 for i in range(N)], "gcnr": [0.05 * i for i in range(N)],
        "long_side_px": [300, 250, 200, 180, 90, 100, 110, 111, 150, 160, 170, 180],
        "lesion_sd": [5.0, 6, 7, 8, 9, 10, 11, 12, 30, 31, 32, 33],
        "ring_sd": [1.0, 9, 8, 2, 5, 5, 5, 5, 5, 5, 5, 5],
        "tissue": ["heterogeneous: predominantly fat", "homogeneous: fat", "heterogeneous: predominantly fat",
                   "heterogeneous: predominantly fibroglandular"] + [None] * 8,
        "echogenicity": ["heterogeneous"] * 3 + ["isoechoic"] * 5 + ["complex cystic/solid"] + ["hypoechoic"] * 3,
    })


def chosen(table):
    return selection.choose(table).set_index("rule")


def test_each_rule_takes_the_middle_of_its_group(table):
    found = chosen(table)
    assert found["case_id"].to_dict() == {
        "high contrast": "case010",  # of 9, 10, 11
        "small": "case005",  # of 4, 5, 6: 111 is too long
        "low contrast, heterogeneous": "case002",  # of 0, 2, 3: case 1 is homogeneous
        "irregular echotexture": "case001",  # of 0, 1, 8: case 2 is taken
    }
    assert found["group"].tolist() == [3, 3, 3, 3] and found["cases"].eq(N).all()
    assert found["value"].tolist() == [0.5, 100, 0.1, 6.0] and found["because"].eq("").all()
    assert found.loc["high contrast", "fold"] == 0


def test_ties_go_by_case_id_whatever_the_order_of_the_table(table):
    table["long_side_px"] = 100
    for order in (table, table[::-1], table.sample(frac=1, random_state=0)):
        small = chosen(order).loc["small"]  # eleven left, the lower middle is the sixth
        assert small["case_id"] == "case005" and small["group"] == N - 1


@pytest.mark.parametrize("change", [lambda t: t.drop(columns=["echogenicity", "tissue"]),
                                    lambda t: t.assign(echogenicity=None, tissue=np.nan)])
def test_without_metadata_the_image_decides_and_says_so(table, change):
    found = chosen(change(table))
    assert found.loc["high contrast", "because"] == "the case table says nothing about echogenicity"
    assert found.loc["low contrast, heterogeneous", "because"] == "the case table says nothing about tissue"
    assert found["source"].tolist() == ["image alone", "metadata and image", "image alone", "image alone"]
    assert found.loc["irregular echotexture", "text"] == "grey-level SD of the lesion in the highest quarter"
    assert found.loc["low contrast, heterogeneous", "case_id"] == "case001"  # 1 and 2: median of 1, 9, 8, 2 is 5
    assert found.loc["irregular echotexture", "case_id"] == "case009"  # of 9 and 11, case 10 being taken


def test_a_word_that_describes_nobody_is_a_fallback_too(table):
    table["echogenicity"] = "isoechoic"
    found = chosen(table).loc["high contrast"]
    assert found["because"] == "no case left in the group of the first choice" and found["case_id"] == "case010"
    table["long_side_px"] += 200
    assert chosen(table).loc["small", "text"] == "longest side of the bounding box in the lowest third"


def test_too_few_cases_for_four_rules(table, capsys):
    """Two cases show two kinds; the two other rules are named as left out."""
    found = selection.choose(table.head(2))
    left_out = capsys.readouterr().err
    assert len(found) == found["case_id"].nunique() == 2
    assert sum(f"no case is left for the rule {rule.name!r}" in left_out for rule in selection.RULES) == 2
    assert not any(name in left_out for name in found["rule"])


def test_a_case_without_surroundings_has_no_contrast_and_is_not_chosen_by_it(table):
    table.loc[10, "gcnr"] = np.nan
    assert chosen(table).loc["high contrast", "case_id"] != "case010"


def square(side=15):
    mask = np.zeros((side, side), bool)
    mask[6:9, 6:9] = True
    return mask


def prepared(image, mask):
    pair = np.zeros((1, 2))
    return Prepared(np.array(["a"]), image[None], mask[None], pair, np.zeros(1), pair, pair, pair, "")


def test_the_ring_of_a_square_of_nine_pixels():
    around = selection.ring(square())
    assert around.sum() == 4 * 3 * 2 + 4 * 1  # two pixels deep on each side, one at each corner (√2, not √5)
    assert not (around & square()).any() and around[4, 7] and not around[3, 7] and not around[4, 5]


def test_contrast_of_an_image_made_by_hand():
    mask, image = square(), np.full((15, 15), 255, np.uint8)  # far tissue must not count
    image[selection.ring(mask)] = 100
    image[7, 4:6] = 120  # two of the 28 pixels of the ring
    image[mask] = [40, 40, 40, 40, 40, 40, 40, 40, 58]
    row = selection.measures(prepared(image, mask), pd.DataFrame({"case_id": ["a"]})).iloc[0]
    assert row["contrast"] == pytest.approx((26 * 100 + 2 * 120) / 28 - 42)
    assert row["lesion_sd"] == pytest.approx(np.sqrt((8 * 2 ** 2 + 16 ** 2) / 9))
    assert row["gcnr"] == 1.0  # no grey level in common
    image[:] = 77
    row = selection.measures(prepared(image, mask), pd.DataFrame({"case_id": ["a"]})).iloc[0]
    assert row["contrast"] == row["gcnr"] == row["ring_sd"] == 0
    row = selection.measures(prepared(image, mask | True), pd.DataFrame({"case_id": ["a"]})).iloc[0]
    assert np.isnan(row["contrast"]) and np.isnan(row["gcnr"]) and row["lesion_sd"] == 0


def test_gcnr_is_one_minus_the_overlap_of_histograms():
    assert selection.gcnr(np.array([0, 0, 16, 16]), np.array([16, 16, 32, 255])) == pytest.approx(0.5)
    assert selection.gcnr(np.array([3, 200]), np.array([200, 3, 3, 200])) == 0
    rng = np.random.default_rng(0)  # two normal samples 2 SD apart overlap by 2Φ(−1)
    dark, bright = rng.normal(100, 20, 40_000), rng.normal(140, 20, 40_000)
    assert selection.gcnr(dark, bright, bins=128) == pytest.approx(1 - 0.3173, abs=0.015)


def test_zones_of_a_square_of_nine_pixels():
    where = selection.zones(square())
    assert np.argwhere(where == selection.INSIDE).tolist() == [[7, 7]]
    assert (where == selection.NEAR).sum() == 8 + 16  # one pixel on either side of the contour
    big = np.zeros((101, 101), bool)
    y, x = np.mgrid[:101, :101]
    big[np.hypot(y - 50, x - 50) <= 40.5] = True
    line = selection.zones(big)[50]  # a fifth of 40.5 on either side of the contour at 90.5
    assert np.flatnonzero(line[50:] == selection.NEAR)[[0, -1]].tolist() == [33, 48]
    assert (selection.zones(np.ones((8, 8), bool)) == selection.INSIDE).all()
    for measure in (selection.zones, selection.ring):
        with pytest.raises(ValueError, match="no lesion"):
            measure(np.zeros((8, 8), bool))


def test_panels_carry_the_dice_of_the_run_that_validated_the_case(smoke_study):
    cases = selection.candidates(smoke_study)
    four = selection.choose(cases)
    panels = selection.panels(smoke_study, four)
    assert len(cases) == len(smoke_study.cases) and four["case_id"].is_unique
    assert len(panels) == 4 * len(smoke_study.systems)
    assert panels["system"].tolist() == smoke_study.systems * 4
    assert panels["rule"].drop_duplicates().tolist() == [rule.name for rule in selection.RULES]
    for panel in panels.itertuples():
        stored = pd.read_csv(smoke_study.run_folder(panel.system, panel.fold) / "per_image.csv", keep_default_na=False)
        assert panel.dice == float(stored[stored["case_id"] == panel.case_id].iloc[0]["dice"])  # the default first


def test_the_four_kinds_of_error_add_up_to_those_of_the_metrics(smoke_study):
    cases = selection.candidates(smoke_study)
    errors = selection.error_composition(smoke_study, cases).set_index("system")
    area = dict(zip(smoke_study.prepared.case_ids, smoke_study.prepared.masks.sum(axis=(1, 2)), strict=True))
    pixels = smoke_study.prepared.masks[0].size
    for system, rows in smoke_study.default.groupby("system"):
        lesions = rows["case_id"].map(area)
        missed, added = (rows["fnr"] * lesions).sum(), (rows["fpr"] * (pixels - lesions)).sum()
        found = errors.loc[system]
        assert found["missed_inside"] + found["missed_near"] == pytest.approx(100 * missed / lesions.sum(), abs=1e-4)
        assert found["added_near"] + found["added_elsewhere"] == pytest.approx(100 * added / lesions.sum(), abs=1e-4)


def test_only_folds_of_every_system_are_chosen_from(smoke_study, tmp_path, monkeypatch):
    shutil.copytree(smoke_study.folder.parent, tmp_path / "o", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "o"))
    shutil.rmtree(tmp_path / "o" / smoke_study.name / "runs" / "uresnet" / "fold_1")
    partial = open_study(smoke_study.name, partial=True)
    assert set(selection.candidates(partial)["fold"]) == {0}
    none = (partial.runs["fold"] == 0) == (partial.runs["system"] == "uresnet")  # fold 0 of one, fold 1 of the others
    with pytest.raises(StudyError, match="no fold that all of bussam, unet, uresnet, xbusnet"):
        selection.candidates(dataclasses.replace(partial, runs=partial.runs[none]))


def test_a_study_of_variants_alone_shows_them(smoke_study):
    panels = selection.panels(smoke_study, selection.choose(selection.candidates(smoke_study)))
    alone = panels[panels["system"].isin(["xbusnet-no-gfe", "xbusnet-no-sfa"])]
    assert set(selection.compared(alone)["system"]) == {"xbusnet-no-gfe", "xbusnet-no-sfa"}
    assert set(selection.compared(panels)["system"]) == {"unet", "uresnet", "bussam", "xbusnet"}


def test_the_words_of_the_rules_are_those_of_the_published_table(blu_root):
    table = catalogue.load("blu", blu_root)
    assert {"anechoic", "hypoechoic", "heterogeneous", "complex cystic/solid"} <= set(table["echogenicity"])
    assert table["tissue"].dropna().str.startswith("heterogeneous").sum() > 50
