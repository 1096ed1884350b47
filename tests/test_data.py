"""Loading, checking and decoding a dataset; every fault is named."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.analyses import exploration
from xbuslib.data import blu, catalogue, images
from xbuslib.data.cases import lesions, validate
from xbuslib.data.catalogue import size_bins
from xbuslib.data.check import check
from xbuslib.errors import StudyError


@pytest.fixture
def copy(phantom_root, tmp_path):
    """A phantom that a test may damage."""
    return shutil.copytree(phantom_root, tmp_path / "copy")


def edit_table(root, change):
    path = root / blu.TABLE
    table = pd.read_excel(path, dtype={"BIRADS": str}, keep_default_na=False)
    change(table).to_excel(path, index=False)


def first_lesion(root):
    return lesions(catalogue.load("phantom", root)).iloc[0]


def test_case_table_of_the_phantom(phantom_root):
    table = catalogue.load("phantom", phantom_root)
    assert len(table) == 20 and (table["pathology"] == "normal").sum() >= 1
    assert table["pixel_mm"].between(0.02, 0.3).all()  # published in cm
    assert table["echogenicity"].notna().any() and table["shape"].isna().sum() == (table["pathology"] == "normal").sum()
    assert check("phantom", phantom_root)["problems"] == []


def test_missing_column(copy):
    edit_table(copy, lambda t: t.drop(columns="Margin"))
    with pytest.raises(StudyError, match=r"clinical-data.*\.xlsx: missing column\(s\) Margin"):
        catalogue.load("phantom", copy)


def test_all_faults_in_one_message(copy):
    def change(table):
        table.loc[0, "Shape"] = "square"
        table.loc[1, "BIRADS"] = "7"
        table.loc[2, "Pixel_size"] = 5.0
        return table

    edit_table(copy, change)
    with pytest.raises(StudyError) as caught:
        catalogue.load("phantom", copy)
    ids = pd.read_excel(copy / blu.TABLE)["Image_filename"].str.removesuffix(".png")
    for case, column in zip(ids, ("shape", "birads", "pixel_mm"), strict=False):
        assert f"{case}, {column}" in str(caught.value)


def test_missing_image_file(copy):
    case = first_lesion(copy)
    (copy / blu.IMAGES / f"{case.case_id}.png").unlink()
    with pytest.raises(StudyError, match=f"{case.case_id}, image: .*no such file"):
        catalogue.load("phantom", copy)


@pytest.mark.parametrize("fault", ["size", "truncated", "empty", "text", "one grey"])
def test_unusable_files_are_all_named_and_nothing_is_written(copy, tmp_path, fault):
    case = first_lesion(copy)
    messages = {"size": "mask .* is 8×9 pixels, its image is", "truncated": "is damaged or cut off",
                "empty": "is empty", "text": "is no image", "one grey": "all of its pixels have the value 7"}
    if fault == "size":
        Image.new("L", (8, 9), 255).save(case["mask"])
    elif fault == "truncated":
        content = Path(case["image"]).read_bytes()
        Path(case["image"]).write_bytes(content[: len(content) // 2])
    elif fault == "empty":
        with Image.open(case["image"]) as image:
            Image.new("L", image.size, 0).save(case["mask"])
    elif fault == "one grey":
        with Image.open(case["image"]) as image:
            Image.new("L", image.size, 7).save(case["image"])
    else:
        Path(case["mask"]).write_text("not a picture")
    with pytest.raises(StudyError, match=f"{case.case_id}: .*{messages[fault]}"):
        images.prepare(catalogue.load("phantom", copy), 64, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    problems = check("phantom", copy)["problems"]
    assert len(problems) == 1 and case.case_id in problems[0]


def test_every_fault_of_a_case_table_is_told_once_in_words(tmp_path):
    there = tmp_path / "there.png"
    there.touch()
    table = pd.DataFrame({
        "case_id": ["a", "a", None, "d"], "patient_id": ["1", None, "3", "4"],
        "image": [str(there)] * 3 + ["gone.png"], "mask": [None, *[str(there)] * 3], "pixel_mm": [0.1, 2.0, 0.1, 0.1],
        "shape": [None, "egg", None, None], "margin": [None, "fuzzy", None, None], "birads": None,
        "pathology": ["benign", "Benign", "normal", "normal"]})
    with pytest.raises(StudyError) as caught:
        validate(table, "cases.csv")
    head, *told = str(caught.value).splitlines()
    assert head == "cases.csv: 9 fault(s) in the case table:" and sorted(told) == sorted([
        "  a: lesion without a mask", "  row 3 of the cases, case_id: is empty", "  a, case_id: 'a' is there twice",
        "  a, patient_id: is empty", "  d, image: 'gone.png' – no such file",
        "  a, pixel_mm: 2.0 must be from 0.005 to 1.0 mm",
        "  a, shape: 'egg' must be one of 'oval', 'round', 'irregular'",
        "  a, margin: 'fuzzy' – words must be among circumscribed, indistinct, angular, microlobulated, spiculated, "
        "not circumscribed", "  a, pathology: 'Benign' must be one of 'benign', 'malignant', 'normal'"])
    with pytest.raises(StudyError, match="cases.csv: the table has no rows"):
        validate(table.iloc[:0], "cases.csv")


def test_a_normal_image_with_a_lesion_and_pixels_in_another_unit_are_told(phantom_root, monkeypatch):
    table = catalogue.load("phantom", phantom_root)
    assert not any("median" in note for note in check("phantom", phantom_root)["notes"])
    first = lesions(table)["case_id"].iloc[0]
    changed = table.assign(pixel_mm=0.8, pathology=table["pathology"].where(table["case_id"] != first, "normal"))
    monkeypatch.setattr(catalogue, "load", lambda name, root: changed)
    found = check("phantom", phantom_root)
    assert found["problems"] == [f"{first}: its class is normal, but its mask holds a lesion"]
    assert any("median of 0.8 mm, and breast probes about 0.03 to 0.3" in note for note in found["notes"])
    monkeypatch.setattr(catalogue, "load", lambda name, root: table.assign(pixel_mm=float("nan")))
    assert not any("median" in note for note in check("phantom", phantom_root)["notes"])


def test_single_pixel_sizes_in_another_unit_are_noted_by_case(copy):
    edit_table(copy, lambda t: t.assign(Pixel_size=[0.081, 0.002, *[0.0081] * (len(t) - 2)]))
    one, other = catalogue.load("phantom", copy)["case_id"][:2]
    assert [note for note in check("phantom", copy)["notes"] if "pixel size" in note] == [
        "the pixel size of 2 image(s) is outside of what breast probes have, about 0.03 to 0.3 mm: "
        f"{one} (0.81 mm), {other} (0.02 mm); is the unit right?"]


def test_a_mask_of_two_lesions_is_refused(copy):
    at = lesions(catalogue.load("phantom", copy).assign(row=range(2, 22)))[:2]  # below the header

    def change(table):
        table.loc[at["row"][1] - 2, "Mask_tumor_filename"] = Path(at["mask"][0]).name
        return table

    edit_table(copy, change)
    words = f"rows {at['row'][0]} and {at['row'][1]}, .*both name {Path(at['mask'][0]).name}, "
    with pytest.raises(StudyError, match=words):
        catalogue.load("phantom", copy)


def test_pictures_without_a_row_are_counted(copy):
    assert catalogue.load("phantom", copy).attrs["left_out"] == []
    case = first_lesion(copy)["case_id"]
    edit_table(copy, lambda t: t[t["Image_filename"] != f"{case}.png"])
    (copy / blu.IMAGES / "notes.txt").touch()
    left = f"2 picture file(s) belong to no row of {blu.TABLE} and were left out (first: {blu.IMAGES}/{case}.png)"
    assert left in check("phantom", copy)["notes"]


def test_images_may_have_any_name_that_the_table_has(copy):
    before = catalogue.load("own", copy)
    for path in list((copy / blu.IMAGES).iterdir()):
        path.rename(path.with_name(path.name.replace("case", "Fall ")))
    first = before["case_id"][0]
    with pytest.raises(StudyError, match=rf"neither this folder nor one directly in it holds .*\(first: {first}.png\)"):
        catalogue.load("own", copy)
    (copy / "case of the week.png").touch()
    edit_table(copy, lambda t: t.assign(**{name: t[name].str.replace("case", "Fall ")
                                           for name in ("Image_filename", "Mask_tumor_filename")}))
    after = catalogue.load("own", copy)
    assert after["case_id"].tolist() == before["case_id"].str.replace("case", "Fall ").tolist()


def test_prepare_is_kept_until_a_source_changes(copy, tmp_path):
    table, path = catalogue.load("phantom", copy), tmp_path / "p"
    first = images.prepare(table, 64, path)
    written = path.stat().st_mtime_ns
    assert images.prepare(table, 64, path).fingerprint == first.fingerprint and path.stat().st_mtime_ns == written
    case = first_lesion(copy)
    with Image.open(case["image"]) as image:
        Image.eval(image.convert("L"), lambda v: 255 - v).save(case["image"])
    changed = images.prepare(table, 64, path)
    row = changed.rows([case.case_id])[0]
    assert changed.fingerprint != first.fingerprint and not np.array_equal(changed.images[row], first.images[row])
    assert np.array_equal(changed.masks, first.masks)


def test_the_fingerprint_of_the_metadata_is_of_plain_text():
    """Missing values of both kinds are one word; files and further columns are not in it."""
    table = pd.DataFrame({"case_id": ["a", "b"], "patient_id": ["p", "q"], "image": "x", "shape": ["oval", None],
                          "margin": [np.nan, "angular"], "birads": ["4a", None], "pathology": ["benign", "malignant"],
                          "pixel_mm": [0.1, np.nan], "vendor": "y"})
    text = b'[["a", "p", "oval", null, "4a", "benign", 0.1], ["b", "q", null, "angular", null, "malignant", null]]'
    found = images.metadata_fingerprint(table)
    assert found == hashlib.sha256(text).hexdigest() == images.metadata_fingerprint(table.assign(image="z", vendor="z"))
    for column in ("patient_id", "shape", "margin", "birads", "pathology", "pixel_mm"):
        assert images.metadata_fingerprint(table.assign(**{column: table[column].iloc[::-1].to_list()})) != found


def test_damaged_prepared_file(phantom_root, tmp_path):
    table = catalogue.load("phantom", phantom_root)
    images.prepare(table, 64, tmp_path / "p")
    (tmp_path / "p" / "masks.npy").write_bytes(b"PK broken")
    with pytest.raises(StudyError, match="p is damaged.*delete it"):
        images.prepare(table, 64, tmp_path / "p")


def test_transparency_is_composited_over_black(tmp_path):
    Image.fromarray(np.array([[[200, 200, 200, 255], [200, 200, 200, 0]]], np.uint8)).save(tmp_path / "x.png")
    assert images.read_grey(tmp_path / "x.png").tolist() == [[200, 0]]


def test_geometry_by_hand():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:7] = True
    assert images.bounding_box(mask) == (5, 2)
    assert images.centroid(mask) == (4.0, 1.5)
    assert images.bounding_box(np.zeros((2, 2), bool)) == (0, 0)


def test_size_bins_include_their_upper_edge():
    assert size_bins([110, 111, 250, 251]) == {"<=110": 1, "111-250": 2, ">250": 1}


def test_archive_as_downloaded(phantom_root, tmp_path):
    """The zip and the table, as they come, are read without unpacking by hand, and then with the folder beside them."""
    shutil.copy(phantom_root / blu.TABLE, tmp_path)
    shutil.make_archive(str(tmp_path / "images_and_masks"), "zip", phantom_root, blu.IMAGES)
    unpacked = catalogue.load("phantom", phantom_root)
    for _ in range(2):
        assert catalogue.load("blu", tmp_path)["case_id"].tolist() == unpacked["case_id"].tolist()


def second_table(root):
    shutil.copy(root / blu.TABLE, root / "an edited Clinical table.XLSX")
    return "2 clinical tables, .*Dec-15-2023.xlsx and .*an edited Clinical table.XLSX"


def resized_copies(root):
    (root / "256x256").mkdir()
    for path in (root / blu.IMAGES).glob("case*.png"):
        with Image.open(path) as image:
            image.resize((256, 256)).save(root / "256x256" / path.name)
    return f"2 folders with images .*, .*256x256 and .*{blu.IMAGES}"


def images_in_the_folder_itself(root):
    shutil.copy(first_lesion(root)["image"], root)
    return f"2 folders with images .*, .*copy and .*{blu.IMAGES}"


def two_archives(root):
    for name in ("a", "b"):
        shutil.make_archive(str(root / name), "zip", root, blu.IMAGES)
    shutil.rmtree(root / blu.IMAGES)
    return "2 archives, .*a.zip and .*b.zip"


@pytest.mark.parametrize("add", [second_table, resized_copies, images_in_the_folder_itself, two_archives])
def test_of_two_tables_or_folders_none_is_chosen(copy, add):
    words = add(copy)
    with pytest.raises(StudyError, match=f"copy holds {words}; which one is meant.*Keep one"):
        catalogue.load("blu", copy)


def test_what_excel_and_a_killed_unpacking_leave_is_not_read(copy):
    before = catalogue.load("blu", copy)
    (copy / f"~${blu.TABLE}").write_bytes(b"the user's name")
    shutil.copytree(copy / blu.IMAGES, copy / f".{blu.IMAGES}.0a1b.77.partial")
    pd.testing.assert_frame_equal(catalogue.load("blu", copy), before)


def test_suffixes_of_other_masks_may_be_in_capitals(copy):
    case = first_lesion(copy)
    names = [f"{case.case_id}_other1.png", f"{case.case_id}_other2.png"]
    for name in names:
        shutil.copy(case["mask"], (copy / blu.IMAGES / name).with_suffix(".PNG"))

    def change(table):
        table.loc[table["Image_filename"] == f"{case.case_id}.png", "Mask_other_filename"] = " & ".join(names)
        return table

    edit_table(copy, change)
    report = check("phantom", copy)
    assert report["problems"] == [] and case.case_id in report["multi_lesion_cases"]
    assert exploration.gallery(lesions(catalogue.load("phantom", copy)).head(1), ["it"], "One lesion", "phantom")
    (copy / blu.IMAGES / names[1]).with_suffix(".PNG").unlink()
    assert check("phantom", copy)["problems"] == [f"{case.case_id}: no file {names[1]}"]


def test_blu_as_published(blu_root):
    report = check("blu", blu_root)
    assert {k: report[k] for k in ("images", "lesions", "normals", "benign", "malignant", "problems")} == {
        "images": 256, "lesions": 252, "normals": 4, "benign": 154, "malignant": 98, "problems": []}
    assert report["normal_cases"] == ["case045", "case061", "case209", "case213"]
    assert report["multi_lesion_cases"] == [f"case{n}" for n in ("022", "036", "038", "085", "092", "140", "151")]
    assert report["size_bins"] == {"<=110": 49, "111-250": 142, ">250": 61}
