"""Measurements of a predicted lesion: diameters, area, orientation, place and regularity of the outline.

The words are those of the BI-RADS ultrasound lexicon (ACR, fifth edition) where it defines one; the numbers behind them
are stated with each field. Nothing here is a diagnosis.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform
from skimage.measure import find_contours

from xbuslib.data.images import largest_component
from xbuslib.prompts.words import quadrant

PARALLEL = 45.0  # degrees: nearer to the skin line than to the beam; the lexicon gives no angle
OUTLINE = 50  # pixels: a region of fewer is a staircase, not an outline, and gets no measure of regularity
SMOOTHING = 1.0  # pixels (SD): takes the staircase off the outline, which made diameters a pixel too long
THIN = 5.0  # pixels that smoothing may take off a pointed end; where it takes more, a thin part was lost
PADDING = 4  # pixels: as far as the smoothing reaches
Line = tuple[tuple[float, float], tuple[float, float]]  # two points (x, y) in pixels; (0, 0) is a pixel's centre


class Lesion(BaseModel):
    """The largest region of a mask. Lengths in mm and areas in mm² if `unit` is mm, else in pixels of the image."""

    model_config = ConfigDict(frozen=True)

    unit: str = Field(description="mm, or px where the pixel size is unknown")
    longest_diameter: float = Field(description="maximum Feret diameter: the longest distance between two points of "
                                                "the outline")
    orthogonal_diameter: float = Field(description="extent perpendicular to the longest diameter")
    area: float = Field(description="number of pixels times a pixel's area; holes are left out")
    angle_degrees: float = Field(description="from the horizontal, taken as the skin line, to the longest diameter; "
                                             "0 to 90")
    orientation: str = Field(description=f"parallel: wider than tall, and the longest diameter less than {PARALLEL:g}° "
                                         "from the skin line; otherwise not parallel (round lesions too)")
    height: float = Field(description="extent along the beam (vertical)")
    width: float = Field(description="extent along the skin (horizontal)")
    aspect: float = Field(description="height divided by width; above 1 is taller than wide")
    taller_than_wide: bool
    quadrant: str = Field(description="of the frame, by the centroid; not of the breast")
    solidity: float | None = Field(description="area, holes filled, divided by that of its convex hull; 1 is convex")
    circularity: float | None = Field(description="form factor 4π·area/perimeter² of the outline; 1 is a circle")
    touches_edge: bool = Field(description="reaches the edge of the image, so that diameters and area are lower bounds")
    regions: int = Field(description="separate regions of the mask; the largest one is measured")
    measured_share: float = Field(description="share of the mask's pixels in the measured region")
    longest_line: Line = Field(description="ends of the longest diameter: x, y in pixels of the image")
    orthogonal_line: Line = Field(description="the orthogonal diameter, drawn through the middle of the region's "
                                              "extent: x, y in pixels of the image")


def lesion(mask: np.ndarray, pixel_mm: tuple[float, float] | None = None) -> Lesion | None:
    """Measurements of the largest region of a (H, W) bool mask; None if the mask is empty.

    `pixel_mm` is a pixel's (width, height); without it pixels are taken as square and lengths are in pixels.
    """
    component, regions = largest_component(mask)  # 4-connected, as in words.from_first_pass
    if not regions:
        return None
    place, = ndimage.find_objects(component.astype(np.uint8))
    region, start = component[place], np.array([place[1].start, place[0].start])  # x, y
    rows, columns = np.nonzero(region)
    centre = columns.mean() + start[0], rows.mean() + start[1]
    at_edge = any(side.start == 0 or side.stop == length for side, length in zip(place, mask.shape, strict=True))

    scale = np.array(pixel_mm or (1.0, 1.0))  # x, y
    outline = _outline(region, scale)
    points = np.concatenate(outline)
    hull = points[ConvexHull(points).vertices]  # (n, 2)
    longest, orthogonal, angle = _diameters(hull)
    width, height = np.ptp(hull, axis=0)
    solidity, circularity = _regularity(outline) if len(rows) >= OUTLINE else (None, None)
    parallel = angle < PARALLEL and height < width
    return Lesion(
        unit="mm" if pixel_mm else "px", longest_diameter=_length(longest), orthogonal_diameter=_length(orthogonal),
        area=float(len(rows) * scale.prod()), angle_degrees=angle, height=float(height), width=float(width),
        orientation="parallel" if parallel else "not parallel", aspect=float(height / width),
        taller_than_wide=bool(height > width), quadrant=quadrant(centre, mask.shape[::-1]),
        solidity=solidity, circularity=circularity, touches_edge=at_edge, regions=regions,
        measured_share=float(len(rows) / mask.sum()),
        longest_line=_line(longest / scale + start), orthogonal_line=_line(orthogonal / scale + start))


def _outline(region: np.ndarray, scale: np.ndarray) -> list[np.ndarray]:
    """Closed polygons (n, 2) x, y in mm around a region, its holes filled, the staircase of pixels smoothed.

    They run halfway between pixels inside and outside. A region that is small, or would be shortened by more than
    THIN in width or height, is not smoothed. region: cut to its bounding box.
    """
    filled = np.pad(ndimage.binary_fill_holes(region), PADDING).astype(float)
    polygons = find_contours(ndimage.gaussian_filter(filled, SMOOTHING), 0.5) if region.sum() >= OUTLINE else []
    if not polygons or (np.ptp(np.concatenate(polygons), axis=0) < np.array(region.shape) - THIN).any():
        polygons = find_contours(filled, 0.5)
    return [(polygon[:, ::-1] - PADDING) * scale for polygon in polygons]  # rows, columns to x, y


def _diameters(hull: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The longest diameter and the one across it as (2, 2) lines, and the former's angle to the horizontal."""
    distances = squareform(pdist(hull))
    longest = hull[list(np.unravel_index(distances.argmax(), distances.shape))]
    along = (longest[1] - longest[0]) / distances.max()
    across = np.array([-along[1], along[0]])
    angle = float(np.degrees(np.arctan2(abs(along[1]), abs(along[0]))))
    sides = hull @ across
    middle = hull[[sides.argmin(), sides.argmax()]].mean(axis=0) @ along  # between the outermost points on both sides
    return longest, np.array([middle * along + side * across for side in (sides.min(), sides.max())]), angle


def _regularity(outline: list[np.ndarray]) -> tuple[float, float]:
    """(solidity, circularity) of what the polygons enclose."""
    area = sum(_enclosed(polygon) for polygon in outline)
    perimeter = sum(np.linalg.norm(np.diff(polygon, axis=0), axis=1).sum() for polygon in outline)
    hull = ConvexHull(np.concatenate(outline)).volume  # scipy calls the area of a plane hull its volume
    return min(1.0, float(area / hull)), float(4 * np.pi * area / perimeter**2)


def _enclosed(outline: np.ndarray) -> float:
    """Area inside a closed polygon (n, 2)."""
    x, y = outline.T
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2)


def _length(line: np.ndarray) -> float:
    return float(np.linalg.norm(line[1] - line[0]))


def _line(points: np.ndarray) -> Line:
    return tuple(tuple(round(float(value), 2) for value in point) for point in points)
