"""The size of a pixel in a DICOM file: of the calibrated ultrasound region that holds the lesion, else of PixelSpacing.

Section numbers are those of the DICOM standard, part 3.
"""

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
    """A calibrated 2D region."""

    box: tuple[int, int, int, int] | None  # left, top, right, bottom in pixels, the last two excluded; None: unknown
    pixel_mm: tuple[float, float]  # width and height of a pixel

    def __str__(self) -> str:
        width, height = self.pixel_mm
        left, top, right, bottom = self.box or (0, 0, 0, 0)
        place = f" at x {left} to {right - 1}, y {top} to {bottom - 1}" if self.box else ""
        return f"{width:g}×{height:g} mm{place}"


def find(data: Dataset) -> tuple[tuple[Region, ...], tuple | None, list[str]]:
    """The calibrated regions of a file; ((width, height) in mm, who says so) where it is one for all, else None; notes.

    A size out of range is ignored. Where sources differ, the region's is used, and this is reported.
    """
    regions = _regions(data)
    likely = tuple(region for region in regions if _likely(region.pixel_mm))
    rows_first = data.get("PixelSpacing")  # 10.7.1.3
    spacing = (float(rows_first[1]), float(rows_first[0])) if rows_first else None
    notes = [_unlikely(size, REGION) for size in sorted({region.pixel_mm for region in regions} -
                                                        {region.pixel_mm for region in likely})]
    if spacing and not _likely(spacing):
        notes.append(_unlikely(spacing, SPACING))
        spacing = None
    sizes = {region.pixel_mm for region in likely}
    if len(sizes) > 1:
        return likely, None, [*notes, f"Its {len(likely)} ultrasound regions have different pixel sizes "
                              f"({'; '.join(map(str, likely))}): that of the region that holds the lesion counts."]
    if not sizes:
        return (), (spacing, SPACING) if spacing else None, notes + _aspect(data, spacing)
    size = sizes.pop()
    if spacing and not _same(spacing, size):
        notes.append(f"Its ultrasound region says {size[0]:g}×{size[1]:g} mm a pixel, its pixel spacing "
                     f"{spacing[0]:g}×{spacing[1]:g} mm: the region's is used.")
    return likely, (size, REGION), notes + _aspect(data, size)


def of_lesion(regions: tuple[Region, ...], mask: np.ndarray) -> tuple[tuple[float, float] | None, str]:
    """(width, height) in mm of the pixels under the largest part of a (H, W) mask, or None, and a sentence why."""
    lesion, count = largest_component(mask)
    if not count:
        return None, ""
    holding = [region for region in regions if _share(region, lesion) >= HOLDS]
    if len(sizes := {region.pixel_mm for region in holding}) == 1:
        several = len({region.pixel_mm for region in regions}) > 1
        return sizes.pop(), f"The lesion lies in the ultrasound region of {holding[0]}." if several else ""
    touched = [region for region in regions if _share(region, lesion) > 0]
    why = ("lies across ultrasound regions of different pixel sizes" if len(touched) > 1 else
           "lies partly outside the calibrated ultrasound region" if touched else
           "lies outside the calibrated ultrasound regions")
    return None, f"The lesion {why}, so no pixel size is used."


def _regions(data: Dataset) -> list[Region]:
    """All 2D regions measured in centimetres (C.8.5.5)."""
    found = []
    for region in data.get("SequenceOfUltrasoundRegions") or []:
        if region.get("RegionSpatialFormat") != TISSUE_2D or not (
                region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES):
            continue
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        box = None if None in corners else (corners[0], corners[1], corners[2] + 1, corners[3] + 1)
        found.append(Region(box, (round(10 * abs(float(region.PhysicalDeltaX)), 6),
                                  round(10 * abs(float(region.PhysicalDeltaY)), 6))))
    return found


def _share(region: Region, lesion: np.ndarray) -> float:
    if region.box is None:
        return 1.0
    left, top, right, bottom = region.box
    return float(lesion[top:bottom, left:right].sum() / lesion.sum())


def _aspect(data: Dataset, size: tuple[float, float] | None) -> list[str]:
    """A note if PixelAspectRatio (C.7.6.3.1.7: height, then width) says something else than the size."""
    ratio = data.get("PixelAspectRatio")
    if not ratio or len(ratio) != 2 or not float(ratio[1]):
        return []
    stated = float(ratio[0]) / float(ratio[1])
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


def _unlikely(size: tuple[float, float], who: str) -> str:
    return (f"Its pixel size of {size[0]:g}×{size[1]:g} mm ({who}) is not that of breast ultrasound and was not used.")
