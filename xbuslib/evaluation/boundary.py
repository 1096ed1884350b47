"""How far two contours are from each other, in millimetres: HD95, ASSD and NSD by scipy's distance transform.

Contour: pixels of a mask with a 4-neighbour outside it; the frame's outside counts as outside.
HD95: the larger of the two directed 95th percentiles of distance. ASSD: mean over both contours of the distance to the
other one. NSD: share of both contours' pixels that are within a tolerance of the other.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

TOLERANCE_MM = 1.0


def distances(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """hd95 and assd in mm, and nsd, of two (H, W) bool masks; spacing: mm per row and per column.

    hd95 and assd are nan and nsd is 0 where the prediction is empty. The reference must not be (ValueError).
    """
    if not reference.any():
        raise ValueError("distances need a reference lesion")
    if not prediction.any():
        return {"hd95": np.nan, "assd": np.nan, "nsd": 0.0}
    ours, theirs = (mask & ~binary_erosion(mask) for mask in _crop(prediction, reference))  # (h, w) contours
    there = distance_transform_edt(~theirs, sampling=spacing)[ours]
    back = distance_transform_edt(~ours, sampling=spacing)[theirs]
    both = np.concatenate([there, back])
    return {"hd95": float(max(np.quantile(part, 0.95) for part in (there, back))),
            "assd": float(both.mean()), "nsd": float((both <= TOLERANCE_MM).mean())}


def _crop(prediction: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Both masks cut to their joint bounding box and a pixel around it: the same contours in a smaller array."""
    either = np.pad(prediction | reference, 1)
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0] - 1, rows[-1] + 2), slice(columns[0] - 1, columns[-1] + 2)
    return [np.pad(part, 1)[window] for part in (prediction, reference)]
