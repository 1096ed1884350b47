"""Any image file becomes grey as the datasets' images do, or is refused with one sentence that names it."""

import struct
import zlib

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image, ImageSequence
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from xbuslib.data import images, pictures
from xbuslib.errors import StudyError
from xbuslib.lesion import reading

RAMP = np.tile(np.arange(40, dtype=np.uint8) * 6, (36, 1))  # 36 rows, 40 columns, grey 0 to 234


def stripes(values, kind):
    """36 rows of four values, ten columns each."""
    return np.tile(np.repeat(np.array(values, kind), 10), (36, 1))


def saved(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


def refused(path, *words, **options):
    with pytest.raises(StudyError) as caught:
        reading.read(path, **options)
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# ---- files that Pillow reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_is_read_as_the_datasets_are(mode, tmp_path):
    colour = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90), 255 - RAMP], axis=-1)
    image = Image.fromarray(colour).convert("RGBA" if mode in ("LA", "RGBA") else "RGB").convert(mode)
    path = saved(tmp_path / "a.png", image)
    picture = reading.read(path)
    assert picture.kind == "PNG" and picture.frame == (40, 36) and picture.pixel_mm is None
    assert np.array_equal(picture.grey, images.read_grey(path))


def test_transparent_pixels_are_black_with_a_note(tmp_path):
    colour = np.full((40, 40, 4), 255, np.uint8)
    colour[:20, :, 3] = 0
    picture = reading.read(saved(tmp_path / "a.png", colour))
    assert picture.grey[:20].max() == 0 and picture.grey[20:].min() == 255
    assert picture.notes == ["Transparent parts are shown over black."]
    colour[..., 3], colour[:9, :, :3] = 255, 0  # an alpha channel that hides nothing
    assert reading.read(saved(tmp_path / "b.png", colour)).notes == []


def test_cmyk_jpeg_and_tiff(tmp_path):
    """No ink is white, black ink is black; JPEG loses a little."""
    ink = np.zeros((40, 40, 4), np.uint8)
    ink[:20, :, 3] = 255
    for name in ("a.jpg", "a.tif"):
        picture = reading.read(saved(tmp_path / name, Image.fromarray(ink, "CMYK")))
        assert picture.grey[:16].max() < 6 and picture.grey[24:].min() > 249
        assert picture.notes == ["Colours (CMYK) were reduced to luminance."]


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "tif", "gif"])
def test_other_formats(suffix, tmp_path):
    picture = reading.read(saved(tmp_path / f"a.{suffix}", RAMP))
    assert np.abs(picture.grey.astype(int) - RAMP).max() <= (3 if suffix == "jpg" else 0)


def test_sixteen_bits_are_windowed_from_darkest_to_brightest(tmp_path):
    deep = 1000 + 100 * np.arange(41 * 40, dtype=np.uint16).reshape(41, 40) % 5001
    picture = reading.read(saved(tmp_path / "a.png", deep))
    low, high = int(deep.min()), int(deep.max())
    assert picture.grey.min() == 0 and picture.grey.max() == 255
    assert np.abs(picture.grey - (deep.astype(float) - low) / (high - low) * 255).max() <= 0.5
    assert f"{low} to {high}" in picture.notes[0]


def test_colours_of_sixteen_bits(tmp_path):
    """Black, red, blue and white; their luminance is 0.299 R + 0.587 G + 0.114 B."""
    red, green, blue = (stripes(values, np.uint16) for values in ([0, 65535, 0, 65535], [0, 0, 0, 65535],
                                                                  [0, 0, 65535, 65535]))
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([blue, green, red]))  # OpenCV's order
    assert np.array_equal(reading.read(tmp_path / "a.png").grey, stripes([0, 76, 29, 255], np.uint8))


def test_eight_bits_kept_in_sixteen_are_not_stretched(tmp_path):
    picture = reading.read(saved(tmp_path / "a.png", RAMP.astype(np.uint16)))
    assert np.array_equal(picture.grey, RAMP) and "taken as they are" in picture.notes[0]


