"""A picture in a file that Pillow reads, as grey values: one way for datasets and for `xbuslib predict`.

Whatever had to be decided about a file is returned beside its pixels; what cannot be decided is refused.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from xbuslib.errors import StudyError

# Only these: some of Pillow's other readers hand the file to another program.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
DEEP = ("I", "F")  # and "I;16…": Pillow's modes of more than 8 bits
SMALLEST = 32  # pixels a side: the smallest image_size a system can be trained at (config.Config)
LARGEST = 8192  # pixels a side: several times any scanner's frame, and still decoded within 1 GB
COLOURED = 40  # a pixel whose channels lie further apart is a colour; compression moves grey ones by less
ORIENTATION = 0x0112  # the Exif tag that tells viewers to turn the picture

# Messages for a folder whose pictures needed such a decision, after "N of M images".
FOLDER_NOTES = {
    "deep": "have more than 8 bits: each one's own range was mapped to grey 0 to 255",
    "eight": "are stored in more than 8 bits, of which 8 are used: values were taken as they are",
    "transparent": "have an alpha channel: transparent parts are shown over black",
    "colours": "are in a colour space other than RGB: reduced to luminance",
    "turned": "ask viewers to turn them (Exif orientation): read as stored",
}


class Decoded(NamedTuple):
    """One picture of a file."""

    grey: np.ndarray  # (H, W) uint8
    kind: str  # PNG, JPEG, …
    notes: list[tuple[str, str]]  # (key of FOLDER_NOTES, sentence about this file)
    coloured: np.ndarray | None = None  # (H, W) bool: where it is not grey; None: nowhere
    turn: int = 1  # Exif orientation


def decode(path: Path | str, frame: int | None = None, smallest: int = 1) -> Decoded:
    """The picture in a file; `frame` counts from 1. Raises StudyError, naming the file, if there is no such picture."""
    with opened(Path(path), frame, smallest) as image:
        return interpreted(image, frame)


def interpreted(image: Image.Image, frame: int | None = None) -> Decoded:
    """A decoded Pillow image, of which `frame` was chosen, as grey. Raises StudyError if its pixels show nothing."""
    deep = deep_colours(image)
    if deep is not None:
        shown = deep[..., :3] * (deep[..., 3:] / 65535) if deep.shape[2] == 4 else deep  # over black
        grey, notes = _windowed(np.rint(shown @ (0.299, 0.587, 0.114)).astype(np.uint16))
        notes += _colour_notes(image, opaque=(deep[..., 3:] == 65535).all())
    elif image.mode in DEEP or image.mode.startswith("I;16"):
        grey, notes = _windowed(np.asarray(image))
    else:
        grey, notes = luminance(image), _colour_notes(image, _opaque(image))
    refuse_one_grey(grey)
    if (frames := getattr(image, "n_frames", 1)) > 1:
        notes.append(("frame", f"Frame {frame} of {frames}."))
    turn = orientation(image)
    if turn != 1:
        notes.append(("turned", f"The file asks viewers to turn it (Exif orientation {turn}); it is read as "
                      "stored."))
    return Decoded(grey, image.format or "image", notes, coloured(image), turn)


@contextmanager
def opened(path: Path, frame: int | None = None, smallest: int = 1) -> Iterator[Image.Image]:
    """The decoded Pillow image of a file. Faults inside the block that are no StudyError are damage of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_sides has its own limit
            with Image.open(path, formats=FORMATS) as image:
                check_sides(path, *image.size, smallest)
                image.seek(only(path, getattr(image, "n_frames", 1), frame))
                image.info["deep"] = image.mode in ("RGB", "RGBA", "LA") and ";16" in str(image.tile)
                image.load()
                yield image
    except StudyError as error:
        raise error if str(path) in str(error) else StudyError(f"{path}: {error}") from None
    except Image.UnidentifiedImageError:
        raise StudyError(f"{path} is no image that can be read, whatever its name says; "
                         f"PNG, JPEG, BMP, TIFF, GIF and, by xbuslib predict, DICOM are") from None
    except Image.DecompressionBombError:
        raise StudyError(f"{path} is far more than {LARGEST} pixels a side, which is no ultrasound frame. "
                         "Crop it to the image.") from None
    except FileNotFoundError:
        raise StudyError(f"cannot read {path}: there is no such file") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise StudyError(f"{path} is damaged or cut off ({error}). Export or copy it again.") from None


