"""One frame of a DICOM file as grey levels, with its pixel size. No patient data are read or kept.

Section numbers are those of the DICOM standard, part 3 (information object definitions).
"""

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, get_decoder, pixel_array

from xbuslib.data.cases import PIXEL_MM
from xbuslib.data.pictures import check_sides, luminance, only, windowed
from xbuslib.errors import StudyError

CENTIMETRES = 3  # C.8.5.5.1.15, Physical Units X Direction
TISSUE_2D = 1  # C.8.5.5.1.1, Region Spatial Format: 2D
PREAMBLE = 128  # bytes before "DICM"


def is_dicom(path: Path, content: bytes) -> bool:
    """By its content; or, as some old files lack the mark, by its suffix."""
    return content[PREAMBLE:PREAMBLE + 4] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def decode(path: Path, content: bytes, frame: int | None) -> tuple[np.ndarray, tuple | None, list[str]]:
    """(H, W) uint8 grey; ((width, height) of a pixel in mm, who says so) or None; notes. Raises StudyError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of small departures from the standard, which are common
        return _decode(path, content, frame)


def _decode(path: Path, content: bytes, frame: int | None) -> tuple[np.ndarray, tuple | None, list[str]]:
    try:
        data = pydicom.dcmread(io.BytesIO(content), force=True)
        missing = [name for name in ("Rows", "Columns", "PixelData") if name not in data]
    except Exception as error:  # a damaged file makes the parser raise nearly anything
        raise StudyError(f"{path} cannot be read as DICOM ({_line(error)}). Export it again.") from None
    if missing:
        raise StudyError(f"{path}: {_without_pixels(data, missing)}")
    check_sides(path, int(data.Columns), int(data.Rows))
    count = int(data.get("NumberOfFrames") or 1)
    index = only(path, count, frame)
    _refuse_without_decoder(path, data)
    try:
        grey, notes = _grey(data, pixel_array(data, index=index))
        size, more = _pixel_size(data)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    except Exception as error:
        raise StudyError(f"{path}: its pixels cannot be decoded ({_line(error)}). Export it again, "
                         "uncompressed.") from None
    chosen = [f"Frame {frame} of {count}."] if count > 1 else []
    modality = data.get("Modality")
    other = [f"The file's modality is {modality}, not US (ultrasound)."] if modality and modality != "US" else []
    return grey, size, chosen + other + notes + more


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
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, data)
        values = values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
    if values.ndim == 3:  # pixel_array has turned YBR into RGB
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
    values = apply_modality_lut(values, data)
    if data.get("VOILUTSequence"):
        bits = data.VOILUTSequence[0].LUTDescriptor[2]
        return _scaled(apply_voi_lut(values, data), 0, 2**bits - 1), ["The file's first VOI LUT was applied."]
    if data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        low, high = apply_windowing(np.array([-1e9, 1e9]), data)  # the ends of its output range
        centre, width = (np.atleast_1d(data[key].value)[0] for key in ("WindowCenter", "WindowWidth"))
        return (_scaled(apply_windowing(values, data), low, high),
                [f"The file's first window was applied (centre {float(centre):g}, width {float(width):g})."])
    return (values, []) if values.dtype == np.uint8 else windowed(values)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _pixel_size(data: Dataset) -> tuple[tuple[tuple[float, float], str] | None, list[str]]:
    """Of the calibrated ultrasound regions (C.8.5.5), else of PixelSpacing; a size out of range is not believed."""
    regions = _region_sizes(data)
    if len(regions) > 1:
        return None, [f"Its {len(regions)} ultrasound regions have different pixel sizes, so none is used."]
    found = [(regions.pop(), "DICOM, calibrated ultrasound region")] if regions else []
    if data.get("PixelSpacing"):  # row spacing first (10.7.1.3), which is a pixel's height
        height, width = (float(side) for side in data.PixelSpacing)
        found.append(((width, height), "DICOM, pixel spacing"))
    likely = [(size, who) for size, who in found if all(PIXEL_MM[0] <= side <= PIXEL_MM[1] for side in size)]
    notes = [f"Its pixel size of {width:g}×{height:g} mm ({who}) is not that of breast ultrasound and was not used."
             for (width, height), who in found if ((width, height), who) not in likely]
    return (likely[0] if likely else None), notes


def _region_sizes(data: Dataset) -> set[tuple[float, float]]:
    """(width, height) in mm of the pixels of all 2D regions measured in centimetres."""
    return {(round(10 * abs(float(region.PhysicalDeltaX)), 6), round(10 * abs(float(region.PhysicalDeltaY)), 6))
            for region in data.get("SequenceOfUltrasoundRegions") or []
            if region.get("RegionSpatialFormat") == TISSUE_2D
            and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES}
