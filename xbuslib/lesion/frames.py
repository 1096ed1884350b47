"""Checks on an image of any file format: its sides, its pixel size, one frame of several, more than 8 bits."""

from pathlib import Path

import numpy as np

from xbuslib.errors import StudyError

SMALLEST = 32  # pixels a side: the smallest image_size a system can be trained at (config.Config)
LARGEST = 8192  # pixels a side: several times any scanner's frame, and still decoded within 1 GB
PIXEL_MM = (0.005, 1.0)  # of breast ultrasound, as in the case table (cases.SCHEMA)


def check_sides(path: Path, width: int, height: int) -> None:
    """Refuse what is too small to hold a lesion or too large for a frame, before its pixels are decoded."""
    if min(width, height) < SMALLEST:
        raise StudyError(f"{path} is {width}×{height} pixels; {SMALLEST} a side are needed at least")
    if max(width, height) > LARGEST:
        raise StudyError(f"{path} is {width}×{height} pixels; more than {LARGEST} a side is no ultrasound frame. "
                         "Crop it to the image.")


def only(path: Path, frames: int, frame: int | None) -> int:
    """Index from 0 of the one image asked for. Raises StudyError if there are several and none was chosen."""
    if frame is None:
        if frames > 1:
            raise StudyError(f"{path} holds {frames} frames; choose one, from --frame 1 to --frame {frames}")
        return 0
    if not 1 <= frame <= frames:
        raise StudyError(f"{path} has no frame {frame}; it holds {frames}, counted from 1")
    return frame - 1


def windowed(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W) numbers of more than 8 bits as uint8, and how: as they are if they fit, else from darkest to brightest."""
    if not np.isfinite(values).all():
        raise StudyError("some of its pixels are not numbers (nan or infinite)")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255 and np.issubdtype(values.dtype, np.integer):
        return values.astype(np.uint8), ["Stored in more than 8 bits, of which 8 are used: values taken as they are."]
    if low == high:
        raise StudyError(f"all of its pixels have the value {low:g}")
    grey = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    return grey, [f"More than 8 bits: the image's own range {low:g} to {high:g} was mapped to grey 0 to 255."]
