"""One frame of a DICOM file as grey levels, with its pixel size. No patient data are read or kept.

Section numbers are those of the DICOM standard, part 3 (information object definitions).
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    apply_windowing,
    convert_color_space,
    get_decoder,
    pixel_array,
)

from xbuslib.data.pictures import check_sides, coloured, luminance, only, refuse_one_grey, windowed
from xbuslib.errors import StudyError
from xbuslib.lesion import regions
from xbuslib.lesion.regions import Region

SUFFIXES = (".dcm", ".dicom")
PREAMBLE = 128  # bytes before "DICM"
GREY = 4  # levels by which channels of a grey pixel may differ


class Frame(NamedTuple):
    """One frame of a DICOM file."""

    grey: np.ndarray  # (H, W) uint8
    size: tuple[tuple[float, float], str] | None  # (width, height) of a pixel in mm, who says so; None: see regions
    notes: list[str]
    regions: tuple[Region, ...] = ()  # 2D ultrasound regions, some of them without a pixel size
    coloured: np.ndarray | None = None  # (H, W) bool: where it is not grey; None: nowhere


def is_dicom(path: Path, content: bytes) -> bool:
    """By its content; or, as some old files lack the mark, by its suffix."""
    return content[PREAMBLE:PREAMBLE + 4] == b"DICM" or path.suffix.lower() in SUFFIXES


def decode(path: Path, content: bytes, frame: int | None) -> Frame:
    """The chosen frame, counted from 1. Raises StudyError, naming the file, if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of small departures from the standard, which are common
        return _decode(path, content, frame)


def _decode(path: Path, content: bytes, frame: int | None) -> Frame:
    try:
        data = pydicom.dcmread(io.BytesIO(content), force=True)
        missing = [name for name in ("Rows", "Columns", "PixelData") if name not in data]
        modality, burned_in = data.get("Modality"), _burned_in(data)
    except Exception as error:  # a damaged file makes the parser raise nearly anything
        raise StudyError(f"{path} cannot be read as DICOM ({_line(error)}). Export it again.") from None
    if missing:
        raise StudyError(f"{path}: {_without_pixels(data, missing)}")
    try:
        check_sides(path, int(data.Columns), int(data.Rows))
        count = int(data.get("NumberOfFrames") or 1)
        index = only(path, count, frame)
        _refuse_without_decoder(path, data)
        _refuse_missing_frames(path, data, count)
        values, tagged = _colours(data, pixel_array(data, index=index), index)
        grey, notes = _grey(data, values)
        refuse_one_grey(grey)
    except StudyError as error:
        raise error if str(path) in str(error) else StudyError(f"{path}: {error}") from None
    except Exception as error:
        raise StudyError(f"{path}: its pixels cannot be decoded ({_line(error)}). Export it again, "
                         "uncompressed.") from None
    found, size, more = regions.find(data)
    chosen = [f"Frame {frame} of {count}."] if count > 1 else []
    other = [f"The file's modality is {modality}, not US (ultrasound)."] if modality and modality != "US" else []
    return Frame(grey, size, burned_in + chosen + other + tagged + notes + more, found,
                 coloured(Image.fromarray(values)) if values.ndim == 3 else None)


def _burned_in(data: Dataset) -> list[str]:
    if str(data.get("BurnedInAnnotation", "")).upper() != "YES":
        return []
    return ["The file says that text is burned into its pixels (BurnedInAnnotation YES); it may name the patient, and "
            "results show it. Before you pass them on, cut it off with --crop LEFT,TOP,RIGHT,BOTTOM, or with --crop "
            "regions, which leaves text inside an ultrasound region."]


def _colours(data: Dataset, values: np.ndarray, index: int) -> tuple[np.ndarray, list[str]]:
    """The (H, W, 3) RGB values, of a palette too, set right where the colour tag is wrong; greys as they are."""
    kind = data.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, data)
        return (values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)), []
    if values.ndim != 3 or values.dtype != np.uint8 or kind not in ("RGB", "YBR_FULL"):
        return values, []
    stored = pixel_array(data, index=index, raw=True).astype(int)  # (H, W, 3) as decoded, unconverted
    as_rgb = (np.ptp(stored, axis=-1) <= GREY).mean()  # shares of pixels that are grey, read either way
    as_ybr = (np.abs(stored[..., 1:] - 128) <= GREY).all(axis=-1).mean()
    if kind == "YBR_FULL" and as_rgb > 0.5 and as_ybr < 0.1:
        return stored.astype(np.uint8), ["Its colour tag says YBR_FULL, but its three channels are equal in most "
                                         "pixels, as no YBR picture's are: read as RGB."]
    if kind == "RGB" and as_ybr > 0.5 and as_rgb < 0.1:
        return (convert_color_space(stored.astype(np.uint8), "YBR_FULL", "RGB"),
                ["Its colour tag says RGB, but two of its channels are 128 in most pixels, as a YBR picture's are: "
                 "read as YBR_FULL."])
    return values, []


