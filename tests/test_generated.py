"""Drawn inputs end in a result or in a message; and each input that once did not, by itself."""

import pandas as pd
import pytest

from tests.faults import inputs
from tests.faults.generated import search
from tests.faults.inputs import DICOM, KINDS, SIDE
from xbuslib import config
from xbuslib.data import folds
from xbuslib.errors import StudyError
from xbuslib.lesion import reading
from xbuslib.workflow import request


@pytest.mark.parametrize("kind", KINDS)
def test_only_results_and_messages(kind, tmp_path):
    """The long run is `python -m tests.faults.generated`; its seeds begin elsewhere."""
    count = 4 * KINDS[kind][2] + 8
    tally = search(kind, count, 2026, tmp_path)
    assert tally.inputs == count and tally.results + tally.refused == count and tally.defects == {}


def test_a_defect_and_a_case_that_is_dropped_are_found(tmp_path, monkeypatch):
    """The search itself: a reader that raises, and one that drops a picture in silence."""
    monkeypatch.setattr(inputs.pictures, "decode", lambda path: 1 / 0)
    tally = search("pictures", 5, 0, tmp_path)
    assert tally.inputs == 5 and len(tally.defects) == 1 and "ZeroDivisionError" in next(iter(tally.defects))
    monkeypatch.undo()
    monkeypatch.setattr(inputs.predict, "_read", lambda paths, *more: ([], []))
    assert any("AssertionError" in defect for defect in search("pictures for predict", 5, 0, tmp_path).defects)


def test_a_dicom_file_whose_transfer_syntax_is_none(tmp_path):
    content = DICOM.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.1.1\0")
    assert content != DICOM
    (tmp_path / "d.dcm").write_bytes(content)
    with pytest.raises(StudyError, match=r"d\.dcm"):
        reading.read(tmp_path / "d.dcm")


@pytest.mark.parametrize("number", ["x", "", "-1", "²"])
def test_a_list_of_folds_without_a_number(number, tmp_path):
    (tmp_path / f"val_fold{number}.csv").write_text("Image Name\nc0\n")
    with pytest.raises(StudyError, match=r"has no fold's number.*val_fold0\.csv"):
        folds.read(tmp_path, pd.DataFrame({"case_id": ["c0"]}))


def test_fewer_cases_of_each_class_than_folds():
    table = pd.DataFrame({"case_id": list("abcdef"), "patient_id": list("abcdef"),
                          "pathology": ["benign", "malignant"] * 3})
    assert sorted(folds.split(table, 3).value_counts()) == [2, 2, 2]
    with pytest.raises(StudyError, match="3 cases of the more frequent class cannot fill 4 folds"):
        folds.split(table, 4)


@pytest.mark.parametrize("item", ["iterations=\x07", "iterations=[", "iterations=2026-13-01", "iterations=!!x/y 1"])
def test_a_setting_that_yaml_cannot_read(item):
    with pytest.raises(StudyError, match=r"(?s)override .*its value cannot be read.*iterations=400"):
        config.resolve("smoke", [item])


@pytest.mark.parametrize(("text", "words"), [("1: a", "1 is no key; the keys are study, dataset"),
                                             ("dataset: 2026-13-01", "is no YAML"), ("[" * 2000, "is no YAML")])
def test_a_study_file_without_keys_of_ours(text, words, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(StudyError, match=words):
        request.request({}, tmp_path / "s.yaml")


def test_the_unchanged_files_are_read(tmp_path):
    """So that the changed ones are close to good ones."""
    (tmp_path / "d.dcm").write_bytes(DICOM)
    found = reading.read(tmp_path / "d.dcm")
    assert found.grey.shape == (SIDE, SIDE) and found.pixel_mm == (0.08, 0.08)
    for suffix, contents in inputs.FILES.items():
        for content in contents[:1]:
            inputs.read_picture((suffix, content), tmp_path)
