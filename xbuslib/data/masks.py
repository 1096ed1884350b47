"""A mask in a file, however it is stored: the one reader for datasets, scoring, comparisons and notebooks.

Two values are two values: the higher one is the lesion. Where more had to be assumed, the mask says so, and
`sentences` says it once for a folder. What may be read in two ways (a bright frame around a dark lesion) is refused.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from xbuslib.data import pictures
from xbuslib.errors import StudyError

FEW = 16  # distinct values up to which a mask may be a map of labels
LOSSY = 32  # grey levels: a JPEG whose brightest pixel is darker has lost its mask to compression
IN_BETWEEN = 0.5  # share of pixels between 10 and 90 % of the maximum from which on it is a picture, not a mask

OF_IMAGE = "mask {name} is {size} pixels, its image is {frame}"  # the message for a mask of another size
OF_REFERENCE = "{name}: prediction is {size} pixels, reference {frame}"

# Messages for a folder whose masks needed such a decision, after "N of M masks".
KINDS = {
    "two": "hold two values other than 0 and 255 ({}): the higher one is the lesion",
    "labels": "hold labels ({}): all but the lowest are lesion",
    "palette": "have a colour palette: every index but the lowest is lesion",
    "alpha": "show the lesion in their alpha channel alone: it was read there",
    "channel": "show the lesion in one colour channel alone: it was read there",
    "soft": "have grey values between background and lesion: read at half of their maximum",
    "drawn": "are bright around the frame's edge, or everywhere: read as drawn, bright is lesion",
}


class Mask(NamedTuple):
    """One mask as read."""

    pixels: np.ndarray  # (H, W) bool
    assumed: tuple[tuple[str, str], ...] = ()  # (key of KINDS, values) of each decision
    turn: int = 1  # Exif orientation


def read(path: Path | str, as_drawn: bool = False, frame: tuple[int, int] | None = None,
         misfit: str = OF_IMAGE) -> Mask:
    """The mask in a file; `as_drawn`: bright is lesion even where it surrounds the frame or fills it.

    frame: (width, height) that it must have, else `misfit` says so. Raises StudyError, naming the file, for a
    damaged file, another size, a picture, several frames, negative or missing numbers, or (unless `as_drawn`) a bright
    background or one value other than 0 everywhere.
    """
    with pictures.opened(Path(path)) as image:
        if frame:
            _fits(Path(path).name, image.size, frame, misfit)
        values, how = _values(image)
        lesion, assumed = _lesion(values, image.format == "JPEG", how)
        if not as_drawn:
            _refuse_bright_background(lesion, values)
        elif _bright_background(lesion):
            assumed = (*assumed, ("drawn", ""))
        return Mask(lesion, assumed, pictures.orientation(image))


def union(paths: Iterable[Path | str], frame: tuple[int, int], turn: int = 1) -> tuple[np.ndarray, list]:
    """(H, W) bool: the pixels that are lesion in any of the files; and (file name, assumed) of each.

    frame: (width, height) of the image they belong to; turn: its Exif orientation. Raises StudyError for a mask of
    another size or orientation.
    """
    mask, assumed = np.zeros(frame[::-1], bool), []
    for path in map(Path, paths):
        part = read(path, frame=frame)
        if part.turn != turn:
            raise StudyError(f"mask {path.name} has Exif orientation {part.turn}, its image {turn}: a viewer would "
                             "turn one against the other. Save both as they are shown.")
        mask |= part.pixels
        assumed.append((path.name, part.assumed))
    return mask, assumed


def regions(mask: np.ndarray) -> int:
    """How many separate lesions a mask shows; pixels are neighbours by their corners too."""
    return int(ndimage.label(mask, np.ones((3, 3)))[1])


def sentences(read_masks: Iterable[tuple[str, tuple]]) -> list[str]:
    """What was assumed about the masks of a folder, each once with its count; read_masks: (file name, assumed)."""
    read_masks = sorted(read_masks)
    names, values = defaultdict(list), defaultdict(dict)
    for name, assumed in read_masks:
        for kind, shown in assumed:
            names[kind].append(name)
            values[kind][shown] = None
    return [f"{len(names[kind])} of {len(read_masks)} masks {text.format(_some(list(values[kind])))} "
            f"(first: {names[kind][0]})" for kind, text in KINDS.items() if names[kind]]


def _some(values: list[str]) -> str:
    return "; ".join(values[:3]) + (f"; {len(values) - 3} more" if len(values) > 3 else "")


def _fits(name: str, size: tuple[int, int], frame: tuple[int, int], misfit: str) -> None:
    if size != tuple(frame):
        same = abs(size[0] * frame[1] / frame[0] - size[1]) <= 1  # pixel of its height
        raise StudyError(misfit.format(name=name, size="{}×{}".format(*size), frame="{}×{}".format(*frame))
                         + (": the same aspect at another size" if same else ": another aspect")
                         + ". Nothing is stretched to fit; give the mask that was drawn on this frame.")


def _values(image: Image.Image) -> tuple[np.ndarray, str]:
    """(H, W) numbers that tell lesion from background, and where they are from (key of KINDS; "": as one expects)."""
    deep = pictures.deep_colours(image)
    if deep is not None:
        return _of_channels(deep[..., :3], deep[..., :3].mean(axis=-1), deep[..., 3] if deep.shape[2] == 4 else None)
    if image.mode == "P" and (found := _by_index(image)) is not None:
        return found, "palette"
    if image.mode == "1" or image.mode in pictures.DEEP or image.mode.startswith("I;16"):
        return np.asarray(image), ""
    grey = np.asarray(image.convert("RGB").convert("L") if image.mode == "CMYK" else image.convert("L"))
    if grey.min() != grey.max() or (image.mode == "L" and not pictures.transparent(image)):
        return grey, ""
    alpha = np.asarray(image.convert("RGBA"))[..., 3] if pictures.transparent(image) else None
    return _of_channels(np.asarray(image.convert("RGB")), grey, alpha)


def _of_channels(colours: np.ndarray, grey: np.ndarray, alpha: np.ndarray | None) -> tuple[np.ndarray, str]:
    """The grey values, unless they are the same everywhere and one colour's, or else the alpha channel's, are not."""
    if grey.min() != grey.max():
        return grey, ""
    brightest = colours.max(axis=-1)
    if brightest.min() != brightest.max():
        return brightest, "channel"
    if alpha is not None and alpha.min() != alpha.max():
        return alpha, "alpha"
    return grey, ""


def _by_index(image: Image.Image) -> np.ndarray | None:
    """The indices of a palette image; None where its colours are greys that tell them apart, or a picture's many."""
    indices = np.asarray(image)
    used = np.unique(indices)
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    colours = palette[np.minimum(used, len(palette) - 1)]  # (n, 3)
    greys = (np.ptp(colours, axis=1) == 0).all() and len(np.unique(colours[:, 0])) == len(used)
    return None if greys or len(used) > FEW else indices


