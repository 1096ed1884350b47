"""The desk of notebook 16 without a browser: its controls act on mask, prompt and measurements."""

import io
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.data import catalogue
from xbuslib.lesion import widget
from xbuslib.lesion.ensemble import UserPrompt
from xbuslib.lesion.widget import Desk, Example
from xbuslib.runs.trained import Trained

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def runs(smoke_study):
    return [Trained.load(smoke_study.run_folder("xbusnet", 0))]


@pytest.fixture(scope="module")
def examples(phantom_root):
    table = catalogue.load("phantom", phantom_root)
    return [Example(row.case_id, row.image, "0.08", UserPrompt(row.shape, row.margin, row.birads), row.mask)
            for row in table.head(2).itertuples()]


@pytest.fixture
def desk(runs, examples):
    return Desk(runs, examples)


def sent(name, content):
    return ({"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": WHEN},)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="png")
    return file.getvalue()


def test_the_first_image_is_shown_with_its_own_words(desk, examples):
    assert desk.prompt == examples[0].prompt and desk.picture.pixel_mm == (0.08, 0.08)
    assert desk.report.attributes.shape == examples[0].prompt.shape in desk.prompts.value
    assert bytes(desk.shown.value).startswith(b"\x89PNG") and desk.fault.value == ""


def test_a_change_of_margin_changes_prompt_and_probabilities(desk):
    before, prompts = desk.found.probability, desk.prompts.value
    desk.words["margin"].value = "angular"
    assert "angular margin" in desk.prompts.value and "angular margin" not in prompts
    assert not np.array_equal(desk.found.probability, before)
    desk.words["margin"].value = None
    assert "margin" not in desk.prompts.value


def test_size_and_place_can_be_fixed_and_freed(desk):
    desk.words["size"].value, desk.words["quadrant"].value = "small", "lower right"
    assert "a small lesion in the lower right quadrant" in desk.prompts.value
    desk.words["quadrant"].value = None
    assert desk.report.attributes.quadrant is None


def test_the_pixel_size_turns_pixels_into_millimetres(desk):
    desk.pixel_mm.value = ""
    assert desk.picture.pixel_mm is None and "pixel size is unknown" in " ".join(desk.report.image.notes)
    desk.pixel_mm.value = "0.05,0.06"
    assert desk.picture.pixel_mm == (0.05, 0.06) and desk.picture.pixel_source == "given"
    desk.pixel_mm.value = "wide"
    assert "0.005 to 1.0" in desk.fault.value and desk.picture.pixel_mm == (0.05, 0.06)
    desk.pixel_mm.value = "0.07"
    assert desk.fault.value == "" and desk.picture.pixel_mm == (0.07, 0.07)


def test_another_image_brings_its_own_words(desk, examples):
    first = desk.picture.sha256
    desk.words["margin"].value = "angular"
    desk.image.value = examples[1].name
    assert desk.prompt == examples[1].prompt and desk.picture.sha256 != first


def test_an_upload_becomes_the_image(desk):
    grey = np.tile(np.arange(60, dtype=np.uint8) * 4, (50, 1))
    desk.upload.value = sent("mine.png", png(grey))
    assert desk.image.value == "mine.png" and np.array_equal(desk.picture.grey, grey)
    assert desk.prompt == UserPrompt() and desk.pixel_mm.value == "" and desk.report.image.file == "mine.png"
    assert widget.against_reference(desk) is None
    desk.upload.value = sent("mine.png", png(grey[::-1, ::-1].copy()))  # the same name again
    assert np.array_equal(desk.picture.grey, grey[::-1, ::-1])


def test_an_upload_that_is_no_image_leaves_all_as_it_is(desk):
    before = desk.report
    desk.upload.value = sent("<b>.png", b"text")
    assert "no image" in desk.fault.value and "&lt;b&gt;.png" in desk.fault.value
    assert desk.report is before and len(desk.image.options) == 2
    desk.words["shape"].value = "round"
    assert desk.fault.value == ""


@pytest.mark.parametrize("name", ["", "..", "a" * 300 + ".png", "a\0b.png"])
def test_an_upload_whose_name_no_file_can_have(desk, name):
    before, shown = desk.image.value, desk.shown.value
    desk.upload.value = sent(name, png(np.zeros((50, 50), np.uint8)))
    told = desk.fault.value
    assert re.search("cannot store the upload .*(Is a directory|File name too long|null byte).*Rename", told)
    assert len(told) < 400
    assert (desk.image.value, desk.shown.value) == (before, shown)


def test_an_upload_cannot_leave_its_folder(desk):
    desk.upload.value = sent("../../outside.png", png(np.eye(50, dtype=np.uint8)))
    assert desk.image.value == "outside.png"
    assert str(desk.picture.path.parent) == desk.uploads.name


def test_variations_compare_with_what_is_shown(desk):
    desk.words["birads"].value = "4a"
    table = widget.variations(desk, "birads").set_index("word")
    assert list(table.index) == ["not given", *widget.BIRADS]
    if desk.found.mask.any():
        assert table.loc["4a", "overlap"] == 1 and table.loc["4a", "area"] == pytest.approx(desk.report.lesion.area)


def test_the_word_that_moves_the_outline_most():
    swept = pd.DataFrame({"varied": ["BI-RADS", "margin"], "word": ["5", "angular"], "area": [90.4, 110.0],
                          "overlap": [0.9, 0.8]})
    reads, none = (SimpleNamespace(reads=fields, runs=[{"paper_name": "A"}])
                   for fields in (("local_text",), ("point",)))
    assert widget.effect_of_words(reads, swept, "mm") == (
        "The word that moves the outline most is margin **angular** (overlap 0.80). Over all of these prompts the area "
        "runs from 90 to 110 mm²; nothing is segmented under 0 of 2.")
    assert widget.effect_of_words(reads, swept.assign(overlap=1.0), "mm") == "No word changes the mask."
    empty = swept.assign(overlap=np.nan, area=np.nan)
    assert widget.effect_of_words(reads, empty, "mm") == "Nothing is segmented under any of these prompts."
    assert widget.effect_of_words(none, swept, "mm") == "A reads no attributes, so no word changes its mask."


def test_the_reference_of_an_example(desk, examples, monkeypatch):
    """A mask that is the reference itself has Dice 1."""
    from xbuslib.data.images import read_mask

    monkeypatch.setattr(desk, "found", SimpleNamespace(mask=read_mask(examples[0].mask)))
    assert widget.against_reference(desk)["dice"] == pytest.approx(1)
