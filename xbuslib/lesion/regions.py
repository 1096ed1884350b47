"""The size of a pixel in a DICOM file: of the calibrated ultrasound region that holds the lesion, else of PixelSpacing.

Section numbers are those of the DICOM standard, part 3.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from xbuslib.data.cases import PIXEL_MM
from xbuslib.data.images import largest_component

CENTIMETRES = 3  # C.8.5.5.1.15, Physical Units X Direction
TISSUE_2D = 1  # C.8.5.5.1.1, Region Spatial Format: 2D
REGION, SPACING = "DICOM, calibrated ultrasound region", "DICOM, pixel spacing"
HOLDS = 0.99  # share of the lesion's pixels in a region that holds it
SAME = 0.01  # relative difference up to which two sizes are one


class Region(NamedTuple):
    """A 2D region measured in centimetres."""

    box: tuple[int, int, int, int] | None  # left, top, right, bottom in pixels, the last two excluded; None: unknown
    pixel_mm: tuple[float, float] | None  # width and height of a pixel; None: not given, or not to be used

    def __str__(self) -> str:
        return "{:g}×{:g} mm".format(*self.pixel_mm) + (f" at {_place(self.box)}" if self.box else "")


def find(data: Dataset) -> tuple[tuple[Region, ...], tuple | None, list[str]]:
    """The 2D regions of a file; ((width, height) in mm, who says so) where it is one for all, else None; notes.

    A size that is damaged, out of range or of another raster is not used. Where sources differ, the region's is used.
    Both are reported.
    """
    notes: list[str] = []
    items = _items(data, notes)
    regions = _regions(items, notes)
    rows_first = _pair(data, "PixelSpacing", notes)  # 10.7.1.3
    spacing = rows_first[::-1] if rows_first else None
    if beyond := _beyond(data, items):
        return tuple(region._replace(pixel_mm=None) for region in regions), None, notes + beyond + _aspect(data, None)
    unlikely = {region.pixel_mm for region in regions if region.pixel_mm and not _likely(region.pixel_mm)}
    notes += [_unlikely(size, REGION) for size in sorted(unlikely)]
    regions = tuple(region._replace(pixel_mm=None) if region.pixel_mm in unlikely else region for region in regions)
    if spacing and not _likely(spacing):
        notes.append(_unlikely(spacing, SPACING))
        spacing = None
    sized = [region for region in regions if region.pixel_mm]
    if not sized:
        return regions, (spacing, SPACING) if spacing else None, notes + _aspect(data, spacing)
    if not _agree(sized):
        return regions, None, [*notes, f"Its {len(sized)} ultrasound regions have different pixel sizes "
                               f"({'; '.join(map(str, sized))}): that of the region that holds the lesion counts."]
    size = sized[0].pixel_mm
    if spacing and not _same(spacing, size):
        notes.append(f"Its ultrasound region says {size[0]:g}×{size[1]:g} mm a pixel, its pixel spacing "
                     f"{spacing[0]:g}×{spacing[1]:g} mm: the region's is used.")
    return regions, (size, REGION), notes + _aspect(data, size)


def of_lesion(regions: tuple[Region, ...], mask: np.ndarray) -> tuple[tuple[float, float] | None, str]:
    """(width, height) in mm of the pixels under the largest part of a (H, W) mask, or None, and a sentence why.

    All regions have a pixel size.
    """
    lesion, count = largest_component(mask)
    if not count:
        return None, ""
    touched = [region for region in regions if _share([region], lesion) > 0]
    holding = [region for region in touched if _share([region], lesion) >= HOLDS]
    for together in (holding, touched):  # a region that holds the lesion counts before one that it only reaches
        if together and _agree(together) and _share(together, lesion) >= HOLDS:
            where = f"The lesion lies in the ultrasound region of {' and of '.join(map(str, together))}."
            return together[0].pixel_mm, "" if _agree(regions) else where
    why = ("lies outside the calibrated ultrasound regions" if not touched else
           "lies partly outside the calibrated ultrasound region" if _agree(touched) else
           "lies across ultrasound regions of different pixel sizes")
    return None, f"The lesion {why}, so no pixel size is used."


def inside(boxes: Sequence[Sequence[int]], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels that lie in any of the boxes (left, top, right, bottom)."""
    found = np.zeros(shape, bool)
    for left, top, right, bottom in boxes:
        found[top:bottom, left:right] = True
    return found


