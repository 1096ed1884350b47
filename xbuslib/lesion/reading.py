"""Any ultrasound image as a grey array with its pixel size: PNG, JPEG, BMP, TIFF or GIF here, DICOM in dicom.py.

Images of 8 bits become grey just as those of the datasets do (data/pictures.py). Whatever had to be decided about a
file (a window, a frame, an inversion) stands in `Picture.notes`; what cannot be decided is refused.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from xbuslib.data import pictures
from xbuslib.data.cases import PIXEL_MM, USUAL_MM
from xbuslib.errors import StudyError
from xbuslib.lesion import dicom
from xbuslib.lesion.regions import REGION, Region, inside, of_lesion

COLOUR_SHARE = 0.01  # of the segmented pixels, from which on colours over them are mentioned


@dataclass(frozen=True)
class Picture:
    """One image, ready for a system."""

    name: str  # see name_of
    path: Path
    sha256: str  # of the file
    kind: str  # PNG, JPEG, …, DICOM
    grey: np.ndarray  # (H, W) uint8
    pixel_mm: tuple[float, float] | None = None  # width and height of a pixel in mm; None if unknown
    pixel_source: str = "unknown"  # who says so
    notes: list[str] = field(default_factory=list)  # what was decided about the file, in sentences
    regions: tuple[Region, ...] = ()  # calibrated ultrasound regions that may give a lesion's pixel size
    coloured: np.ndarray | None = None  # (H, W) bool: where colours lie over it; None: nowhere
    origin: tuple[int, int] = (0, 0)  # column and row of its first pixel in the file, where it was cropped

    @property
    def frame(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.grey.shape[1], self.grey.shape[0]


def read(path: Path | str, frame: int | None = None, pixel_mm: tuple[float, float] | None = None,
         crop: str = "") -> Picture:
    """The image in a file. `pixel_mm` (width, height of a pixel) goes before what the file says.

    `frame` counts from 1 and chooses one of several images in a file, which is refused without it. `crop`: "LEFT,TOP,
    RIGHT,BOTTOM" in pixels, the last two excluded, or "regions": the box around a DICOM file's ultrasound regions, 0
    between them. Raises StudyError, naming the file, for whatever is no single, complete, plausibly sized image.
    """
    path = Path(path)
    content = _content(path)
    size, source = (pixel_mm, "given") if pixel_mm else (None, "unknown")
    if dicom.is_dicom(path, content):
        found = dicom.decode(path, content, frame)
        if found.size and not pixel_mm:
            size, source = found.size
        kind, notes, regions = "DICOM", found.notes, found.regions
    else:
        found = pictures.decode(path, frame, pictures.SMALLEST)
        kind, notes, regions = found.kind, [sentence for _, sentence in found.notes], ()
    sized = () if pixel_mm else tuple(region for region in regions if region.pixel_mm)
    picture = Picture(name_of(path), path, hashlib.sha256(content).hexdigest(), kind, found.grey, size, source, notes,
                      sized, found.coloured)
    return _cropped(picture, _boxes(picture, crop, regions)) if crop else picture


def name_of(path: Path) -> str:
    """The file's name without the suffix of an image format; what follows the last dot of a UID is none."""
    return path.stem if path.suffix.lower() in (*pictures.SUFFIXES, *dicom.SUFFIXES) else path.name


def of_image(image: Image.Image, pixel_mm: tuple[float, float] | None = None, crop: str = "") -> Picture:
    """A Pillow image in memory, read as its file would be; of several frames the one that it stands at.

    One that was opened from a file and is not decoded yet is read from there: Pillow keeps 8 of 16 bits of a colour.
    """
    name, frame = Path(getattr(image, "filename", "") or "image"), (image.tell() if hasattr(image, "tell") else 0) + 1
    undecoded = getattr(image, "tile", None)
    if undecoded and image.filename and image.format in pictures.FORMATS:
        return read(image.filename, frame, pixel_mm, crop)
    pictures.check_sides(name, *image.size)
    if image.mode in ("RGB", "RGBA", "LA") and ";16" in str(undecoded):
        raise StudyError(f"{name} has 16 bits a channel, of which Pillow keeps 8; give the path of its file")
    try:
        found, content = pictures.interpreted(image, frame), image.tobytes()
    except StudyError as error:
        raise StudyError(f"{name}: {error}") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise StudyError(f"{name} is damaged or cut off ({error}). Export or copy it again.") from None
    return _of_decoded(name, found, content, pixel_mm, crop)


def of_array(values: np.ndarray, pixel_mm: tuple[float, float] | None = None, crop: str = "") -> Picture:
    """An array (H, W) of grey values, or (H, W, 3 or 4) uint8 of RGB or RGBA.

    Greys are uint8; numbers with a fraction that lie from 0 to 1; or others, whose own range becomes 0 to 255. Raises
    StudyError for other shapes and kinds of numbers.
    """
    values, name = np.asarray(values), Path("array")
    colours = values.ndim == 3 and values.shape[2] in (3, 4)
    if not (values.ndim == 2 or colours) or values.dtype.kind not in "uif":
        raise StudyError(f"an image is an array (H, W) of numbers, or (H, W, 3) or (H, W, 4) of uint8; this one is "
                         f"{values.shape} of {values.dtype}. Give one image at a time, its channels last.")
    if colours and values.dtype != np.uint8:
        raise StudyError(f"an array of colours has uint8 from 0 to 255; this one has {values.dtype}")
    pictures.check_sides(name, values.shape[1], values.shape[0])
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        found = pictures.Decoded(np.rint(values * 255).astype(np.uint8), "array",
                                 [("unit", "Numbers from 0 to 1: taken as grey 0 to 255.")])
    elif values.dtype == np.uint8:
        found = pictures.interpreted(Image.fromarray(values))
    else:
        grey, notes = pictures.windowed(values)
        found = pictures.Decoded(grey, "array", [("", note) for note in notes])
    pictures.refuse_one_grey(found.grey)
    return _of_decoded(name, found._replace(kind="array"), np.ascontiguousarray(values).tobytes(), pixel_mm, crop)