def _refuse_missing_frames(path: Path, data: Dataset, count: int) -> None:
    """Uncompressed pixel data that end before the last frame."""
    syntax = getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", None)
    bits = int(data.get("BitsAllocated") or 0)
    if (syntax and syntax.is_compressed) or bits < 8:
        return
    samples = 2 if data.get("PhotometricInterpretation") == "YBR_FULL_422" else int(data.get("SamplesPerPixel") or 1)
    frame = int(data.Rows) * int(data.Columns) * samples * bits // 8  # bytes
    if len(data.PixelData) < frame * count:
        raise StudyError(f"{path} says that it holds {count} frame(s), but its pixel data end in frame "
                         f"{len(data.PixelData) // frame + 1}. Export it again.")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _without_pixels(data: Dataset, missing: list[str]) -> str:
    if "EncryptedAttributesSequence" in data:
        return "its attributes are encrypted (DICOM confidentiality profile); export it decrypted"
    if not len(data):
        return "no DICOM content was found in it; it may be encrypted as a whole, or another kind of file"
    return f"this DICOM file holds no image ({', '.join(missing)} missing); it may be a report or a directory"


def _refuse_without_decoder(path: Path, data: Dataset) -> None:
    syntax = getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None or not syntax.is_compressed:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:  # video
        available = False
    if not available:
        raise StudyError(f"{path} is compressed as {syntax.name}, for which no decoder is installed. "
                         "Export it uncompressed, or install one (pip install python-gdcm).")


def _grey(data: Dataset, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """One decoded frame, (H, W) or (H, W, 3), as uint8 grey with notes."""
    kind = data.PhotometricInterpretation
    if values.ndim == 3:  # pixel_array has turned YBR into RGB, _colours palettes
        if values.dtype != np.uint8:
            raise StudyError("colours of more than 8 bits are not read; export it with 8")
        return luminance(Image.fromarray(values)), []
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise StudyError(f"its photometric interpretation {kind} is not known")
    grey, notes = _shown(data, values)
    if kind == "MONOCHROME1":  # C.7.6.3.1.2: the smallest value is white
        return 255 - grey, [*notes, "Stored with white as zero (MONOCHROME1); inverted."]
    return grey, notes


def _shown(data: Dataset, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Stored values as a viewer shows them: modality LUT, then the first window of the file (C.11.1, C.11.2)."""
    values = _rescaled(data, values)
    if data.get("VOILUTSequence"):
        bits = data.VOILUTSequence[0].LUTDescriptor[2]
        return _scaled(apply_voi_lut(values, data), 0, 2**bits - 1), ["The file's first VOI LUT was applied."]
    window = "not numbers"
    try:
        given = [data.get(key) for key in ("WindowCenter", "WindowWidth")]
        if None not in given:
            centre, width = (float(np.atleast_1d(value)[0]) for value in given)
            window = f"centre {centre:g}, width {width:g}"
            low, high = apply_windowing(np.array([-1e9, 1e9]), data)  # the ends of its output range
            return (_scaled(apply_windowing(values, data), low, high),
                    [f"The file's first window was applied ({window})."])
    except Exception as error:  # a width of 0, or damage
        raise StudyError(f"its window ({window}) cannot be applied: {_line(error)}. Export it again, with "
                         "another window or none") from None
    return (values, []) if values.dtype == np.uint8 else windowed(values)


def _rescaled(data: Dataset, values: np.ndarray) -> np.ndarray:
    """Stored values through the modality LUT or the rescale (C.11.1).

    pydicom makes fractions of all that are rescaled; whole numbers from 0 to 255 become greys again, not stretched.
    """
    rescaled = apply_modality_lut(values, data)
    if rescaled.dtype.kind != "f" or (rescaled % 1).any() or rescaled.min() < 0 or rescaled.max() > 255:
        return rescaled
    return rescaled.astype(np.uint8 if values.itemsize == 1 else np.uint16)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
