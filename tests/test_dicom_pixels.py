"""Stored values of a DICOM file as grey: windows, lookup tables, rescaling, compression, colours and their tags."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from tests.test_dicom_facts import coloured
from tests.test_reading import RAMP, dicom, refused, stripes
from xbuslib.lesion import reading


def test_dicom_window_by_the_standards_formula(tmp_path):
    """C.11.2.1.2.1 for centre 2000, width 1001: ((x - 1999.5)/1000 + 0.5), cut to 0 … 1."""
    deep = np.linspace(0, 4000, 36 * 40).astype(np.uint16).reshape(36, 40)
    picture = reading.read(dicom(tmp_path / "a.dcm", deep, WindowCenter=2000, WindowWidth=1001))
    expected = np.clip((deep - 1999.5) / 1000 + 0.5, 0, 1) * 255
    assert np.abs(picture.grey - expected).max() <= 0.51 and "centre 2000, width 1001" in picture.notes[0]
    picture = reading.read(dicom(tmp_path / "b.dcm", deep))
    assert np.abs(picture.grey - deep / 4000 * 255).max() <= 0.51 and "0 to 4000" in picture.notes[0]


WINDOW = {"WindowCenter": [2000, 100], "WindowWidth": [1001, 11]}  # the first counts
SHOWN = [0, 128, 191, 255]  # 1500, 2000, 2250 and 4000 in it, by the formula above


@pytest.mark.parametrize("stored, attributes, shown", [
    ([1500, 2000, 2250, 4000], WINDOW, SHOWN),
    ([1500, 2000, 2250, 4000], WINDOW | {"kind": "MONOCHROME1"}, [255, 127, 64, 0]),
    ([1250, 1500, 1625, 2500], WINDOW | {"RescaleSlope": 2, "RescaleIntercept": -1000}, SHOWN),
])
def test_dicom_window_with_others_inverted_and_rescaled(stored, attributes, shown, tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", stripes(stored, np.uint16), **attributes))
    assert np.array_equal(picture.grey, stripes(shown, np.uint8))


def test_dicom_lookup_table_of_values(tmp_path):
    """A VOI LUT (C.11.2.1.1) of 256 values of 12 bits, 4095 - 16 i: 4095, 2495, 895 and 15 of 4095."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 12], (4095 - 16 * np.arange(256)).astype(np.uint16).tobytes()
    picture = reading.read(dicom(tmp_path / "a.dcm", stripes([0, 100, 200, 255], np.uint8), VOILUTSequence=[table]))
    assert np.array_equal(picture.grey, stripes([255, 155, 56, 1], np.uint8)) and "VOI LUT" in picture.notes[0]


def test_a_window_that_cannot_be_applied_is_named(tmp_path):
    refused(dicom(tmp_path / "a.dcm", RAMP, WindowCenter=40, WindowWidth=0),
            "its window (centre 40, width 0) cannot be applied", "Export it again, with another window")


@pytest.mark.parametrize("slope, intercept, kind, words", [
    (1, 0, np.uint8, []), (2, -20, np.uint8, []), (1, 0, np.uint16, ["taken as they are"]),
    (1, -1000, np.uint16, ["own range -990 to -912"]), (0.3, 0, np.uint8, ["own range 3 to 26.4"]),
])
def test_rescaled_greys_of_eight_bits_are_not_stretched(slope, intercept, kind, words, tmp_path):
    stored = (10 + RAMP // 3).astype(kind)  # 10 to 88
    picture = reading.read(dicom(tmp_path / "a.dcm", stored, RescaleSlope=slope, RescaleIntercept=intercept))
    shown = RAMP / 3 * (255 / 78) if "own" in "".join(words) else slope * stored.astype(float) + intercept
    assert np.abs(picture.grey - shown).max() <= 0.51
    assert len(picture.notes) == len(words) and all(map(str.__contains__, picture.notes, words)), picture.notes


def test_compressed_dicom(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP)
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    data.save_as(path)
    assert np.array_equal(reading.read(path).grey, RAMP)


def test_compressed_dicom_without_a_decoder(tmp_path, monkeypatch):
    """As where no decoder of JPEG-LS is installed; the extra `dicom` brings one."""
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda decoder: False))
    path = tmp_path / "a.dcm"
    path.write_bytes(Path(get_testdata_file("MR_small_jpeg_ls_lossless.dcm")).read_bytes())
    refused(path, "JPEG-LS", "no decoder", "uncompressed")


def test_colour_tags_that_lie(tmp_path):
    """Grey RGB is three equal channels; grey YBR is luminance with both others at 128 (C.7.6.3.1.2)."""
    equal, ybr = coloured([RAMP, RAMP, RAMP]), coloured([RAMP, 128, 128])

    def read(pixels, tag):
        picture = reading.read(dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation=tag))
        assert np.abs(picture.grey.astype(int) - RAMP).max() <= 1
        return picture.notes

    assert read(equal, "RGB") == [] and read(ybr, "YBR_FULL") == []
    assert "says YBR_FULL" in read(equal, "YBR_FULL")[0] and "says RGB" in read(ybr, "RGB")[0]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_colour_tags_of_compressed_pixels_that_lie(syntax, tmp_path):
    """Grey RGB, compressed without loss and then called YBR_FULL."""
    path = dicom(tmp_path / "a.dcm", coloured([RAMP, RAMP, RAMP]))
    data = pydicom.dcmread(path)
    data.compress(syntax)
    data.PhotometricInterpretation = "YBR_FULL"
    data.save_as(path)
    picture = reading.read(path)
    assert np.array_equal(picture.grey, RAMP) and "says YBR_FULL" in picture.notes[0]


def test_the_colour_tag_of_a_jpeg_that_lies(tmp_path):
    """JPEG stores YBR; without its JFIF header (APP0, the first segment) the decoder goes by the tag."""
    path = dicom(tmp_path / "a.dcm", coloured([RAMP, RAMP, RAMP]))
    packed = io.BytesIO()
    Image.fromarray(coloured([RAMP, RAMP, RAMP])).save(packed, "JPEG", quality=95)
    jpeg = packed.getvalue()
    data = pydicom.dcmread(path)  # its tag says RGB
    data.PixelData = encapsulate([jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big"):]])
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.save_as(path)
    picture = reading.read(path)
    assert np.abs(picture.grey.astype(int) - RAMP).max() <= 3 and "says RGB" in picture.notes[0]
