"""Decode a dataset once: every image and mask at one size in a folder of .npy files, with its source checksums."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from xbuslib.data import masks, pictures
from xbuslib.errors import StudyError
from xbuslib.files import write_folder
from xbuslib.progress import remark, track

VERSION = "2"  # raise when the decoding rules below change: older files are then rebuilt
THREADS = 8  # decode beside each other, or as many as there are cores; more wait for the interpreter
READINGS = "readings.json"  # what had to be assumed to read the sources; a folder without it is older than that rule
FINGERPRINT = "fingerprint.txt"  # written last, so that a folder that has it is whole
BLOCK = 256  # cases decoded ahead of the file they are written to
METADATA = ["case_id", "patient_id", "shape", "margin", "birads", "pathology", "pixel_mm"]  # what is read of a case


@dataclass(frozen=True)
class Prepared:
    """N cases of one dataset at S×S pixels. Geometry is measured on the mask at its original size.

    `images` and `masks` of a file are read-only memory maps: only the cases that are looked at are in memory.
    """

    case_ids: np.ndarray  # (N,) str
    images: np.ndarray  # (N, S, S) uint8 grey
    masks: np.ndarray  # (N, S, S) bool; empty in normal images
    original_sizes: np.ndarray  # (N, 2) width, height in pixels
    long_sides: np.ndarray  # (N,) longest bounding-box side in original pixels; 0 without a lesion
    boxes: np.ndarray  # (N, 2) bounding-box width and height in original pixels
    centroids: np.ndarray  # (N, 2) x, y of eq. (1) in original pixels; nan without a lesion
    contour_centroids: np.ndarray  # (N, 2) x, y as the released code has them (contour_centroid)
    fingerprint: str  # SHA-256 over the source files, the size and the decoding rules

    def rows(self, case_ids) -> np.ndarray:
        """(n,) positions of `case_ids`; raises StudyError for a case that was not prepared."""
        index = self._places.get_indexer(list(case_ids))
        if (index < 0).any():
            missing = [case for case, i in zip(case_ids, index, strict=True) if i < 0]
            raise StudyError(f"{len(missing)} case(s) are not in the prepared images (first: {missing[0]})")
        return index

    @cached_property
    def _places(self) -> pd.Index:  # kept, so that asking case by case does not cost N each time
        return pd.Index(self.case_ids)


def prepare(cases: pd.DataFrame, size: int, folder: Path, fingerprint: str = "") -> Prepared:
    """Decode `cases` to `folder` unless it already holds just these sources at this size; return its content.

    fingerprint: source_fingerprint of the cases, where it is known already. What had to be assumed about files is
    reported once, with counts, and kept beside the arrays. Raises StudyError that lists every unreadable image, mask
    of another size and empty mask.
    """
    fingerprint = fingerprint or source_fingerprint(cases, size)
    whole = all((folder / name).is_file() for name in (FINGERPRINT, READINGS))
    if whole and (kept := read(folder)).fingerprint == fingerprint:
        return kept
    faults: list[str] = []
    readings = Readings()
    with write_folder(folder, FINGERPRINT) as partial:
        _store(partial, _decoded(cases, size, faults, readings), len(cases))
        if faults:
            raise StudyError(f"{len(faults)} case(s) cannot be used:\n" + "\n".join(f"  {f}" for f in faults[:20]))
        np.save(partial / "case_ids.npy", cases["case_id"].to_numpy(str))
        (partial / READINGS).write_text(json.dumps(readings.sentences(), indent=1, ensure_ascii=False), "utf-8")
        (partial / FINGERPRINT).write_text(fingerprint)
    for sentence in readings.sentences():
        remark(sentence)
    return read(folder)


def read(folder: Path) -> Prepared:
    """Read a prepared folder; pictures are memory maps. Raises StudyError if it is damaged."""
    try:
        found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        fingerprint = (folder / FINGERPRINT).read_text()
    except Exception as error:
        raise StudyError(f"{folder} is damaged ({error}); delete it, it is made again from the dataset") from None
    return Prepared(**{name: np.asarray(array) if array.ndim > 2 else np.array(array) for name, array in found.items()},
                    fingerprint=fingerprint)


def _store(folder: Path, rows: Iterator[dict], n: int) -> None:
    """Write n `rows`, dicts of arrays of one shape per name, each name stacked in a file; one row is in memory."""
    stacks = {}
    for index, row in enumerate(rows):
        for name, value in row.items():
            if name not in stacks:
                path = folder / f"{name}.npy"
                stacks[name] = np.lib.format.open_memmap(path, "w+", value.dtype, (n, *value.shape))
                with path.open("r+b") as file:  # a full disk is an error now, not a crash at some later row
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            stacks[name][index] = value


def source_fingerprint(cases: pd.DataFrame, size: int) -> str:
    """SHA-256 over case ids, file contents, size and decoding rules."""
    digest = hashlib.sha256(f"{VERSION} {size}".encode())
    for row in cases.itertuples():
        digest.update(row.case_id.encode())
        for source in (row.image, *mask_files(row)):
            content = Path(source).read_bytes()
            digest.update(hashlib.sha256(content).digest() + _rule(content))
    return digest.hexdigest()


def metadata_fingerprint(cases: pd.DataFrame) -> str:
    """SHA-256 over what prompts, folds and millimetres are made of, as JSON: a list per case, null where missing."""
    rows = [[None if pd.isna(value) else value for value in row] for row in cases[METADATA].itertuples(index=False)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def fingerprints(cases: pd.DataFrame, size: int) -> dict[str, str]:
    """Both fingerprints, by their names in run.json."""
    return {"dataset_fingerprint": source_fingerprint(cases, size), "metadata_fingerprint": metadata_fingerprint(cases)}


def _rule(content: bytes) -> bytes:
    """Marks files of more than 8 bits whose rule is younger than VERSION; those of 8 keep their fingerprint."""
    try:
        with Image.open(io.BytesIO(content), formats=pictures.FORMATS) as image:
            if image.mode in pictures.DEEP or image.mode.startswith("I;16"):
                return b"deep"
            return b"over black" if ";16" in str(image.tile) and pictures.transparent(image) else b""
    except Exception:  # read_grey and read_mask say what is wrong with it
        return b""


def read_grey(path: Path | str) -> np.ndarray:
    """(H, W) uint8 luminance of an image; transparency is composited over black (docs/protocol.md)."""
    return pictures.decode(path).grey


def read_mask(path: Path | str) -> np.ndarray:
    """(H, W) bool of one mask file, by the rules of masks.py."""
    return masks.read(path).pixels


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) uint8 to (S, S) uint8, bilinear with antialiasing; aspect is not kept (Section 2.2)."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool to (S, S) bool, nearest neighbour."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)) > 0


def bounding_box(mask: np.ndarray) -> tuple[int, int]:
    """(width, height) in pixels of the smallest box around a mask, both ends counted; (0, 0) if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) if rows.size else (0, 0)


