"""From metadata to prompts (Sections 2.2, 2.7, 2.8): no clicks, and no validation mask unless a policy says so.

The dataset has no size column and no laterality, so size comes from a mask and the quadrant is one of the frame.
A policy says who supplies size and location at validation:
  first_pass  both from the model's own first pass     paper  size from the reference mask, location from the first pass
  reference   both from the reference mask             none   neither is given
Attributes (shape, margin, BI-RADS) come from the metadata, or are left out.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from xbuslib.data.cases import margin_words
from xbuslib.data.images import Prepared, bounding_box, centroid, contour_centroid, largest_component

SIZES = ("small", "medium", "large")
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")
CENTRE = (0.5, 0.5)  # the point of a prompt without a location
COLUMNS = {"global_text": ["global_text"], "local_text": ["local_text"], "point": ["x", "y"]}  # of each prompt field


@dataclass(frozen=True)
class Finding:
    """Size and location of a lesion. None or nan where unknown."""

    box: tuple[float, float] | None  # bounding-box width and height in original pixels
    centre: tuple[float, float] | None  # centroid x, y in original pixels, eq. (1)
    frame: tuple[int, int]  # width and height of the original image
    inside: tuple[float, float] = CENTRE  # a point on the lesion (of a first pass: its centroid), in [0, 1]
    contour_centre: tuple[float, float] | None = None  # as the released code has it (images.contour_centroid)


def size_edges(long_sides: np.ndarray) -> tuple[float, float]:
    """Tertiles of the longest bounding-box side over the training fold, in original pixels (Section 2.2)."""
    low, high = np.quantile(np.asarray(long_sides, float), (1 / 3, 2 / 3))
    return float(low), float(high)


def size_word(box: tuple[float, float] | None, edges: tuple[float, float]) -> str | None:
    """"small", "medium" or "large" by the longest side of `box`; both edges belong to the smaller class."""
    return None if box is None else SIZES[int(np.searchsorted(edges, max(box), side="left"))]


def typical_length(size: str, edges: tuple[float, float]) -> float:
    """A length in the middle of a size class, in original pixels; for "large" half as much again as the upper edge."""
    low, high = edges
    return {"small": low / 2, "medium": (low + high) / 2, "large": 1.5 * high}[size]


def resized(finding: Finding, size: str, edges: tuple[float, float]) -> Finding:
    """The finding with its box scaled to the typical length of a size class; a square where it has none."""
    width, height = finding.box or (1.0, 1.0)
    scale = typical_length(size, edges) / max(width, height)
    return replace(finding, box=(width * scale, height * scale))


def quadrant(centre: tuple[float, float] | None, frame: tuple[int, int]) -> str | None:
    """Quadrant of the frame that holds the centroid: laterality is not recorded, so not inner/outer."""
    if centre is None:
        return None
    column = "left" if centre[0] + 0.5 < frame[0] / 2 else "right"  # + 0.5: centre of a pixel
    row = "upper" if centre[1] + 0.5 < frame[1] / 2 else "lower"
    return f"{row} {column}"


def global_text(size: str | None, location: str | None) -> str:
    """The Global Feature Context Prompt, e.g. "a small lesion in the upper left quadrant of the image"."""
    text = f"a {size} lesion" if size else "a lesion"
    return f"{text} in the {location} quadrant of the image" if location else text


def released_global_text(finding: Finding, size: bool = True, location: bool = True) -> str:
    """The released code's prompt: bounding box and centroid in original pixels (specification 7.6)."""
    text = "Ultrasound shows a tumor"
    if size and finding.box is not None:
        text += f" approximately {finding.box[0]:.0f}×{finding.box[1]:.0f} pixels"
    centre = finding.contour_centre or finding.centre
    if location and centre is not None:
        text += f" near ({int(centre[0])}, {int(centre[1])})"  # cut off, as the published ones are
    return text + "."


def local_text(shape: str | None, margin: str | None, birads: str | None) -> str:
    """The Local Feature Prompt, e.g. "irregular shape, spiculated and indistinct margin, BI-RADS 4c"."""
    parts = [f"{shape} shape"] if shape else []
    if margin:
        *first, last = margin_words(margin)
        parts.append(f"{', '.join(first)} and {last} margin" if first else f"{last} margin")
    if birads:
        parts.append(f"BI-RADS {birads}")
    return ", ".join(parts) or "a lesion"


def released_local_text(shape: str | None, margin: str | None, birads: str | None) -> str:
    """The released code's prompt: the clinical table's own words (specification 7.6); what is missing is left out."""
    parts = [f"{shape} shaped"] if shape else []
    parts += [f"{margin} margin"] if margin else []
    parts += [f"BIRADS {birads}"] if birads else []
    return "Ultrasound shows a Tumor" + (" with " + ", ".join(parts) if parts else "")


def from_reference(prepared: Prepared, row: int) -> Finding:
    """Size and location measured on the reference mask at original resolution."""
    width, height = (int(side) for side in prepared.original_sizes[row])
    y, x = np.nonzero(prepared.masks[row])
    middle = len(x) // 2  # the middle lesion pixel in raster order is always inside (specification 5.4)
    side = prepared.masks.shape[-1]
    return Finding(tuple(map(int, prepared.boxes[row])), tuple(map(float, prepared.centroids[row])), (width, height),
                   ((x[middle] + 0.5) / side, (y[middle] + 0.5) / side),
                   tuple(map(float, prepared.contour_centroids[row])))


def from_first_pass(probabilities: np.ndarray, frame: tuple[int, int], threshold: float = 0.30) -> Finding:
    """Section 2.7: threshold an (S, S) first-pass map at τ, keep the largest component, measure it.

    `frame` is the original (width, height); no mask enters. Nothing above τ: size and location stay unknown.
    """
    region, n = largest_component(probabilities >= threshold)  # the coarse proposal R; every BLU mask is 4-connected
    return measure(region, frame) if n else Finding(None, None, frame)


