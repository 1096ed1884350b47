"""Measures of BLU's 252 lesion masks that the audit of the paper rests on: from the files, or stored with their source.

The stored table holds no pixels. It is what `measure` makes of the published archive, a row per image; normal images
have no measures. The validation folds are the authors' released lists, joined by case.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from skimage.measure import regionprops

from xbuslib.analyses.prompts import leak
from xbuslib.data import catalogue
from xbuslib.data.images import bounding_box, centroid, contour_centroid, read_mask, resize_mask
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.files import write_whole
from xbuslib.progress import track
from xbuslib.prompts import words

STORED = Path(__file__).with_name("blu_lesions.csv")
SOURCE = """\
# Measures of the lesion masks of Breast-Lesions-USG (BLU): Pawłowska et al., Scientific Data 11:148 (2024),
# doi:10.7937/9WKK-Q141, CC BY 4.0. No pixels; changes: measured by xbuslib/analyses/audit/masks.py.
# released_fold: the validation lists of github.com/rmallina14/XBusNet (MIT License, (c) 2025 AAR-UNLV).
# Lengths and areas in pixels of the original image, *_352 of the mask stretched to 352 x 352; ellipse_*, box_*: scores
# of a shape drawn from the numbers in the released global prompt alone.
"""
SIZE = 352  # Section 2.2

LENGTHS = {  # what "length" (Table 2) could mean: a function of the table of measures, in pixels
    "longest box side": lambda t: t[["box_width", "box_height"]].max(axis=1),
    "box width": lambda t: t["box_width"],
    "box height": lambda t: t["box_height"],
    "box diagonal": lambda t: np.hypot(t["box_width"], t["box_height"]),
    "max Feret diameter": lambda t: t["feret"],
    "ellipse major axis": lambda t: t["major_axis"],
    "equivalent circle": lambda t: np.sqrt(4 * t["area"] / np.pi),
    "√area": lambda t: np.sqrt(t["area"]),
    "longest box side, at 352²": lambda t: t[["box_width_352", "box_height_352"]].max(axis=1),
    "box width, at 352²": lambda t: t["box_width_352"],
    "box height, at 352²": lambda t: t["box_height_352"],
    "box diagonal, at 352²": lambda t: np.hypot(t["box_width_352"], t["box_height_352"]),
    "max Feret diameter, at 352²": lambda t: t["feret_352"],
    "equivalent circle, at 352²": lambda t: np.sqrt(4 * t["area_352"] / np.pi),
}


def stored() -> pd.DataFrame:
    """The stored measures: 256 rows, normal images without any."""
    return pd.read_csv(STORED, comment="#")


def measure(root: Path | str) -> pd.DataFrame:
    """The same table from the published archive under `root`.

    Raises StudyError unless it holds the 256 published cases.
    """
    known = stored().set_index("case_id")
    cases = catalogue.load("blu", root)
    if set(cases["case_id"]) != set(known.index) or (
            cases.set_index("case_id")["pathology"] != known["pathology"].reindex(cases["case_id"])).any():
        raise StudyError(f"{root} does not hold the 256 published BLU cases, which the audit is about; give the folder "
                         "of the unchanged archive, or leave `dataset` empty to use the stored figures")
    rows = [_facts(case, known) | ({} if case.mask is None else _measures(read_mask(case.mask)))
            for case in track(cases.itertuples(), "measuring masks", len(cases))]
    return pd.DataFrame(rows).sort_values("case_id", ignore_index=True)


def load(dataset: str, data: str) -> tuple[pd.DataFrame, str]:
    """(measures, where they come from): from BLU's masks if `dataset` is blu (in folder `data`, or blu in XBUS_DATA),
    else the stored ones."""
    if dataset == "blu":
        return measure(catalogue.data_root("blu", data, 0)), "measured now on the masks of BLU"
    unused = "; the folder given is not BLU and not used" if data else ""
    return stored(), f"stored with this repository, measured on the masks of BLU{unused}"


def lesions(table: pd.DataFrame) -> pd.DataFrame:
    """The 252 rows with a lesion, with fraction: the lesion's share of the 352×352 image."""
    kept = table[table["pathology"] != "normal"].reset_index(drop=True)
    return kept.assign(fraction=kept["area_352"] / SIZE**2, released_fold=kept["released_fold"].astype(int))


def write(table: pd.DataFrame, path: Path) -> None:
    """Write the table as it is stored, with its source above it."""
    with write_whole(path) as partial:
        partial.write_text(SOURCE + table.to_csv(index=False, float_format="%.6g"), encoding="utf-8")


def _facts(case, known: pd.DataFrame) -> dict:
    return {"case_id": case.case_id, "pathology": case.pathology,
            "released_fold": known.at[case.case_id, "released_fold"],
            "other_regions": len(case.other_masks.split("&")) if case.other_masks else 0}


def _measures(mask: np.ndarray) -> dict:
    """Lengths, areas and the scores of the shapes that the released prompt's numbers describe, for one (H, W) mask."""
    small, (height, width) = resize_mask(mask, SIZE), mask.shape
    large, little = (regionprops(each.astype(np.uint8))[0] for each in (mask, small))
    finding = words.Finding(bounding_box(mask), centroid(mask), (width, height),
                            contour_centre=contour_centroid(mask))
    numbers = *leak.read_numbers(words.released_global_text(finding)), finding.frame  # box, centre, frame
    scores = metrics.per_image([leak.draw_ellipse(*numbers), leak.draw_box(*numbers)], [mask, mask])
    kept = scores[["dice", "iou", "dice_two_class", "fpr_released"]]
    return {
        "width": width, "height": height, "area": large.area, "box_width": finding.box[0],
        "box_height": finding.box[1], "feret": large.feret_diameter_max, "major_axis": large.axis_major_length,
        "area_352": little.area, "box_width_352": bounding_box(small)[0], "box_height_352": bounding_box(small)[1],
        "feret_352": little.feret_diameter_max,
        **kept.iloc[0].add_prefix("ellipse_"), **kept.iloc[1].add_prefix("box_"),
    }
