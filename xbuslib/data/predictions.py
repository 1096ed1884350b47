"""A folder of other people's predictions: one mask or one probability map per case, read at the study's size.

Masks are pictures, or arrays of 0 and 1. Probability maps are arrays (.npz, .npy) or pictures of more than 8 bits
(_hold_masks), in which 65535 is certain. A softmax with a channel for the background is understood, as nnU-Net writes
it.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from xbuslib.data import images, listing, masks, pictures
from xbuslib.errors import StudyError
from xbuslib.progress import track

ARRAYS = (".npz", ".npy")
KEYS = ("probabilities", "softmax")  # of nnU-Net's .npz, version 2 and 1; else the only array is taken
SURE = 65535  # of 16-bit pictures: probability 1
LESION = (1, 255, SURE)  # in masks of more than 8 bits
FAINT = 0.02  # a folder of 16-bit maps that never exceed this holds values of another scale
SUM = 0.02  # by which the two channels of a softmax may miss 1
LISTED = 20  # faults in one message


class Predictions(NamedTuple):
    """What a folder predicts for n cases, in the order asked for."""

    maps: np.ndarray  # (n, S, S) float32 in [0, 1]
    kind: str  # "masks" (0 and 1 alone) or "probability maps"
    files: dict[str, str]  # case_id: name of its file
    notes: list[str]  # what was assumed or left out
    sha256: str  # of cases and maps: equal checksums, equal predictions


def read(folder: Path, frames: dict[str, tuple[int, int]], side: int, as_drawn: bool = False,
         elsewhere: Iterable[str] = ()) -> Predictions:
    """The predictions in `folder` for each case of `frames` (case_id: width and height of its image).

    Files are named CASE_ID.png, CASE_ID.npz, … and have the size of the image or side × side pixels; the former are
    resized as the study's images and masks are. Where a case has an array and a picture, as nnU-Net writes them, the
    array is read. `as_drawn`: see masks.read; `elsewhere`: cases that the folder may hold beside these.
    Raises StudyError that lists every case without a file or with two, and every file that cannot be used.
    """
    files, notes = _files(folder, frames, set(elsewhere))
    drawn = [path for path in files.values() if path.suffix.lower() not in ARRAYS]
    deep_masks = _hold_masks(drawn)
    maps, assumed, faults = [], [], []
    for case_id, path in track(files.items(), "reading predictions", len(files)):
        try:
            values, how = _values(path, as_drawn, deep_masks)
            maps.append(_at_side(path, values, frames[case_id], side))
            assumed.append((path.name, how))
        except StudyError as error:
            faults.append(str(error))
    _refuse(folder, faults, "prediction(s) cannot be used")
    found = np.stack(maps)
    if drawn and 0 < found.max() < FAINT:
        raise StudyError(f"{folder}: no probability exceeds {found.max():.4f}. In 16-bit pictures {SURE} is certain; "
                         "these files seem to hold another scale: multiply their values, or save masks as 0 and 255.")
    if not deep_masks:
        notes.append("pictures of more than 8 bits were read as probability maps, since they hold other values than "
                     "masks do (0 and 1, 0 and 255, or 0 and 65535)")
    digest = hashlib.sha256()
    for case_id, one in sorted(zip(files, found, strict=True)):
        digest.update(case_id.encode() + one.astype(np.float16).tobytes())
    kind = "masks" if np.isin(found, (0, 1)).all() else "probability maps"
    return Predictions(found, kind, {case: path.name for case, path in files.items()},
                       notes + masks.sentences(assumed), digest.hexdigest())


def _files(folder: Path, cases: Iterable[str], elsewhere: set[str]) -> tuple[dict[str, Path], list[str]]:
    """{case_id: its file} and what was left out. Raises StudyError unless each case has just one file of its kind."""
    if not folder.is_dir():
        raise StudyError(f"no folder {folder} of predictions")
    kinds: dict[str, dict[str, list[Path]]] = {"array": {}, "picture": {}}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        kind = "array" if suffix in ARRAYS else "picture" if suffix in pictures.SUFFIXES else ""
        if path.is_file() and kind and not listing.hidden(path.name):
            kinds[kind].setdefault(path.stem, []).append(path)
    kind = "array" if any(case in kinds["array"] for case in cases) else "picture"
    own, chosen, faults = kinds[kind], {}, []
    others = sorted(set(own) - set(cases))
    for case in cases:
        if len(paths := own.get(case, [])) == 1:
            chosen[case] = paths[0]
        elif paths:
            faults.append(f"{case}: predicted twice, {' and '.join(path.name for path in paths)}")
        else:
            faults.append(f"{case}: no {'.npz or .npy' if kind == 'array' else 'file'}"
                          + (f", though {kinds['picture'][case][0].name} is there" if kind == "array"
                             and case in kinds["picture"] else ""))
    hint = f"; the folder has other names, such as {', '.join(others[:3])}: name each file by its case" \
        if others and not chosen else ""
    _refuse(folder, faults, "case(s) of the fold have not one prediction each" + hint)
    others = [name for name in others if name not in elsewhere]
    notes = [f"{len(others)} prediction(s) of other cases were left out (first: {others[0]})"] if others else []
    if kind == "array" and any(case in kinds["picture"] for case in cases):
        notes.append("the probability maps were read, not the masks beside them")
    return chosen, notes


def _hold_masks(paths: Iterable[Path]) -> bool:
    """Whether each picture of more than 8 bits holds 0 and one of LESION alone. By itself a map of few values, such as
    one that is 0 nearly everywhere, cannot be distinguished from a mask, so the whole folder decides.
    """
    for path in paths:
        with suppress(StudyError), pictures.opened(path) as image:  # _values names what cannot be read
            if _deep(image) and not any(set(np.unique(image)) <= {0, lesion} for lesion in LESION):
                return False
    return True


def _deep(image: Image.Image) -> bool:
    return image.mode in pictures.DEEP or image.mode.startswith("I;16")


def _values(path: Path, as_drawn: bool, deep_masks: bool) -> tuple[np.ndarray, tuple]:
    """(H, W) float32 in [0, 1], and what masks.read assumed for them."""
    if path.suffix.lower() in ARRAYS:
        return _checked(path, _lesion(path, _array(path))), ()
    with pictures.opened(path) as image:
        deep, values = _deep(image), np.asarray(image)
        if pictures.orientation(image) != 1:
            raise StudyError(f"{path.name} has an Exif orientation, by which a viewer turns it; save it as it is shown")
        lossy = image.format == "JPEG"
    if deep and not deep_masks:
        return _checked(path, values if values.dtype.kind == "f" else values / np.float32(SURE)), ()
    mask = masks.read(path, as_drawn)
    if not lossy and any(kind == "soft" for kind, _ in mask.assumed):
        raise StudyError(f"{path.name} has grey values between background and lesion. If they are probabilities, save "
                         "them as 16-bit PNG or .npy; if it is a mask, save two values.")
    return mask.pixels.astype(np.float32), mask.assumed


def _array(path: Path) -> np.ndarray:
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            key = next((key for key in KEYS if key in stored.files), stored.files[0] if len(stored.files) == 1 else "")
            if not key:
                raise StudyError(f"{path.name} holds {', '.join(stored.files) or 'no array'}; call the map "
                                 f"{KEYS[0]}, or keep it alone")
            return stored[key]
    except StudyError:
        raise
    except Exception as error:  # a damaged or pickled file makes numpy and zipfile raise nearly anything
        raise StudyError(f"{path.name} cannot be read as an array of numbers ({error})") from None


def _lesion(path: Path, values: np.ndarray) -> np.ndarray:
    """(H, W) of the lesion from (H, W), or from (C, H, W) or (C, 1, H, W) of one or two channels."""
    shape, array = values.shape, values
    if not array.size:
        raise StudyError(f"{path.name} is an array of shape {shape}, which holds no value")
    if array.ndim == 4 and shape[1] == 1:  # nnU-Net's slices of a picture
        array = array[:, 0]
    if array.ndim == 3 and len(array) == 2:
        if np.abs(array.sum(axis=0, dtype=float) - 1).max() > SUM:
            raise StudyError(f"{path.name} has two channels that do not add up to 1: not a softmax of background and "
                             "lesion. Give probabilities, not logits.")
        array = array[1]
    elif array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind not in "fbiu":
        raise StudyError(f"{path.name} is an array of shape {shape} and type {values.dtype}; give (height, width) of "
                         "the lesion, or a softmax of background and lesion (2, height, width)")
    return array


def _checked(path: Path, values: np.ndarray) -> np.ndarray:
    """The values as float32, whole numbers 0 and 1 or 0 and 255 among them. Raises StudyError outside [0, 1]."""
    if values.dtype.kind in "iu" and set(np.unique(values)) <= {0, 255}:
        values = values > 0
    if not np.isfinite(values).all():
        raise StudyError(f"{path.name} holds values that are not finite (nan or infinite)")
    if values.dtype.kind in "iu" and values.max() > 1:
        raise StudyError(f"{path.name} holds whole numbers up to {values.max()}; a mask has 0 and 1 (or 255), a "
                         "probability map fractions")
    low, high = float(values.min()), float(values.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise StudyError(f"{path.name} holds values from {low:g} to {high:g}, not probabilities in [0, 1]; apply the "
                         "sigmoid or softmax first")
    return np.clip(values, 0, 1, dtype=np.float32) if values.dtype.kind == "f" else values.astype(np.float32)


def _at_side(path: Path, values: np.ndarray, frame: tuple[int, int], side: int) -> np.ndarray:
    """(S, S) from (S, S) or from the image's own size: masks by nearest neighbour, probabilities as images are."""
    if values.shape == (side, side):
        return values
    if values.shape != tuple(frame)[::-1]:
        height, width = values.shape
        turned = "; its sides are exchanged: transpose it" if values.shape == tuple(frame) else ""
        raise StudyError(f"{path.name} is {width}×{height} pixels, its image {frame[0]}×{frame[1]} and the study's "
                         f"images {side}×{side}{turned}. Nothing is stretched to fit.")
    if np.isin(values, (0, 1)).all():
        return images.resize_mask(values > 0, side).astype(np.float32)
    return np.clip(np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR)), 0, 1)


def _refuse(folder: Path, faults: list[str], what: str) -> None:
    if faults:
        raise StudyError(f"{folder}: {len(faults)} {what}:\n" + "\n".join(f"  {fault}" for fault in faults[:LISTED])
                         + (f"\n  … and {len(faults) - LISTED} more" if len(faults) > LISTED else ""))
