"""xbuslib predict --dicom: what other programs read in the files, that they are valid, and what is refused.

dciodvfy (Debian: dicom3tools) and dsrdump (Debian: dcmtk) judge the files where they are installed.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pydicom.sr._concepts_dict
import pytest
from PIL import Image
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage, generate_uid
from typer.testing import CliRunner

from tests.test_dicom_facts import placed
from tests.test_reading import dicom
from xbuslib import cli
from xbuslib.data import catalogue
from xbuslib.data.cases import BIRADS, MARGINS, SHAPES
from xbuslib.evaluation import measure
from xbuslib.lesion import dicom_codes

highdicom = pytest.importorskip("highdicom", reason="pip install highdicom")
WORDS = ("--shape", "irregular", "--margin", "spiculated, indistinct", "--birads", "4c")


def identity():
    return {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "PatientID": "SIM-1",
            "PatientBirthDate": "", "PatientSex": "F", "StudyDate": "20260101", "StudyTime": "120000", "StudyID": "7",
            "AccessionNumber": "", "ReferringPhysicianName": ""}


@pytest.fixture(scope="module")
def grey(phantom_root):
    """The first simulated image, of an odd number of columns."""
    with Image.open(catalogue.load("phantom", phantom_root)["image"].iloc[0]) as image:
        return np.asarray(image.convert("L"))


def ultrasound(path, grey, cm=0.008, **attributes):
    """A simulated image as a scanner stores it, with one calibrated region of the whole frame."""
    height, width = grey.shape[-2:]
    whole = [placed(cm, 0, 0, width - 1, height - 1)]
    return dicom(path, grey, **{"SequenceOfUltrasoundRegions": whole} | identity() | attributes)


def predict(image, run, out, *more):
    return CliRunner().invoke(cli.app, ["predict", str(image), "--run", str(run), "--out", str(out), "--dicom", *more])


@pytest.fixture(scope="module")
def results(two_folds, grey, tmp_path_factory):
    """(source file, folder of its results)."""
    folder = tmp_path_factory.mktemp("dicom")
    source = ultrasound(folder / "case.dcm", grey)
    done = predict(source, two_folds, folder / "out", *WORDS)
    assert done.exit_code == 0, done.output
    return source, folder / "out" / "case"


def checked(program, *arguments):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: dicom3tools, dcmtk)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name, kind", [("segmentation", "Segmentation"), ("probability", "Segmentation"),
                                        ("report", "ComprehensiveSR")])
def test_dciodvfy_finds_no_error(results, name, kind, tmp_path):
    code, text = checked("dciodvfy", "-new", results[1] / f"{name}.dcm")
    assert code == 0 and kind in text and "Error" not in text, text
    assert not [line for line in text.splitlines() if "Warning" in line and "99XBUS" not in line]
    damaged = pydicom.dcmread(results[1] / f"{name}.dcm")
    del damaged.InstanceNumber
    damaged.save_as(tmp_path / "damaged.dcm")
    assert "Error" in checked("dciodvfy", "-new", tmp_path / "damaged.dcm")[1]  # the check itself can fail


def test_dsrdump_reads_the_report_without_a_complaint(results):
    code, text = checked("dsrdump", results[1] / "report.dcm")
    assert code == 0 and "\nW: " not in f"\n{text}" and "\nE: " not in f"\n{text}", text
    for line in ("(49608001,SCT,\"Irregular\")", "(129742005,SCT,", "(129741003,SCT,",
                 "(birads-4c,99XBUS,\"BI-RADS 4c\")", "Completion Flag     : COMPLETE"):
        assert line in text, line


def test_the_report_read_back_gives_the_measurements_of_report_json(results):
    lesion = json.loads((results[1] / "report.json").read_text())["lesion"]
    assert lesion["unit"] == "mm"
    read = highdicom.sr.srread(results[1] / "report.dcm")
    group, = read.content.get_planar_roi_measurement_groups()
    found = {item.name.value: (item.value, item.unit.value) for item in group.get_measurements()}
    assert found == {"103339001": (pytest.approx(lesion["longest_diameter"]), "mm"),
                     "103340004": (pytest.approx(lesion["orthogonal_diameter"]), "mm"),
                     "42798000": (pytest.approx(lesion["area"]), "mm2")}
    orientation = {"parallel": "111355", "not parallel": "111356"}[lesion["orientation"]]
    assert [item.value.value for item in group.get_qualitative_evaluations()] == [
        orientation, "49608001", "129742005", "129741003", "birads-4c"]
    text = [item.value for item in pydicom.dcmread(results[1] / "report.dcm").iterall() if item.keyword == "TextValue"]
    assert "Research use only, not a medical device." in text and any("simulated phantom" in line for line in text)
    assert any(line.startswith("Given by the user, not found by the model: shape irregular") for line in text)
    assert read.PreliminaryFlag == "PRELIMINARY" and read.VerificationFlag == "UNVERIFIED"


def test_mask_and_probability_are_those_of_the_other_files(results):
    source, folder = pydicom.dcmread(results[0]), results[1]
    mask, share = (highdicom.seg.segread(folder / f"{name}.dcm") for name in ("segmentation", "probability"))
    drawn, probability = (np.asarray(Image.open(folder / f"{name}.png")) for name in ("mask", "probability"))
    assert drawn.any() and np.array_equal(mask.pixel_array, drawn > 0)
    assert mask.SegmentationType == "BINARY" and share.SegmentationType == "FRACTIONAL"
    assert np.abs(share.pixel_array / 255 - probability / 65535).max() <= 0.5 / 255 + 1e-4
    for file in (mask, share):
        assert file.get_source_image_uids() == [(source.StudyInstanceUID, source.SeriesInstanceUID,
                                                 source.SOPInstanceUID)]
        assert (file.PatientName, file.StudyInstanceUID) == (source.PatientName, source.StudyInstanceUID)
    report = pydicom.dcmread(folder / "report.dcm")
    assert mask.SOPInstanceUID in str(report) and source.SOPInstanceUID in str(report)
    algorithm, = mask.get_segment_description(1).algorithm_identification
    identity = json.loads((folder / "report.json").read_text())["model"]["identities"][0]
    assert algorithm.AlgorithmName == "XBusNet" and identity in algorithm.AlgorithmVersion


def test_a_crop_lies_where_it_was_cut(two_folds, grey, tmp_path):
    """Row and column of the crop's corner are put back; nothing around it is lesion."""
    done = predict(ultrasound(tmp_path / "a.dcm", grey), two_folds / "fold_0", tmp_path / "out", "--crop",
                   "40,60,300,320")
    assert done.exit_code == 0, done.output
    whole = highdicom.seg.segread(tmp_path / "out" / "a" / "segmentation.dcm").pixel_array
    assert whole.shape == grey.shape
    part = np.asarray(Image.open(tmp_path / "out" / "a" / "mask.png")) > 0
    assert np.array_equal(whole[60:320, 40:300], part) and whole.sum() == part.sum() > 0