def _items(data: Dataset, notes: list[str]) -> list[Dataset]:
    """The regions of any kind (C.8.5.5)."""
    with suppress(Exception):  # a damaged attribute makes the parser raise nearly anything
        items = list(data.get("SequenceOfUltrasoundRegions") or [])
        if all(isinstance(item, Dataset) for item in items):
            return items
    notes.append("Its ultrasound regions cannot be read and were not used.")
    return []


def _regions(items: list[Dataset], notes: list[str]) -> list[Region]:
    """All 2D regions measured in centimetres."""
    found = []
    for item in items:
        kind, *units, width, height = (_numbers(item, name, 1) for name in (
            "RegionSpatialFormat", "PhysicalUnitsXDirection", "PhysicalUnitsYDirection", "PhysicalDeltaX",
            "PhysicalDeltaY"))
        if kind == (TISSUE_2D,) and units == [(CENTIMETRES,)] * 2:
            size = (round(10 * abs(width[0]), 6), round(10 * abs(height[0]), 6)) if width and height else None
            found.append(Region(_box(item), size))
    if any(region.pixel_mm is None for region in found):
        notes.append("It has an ultrasound region without a pixel size (PhysicalDeltaX and PhysicalDeltaY, one number "
                     "each), which was not used.")
    return found


def _beyond(data: Dataset, items: list[Dataset]) -> list[str]:
    """A note if a region of any kind does not fit into the image: sizes are those of another raster then."""
    columns, rows = int(data.Columns), int(data.Rows)
    for box in filter(None, map(_box, items)):
        if box[2] > columns + 1 or box[3] > rows + 1:  # by one: some files count from 1
            return [f"Its ultrasound region at {_place(box)} reaches beyond the image of {columns}×{rows} pixels: the "
                    "picture was resized or cut, so its pixel size was not used; give --pixel-mm. Check what --crop "
                    "regions leaves."]
    return []


def _box(item: Dataset) -> tuple[int, int, int, int] | None:
    corners = [_numbers(item, f"RegionLocation{name}", 1) for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if None in corners:
        return None
    left, top, right, bottom = (int(corner) for corner, in corners)
    return left, top, right + 1, bottom + 1


def _place(box: tuple[int, int, int, int]) -> str:
    left, top, right, bottom = box
    return f"x {left} to {right - 1}, y {top} to {bottom - 1}"


def _numbers(data: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """The `count` numbers of an attribute; None where it is missing or anything else."""
    try:
        numbers = tuple(float(part) for part in np.atleast_1d(data[name].value))
    except Exception:  # as in _items
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _pair(data: Dataset, name: str, notes: list[str]) -> tuple[float, ...] | None:
    """The two numbers of an attribute; None, with a note, where it has anything else."""
    numbers = _numbers(data, name, 2)
    if numbers is None and name in data and data.get_item(name).value not in (None, "", b""):
        notes.append(f"Its {name} is not two numbers and was not used.")
    return numbers


def _share(regions: list[Region], lesion: np.ndarray) -> float:
    """Share of the lesion's pixels that lie in any of the regions."""
    reached = inside([region.box or (0, 0, *lesion.shape[::-1]) for region in regions], lesion.shape)
    return float((lesion & reached).sum() / lesion.sum())


def _aspect(data: Dataset, size: tuple[float, float] | None) -> list[str]:
    """A note if PixelAspectRatio (C.7.6.3.1.7: height, then width) is damaged, or says something else than the size."""
    notes: list[str] = []
    ratio = _pair(data, "PixelAspectRatio", notes)
    if not ratio or not ratio[1]:
        return notes
    stated = ratio[0] / ratio[1]
    if size is None:
        return [] if stated == 1 else [f"Its pixel aspect ratio is {stated:g} (height over width); without a pixel "
                                       "size lengths are in pixels, taken as square."]
    used = size[1] / size[0]
    return [] if abs(stated - used) <= SAME * used else [
        f"Its pixel aspect ratio is {stated:g} (height over width), but its pixel size gives {used:.3g}: the pixel "
        "size is used."]


def _likely(size: tuple[float, float]) -> bool:
    return all(PIXEL_MM[0] <= side <= PIXEL_MM[1] for side in size)


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) <= SAME * b for a, b in zip(one, other, strict=True))


def _agree(regions: Sequence[Region]) -> bool:
    return all(_same(region.pixel_mm, regions[0].pixel_mm) for region in regions)


def _unlikely(size: tuple[float, float], who: str) -> str:
    return (f"Its pixel size of {size[0]:g}×{size[1]:g} mm ({who}) is not that of breast ultrasound and was not used.")
