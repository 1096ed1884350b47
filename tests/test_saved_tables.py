"""Tables as people save them: a small BUS-BRA and a small BLU in many spellings, read to the same cases."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.data import blu, folds, tables
from xbuslib.data.catalogue import load
from xbuslib.errors import StudyError

HEADER = ["ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side"]
ROWS = [["bus_0001-l", "1", "fibroadenoma, giant", "benign", "3", "GE", "left"],
        ["bus_0001-r", "1", "cisto", "benign", "", "GE", "right"],
        ["bus_0002-r", "2", "carcinoma", "malignant", "4a", "Tóshiba", "right"]]
BIRADS = ["3", None, "4a"]


@pytest.fixture
def root(tmp_path):
    for folder, prefix in (("Images", "bus"), ("Masks", "mask")):
        (tmp_path / folder).mkdir()
        for row in ROWS:
            image = np.zeros((40, 40), np.uint8)
            image[10:20, 10:20] = 255
            Image.fromarray(image).save(tmp_path / folder / f"{row[0].replace('bus', prefix)}.png")
    return tmp_path


def lines(separator, rows=ROWS, header=HEADER):
    return "\n".join(separator.join(f'"{cell}"' if separator in cell else cell for cell in row)
                     for row in [header, *rows]) + "\n"


def changed(column, values):
    at = HEADER.index(column)
    return [[*row[:at], value, *row[at + 1:]] for row, value in zip(ROWS, values, strict=True)]


SPELLINGS = {
    "as published": lines(",").encode(),
    "semicolons": lines(";").encode(),
    "tabs": lines("\t").encode(),
    "Excel's own line": ("sep=;\n" + lines(";")).encode(),
    "mark of UTF-8": lines(",").encode("utf-8-sig"),
    "UTF-16": lines("\t").encode("utf-16"),
    "Windows-1252": lines(";").encode("cp1252"),
    "line ends of Windows": lines(",").replace("\n", "\r\n").encode(),
    "blank lines": (lines(",") + ",,,,,,\n\n").encode(),
    "numbers as a spreadsheet has them": lines(",", [[*row[:1], f"{row[1]}.0", *row[2:]] for row in
                                                     changed("BIRADS", ["3.0", "", "4A"])]).encode(),
    "decimal commas": lines(";", changed("BIRADS", ["3,0", "NA", " 4 A "])).encode(),
    "the lexicon's name": lines(",", changed("BIRADS", ["BI-RADS 3", "not available", "BIRADS: 4a"])).encode(),
    "capitals": lines(",", changed("Pathology", ["Benign", "BENIGN", "Malignant "]),
                      [f" {name.upper()} " for name in HEADER]).encode(),
    "further columns": lines(",", [[*row, "x", ""] for row in ROWS], [*HEADER, "Mine", ""]).encode(),
    "every cell in quotation marks": "".join(
        ";".join(f'"{cell}"' for cell in row) + "\n" for row in [HEADER, *ROWS]).encode(),
    "marks and line breaks in cells": lines(",", changed("Device", ['14" probe', '"two\nlines"', "Tóshiba"])).encode(),
    "another order": lines(",", [row[::-1] for row in ROWS], HEADER[::-1]).encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_table_means_the_same_however_it_was_saved(spelling, root):
    (root / "bus_data.csv").write_bytes(SPELLINGS[spelling])
    table = load("busbra", root)
    assert table["case_id"].tolist() == ["bus_0001-l", "bus_0001-r", "bus_0002-r"]
    assert table["patient_id"].tolist() == ["1", "1", "2"] and table["birads"].tolist() == BIRADS
    assert table["pathology"].tolist() == ["benign", "benign", "malignant"]
    assert table["histology"][0] == "fibroadenoma, giant" and table["device"][2] == "Tóshiba"


@pytest.mark.parametrize("content, words", [
    (lines(",", changed("BIRADS", ["3", "4d", "7"])), ["bus_0001-r, birads: '4d'", "bus_0002-r, birads: '7'"]),
    (lines(",", changed("ID", ["bus_0001-l", "", "bus_0002-r"])), ["row 3, column ID", "empty"]),
    (lines(",").replace("fibroadenoma, giant", "fibro").replace('"fibro"', "fibro, adenoma"), ["row 2", "8 cells"]),
    (lines(",", header=["ID", "Case", "Histology", "Pathology", "BIRADS", "Side", "Side"]),
     ["2 columns are called Side"]),
    (lines(",", header=["ID", "Case", "Histology", "Pathology", "Rads", "Device", "Side"]),
     ["missing column(s) BIRADS", "Rads"]),
    (lines(",", changed("Side", ['"left', "right", "right"])), ["lines 2 to 4", "unexpected end", "quotation mark"]),
    (lines(",", changed("Side", ['"left', 'right"', "right"])), ["lines 2 to 3", "line breaks and the separator"]),
    ("", ["holds no rows"]), (lines(",", []), ["holds no rows below a header"]), ("\0\1\2", ["no text table"]),
    (lines(",", changed("ID", ["bus_0001-l", "bus_0001-l", "bus_0002-r"])), ["case_id"]),
])
def test_what_is_in_doubt_is_named_with_its_place(content, words, root):
    (root / "bus_data.csv").write_text(content)
    with pytest.raises(StudyError) as caught:
        load("busbra", root)
    assert all(word in str(caught.value) for word in ["bus_data.csv", *words]), caught.value


def test_pictures_without_a_row_are_counted(root):
    (root / "bus_data.csv").write_text(lines(","))
    assert load("busbra", root).attrs["left_out"] == []
    (root / "bus_data.csv").write_text(lines(",", ROWS[:2]))
    assert load("busbra", root).attrs["left_out"] == [
        "2 picture file(s) belong to no row of bus_data.csv and were left out (first: Images/bus_0002-r.png)"]


def test_files_in_upper_case_and_those_of_macos(root):
    (root / "bus_data.csv").write_text(lines(","))
    for path in list(root.glob("*/*.png")):
        shutil.move(path, path.with_suffix(".PNG"))
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    assert load("busbra", root)["image"].str.endswith(".PNG").all()


@pytest.fixture
def published(phantom_root, tmp_path):
    """A copy of the phantom, whose table a test may rewrite, and that table."""
    root = shutil.copytree(phantom_root, tmp_path / "copy")
    return root, pd.read_excel(root / blu.TABLE, dtype=str, keep_default_na=False)


def test_blus_table_as_text_with_decimal_commas(published):
    root, table = published
    before = load("blu", root)
    (root / blu.TABLE).unlink()
    (root / "._BrEaST-clinical.csv").write_bytes(b"Mac OS X")
    table["Pixel_size"] = table["Pixel_size"].str.replace(".", ",")
    table.assign(Remark="mine").to_csv(root / "BrEaST-clinical.csv", sep=";", index=False, encoding="cp1252")
    pd.testing.assert_frame_equal(load("blu", root), before)


def test_numbers_that_are_none_are_not_dropped(published):
    root, table = published
    table.loc[1, "Pixel_size"], table.loc[3, "Pixel_size"], table.loc[2, "Age"] = "0.0081 cm", "1,234.5", ""
    table.to_excel(root / blu.TABLE, index=False)
    with pytest.raises(StudyError) as caught:
        load("blu", root)
    for words in ("row 3, column Pixel_size: '0.0081 cm'", "row 5, column Pixel_size: '1,234.5'"):
        assert words in str(caught.value)


def test_errors_of_excel_and_formulas_without_a_value(published):
    root, table = published
    table.assign(Mine="#N/A").to_excel(root / blu.TABLE, index=False)
    assert len(load("blu", root)) == len(table)  # the further column is not read
    table.loc[0, "Pixel_size"], table.loc[1, "Margin"], table.loc[2, "BIRADS"] = "#REF!", "#NAME?", "=3+0"
    table.to_excel(root / blu.TABLE, index=False)
    with pytest.raises(StudyError) as caught:
        load("blu", root)
    assert str(caught.value).splitlines()[1:] == [
        "  row 2, column Pixel_size: #REF!", "  row 3, column Margin: #NAME?",
        "  row 4, column BIRADS: a formula whose value was not saved"]
    empty = SimpleNamespace(value=None, data_type="str")  # a formula whose value is an empty text
    assert tables._text(empty, SimpleNamespace(data_type="f")) == ""


def test_words_of_a_cell():
    assert [tables.birads(cell) for cell in ("3.0", "4A", "4 b", "BI-RADS: 5", "n/a", "", None, "9")] == [
        "3", "4a", "4b", "5", None, None, None, "9"]
    assert [tables.whole(cell) for cell in ("12.0", "7,00", "3.5", "a.0", None)] == ["12", "7", "3.5", "a.0", None]


def test_fold_lists_by_semicolons_and_in_capitals(tmp_path):
    cases = pd.DataFrame({"case_id": list("abcd")})
    (tmp_path / "val_fold0.csv").write_text("No;image name\n1;a.PNG\n2;b.png\n")
    (tmp_path / "val_fold1.csv").write_bytes("Image Name\r\nc\r\nd.png\r\n".encode("utf-8-sig"))
    assert folds.read(tmp_path, cases).tolist() == [0, 0, 1, 1]