def test_a_file_with_less_in_it(two_folds, grey, tmp_path):
    """Empty patient attributes, a frame of reference without a place, colours, and the size from the command."""
    bare = {name: None for name in ("PatientSex", "StudyDate")}
    path = dicom(tmp_path / "a.dcm", np.dstack([grey] * 3), FrameOfReferenceUID=generate_uid(),
                 **{"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()} | bare)
    done = predict(path, two_folds / "fold_0", tmp_path / "out", "--pixel-mm", "0.08,0.1")
    assert done.exit_code == 0, done.output
    group, = highdicom.sr.srread(tmp_path / "out" / "a" / "report.dcm").content.get_planar_roi_measurement_groups()
    mask = np.asarray(Image.open(tmp_path / "out" / "a" / "mask.png")) > 0
    found = {item.name.meaning: item.value for item in group.get_measurements()}
    assert found["Area"] == pytest.approx(measure.lesion(mask, (0.08, 0.1)).area)


def test_a_multi_frame_file_of_one_frame(two_folds, grey, tmp_path):
    """As many scanners store a still; it is referred to under its own SOP class."""
    path = ultrasound(tmp_path / "a.dcm", grey[None], frames=1, SOPClassUID=UltrasoundMultiFrameImageStorage)
    done = predict(path, two_folds / "fold_0", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for name in ("segmentation", "probability", "report"):
        made = pydicom.dcmread(tmp_path / "out" / "a" / f"{name}.dcm")
        kinds = {item.value for item in made.iterall() if item.keyword == "ReferencedSOPClassUID"}
        assert UltrasoundMultiFrameImageStorage in kinds and UltrasoundImageStorage not in kinds
        assert checked("dciodvfy", "-new", tmp_path / "out" / "a" / f"{name}.dcm")[0] == 0


@pytest.mark.parametrize("attributes, more, words", [
    ({"SequenceOfUltrasoundRegions": []}, (), "its pixel size is unknown"),
    ({"NumberOfFrames": 2, "SOPClassUID": UltrasoundMultiFrameImageStorage}, ("--frame", "2"), "holds 2 frames"),
    ({"StudyInstanceUID": ""}, (), "lacks StudyInstanceUID"),
    ({"StudyDate": "2026-13-77"}, (), "attributes cannot stand in a DICOM file"),
])
def test_what_cannot_be_referred_to(attributes, more, words, two_folds, grey, tmp_path):
    pixels = np.stack([grey, grey]) if "NumberOfFrames" in attributes else grey
    path = ultrasound(tmp_path / "a.dcm", pixels, **{"frames": len(pixels)} if pixels.ndim == 3 else {}, **attributes)
    done = predict(path, two_folds / "fold_0", tmp_path / "out", *more)
    assert done.exit_code == 1 and words in done.stderr and not (tmp_path / "out").exists(), done.stderr


def test_a_lesion_across_two_scales_has_no_millimetres(two_folds, grey, tmp_path):
    width, height = grey.shape[1], grey.shape[0]
    two = [placed(0.008, 0, 0, width // 2, height - 1), placed(0.012, width // 2 + 1, 0, width - 1, height - 1)]
    path = ultrasound(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=two)
    done = predict(path, two_folds / "fold_0", tmp_path / "out")
    assert done.exit_code == 1 and "across ultrasound regions" in done.stderr and "--pixel-mm" in done.stderr


def test_another_format_and_a_missing_library(two_folds, grey, tmp_path, monkeypatch):
    Image.fromarray(grey).save(tmp_path / "a.png")
    done = predict(tmp_path / "a.png", two_folds / "fold_0", tmp_path / "out")
    assert done.exit_code == 1 and "this one is PNG" in done.stderr
    monkeypatch.setitem(sys.modules, "highdicom", None)
    done = predict(tmp_path / "a.png", two_folds / "fold_0", tmp_path / "out")
    assert "pip install 'xbuslib[dicom]'" in str(done.exception)


def test_where_nothing_is_found_there_is_no_file(results, two_folds, grey, tmp_path, monkeypatch):
    from xbuslib.lesion.ensemble import Segmentation

    monkeypatch.setattr(Segmentation, "mask", property(lambda found: np.zeros(found.probability.shape, bool)))
    done = predict(ultrasound(tmp_path / "a.dcm", grey), two_folds / "fold_0", tmp_path / "out")
    assert done.exit_code == 0 and "No lesion above threshold" in done.output.replace("\n", " ")
    assert not list((tmp_path / "out" / "a").glob("*.dcm"))


def test_every_word_has_a_code_of_the_right_length():
    codes = [dicom_codes.SHAPES[word] for word in SHAPES] + [dicom_codes.MARGINS[word] for word in MARGINS]
    codes += [dicom_codes.assessment(category) for category in BIRADS]
    assert len({code.value for code in codes}) == len(codes) and all(len(code.value) <= 16 for code in codes)
    for code in codes:  # the standard's own lists, as pydicom has them
        known = code.scheme_designator == dicom_codes.OWN or any(
            code.value in entry for entry in pydicom.sr._concepts_dict.concepts[code.scheme_designator].values())
        assert known, code