def centroid(mask: np.ndarray) -> tuple[float, float]:
    """(C_x, C_y) = (M10/M00, M01/M00) in pixels, eq. (1); nan if the mask is empty."""
    y, x = np.nonzero(mask)
    return (float(x.mean()), float(y.mean())) if x.size else (float("nan"), float("nan"))


def contour_centroid(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) in pixels of the centroid of the largest outer contour as a polygon through the centres of its pixels.

    What the released code writes into its prompts (specification 7.6): holes and smaller components do not count. Where
    no contour encloses an area (lines, single pixels) it is the mean of the pixels.
    """
    import cv2  # here, since few need it

    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    moments = max((cv2.moments(outline) for outline in outlines), key=lambda m: m["m00"], default={"m00": 0})
    if moments["m00"] == 0:
        return centroid(mask)
    return moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]


def largest_component(mask: np.ndarray, corners: bool = False) -> tuple[np.ndarray, int]:
    """The largest connected component of a bool mask, the first of equals, and how many there are.

    Pixels are neighbours by their sides (4-connected) or, with `corners`, by these too (8-connected).
    """
    labels, n = ndimage.label(mask, np.ones((3, 3)) if corners else None)
    return (labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if n else mask), n


ARRAYS = [field.name for field in fields(Prepared) if field.name != "fingerprint"]
MEASURES = ["width_px", "height_px", "long_side_px", "long_side_mm", "lesion_fraction"]  # what case_table adds


def case_table(cases: pd.DataFrame, prepared: Prepared) -> pd.DataFrame:
    """`cases` without their files, and each one's frame and lesion measured at original size: what cases.csv holds.

    long_side_px is the longest side of the lesion's bounding box, the "length" of the paper's Table 2; in
    millimetres where the pixel size is known. lesion_fraction is the mask's share of the prepared image.
    """
    rows = prepared.rows(cases["case_id"])
    sides = prepared.long_sides[rows].astype(float)
    return cases.drop(columns=["image", "mask", "more_masks"], errors="ignore").assign(
        width_px=prepared.original_sizes[rows, 0], height_px=prepared.original_sizes[rows, 1],
        long_side_px=sides, long_side_mm=np.round(sides * cases["pixel_mm"].to_numpy(float), 3),
        lesion_fraction=np.array([prepared.masks[row].mean() for row in rows]).round(6))


class Readings:
    """What had to be assumed to read the images and masks of a dataset."""

    def __init__(self):
        self.images: list[tuple[str, list[str]]] = []  # (file name, keys of pictures.FOLDER_NOTES)
        self.masks: list[tuple[str, tuple]] = []  # (file name, Mask.assumed)
        self.regions: dict[str, int] = {}  # image file: number of separate lesions, where there are several

    def sentences(self) -> list[str]:
        """Each assumption once, with the number of files."""
        names = {kind: sorted(name for name, kinds in self.images if kind in kinds) for kind in pictures.FOLDER_NOTES}
        return [f"{len(names[kind])} of {len(self.images)} images {text} (first: {names[kind][0]})"
                for kind, text in pictures.FOLDER_NOTES.items() if names[kind]] + masks.sentences(self.masks)


def _decoded(cases: pd.DataFrame, size: int, faults: list[str], readings: Readings) -> Iterator[dict]:
    """The cases in their order; what is wrong with one that cannot be used is added to `faults` instead."""
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)))) as pool:
        blocks = (cases.iloc[start:start + BLOCK].itertuples() for start in range(0, len(cases), BLOCK))
        done = (result for block in blocks
                for result in pool.map(lambda row: _decode_or_fault(row, size, readings), block))
        for result in track(done, "decoding images", len(cases)):
            if isinstance(result, str):
                faults.append(result)
            else:
                yield result


def _decode_or_fault(row, size: int, readings: Readings) -> dict | str:
    try:
        return decode(row.image, mask_files(row), size, readings)
    except StudyError as error:
        return f"{row.case_id}: {error}"


def mask_files(row) -> list[str]:
    """The mask files of a row of the case table, whose union is its mask; none for a normal image.

    `more_masks` holds the names of files beside `mask`, joined by "&".
    """
    more = getattr(row, "more_masks", None)
    return [] if row.mask is None else [row.mask, *(str(Path(row.mask).with_name(name))
                                                    for name in (more.split("&") if more else []))]


def decode(image_path: str, mask_paths: list[str], size: int, readings: Readings | None = None) -> dict:
    """One case as the arrays of Prepared; what was assumed about its files is added to `readings`.

    Raises StudyError for a file that cannot be used and a lesion that vanishes at this size.
    """
    picture = pictures.decode(image_path)
    image, kinds = picture.grey, [kind for kind, _ in picture.notes]
    mask, assumed = masks.union(mask_paths, image.shape[::-1], picture.turn)
    if mask_paths and not mask.any():
        raise StudyError(f"mask {Path(mask_paths[0]).name} is empty; a normal case has no mask file")
    small = resize_mask(mask, size)
    if mask.any() and not small.any():
        raise StudyError(f"the lesion vanishes at {size}×{size} pixels; use a larger image_size")
    if readings is not None:  # not before: one that cannot be used at this size may be decoded at another
        readings.images.append((Path(image_path).name, kinds))
        readings.masks.extend(assumed)
        if (regions := masks.regions(mask)) > 1:
            readings.regions[image_path] = regions
    return {"images": resize_image(image, size), "masks": small,
            "original_sizes": np.array(image.shape[::-1]), "long_sides": np.array(max(bounding_box(mask))),
            "boxes": np.array(bounding_box(mask)), "centroids": np.array(centroid(mask)),
            "contour_centroids": np.array(contour_centroid(mask))}
