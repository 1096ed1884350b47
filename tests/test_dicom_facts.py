"""What a DICOM file says about itself: several regions, sizes in conflict, colour tags, frames, text, patient data."""

import io
import json
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from typer.testing import CliRunner

from tests.test_reading import RAMP, dicom, refused, region
from xbuslib import cli
from xbuslib.errors import StudyError
from xbuslib.lesion import reading

TALL, WIDE = 36, 40  # rows and columns of RAMP


def placed(cm, left, top, right, bottom):
    """A calibrated region of square pixels; right and bottom are its last pixels, as in the standard."""
    found = region(cm, cm)
    found.RegionLocationMinX0, found.RegionLocationMinY0 = left, top
    found.RegionLocationMaxX1, found.RegionLocationMaxY1 = right, bottom
    return found


def mask(left, right):
    found = np.zeros((TALL, WIDE), bool)
    found[10:20, left:right] = True
    return found


SIDE_BY_SIDE = [placed(0.008, 0, 0, 24, 35), placed(0.012, 25, 0, 39, 35)]


@pytest.mark.parametrize("columns, size, words", [
    ((5, 20), 0.08, "0.08×0.08 mm at x 0 to 24"), ((15, 25), 0.08, "0.08×0.08"), ((25, 40), 0.12, "0.12×0.12"),
    ((20, 30), None, "across ultrasound regions of different pixel sizes"), ((24, 34), None, "across")])
def test_the_scale_is_that_of_the_region_of_the_lesion(columns, size, words, tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=SIDE_BY_SIDE))
    assert picture.pixel_mm is None and "2 ultrasound regions have different pixel sizes" in picture.notes[0]
    known = reading.with_lesion(picture, mask(*columns))
    assert known.pixel_mm == ((size, size) if size else None) and words in known.notes[-1]
    assert known.pixel_source == ("DICOM, calibrated ultrasound region" if size else "unknown")
    assert reading.with_lesion(picture, mask(0, 0)).notes == picture.notes  # nothing to choose for
    given = reading.with_pixel_size(picture, (0.1, 0.1))
    assert reading.with_lesion(given, mask(*columns)).pixel_mm == (0.1, 0.1)


def test_a_lesion_outside_the_only_region_has_no_scale(tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=[placed(0.008, 0, 0, 24, 35)]))
    assert picture.pixel_mm == (0.08, 0.08)
    assert reading.with_lesion(picture, mask(3, 20)).pixel_mm == (0.08, 0.08)
    for columns, words in (((20, 30), "partly outside"), ((30, 38), "lies outside")):
        known = reading.with_lesion(picture, mask(*columns))
        assert known.pixel_mm is None and words in known.notes[-1]


def test_the_largest_part_decides(tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=SIDE_BY_SIDE))
    two = mask(2, 18)
    two[28:30, 30:33] = True
    assert reading.with_lesion(picture, two).pixel_mm == (0.08, 0.08)


@pytest.mark.parametrize("regions, columns, size, words", [
    ([placed(0.008, 0, 0, 19, 35), placed(0.008, 20, 0, 39, 35)], (15, 25), 0.08, []),
    ([placed(0.008, 0, 0, 39, 35), placed(0.0080004, 10, 5, 30, 30)], (12, 28), 0.08, []),  # a colour box
    ([placed(0.008, 0, 0, 17, 35), placed(0.008, 22, 0, 39, 35)], (15, 25), None, ["lies partly outside"]),
    ([placed(0.008, 0, 0, 9, 35), placed(0.008, 10, 0, 19, 35), placed(0.012, 20, 0, 39, 35)], (5, 15), 0.08,
     ["different pixel sizes", "0.08×0.08 mm at x 0 to 9, y 0 to 35 and of 0.08×0.08 mm at x 10 to 19"]),
])
def test_regions_of_one_scale_are_one(regions, columns, size, words, tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=regions))
    known = reading.with_lesion(picture, mask(*columns))
    assert known.pixel_mm == ((size, size) if size else None)
    assert len(known.notes) == len(words) and all(map(str.__contains__, known.notes, words)), known.notes