def _lesion(values: np.ndarray, lossy: bool, how: str) -> tuple[np.ndarray, tuple]:
    """(H, W) bool and what was assumed for it."""
    if not np.isfinite(values).all():
        raise StudyError("some of its pixels are not numbers (nan or infinite)")
    distinct = np.unique(values)
    low, high = distinct[0], distinct[-1]
    place = ((how, ""),) if how else ()
    if low < 0:
        raise StudyError(f"it holds negative values (from {low:g}); a mask has none. If these are a network's outputs, "
                         "save the mask that they stand for.")
    if low == high:
        return np.full(values.shape, bool(high)), place
    if how == "palette":  # its indices are labels, and say nothing of brightness
        return values > low, place
    if len(distinct) == 2:
        plain = values.dtype == bool or (low, high) in ((0, 255), (0, 65535))
        return values == high, place if plain else (*place, ("two", f"{low:g} and {high:g}"))
    if lossy and high < LOSSY:
        raise StudyError(f"it is a JPEG whose brightest pixel is {high:g} of 255: compression has damaged what was a "
                         "label. Save masks as PNG.")
    if not lossy and _labels(values, distinct):
        return values > low, (*place, ("labels", ", ".join(f"{value:g}" for value in distinct)))
    between = (values > 0.1 * high) & (values < 0.9 * high)
    if between.mean() > IN_BETWEEN:
        raise StudyError(f"{between.mean():.0%} of its pixels are neither dark nor bright: it looks like a picture, "
                         "not a mask")
    return values >= high / 2, (*place, ("soft", ""))


def _labels(values: np.ndarray, distinct: np.ndarray) -> bool:
    """Whether few values are labels and no soft edge: small whole numbers, or each of them fills a 3×3 square."""
    if len(distinct) > FEW:
        return False
    if distinct[0] == 0 and distinct[-1] < FEW and (distinct == np.rint(distinct)).all():
        return True
    same = ndimage.minimum_filter(values, 3) == ndimage.maximum_filter(values, 3)  # (H, W) middle of a uniform square
    return set(distinct[1:-1]) <= set(np.unique(values[same]))


def _bright_background(lesion: np.ndarray) -> bool:
    """Whether three corners and more than half of the frame's edge are bright; no drawn lesion we know reaches that."""
    corners = int(lesion[0, 0]) + int(lesion[0, -1]) + int(lesion[-1, 0]) + int(lesion[-1, -1])
    edge = np.concatenate([lesion[0], lesion[-1], lesion[:, 0], lesion[:, -1]])
    return corners >= 3 and edge.mean() > 0.5


def _refuse_bright_background(lesion: np.ndarray, values: np.ndarray) -> None:
    if lesion.all():
        raise StudyError(f"it has one value everywhere ({values.flat[0]:g}): either the whole frame is lesion, or "
                         "nothing is. A mask without a lesion is 0 everywhere.")
    if _bright_background(lesion):
        raise StudyError(f"{lesion.mean():.0%} of the frame and its edge are bright: it looks like a dark lesion on a "
                         "bright background. Invert it, so that the lesion is the brighter part.")
