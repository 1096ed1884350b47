"""BUSI as published: folders benign, malignant and normal; a lesion's further masks are files of their own.

Al-Dhabyani et al., Data in Brief 28:104863 (2020), CC BY 4.0: 780 images, 798 masks (437 benign, 210 malignant,
133 normal). No pixel size, no attributes, no patient numbers: images count as patients of their own.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.data import listing
from xbuslib.data.cases import validate
from xbuslib.data.images import read_mask
from xbuslib.errors import StudyError

IMAGE = re.compile(r"(benign|malignant|normal) \(\d+\)\.png", re.IGNORECASE)
CLASSES = ("benign", "malignant", "normal")


def load(root: Path) -> pd.DataFrame:
    """Case table of the three folders under `root`; `more_masks` names further masks of an image, joined by "&".

    Raises StudyError if the folders are not there, an image has no mask, or a normal image's mask is not empty.
    """
    place = folder(root)
    files = {kind: listing.pictures(place / kind) if (place / kind).is_dir() else {} for kind in CLASSES}
    images = sorted((path for paths in files.values() for path in paths.values() if IMAGE.fullmatch(path.name)),
                    key=_order)
    if not images:
        raise StudyError(f"{root}: no images such as benign/benign (1).png; unpack the published archive there")
    faults, rows, used = [], [], set(images)
    for image in images:
        kind, mask_name = image.parent.name, re.compile(re.escape(image.stem) + r"_mask.*")
        masks = [path for stem, path in files[kind].items() if mask_name.fullmatch(stem)]
        used.update(masks)
        if not masks:
            faults.append(f"{image.stem}: no file {image.stem}_mask.png")
        elif kind == "normal" and np.any([read_mask(mask).any() for mask in masks]):
            faults.append(f"{image.stem}: a normal image whose mask is not empty")
        lesion = kind != "normal" and masks
        rows.append({"case_id": image.stem, "patient_id": image.stem, "image": str(image),
                     "mask": str(masks[0]) if lesion else None,
                     "more_masks": "&".join(mask.name for mask in masks[1:]) or None if lesion else None,
                     "pixel_mm": np.nan, "shape": None, "margin": None, "birads": None, "pathology": kind})
    if faults:
        raise StudyError(f"{root}: {len(faults)} fault(s):\n" + "\n".join(f"  {fault}" for fault in faults[:20]))
    table = validate(pd.DataFrame(rows), f"BUSI in {root.name}")
    left = [path for paths in files.values() for path in paths.values() if path not in used]
    table.attrs["left_out"] = [f"{len(left)} picture file(s) are neither image nor mask by their names and were left "
                               f"out (first: {left[0].parent.name}/{left[0].name})"] if left else []
    return table


def folder(root: Path) -> Path:
    """`root` itself, or the folder in it that holds the three (the archive unpacks to Dataset_BUSI_with_GT)."""
    places = [root, *sorted(place for place in root.iterdir() if place.is_dir())]
    return next((place for place in places if (place / "benign").is_dir()), root)


def _order(path: Path) -> tuple[str, int]:
    """benign (2) comes before benign (10)."""
    return path.parent.name, int(re.search(r"\((\d+)\)", path.name).group(1))