def _of_decoded(name: Path, found: pictures.Decoded, content: bytes, pixel_mm: tuple[float, float] | None,
                crop: str) -> Picture:
    picture = Picture(name_of(name), name, hashlib.sha256(content).hexdigest(), found.kind, found.grey, pixel_mm,
                      "given" if pixel_mm else "unknown", [sentence for _, sentence in found.notes],
                      coloured=found.coloured)
    return _cropped(picture, _boxes(picture, crop, ())) if crop else picture


def with_pixel_size(picture: Picture, pixel_mm: tuple[float, float] | None) -> Picture:
    """The same image with another pixel size, given by the user; None: unknown."""
    return replace(picture, pixel_mm=pixel_mm, pixel_source="given" if pixel_mm else "unknown", regions=())


def with_lesion(picture: Picture, mask: np.ndarray) -> Picture:
    """The same image with what only the segmented (H, W) mask decides: the pixel size of the ultrasound region that
    holds the lesion, and whether colours lie over it.
    """
    notes = list(picture.notes)
    size, source = picture.pixel_mm, picture.pixel_source
    if picture.regions and mask.any():
        size, sentence = of_lesion(picture.regions, mask)
        source = REGION if size else "unknown"
        notes += [sentence] if sentence else []
    share = picture.coloured[mask].mean() if picture.coloured is not None and mask.any() else 0.0
    if share >= COLOUR_SHARE:
        notes.append(f"{share:.0%} of the segmented pixels are coloured (Doppler, elastography or a drawing over the "
                     "image); the model saw their luminance.")
    return replace(picture, pixel_mm=size, pixel_source=source, notes=notes)


def pixel_size(text: str | float) -> tuple[float, float] | None:
    """(width, height) in mm from "0.078", 0.078 or "0.08,0.10"; None from "". Raises StudyError for anything else."""
    text = str(text)
    if not text.strip():
        return None
    low, high = PIXEL_MM
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(low <= side <= high for side in sides):
        raise StudyError(f"a pixel size is one length in mm, or WIDTH,HEIGHT, each from {low} to {high}; "
                         f"{text!r} is not. Breast probes have about {USUAL_MM[0]} to {USUAL_MM[1]}.")
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


def _boxes(picture: Picture, crop: str, regions: tuple[Region, ...]) -> np.ndarray:
    """(R, 4) left, top, right and bottom of what `crop` leaves, within the picture."""
    width, height = picture.frame
    if crop.strip().lower() == "regions":
        boxes = [region.box for region in regions if region.box]
        if not boxes:
            raise StudyError(f"{picture.path} names no place of an ultrasound region to crop to; give "
                             "--crop LEFT,TOP,RIGHT,BOTTOM in pixels")
        boxes = np.clip(boxes, 0, (width, height, width, height))  # (R, 4); some end at the edge or beyond
        boxes = boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)]
        if not len(boxes):
            raise StudyError(f"{picture.path}: its ultrasound regions lie outside the image of {width}×{height} "
                             "pixels; give --crop LEFT,TOP,RIGHT,BOTTOM in pixels")
        return boxes
    try:
        box = tuple(int(side) for side in crop.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise StudyError(f"--crop takes LEFT,TOP,RIGHT,BOTTOM in pixels within {width}×{height}, or regions; "
                         f"{crop!r} is not that")
    return np.array([box])


def _cropped(picture: Picture, boxes: np.ndarray) -> Picture:
    """The box around (R, 4) boxes, with 0 where none of them lies: text is often burned in between two regions."""
    left, top, right, bottom = map(int, (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))
    pictures.check_sides(picture.path, right - left, bottom - top)
    moved = tuple(Region((max(region.box[0] - left, 0), max(region.box[1] - top, 0), max(region.box[2] - left, 0),
                          max(region.box[3] - top, 0)) if region.box else None, region.pixel_mm)
                  for region in picture.regions)
    width, height = picture.frame
    kept = inside(boxes, picture.grey.shape)[top:bottom, left:right]  # (h, w)
    black = "" if kept.all() else " Pixels of this box that lie in none of the ultrasound regions were set to 0."
    return replace(picture, grey=picture.grey[top:bottom, left:right] * kept, regions=moved, origin=(left, top),
                   coloured=None if picture.coloured is None else picture.coloured[top:bottom, left:right] & kept,
                   notes=[*picture.notes, f"Cropped to x {left} to {right - 1}, y {top} to {bottom - 1} of its "
                          f"{width}×{height} pixels; the rest is in no result.{black}"])
