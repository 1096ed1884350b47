"""Any ultrasound image as a grey array with its pixel size: PNG, JPEG, BMP, TIFF or GIF here, DICOM in dicom.py.

Images of 8 bits become grey just as those of the datasets do (data/pictures.py). Whatever had to be decided about a
file (a window, a frame, an inversion) stands in `Picture.notes`; what cannot be decided is refused.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xbuslib.data import pictures
from xbuslib.data.cases import PIXEL_MM
from xbuslib.errors import StudyError
from xbuslib.lesion import dicom


@dataclass(frozen=True)
class Picture:
    """One image, ready for a system."""

    name: str  # the file's name without suffix
    path: Path
    sha256: str  # of the file
    kind: str  # PNG, JPEG, …, DICOM
    grey: np.ndarray  # (H, W) uint8
    pixel_mm: tuple[float, float] | None = None  # width and height of a pixel in mm; None if unknown
    pixel_source: str = "unknown"  # who says so
    notes: list[str] = field(default_factory=list)  # what was decided about the file, in sentences

    @property
    def frame(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.grey.shape[1], self.grey.shape[0]


def read(path: Path | str, frame: int | None = None, pixel_mm: tuple[float, float] | None = None) -> Picture:
    """The image in a file. `pixel_mm` (width, height of a pixel) goes before what the file says.

    `frame` counts from 1 and chooses one of several images in a file, which is refused without it. Raises StudyError,
    naming the file, for whatever is no single, complete, plausibly sized image.
    """
    path = Path(path)
    content = _content(path)
    size, source = (pixel_mm, "given") if pixel_mm else (None, "unknown")
    if dicom.is_dicom(path, content):
        grey, own, notes = dicom.decode(path, content, frame)
        kind = "DICOM"
        if own and not pixel_mm:
            size, source = own
    else:
        grey, kind, notes = _decode(path, frame)
    return Picture(path.stem, path, hashlib.sha256(content).hexdigest(), kind, grey, size, source, notes)


def with_pixel_size(picture: Picture, pixel_mm: tuple[float, float] | None) -> Picture:
    """The same image with another pixel size, given by the user; None: unknown."""
    return replace(picture, pixel_mm=pixel_mm, pixel_source="given" if pixel_mm else "unknown")


def pixel_size(text: str) -> tuple[float, float] | None:
    """(width, height) in mm from "0.078" or "0.08,0.10"; None from "". Raises StudyError for anything else."""
    if not text.strip():
        return None
    low, high = PIXEL_MM
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(low <= side <= high for side in sides):
        raise StudyError(f"a pixel size is one length in mm, or WIDTH,HEIGHT, each from {low} to {high}; "
                         f"{text!r} is not. Breast probes have about 0.03 to 0.3.")
    return sides[0], sides[-1]


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise StudyError(f"{path} is a folder; name the image files in it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}") from None
    if not content:
        raise StudyError(f"{path} is empty (0 bytes)")
    return content


def _decode(path: Path, frame: int | None) -> tuple[np.ndarray, str, list[str]]:
    """Grey array, format and notes of a file that Pillow reads."""
    found = pictures.decode(path, frame, pictures.SMALLEST)
    return found.grey, found.kind, [sentence for _, sentence in found.notes]
