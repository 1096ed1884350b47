"""Notebook 01's pictures and sentences: what is shown is there, and what is there is said."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.analyses import exploration
from xbuslib.data import catalogue, check
from xbuslib.display import style


@pytest.fixture
def case(tmp_path):
    """One case of 80 × 60 pixels of 0.5 mm with a mask and a second region."""
    grey, mask = np.full((60, 80), 120, np.uint8), np.zeros((60, 80), np.uint8)
    mask[20:40, 20:50], grey[20:40, 20:50] = 255, 60
    for name, pixels in (("a.png", grey), ("m.png", mask), ("o.png", np.roll(mask, 25, axis=1))):
        Image.fromarray(pixels).save(tmp_path / name)
    return {"case_id": "a", "image": tmp_path / "a.png", "mask": tmp_path / "m.png", "pixel_mm": 0.5,
            "other_masks": None}


def test_the_scale_bar_is_ten_millimetres_and_looks_as_in_the_legend(case):
    figure = exploration.gallery(pd.DataFrame([case]), ["a"], "One lesion", "BLU")
    bar, = figure.axes[0].lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(20)  # 10 mm of 0.5 mm pixels
    shown = {line.get_label(): line for line in figure.legends[0].legend_handles}["10 mm"]
    assert shown.get_color() == bar.get_color() == "white" and shown.get_linewidth() == bar.get_linewidth()
    assert figure.get_suptitle() == "One lesion" and style.footer(figure) == "BLU"


@pytest.mark.parametrize("changed, names", [
    ({}, ["reference lesion", "10 mm"]), ({"pixel_mm": np.nan}, ["reference lesion"]), ({"mask": None}, ["10 mm"]),
    ({"other_masks": "o.png"}, ["reference lesion", "other annotated region (not used)", "10 mm"]),
    ({"other_masks": "m.png& o.PNG"}, ["reference lesion", "other annotated region (not used)", "10 mm"]),
])
def test_the_legend_names_what_is_drawn(case, changed, names):
    figure = exploration.gallery(pd.DataFrame([case | changed]).astype(object), ["a"], "One lesion", "BLU")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_missing_bars_with_their_shares():
    figure = exploration.missing_bars(pd.Series({"age": 1, "skin_signs": 3}), 4, "BLU")
    axis = figure.axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["age", "skin signs"]
    assert [text.get_text() for text in axis.texts] == ["1 (25%)", "3 (75%)"]


def test_the_outline_is_that_of_all_masks_of_an_image(case, tmp_path):
    """BUSI draws two lesions of one image in two files; here from column 20 to 49 and from 60 to 69."""
    right = np.zeros((60, 80), np.uint8)
    right[20:40, 60:70] = 255
    Image.fromarray(right).save(tmp_path / "m_1.png")
    figure = exploration.gallery(pd.DataFrame([case | {"more_masks": "m_1.png"}]), ["a"], "One lesion", "BUSI")
    outline = np.concatenate([path.vertices for path in figure.axes[0].collections[0].get_paths()])
    assert (outline[:, 0].min(), outline[:, 0].max()) == (19.5, 69.5)


def test_an_image_with_a_second_region_and_a_reference_of_several_masks_are_counted():
    table = pd.DataFrame({"other_masks": ["o.png", None, "p.png"], "more_masks": [None, "m_1.png", None]})
    assert exploration._regions(table) == ("In 2 images a second region is annotated, which counts as background. In 1 "
                                           "image the reference is the union of several masks.")
    assert exploration._regions(table[["more_masks"]]) == "In 1 image the reference is the union of several masks."
    assert exploration._regions(table[[]]) == "No image has a second annotated region."


def test_the_answer_counts():
    table = pd.DataFrame({"pathology": ["benign", "benign", "malignant", "normal"], "patient_id": ["p", "p", "q", "r"]})
    sizes = pd.DataFrame({"long_side_px": [110, 111, 251], "long_side_mm": [5.0, 7.0, 12.0],
                          "fraction": [0.1, 0.2, 0.6]})
    text = exploration.answer("blu", table, sizes, "mm")
    assert "(BLU) holds 4 images of 3 patients; the 3 with a lesion are used** (2 benign, 1 malignant)." in text
    assert "The normal image, which has no lesion, is left out of training and scores. Nothing else is left out. No " \
        "image has a second annotated region." in text
    assert "5.0 to 12.0 mm long (median 7.0 mm) and fill 30.0% of the image on average" in text
    assert "1 are at most 110 long, 1 up to 250 and 1 longer." in text
    two = exploration.answer("blu", table.assign(pathology=["normal", "benign", "benign", "normal"]), sizes, "mm")
    assert "The 2 normal images, which have no lesion, are left out of training and scores. Nothing else" in two
    none = exploration.answer("blu", table[:3], sizes, "mm")
    assert "malignant). No image is left out. No image has a second" in none


@pytest.mark.parametrize("dataset, text", [
    ("blu", "holds 2 images of 2 patients; the"),
    ("busi", "of 2 patients (not recorded in BUSI, where each image counts as one); the"),
    ("busbra+busi", "of 2 patients (not recorded in BUSI, where each image counts as one); the")])
def test_a_dataset_without_patient_numbers_says_so(dataset, text):
    table = pd.DataFrame({"pathology": ["benign", "benign"], "patient_id": ["p", "q"]})
    sizes = pd.DataFrame({"long_side_px": [9.0, 9.0], "fraction": [0.5, 0.5]})
    assert text in exploration.answer(dataset, table, sizes, "px")


def test_several_masks_are_listed_of_each_of_several_datasets(tmp_path, phantom_root):
    """BLU names other regions in one column, BUSI further masks in another."""
    (tmp_path / "phantom").symlink_to(phantom_root)
    (tmp_path / "busi" / "benign").mkdir(parents=True)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:50] = 255
    for name in ("benign (1)", "benign (1)_mask", "benign (1)_mask_1", "benign (2)", "benign (2)_mask"):
        Image.fromarray(mask).save(tmp_path / "busi" / "benign" / f"{name}.png")
    alone = check.check("phantom", phantom_root)["multi_lesion_cases"]
    assert check.check("phantom+busi", tmp_path)["multi_lesion_cases"] == [
        *(f"phantom_{case}" for case in alone), "busi_benign (1)"]


def test_files_that_were_left_out_of_several_datasets_are_reported_once(tmp_path, phantom_root):
    """BUSI's loader leaves files out whose names are neither an image's nor a mask's."""
    (tmp_path / "phantom").symlink_to(phantom_root)
    (tmp_path / "busi" / "benign").mkdir(parents=True)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:50] = 255
    for name in ("benign (1)", "benign (1)_mask", "<b>copy", "notes (2)"):
        Image.fromarray(mask).save(tmp_path / "busi" / "benign" / f"{name}.png")
    left_out = ["busi: 2 picture file(s) are neither image nor mask by their names and were left out (first: "
                "benign/<b>copy.png)"]
    table = catalogue.load("phantom+busi", tmp_path)
    assert table.attrs["left_out"] == left_out and len(table) == 21
    notes = check.check("phantom+busi", tmp_path)["notes"]
    assert [note for note in notes if "left out" in note] == left_out
    sizes = pd.DataFrame({"long_side_px": [9.0], "fraction": [0.5]})
    text = exploration.answer("phantom+busi", table, sizes, "px")
    assert "Nothing else" not in text
    assert text.count("Other files: busi: 2 picture file(s) are neither") == 1 and "benign/&lt;b&gt;copy" in text