def refuse_one_grey(grey: np.ndarray) -> None:
    """Raise StudyError for (H, W) pixels that are all equal: whatever was found in them would mean nothing."""
    if grey.min() == grey.max():
        raise StudyError(f"all of its pixels have the value {grey[0, 0]:g}, so it shows nothing")


def deep_colours(image: Image.Image) -> np.ndarray | None:
    """(H, W, 3 or 4) uint16 RGB or RGBA of a PNG with 16 bits a channel, of which Pillow keeps 8; else None."""
    if not image.info.get("deep"):
        return None
    import cv2  # here, since few need it

    values = cv2.imdecode(np.fromfile(image.filename, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise StudyError("its 16-bit colours cannot be read; save it as 8-bit or as 16-bit grey")
    return values[..., [2, 1, 0, *range(3, values.shape[2])]]


def luminance(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 luminance of an 8-bit image of any mode; transparency is composited over black."""
    if transparent(image):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return np.asarray(image.convert("L"))


def transparent(image: Image.Image) -> bool:
    """Whether it has an alpha channel or a transparent colour."""
    return "A" in image.getbands() or "transparency" in image.info


def coloured(image: Image.Image) -> np.ndarray | None:
    """(H, W) bool: pixels whose channels lie more than COLOURED apart; None if there are none."""
    if image.mode in ("1", "L", "LA", *DEEP) or image.mode.startswith("I;16"):
        return None
    channels = np.asarray(image.convert("RGB"))
    found = np.ptp(channels, axis=-1) > COLOURED
    return found if found.any() else None


def orientation(image: Image.Image) -> int:
    """The Exif orientation, 1 to 8; 1: as stored, also for values that Exif does not define."""
    value = image.getexif().get(ORIENTATION)
    return value if value in range(2, 9) else 1


def check_sides(path: Path, width: int, height: int, smallest: int = SMALLEST) -> None:
    """Refuse what is too small to hold a lesion or too large for a frame, before its pixels are decoded."""
    if min(width, height) < smallest:
        raise StudyError(f"{path} is {width}×{height} pixels; {smallest} a side are needed at least")
    if max(width, height) > LARGEST:
        raise StudyError(f"{path} is {width}×{height} pixels; more than {LARGEST} a side is no ultrasound frame. "
                         "Crop it to the image.")


def only(path: Path, frames: int, frame: int | None) -> int:
    """Index from 0 of the chosen image. Raises StudyError if there are several and none was chosen."""
    if frame is None:
        if frames > 1:
            raise StudyError(f"{path} holds {frames} frames; choose one, from --frame 1 to --frame {frames}; "
                             "in a dataset's folder, save the one that is meant as a file of its own")
        return 0
    if not 1 <= frame <= frames:
        raise StudyError(f"{path} has no frame {frame}; it holds {frames}, counted from 1")
    return frame - 1


def windowed(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W) numbers of more than 8 bits as uint8, and how: as they are if they fit, else from darkest to brightest."""
    grey, notes = _windowed(values)
    return grey, [sentence for _, sentence in notes]


def _windowed(values: np.ndarray) -> tuple[np.ndarray, list[tuple[str, str]]]:
    if not np.isfinite(values).all():
        raise StudyError("some of its pixels are not numbers (nan or infinite)")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255 and np.issubdtype(values.dtype, np.integer):
        return values.astype(np.uint8), [("eight", "Stored in more than 8 bits, of which 8 are used: values taken as "
                                          "they are.")]
    refuse_one_grey(values)
    grey = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    return grey, [("deep", f"More than 8 bits: the image's own range {low:g} to {high:g} was mapped to grey 0 to 255.")]


def _opaque(image: Image.Image) -> bool:
    return not transparent(image) or image.convert("RGBA").getchannel("A").getextrema()[0] == 255


def _colour_notes(image: Image.Image, opaque: bool) -> list[tuple[str, str]]:
    notes = [] if opaque else [("transparent", "Transparent parts are shown over black.")]
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes.append(("colours", f"Colours ({image.mode}) were reduced to luminance."))
    return notes
