"""Prompts word for word, sizes and locations by hand: every line of prompts/words that needs no dataset."""

import numpy as np
import pandas as pd
import pytest

from xbuslib.data.images import Prepared
from xbuslib.prompts import words
from xbuslib.prompts.words import Finding

EDGES = (100.0, 200.0)


@pytest.mark.parametrize("size, location, text", [
    ("small", "upper left", "a small lesion in the upper left quadrant of the image"),
    ("large", None, "a large lesion"), (None, None, "a lesion"),
    (None, "lower right", "a lesion in the lower right quadrant of the image"),
])
def test_global_prompt(size, location, text):
    assert words.global_text(size, location) == text


@pytest.mark.parametrize("attributes, text, released", [
    (("irregular", "not circumscribed - spiculated&indistinct", "4c"),
     "irregular shape, spiculated and indistinct margin, BI-RADS 4c",
     "Ultrasound shows a Tumor with irregular shaped, not circumscribed - spiculated&indistinct margin, BIRADS 4c"),
    (("oval", "circumscribed", "2"), "oval shape, circumscribed margin, BI-RADS 2",
     "Ultrasound shows a Tumor with oval shaped, circumscribed margin, BIRADS 2"),
    ((None, "not circumscribed - angular&indistinct&microlobulated", None),
     "angular, indistinct and microlobulated margin",
     "Ultrasound shows a Tumor with not circumscribed - angular&indistinct&microlobulated margin"),
    ((None, None, "5"), "BI-RADS 5", "Ultrasound shows a Tumor with BIRADS 5"),
    ((None, None, None), "a lesion", "Ultrasound shows a Tumor"),
])
def test_local_prompt(attributes, text, released):
    assert words.local_text(*attributes) == text and words.released_local_text(*attributes) == released


def test_released_global_prompt():
    finding = Finding((120.4, 79.6), (50.9, 60.2), (500, 400), contour_centre=(52.7, 61.9))
    whole = "Ultrasound shows a tumor approximately 120×80 pixels near (52, 61)."
    assert words.released_global_text(finding) == whole
    assert words.released_global_text(finding, size=False) == "Ultrasound shows a tumor near (52, 61)."
    unplaced = words.released_global_text(finding, location=False)
    assert unplaced == "Ultrasound shows a tumor approximately 120×80 pixels."
    without = Finding((120.4, 79.6), (50.9, 60.2), (500, 400))
    assert words.released_global_text(without).endswith(" near (50, 60).")
    assert words.released_global_text(Finding(None, None, (500, 400))) == "Ultrasound shows a tumor."


def test_sizes():
    assert words.size_edges(np.array([10, 20, 30, 40])) == pytest.approx((20, 30))
    assert [words.size_word((w, 5), EDGES) for w in (99, 100, 101, 200, 201)] == ["small", "small", "medium", "medium",
                                                                                  "large"]
    assert words.size_word((5, 150), EDGES) == "medium" and words.size_word(None, EDGES) is None
    assert [words.typical_length(size, EDGES) for size in words.SIZES] == [50, 150, 300]


def test_resized_keeps_the_shape_of_the_box():
    finding = Finding((60.0, 30.0), (1.0, 2.0), (500, 400))
    assert words.resized(finding, "large", EDGES) == Finding((300.0, 150.0), (1.0, 2.0), (500, 400))
    assert words.resized(Finding(None, None, (500, 400)), "small", EDGES).box == (50.0, 50.0)
    assert words.resized(Finding((30.0, 60.0), None, (9, 9)), "medium", EDGES).box == (75.0, 150.0)


@pytest.mark.parametrize("centre, quadrant", [
    ((4.4, 2.4), "upper left"), ((4.5, 2.4), "upper right"), ((4.4, 2.5), "lower left"), ((4.5, 2.5), "lower right"),
    (None, None)])
def test_quadrants_meet_in_the_middle_of_the_frame(centre, quadrant):
    assert words.quadrant(centre, (10, 6)) == quadrant


def test_first_pass_at_its_usual_threshold():
    probabilities = np.full((10, 10), 0.29)
    nothing = words.from_first_pass(probabilities, (50, 20))
    assert nothing == Finding(None, None, (50, 20)) and nothing.inside == (0.5, 0.5)
    probabilities[2:4, 6:9] = 0.3
    found = words.from_first_pass(probabilities, (50, 20))  # three pixels of 5 by two of 2
    assert found.box == (15, 4) and found.frame == (50, 20)
    assert found.centre == pytest.approx((7.5 * 5 - 0.5, 3 * 2 - 0.5)) and found.inside == pytest.approx((0.75, 0.3))
    assert found.contour_centre == pytest.approx(found.centre)  # a rectangle