def test_float_tiff(tmp_path):
    values = RAMP.astype(np.float32) / 1000 - 0.1
    assert np.abs(reading.read(saved(tmp_path / "a.tif", values)).grey - RAMP * (255 / 234)).max() <= 0.51
    values[0, 0] = np.nan
    refused(saved(tmp_path / "b.tif", values), "not numbers")
    refused(saved(tmp_path / "c.tif", np.full((40, 40), 0.5, np.float32)), "the value 0.5")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_animations_need_a_frame(suffix, tmp_path):
    frames = [Image.fromarray(np.repeat([[grey], [grey + 5]], 20, 0).repeat(40, 1).astype(np.uint8))
              for grey in (10, 90, 200)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as frames:
        assert len(list(ImageSequence.Iterator(frames))) == 3
    refused(path, "3 frames", "--frame")
    picture = reading.read(path, frame=2)
    assert np.unique(picture.grey).tolist() == [90, 95] and "Frame 2 of 3." in picture.notes
    refused(path, "no frame 4", frame=4)
    refused(path, "no frame 0", frame=0)


def test_too_small_and_too_wide(tmp_path):
    refused(saved(tmp_path / "dot.png", np.zeros((1, 1), np.uint8)), "1×1 pixels")
    refused(saved(tmp_path / "wide.png", np.zeros((40, 20_000), np.uint8)), "20000×40 pixels", "Crop")
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
                                        + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 10) + b"IDAT")
    refused(tmp_path / "bomb.png", "8192", "Crop")


def test_damaged_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80), np.uint8)
    for name in ("cut.png", "cut.jpg", "cut.tif"):
        whole = saved(tmp_path / name, noise).read_bytes()
        (tmp_path / name).write_bytes(whole[:len(whole) // 2])
        refused(tmp_path / name, "damaged or cut off")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "0 bytes")
    (tmp_path / "text.png").write_text("not an image at all\n" * 20)
    refused(tmp_path / "text.png", "no image", "PNG, JPEG")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "is a folder")
    refused(tmp_path / "absent.png", "No such file")


def test_a_turned_photograph_is_read_as_stored(tmp_path):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    picture = reading.read(saved(tmp_path / "a.jpg", RAMP, exif=exif))
    assert picture.frame == (40, 36) and "orientation 6" in picture.notes[0]


@pytest.mark.parametrize("value", [0, 1, 9])
def test_an_orientation_that_is_none_turns_nothing(value, tmp_path):
    """Exif knows 1 to 8; some cameras write 0 for unknown."""
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = value
    assert reading.read(saved(tmp_path / "a.jpg", RAMP, exif=exif)).notes == []


@pytest.mark.parametrize("text, size", [("", None), ("0.078", (0.078,) * 2), (0.078, (0.078,) * 2),
                                        (" 0.08, 0.1 ", (0.08, 0.1))])
def test_pixel_size(text, size):
    assert reading.pixel_size(text) == size


@pytest.mark.parametrize("text", ["7.8", "0", "-0.1", "nan", "wide", "0.1,0.1,0.1", "0.1 mm"])
def test_pixel_sizes_that_are_none(text):
    with pytest.raises(StudyError, match=r"0.005 to 1.0"):
        reading.pixel_size(text)


# ---- DICOM ----------------------------------------------------------------------------------------------------