def spectrum(left, top, right, bottom):
    """A region of Doppler spectra, whose sides are no lengths."""
    found = placed(0.01, left, top, right, bottom)
    found.RegionSpatialFormat = found.PhysicalUnitsXDirection = 4
    return found


@pytest.mark.parametrize("regions, fits", [
    ([placed(0.008, 1, 1, 40, 36)], True),  # counted from 1
    ([placed(0.008, 0, 0, 41, 35)], False), ([placed(0.008, 0, 0, 39, 37)], False),
    ([placed(0.008, 0, 0, 39, 20), spectrum(0, 21, 39, 60)], False),
    ([placed(0.008, 0, 0, 39, 20), spectrum(0, 21, 39, 35)], True),
])
def test_no_pixel_size_of_another_raster_is_used(regions, fits, tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=regions, PixelSpacing=[0.08, 0.08])
    picture = reading.read(path)
    assert picture.pixel_mm == reading.with_lesion(picture, mask(5, 15)).pixel_mm == ((0.08, 0.08) if fits else None)
    assert len(picture.notes) == (not fits) and all("reaches beyond the image" in note for note in picture.notes)
    assert reading.read(path, pixel_mm=(0.2, 0.2)).pixel_mm == (0.2, 0.2)


@pytest.mark.parametrize("attributes, words", [
    ({"SequenceOfUltrasoundRegions": [region(0.008, 0.008)], "PixelSpacing": [0.1, 0.1]},
     ["region says 0.08×0.08 mm", "spacing 0.1×0.1 mm", "region's is used"]),
    ({"SequenceOfUltrasoundRegions": [region(0.008, 0.008)], "PixelAspectRatio": [2, 1]},
     ["aspect ratio is 2 (height over width)", "gives 1"]),
    ({"PixelSpacing": [0.1, 0.08], "PixelAspectRatio": [1, 1]}, ["aspect ratio is 1", "gives 1.25"]),
    ({"PixelAspectRatio": [4, 3]}, ["aspect ratio is 1.33333", "taken as square"]),
    ({"PixelSpacing": [0.1, 0.08], "PixelAspectRatio": [5, 4]}, []),
    ({"SequenceOfUltrasoundRegions": [region(0.008, 0.008)], "PixelSpacing": [0.0803, 0.08]}, []),
])
def test_sizes_in_conflict_are_said(attributes, words, tmp_path):
    notes = reading.read(dicom(tmp_path / "a.dcm", RAMP, **attributes)).notes
    assert len(notes) == bool(words) and all(word in notes[0] for word in words), notes


def without_width():
    found = region(0.008, 0.008)
    del found.PhysicalDeltaX
    return found


@pytest.mark.parametrize("attributes, size, words", [
    ({"PixelSpacing": [0.1]}, None, "PixelSpacing is not two numbers"),
    ({"PixelAspectRatio": 1}, None, "PixelAspectRatio is not two numbers"),
    ({"SequenceOfUltrasoundRegions": [without_width()]}, None, "region without a pixel size"),
    ({"SequenceOfUltrasoundRegions": [without_width(), region(0.009, 0.009)]}, 0.09, "region without a pixel size"),
])
def test_a_damaged_size_is_not_used(attributes, size, words, tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP, **attributes))
    assert np.array_equal(picture.grey, RAMP) and picture.pixel_mm == ((size, size) if size else None)
    assert len(picture.notes) == 1 and words in picture.notes[0]


def test_sizes_that_cannot_be_parsed(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=[region(0.008, 0.008)],
                 PixelSpacing=[0.123456, 0.1])
    path.write_bytes(path.read_bytes().replace(b"0.123456", b"0.12 ab ").replace(b"\x18\x00\x11\x60SQ",
                                                                               b"\x18\x00\x11\x60OB"))
    picture = reading.read(path)
    assert picture.pixel_mm is None and len(picture.notes) == 2
    assert "regions cannot be read" in picture.notes[0] and "PixelSpacing is not two" in picture.notes[1]