def test_mirror():
    finding = Finding((3.0, 4.0), (2.0, 7.0), (10, 20), (0.25, 0.4), (1.0, 6.0))
    assert words.mirror(finding) == Finding((3.0, 4.0), (7.0, 7.0), (10, 20), (0.75, 0.4), (8.0, 6.0))
    assert words.mirror(Finding(None, None, (10, 20))) == Finding(None, None, (10, 20))


def test_policies():
    reference = Finding((9.0, 9.0), (1.0, 1.0), (50, 40), (0.1, 0.2))
    proposal = Finding((5.0, 6.0), (3.0, 3.0), (50, 40), (0.3, 0.4))
    found = {policy: words.combine(policy, reference, proposal, (50, 40))
             for policy in ("none", "first_pass", "reference", "paper")}
    assert found == {"none": Finding(None, None, (50, 40)), "first_pass": proposal, "reference": reference,
                     "paper": Finding((9.0, 9.0), (3.0, 3.0), (50, 40), (0.3, 0.4))}


def test_measured_on_a_reference_mask():
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 1, 1:3] = masks[1, 2, 1] = True  # raster order: (1, 1), (1, 2), (2, 1); the middle one is (1, 2)
    pair = np.array([[1.0, 1.0], [2.5, 3.5]])
    prepared = Prepared(np.array(["a", "b"]), np.zeros((2, 4, 4), np.uint8), masks, np.array([[9, 9], [40, 30]]),
                        np.array([1, 20]), np.array([[1, 1], [20, 10]]), pair, pair + 1, "")
    found = words.from_reference(prepared, 1)
    assert found == Finding((20, 10), (2.5, 3.5), (40, 30), (2.5 / 4, 1.5 / 4), (3.5, 4.5))
    assert all(isinstance(value, int) for value in (*found.box, *found.frame))


def test_a_table_of_prompts():
    table = pd.DataFrame({"case_id": ["a", "b"], "shape": ["oval", np.nan], "margin": ["circumscribed", None],
                          "birads": ["3", None]})
    findings = [Finding((50.0, 60.0), (10.0, 10.0), (100, 100), (0.1, 0.2)), Finding(None, None, (100, 100))]
    built = words.build(table, findings, EDGES)
    assert built.to_dict("records")[0] == {
        "case_id": "a", "size": "small", "quadrant": "upper left",
        "global_text": "a small lesion in the upper left quadrant of the image",
        "local_text": "oval shape, circumscribed margin, BI-RADS 3", "x": 0.1, "y": 0.2}
    second = built.to_dict("records")[1]
    assert pd.isna(second["size"]) and pd.isna(second["quadrant"]) and (second["x"], second["y"]) == (0.5, 0.5)
    assert (second["global_text"], second["local_text"]) == ("a lesion", "a lesion")
    bare = words.build(table, findings, EDGES, attributes=False, size=False, location=False).iloc[0]
    assert (bare["size"], bare["quadrant"], bare["x"], bare["y"]) == (None, None, 0.5, 0.5)
    assert (bare["global_text"], bare["local_text"]) == ("a lesion", "a lesion")
    released = words.build(table, findings, EDGES, style="released").iloc[0]
    assert released["global_text"] == "Ultrasound shows a tumor approximately 50×60 pixels near (10, 10)."
    assert released["local_text"] == "Ultrasound shows a Tumor with oval shaped, circumscribed margin, BIRADS 3"
    plain = words.build(table, findings, EDGES, attributes=False, size=False, location=False, style="released").iloc[0]
    assert (plain["global_text"], plain["local_text"]) == ("Ultrasound shows a tumor.", "Ultrasound shows a Tumor")
    with pytest.raises(ValueError, match="zip"):
        words.build(table, findings[:1], EDGES)


@pytest.mark.parametrize("fields, pairs, columns", [
    ((), [("none", "none")], []),
    (("local_text",), [("none", "metadata"), ("none", "none")], ["local_text"]),
    (("point",), [(policy, "none") for policy in ("first_pass", "paper", "reference", "none")], ["x", "y"]),
    (("global_text", "local_text"), [("first_pass", "metadata"), ("paper", "metadata"), ("reference", "metadata"),
                                     ("none", "metadata"), ("first_pass", "none"), ("none", "none")],
     ["global_text", "local_text"]),
])
def test_policies_that_a_system_is_scored_under(fields, pairs, columns):
    assert words.scorings(fields) == pairs and words.columns_read(fields) == columns