def measure(region: np.ndarray, frame: tuple[int, int]) -> Finding:
    """Size and location of an (S, S) bool region, in pixels of the original `frame`, which it stands for stretched."""
    rows, columns = region.shape
    scale = frame[0] / columns, frame[1] / rows
    box = bounding_box(region)
    inside, outlined = (((x + 0.5) / columns, (y + 0.5) / rows)
                        for x, y in (centroid(region), contour_centroid(region)))
    centre, contour_centre = ((x * frame[0] - 0.5, y * frame[1] - 0.5) for x, y in (inside, outlined))
    return Finding((box[0] * scale[0], box[1] * scale[1]), centre, frame, inside, contour_centre)


def mirror(finding: Finding) -> Finding:
    """The same lesion in the mirror image: left becomes right."""
    width, (x, y) = finding.frame[0], finding.inside
    centre, outlined = (None if point is None else (width - 1 - point[0], point[1])
                        for point in (finding.centre, finding.contour_centre))
    return replace(finding, centre=centre, inside=(1 - x, y), contour_centre=outlined)


def zoomed(finding: Finding, zoom: float) -> Finding:
    """What an image enlarged about its middle shows of the lesion: larger, further out, cut at the frame.

    A box without a centre is enlarged up to the frame. Of a lesion out of view neither size nor location is known.
    """
    if finding.centre is None:
        sides = zip(finding.box or (), finding.frame if finding.box else (), strict=True)
        return replace(finding, box=tuple(min(zoom * side, whole) for side, whole in sides) or None)
    box, centre, inside, outlined = [], [], [], []
    for axis, whole in enumerate(finding.frame):
        middle = _moved(finding.centre[axis] + 0.5, whole, zoom)  # + 0.5: centre of a pixel
        half = zoom * (finding.box[axis] if finding.box else 1) / 2
        low, high = max(middle - half, 0.0), min(middle + half, float(whole))
        if low >= high:
            return Finding(None, None, finding.frame)
        cut = (low, high) != (middle - half, middle + half)
        box.append(high - low)
        centre.append(((low + high) / 2 if cut else middle) - 0.5)
        inside.append((low + high) / 2 / whole if cut else _moved(finding.inside[axis], 1, zoom))
        if finding.contour_centre:
            moved = _moved(finding.contour_centre[axis] + 0.5, whole, zoom) - 0.5
            outlined.append(min(max(moved, low - 0.5), high - 0.5))
    return replace(finding, box=tuple(box) if finding.box else None, centre=tuple(centre), inside=tuple(inside),
                   contour_centre=tuple(outlined) or None)


def _moved(place: float, whole: float, zoom: float) -> float:
    """Where a place on an axis of this length is after enlarging about the middle."""
    return whole / 2 + zoom * (place - whole / 2)


def combine(policy: str, reference: Finding | None, first_pass: Finding | None, frame: tuple[int, int]) -> Finding:
    """What `policy` lets a prompt know. `first_pass` and `none` never use `reference`."""
    if policy == "none":
        return Finding(None, None, frame)
    if policy == "first_pass":
        return first_pass
    if policy == "reference":
        return reference
    return replace(first_pass, box=reference.box)  # paper


def build(cases: pd.DataFrame, findings: list[Finding], edges: tuple[float, float], *, attributes: bool = True,
          size: bool = True, location: bool = True, style: str = "paper") -> pd.DataFrame:
    """One row of prompts per case: case_id, size, quadrant, global_text, local_text, x, y (point, fractions).

    `attributes`, `size` and `location` set to False leave that knowledge out; `style` "released" writes both texts as
    the released code does.
    """
    rows = []
    for case, finding in zip(cases.itertuples(), findings, strict=True):
        word = size_word(finding.box, edges) if size else None
        where = quadrant(finding.centre, finding.frame) if location else None
        released = style == "released"
        write_local = released_local_text if released else local_text
        x, y = finding.inside if location else CENTRE
        # missing is None or, in a column of text that pandas made, nan
        read = (value if isinstance(value, str) else None for value in (case.shape, case.margin, case.birads))
        rows.append({
            "case_id": case.case_id, "size": word, "quadrant": where,
            "global_text": released_global_text(finding, size, location) if released else global_text(word, where),
            "local_text": write_local(*read) if attributes else write_local(None, None, None),
            "x": x, "y": y,
        })
    return pd.DataFrame(rows)


def columns_read(fields: tuple[str, ...]) -> list[str]:
    """The columns of a table of prompts that a system reads whose prompts are `fields` (System.prompts)."""
    return [column for field in fields for column in COLUMNS[field]]


def reads_size_and_location(fields: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether a system whose prompts are `fields` reads a size, and a location."""
    return "global_text" in fields, not {"global_text", "point"}.isdisjoint(fields)


def scorings(fields: tuple[str, ...]) -> list[tuple[str, str]]:
    """(policy, attributes) pairs under which a system that reads `fields` is scored.

    A system that reads no size or location gives one result under every policy, so it is scored under `none` alone.
    Without an expert reading (`none`) only the policies that need no reference mask are of interest.
    """
    _, spatial = reads_size_and_location(fields)
    policies = ("first_pass", "paper", "reference", "none") if spatial else ("none",)
    if "local_text" not in fields:
        return [(policy, "none") for policy in policies]
    automatic = [policy for policy in policies if policy in ("first_pass", "none")]
    return [(policy, "metadata") for policy in policies] + [(policy, "none") for policy in automatic]
