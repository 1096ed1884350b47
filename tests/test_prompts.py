"""Prompts: words by hand, eq. (1), the first pass of Section 2.7, and what each policy may know."""

import numpy as np
import pandas as pd
import pytest

from xbuslib.prompts import words
from xbuslib.prompts.words import Finding

CASES = pd.DataFrame([
    {"case_id": "a", "shape": "irregular", "margin": "not circumscribed - spiculated&indistinct", "birads": "5"},
    {"case_id": "b", "shape": "oval", "margin": "circumscribed", "birads": None},
])


def test_local_text():
    assert words.local_text("irregular", "not circumscribed - microlobulated", "4b") == \
        "irregular shape, microlobulated margin, BI-RADS 4b"
    assert words.local_text("irregular", "not circumscribed - spiculated&angular&indistinct", "5") == \
        "irregular shape, spiculated, angular and indistinct margin, BI-RADS 5"
    assert words.local_text("oval", "circumscribed", None) == "oval shape, circumscribed margin"
    assert words.local_text(None, None, "3") == "BI-RADS 3"
    assert words.local_text(None, None, None) == "a lesion"


def test_global_text():
    assert words.global_text("small", "upper left") == "a small lesion in the upper left quadrant of the image"
    assert words.global_text("large", None) == "a large lesion"
    assert words.global_text(None, "lower right") == "a lesion in the lower right quadrant of the image"
    assert words.global_text(None, None) == "a lesion"


def test_size_words_by_tertiles():
    edges = words.size_edges(np.arange(1, 10))  # thirds of 1…9: 3.67 and 6.33
    assert edges == pytest.approx((3 + 2 / 3, 6 + 1 / 3))
    found = [words.size_word((1, side), edges) for side in (3, 4, 6, 7)]
    assert found == ["small", "medium", "medium", "large"]
    assert words.size_word((110, 5), (110, 250)) == "small" and words.size_word((5, 250), (110, 250)) == "medium"
    assert words.size_word(None, edges) is None


@pytest.mark.parametrize("centre, place", [((0, 0), "upper left"), ((9, 0), "upper right"), ((0, 9), "lower left"),
                                           ((9, 9), "lower right"), ((4.4, 4.6), "lower left"), (None, None)])
def test_quadrant(centre, place):
    assert words.quadrant(centre, (10, 10)) == place


def test_first_pass_keeps_the_largest_component_above_the_threshold():
    maps = np.zeros((10, 10))
    maps[1:3, 1:3] = 0.9  # small and certain
    maps[6:9, 4:9] = 0.31  # 3 rows × 5 columns, just above τ
    maps[5, 0] = 0.29  # below τ
    finding = words.from_first_pass(maps, frame=(200, 100), threshold=0.30)
    assert finding.box == pytest.approx((5 * 20, 3 * 10))  # in original pixels
    assert finding.centre == pytest.approx((6.5 / 10 * 200 - 0.5, 7.5 / 10 * 100 - 0.5))
    assert finding.inside == pytest.approx((0.65, 0.75))
    assert words.quadrant(finding.centre, finding.frame) == "lower right"


def test_first_pass_that_finds_nothing_says_nothing():
    finding = words.from_first_pass(np.full((8, 8), 0.2), (80, 80))
    row = words.build(CASES.iloc[:1], [finding], (110, 250)).iloc[0]
    assert row["global_text"] == "a lesion" and (row["x"], row["y"]) == words.CENTRE


def test_policies_take_what_they_may():
    reference = Finding((10, 20), (1.0, 2.0), (100, 100), (0.1, 0.2))
    proposal = Finding((30, 40), (80.0, 90.0), (100, 100), (0.8, 0.9))
    assert words.combine("reference", reference, proposal, (100, 100)) == reference
    assert words.combine("first_pass", reference, proposal, (100, 100)) == proposal
    paper = words.combine("paper", reference, proposal, (100, 100))
    assert paper.box == reference.box and paper.centre == proposal.centre and paper.inside == proposal.inside
    assert words.combine("none", reference, proposal, (100, 100)) == Finding(None, None, (100, 100))


def test_build_can_leave_knowledge_out():
    findings = [Finding((300, 20), (10, 10), (400, 400), (0.1, 0.1))] * 2
    table = words.build(CASES, findings, (110, 250), size=False, attributes=False)
    assert list(table["global_text"]) == ["a lesion in the upper left quadrant of the image"] * 2
    assert list(table["local_text"]) == ["a lesion"] * 2


def test_what_is_missing_is_not_spelt_out():
    """pandas turns a None among words into nan."""
    cases = pd.DataFrame({"case_id": ["a", "b"], "shape": ["oval", float("nan")], "margin": [None, float("nan")],
                          "birads": [float("nan"), "3"]})
    table = words.build(cases, [Finding(None, None, (400, 400))] * 2, (110, 250))
    assert list(table["local_text"]) == ["oval shape", "BI-RADS 3"]


def test_released_prompts_equal_the_published_lists(blu_root):
    """Our text for box and centroid of a mask is the authors' own, word for word; at a whole-pixel border of the
    centroid they may differ by one."""
    from xbuslib.data.cases import lesions
    from xbuslib.data.catalogue import load
    from xbuslib.data.images import bounding_box, centroid, read_mask

    published = pd.concat(pd.read_csv(path) for path in sorted((blu_root / "released_folds").glob("val_fold*.csv")))
    said = dict(zip(published["Image Name"].str.removesuffix(".png"), published["Sentence"], strict=True))
    same = 0
    for case in lesions(load("blu", blu_root)).itertuples():
        mask = read_mask(case.mask)
        ours = words.released_global_text(Finding(bounding_box(mask), centroid(mask), mask.shape[::-1]))
        same += ours == said[case.case_id]
        assert ours.split(" near ")[0] == said[case.case_id].split(" near ")[0]
        places = [text.split(" near ")[1].strip("().").split(", ") for text in (ours, said[case.case_id])]
        numbers = [[int(value) for value in place] for place in places]
        assert np.abs(np.subtract(*numbers)).max() <= 1
    assert len(said) == 252 and same > 200


def test_scorings():
    assert words.scorings(()) == [("none", "none")]
    assert words.scorings(("local_text",)) == [("none", "metadata"), ("none", "none")]
    assert words.scorings(("point",))[0] == ("first_pass", "none")
    assert words.scorings(("global_text", "local_text"))[0] == ("first_pass", "metadata")  # tables show it first
    assert ("reference", "none") not in words.scorings(("global_text", "local_text"))