def test_a_damaged_modality(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP)
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00CO"))
    refused(path, "cannot be read as DICOM", "Export it again")


def coloured(channels):
    return np.dstack([np.broadcast_to(channel, RAMP.shape) for channel in channels]).astype(np.uint8)


def test_frames_that_are_not_there(tmp_path):
    clip = np.stack([RAMP, RAMP // 2])
    path = dicom(tmp_path / "a.dcm", clip, frames=2, NumberOfFrames=5)
    refused(path, "says that it holds 5 frame(s)", "end in frame 3", frame=1)


def test_doppler_over_the_lesion_is_said(tmp_path):
    colour = coloured([RAMP, RAMP, RAMP])
    colour[10:20, 5:9] = (250, 40, 20)
    picture = reading.read(dicom(tmp_path / "a.dcm", colour))
    assert "40% of the segmented pixels are coloured" in reading.with_lesion(picture, mask(5, 15)).notes[-1]
    assert reading.with_lesion(picture, mask(20, 30)).notes == []


def test_colours_of_a_palette_are_reported():
    """pydicom's own example, a Doppler picture of 800×350 pixels."""
    path = get_testdata_file("examples_palette.dcm")
    picture = reading.read(path)
    data = pydicom.dcmread(path)
    colours = apply_color_lut(data.pixel_array, data)
    assert np.array_equal(picture.grey, np.asarray(Image.fromarray((colours >> 8).astype(np.uint8)).convert("L")))
    assert picture.coloured.sum() == 46135
    assert "100% of the segmented pixels are coloured" in reading.with_lesion(picture, picture.coloured).notes[-1]


def test_crop(tmp_path):
    big = np.arange(90 * 80, dtype=np.int64).reshape(90, 80) % 251
    regions = [placed(0.008, 10, 20, 59, 79)]
    path = dicom(tmp_path / "a.dcm", big.astype(np.uint8), BurnedInAnnotation="YES",
                 SequenceOfUltrasoundRegions=regions)
    whole, cut = reading.read(path), reading.read(path, crop="regions")
    assert "may name the patient" in whole.notes[0] and "--crop" in whole.notes[0]
    assert np.array_equal(cut.grey, big[20:80, 10:60]) and "Cropped to x 10 to 59, y 20 to 79" in cut.notes[-1]
    assert cut.regions[0].box == (0, 0, 50, 60)
    assert np.array_equal(reading.read(path, crop="4,0,80,50").grey, big[:50, 4:])
    for wrong in ("1,2,3", "0,0,81,90", "20,0,10,50", "a,b,c,d"):
        with pytest.raises(StudyError, match="LEFT,TOP,RIGHT,BOTTOM"):
            reading.read(path, crop=wrong)
    with pytest.raises(StudyError, match="32 a side"):
        reading.read(path, crop="0,0,20,50")
    plain = dicom(tmp_path / "b.dcm", big.astype(np.uint8))
    with pytest.raises(StudyError, match="no place of an ultrasound region"):
        reading.read(plain, crop="regions")


def test_crop_to_regions_leaves_nothing_between_them(tmp_path):
    """Two regions corner to corner: the upper right quarter of their box, where the text is, lies in neither."""
    left, right = placed(0.008, 10, 5, 49, 44), placed(0.008, 50, 45, 89, 84)
    pixels = np.full((90, 100, 3), 60, np.uint8)
    pixels[15, 70] = 255, 0, 0  # in neither
    pixels[15, 20] = 0, 255, 0  # in the left one; luminance 0.587 * 255
    cut = reading.read(dicom(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=[left, right]), crop="regions")
    expected = np.kron([[60, 0], [0, 60]], np.ones((40, 40)))
    expected[10, 10] = 150
    assert np.array_equal(cut.grey, expected) and np.argwhere(cut.coloured).tolist() == [[10, 10]]
    assert "in none of the ultrasound regions were set to 0" in cut.notes[-1]
    whole = reading.read(dicom(tmp_path / "b.dcm", pixels, SequenceOfUltrasoundRegions=[left]), crop="regions")
    assert "set to 0" not in whole.notes[-1]


@pytest.mark.parametrize("regions, box", [
    ([placed(0.008, 10, 20, 80, 90)], (10, 20, 80, 90)),  # counted from 1
    ([placed(0.008, 10, 20, 120, 140)], (10, 20, 80, 90)),
    ([placed(0.008, 10, 20, 59, 79), placed(0.008, 100, 0, 150, 150)], (10, 20, 60, 80)),
    ([placed(0.008, 100, 0, 150, 150)], None),
])
def test_crop_to_regions_that_reach_beyond_the_image(regions, box, tmp_path):
    pixels = (np.arange(90 * 80).reshape(90, 80) % 251).astype(np.uint8)
    path = dicom(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=regions)
    if box is None:
        return refused(path, "its ultrasound regions lie outside the image of 80×90 pixels", crop="regions")
    left, top, right, bottom = box
    assert np.array_equal(reading.read(path, crop="regions").grey, pixels[top:bottom, left:right])


# ---- through the command --------------------------------------------------------------------------------------


SECRETS = {"PatientName": "Secretova^Jana", "PatientID": "ID-77012-SECRET", "PatientBirthDate": "19610423",
           "AccessionNumber": "ACC90210X", "ReferringPhysicianName": "Hidden^Doctor",
           "InstitutionName": "Quiet Hospital", "StudyDescription": "Secret remark 4711"}


def every_byte(folder):
    """The bytes of all files under a folder, those inside npz archives unpacked."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        yield path.name, content
        if path.suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                yield from ((name, packed.read(name)) for name in packed.namelist())


def test_nothing_of_the_patient_is_in_any_output_and_the_text_in_the_pixels_is_said(smoke_study, tmp_path):
    private = Dataset()
    private.add_new(0x00091001, "LO", "PrivateSecret99")
    pixels = np.kron(RAMP, np.ones((3, 3), np.uint8))
    path = dicom(tmp_path / "IM1.dcm", pixels, BurnedInAnnotation="YES", **SECRETS,
                 SequenceOfUltrasoundRegions=[placed(0.008, 0, 20, 119, 107)], OtherPatientIDsSequence=[private])
    arguments = ["predict", str(path), "--run", str(smoke_study.folder / "runs" / "uresnet"), "--out",
                 str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "IM1.dcm: The file says that text is burned into its pixels" in done.stderr
    page = (tmp_path / "out" / "IM1" / "report.html").read_text("utf-8")
    assert "burned into its pixels" in page
    done = CliRunner().invoke(cli.app, [*arguments, "--json", "--crop", "regions"])
    row, = json.loads(done.stdout)
    assert "burned into" in "".join(row["notes"]) and "Cropped to x 0 to 119, y 20 to 107" in "".join(row["notes"])
    report = json.loads((tmp_path / "out" / "IM1" / "report.json").read_text("utf-8"))
    assert report["image"]["height"] == 88
    assert row["notes"] == [*report["model"]["caveats"], *report["image"]["notes"]]
    names = [name for name, _ in every_byte(tmp_path / "out")]
    assert {"report.json", "report.html", "overlay.png", "maps.npz", "mask.png", "members.npy"} <= set(names)
    uid = b"1.2.826.0.1.3680043.8.498"  # the root of the file's own identifiers
    for name, content in [*every_byte(tmp_path / "out"), ("terminal", (done.output + page).encode())]:
        for secret in (*SECRETS.values(), "PrivateSecret99", "Secretova"):
            assert secret.encode() not in content and secret.encode("utf-16-le") not in content, (name, secret)
        assert uid not in content