def dicom(path, pixels, kind="MONOCHROME2", frames=None, **attributes):
    """A DICOM file of (H, W), (H, W, 3) or (frames, H, W) pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientName = "US", "Somebody^Secret"
    if pixels is not None:
        shape = pixels.shape[1:] if frames else pixels.shape
        data.Rows, data.Columns = shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if len(shape) == 3 else (1, kind)
        data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
        if len(shape) == 3:
            data.PlanarConfiguration = 0
        if frames:
            data.NumberOfFrames = frames
        data.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def region(x_cm, y_cm, units=3):
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = x_cm, y_cm
    return region


def test_dicom_grey_and_inverted(tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP))
    assert np.array_equal(picture.grey, RAMP) and picture.kind == "DICOM" and picture.notes == []
    picture = reading.read(dicom(tmp_path / "b.dcm", RAMP, kind="MONOCHROME1"))
    assert np.array_equal(picture.grey, 255 - RAMP) and "MONOCHROME1" in picture.notes[0]


def test_dicom_without_suffix_is_known_by_its_content(tmp_path):
    assert np.array_equal(reading.read(dicom(tmp_path / "IM0001", RAMP)).grey, RAMP)


def test_dicom_colour_is_the_luminance_of_a_png(tmp_path):
    colour = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)], axis=-1)
    assert np.array_equal(reading.read(dicom(tmp_path / "a.dcm", colour)).grey,
                          reading.read(saved(tmp_path / "a.png", colour)).grey)


def test_dicom_frames(tmp_path):
    clip = np.stack([RAMP, RAMP[::-1] // 2, RAMP // 3])
    path = dicom(tmp_path / "a.dcm", clip, frames=3)
    refused(path, "3 frames", "--frame")
    assert np.array_equal(reading.read(path, frame=2).grey, clip[1])
    refused(path, "no frame 4", frame=4)


def test_a_published_ultrasound_clip():
    """pydicom's own example: 30 frames, YBR, halved to 320×240 with the calibrated region of the whole picture."""
    path = get_testdata_file("examples_ybr_color.dcm")
    picture = reading.read(path, frame=5)
    own = Image.fromarray(pydicom.dcmread(path).pixel_array[4]).convert("L")
    assert np.abs(picture.grey.astype(int) - np.asarray(own)).max() <= 1
    assert picture.pixel_mm is None and picture.regions == ()
    assert "x 84 to 595, y 31 to 414 reaches beyond the image of 320×240 pixels" in picture.notes[1]


def test_dicom_that_is_no_image(tmp_path):
    refused(dicom(tmp_path / "report.dcm", None), "holds no image", "PixelData")
    refused(dicom(tmp_path / "secret.dcm", None, EncryptedAttributesSequence=[Dataset()]), "encrypted")
    (tmp_path / "noise.dcm").write_bytes(np.random.default_rng(0).bytes(5000))
    refused(tmp_path / "noise.dcm")
    whole = dicom(tmp_path / "cut.dcm", RAMP).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-700])
    refused(tmp_path / "cut.dcm")
    refused(dicom(tmp_path / "wide.dcm", np.zeros((40, 20_000), np.uint8)), "20000×40 pixels")
    refused(dicom(tmp_path / "even.dcm", np.full((40, 40), 9, np.uint8)), "even.dcm", "have the value 9")
    refused(dicom(tmp_path / "dot.dcm", np.zeros((1, 1), np.uint8)), "1×1 pixels")


def test_dicom_pixel_size(tmp_path):
    def size(**attributes):
        picture = reading.read(dicom(tmp_path / "a.dcm", RAMP, **attributes))
        return picture.pixel_mm, picture.pixel_source, picture.notes

    assert size() == (None, "unknown", [])
    assert size(PixelSpacing=[0.1, 0.08])[:2] == ((0.08, 0.1), "DICOM, pixel spacing")  # rows first: a pixel's height
    measured, source, _ = size(SequenceOfUltrasoundRegions=[region(0.007, 0.009)], PixelSpacing=[0.1, 0.1])
    assert measured == pytest.approx((0.07, 0.09)) and "region" in source
    two = size(SequenceOfUltrasoundRegions=[region(0.007, 0.007), region(0.009, 0.009)])
    assert two[0] is None and "different pixel sizes" in two[2][0]
    assert size(SequenceOfUltrasoundRegions=[region(0.007, 0.007), region(2.5, 0.01, units=4)])[0] == (0.07, 0.07)
    odd = size(PixelSpacing=[7.0, 7.0])
    assert odd[0] is None and "was not used" in odd[2][0]
    path = dicom(tmp_path / "b.dcm", RAMP, PixelSpacing=[0.1, 0.1])
    assert reading.read(path, pixel_mm=(0.05, 0.06)).pixel_mm == (0.05, 0.06)


def test_no_patient_data_are_kept(tmp_path):
    picture = reading.read(dicom(tmp_path / "a.dcm", RAMP))
    assert "Secret" not in repr(picture)
