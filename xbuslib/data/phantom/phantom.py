"""The embedded default dataset: simulated B-mode breast ultrasound, written in BLU's file layout.

A *simulated phantom* case is drawn in three steps: its words (`phantom_words`: shape, margin, echogenicity,
BI-RADS ...), an anatomy and a lesion that follow the words (`phantom_tissue`, `phantom_lesion`), and the
picture that a scanner (`phantom_scanners`) would make of them (`phantom_acoustics`). Each case has its own
random stream, seeded by (seed, case number), so a case does not depend on how many are made. All arithmetic is
float64 and rounded to 8 bits at the end, which absorbs the last-digit differences between processors.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from xbuslib.data.images import largest_component
from xbuslib.data.phantom import acoustics as acoustics
from xbuslib.data.phantom import lesion as lesion
from xbuslib.data.phantom import scanners as scanners
from xbuslib.data.phantom import tissue as anatomy
from xbuslib.data.phantom import words as vocabulary
from xbuslib.data.phantom.acoustics import Frame
from xbuslib.data.phantom.sheet import write_workbook
from xbuslib.errors import StudyError
from xbuslib.files import write_folder
from xbuslib.progress import track

IMAGES = "BrEaST-Lesions_USG-images_and_masks"
TABLE = "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx"
SHEETS = "BrEaST-Lesions-USG clinical dat", "Data Dictionary"

# Median of the longest side in pixels of scanner A. With a spread of 0.48 in the logarithm the terciles fall near BLU's
# 142, 222.
LENGTH = {"round": 105, "oval": 168, "irregular": 200}
SHORTEST, LONGEST = 52, 450  # pixels; BLU begins at 52, and its few longer lesions leave these frames


class Case(NamedTuple):
    """One simulated case."""

    image: np.ndarray  # (H, W, 4) uint8, R = G = B, alpha 0 outside a sector
    mask: np.ndarray | None  # (H, W) bool, None for a normal case
    row: dict  # the clinical row, keys vocabulary.COLUMNS; file names empty


def write(root: Path, n: int = 60, seed: int = 0, size: tuple[int, int] | None = None, scanner: str = "A") -> Path:
    """Write cases 1 to n under root, which must not exist or be empty; a broken-off run leaves nothing there.

    size (height, width) in pixels replaces the varied frame sizes. Raises StudyError if root cannot be used or there is
    no such scanner (phantom_scanners).
    """
    root = Path(root)
    scanners.scanner(scanner)
    if n < 1:
        raise StudyError(f"n is {n}; the phantom needs at least one case")
    digits = max(3, len(str(n)))  # BLU's three, more when they run out
    with write_folder(root) as partial:
        (partial / IMAGES).mkdir()
        rows = [
            _write_case(partial / IMAGES, simulate(number, seed, size, None, scanner), digits)
            for number in track(range(1, n + 1), "simulating phantom cases", n)
        ]
        table = [vocabulary.COLUMNS] + [list(row.values()) for row in rows]
        write_workbook(partial / TABLE, {SHEETS[0]: table, SHEETS[1]: vocabulary.ODDS["dictionary"]})
    return root


def simulate(
    case_number: int, seed: int = 0, size: tuple[int, int] | None = None, words: dict | None = None, scanner: str = "A"
) -> Case:
    """One case. Entries of words replace drawn words of the clinical row: {"Echogenicity": "anechoic"}.

    A case has the same words under every scanner; its anatomy follows the frame.
    """
    rng = np.random.default_rng([seed, 0, case_number])
    frame = scanners.draw_frame(rng, scanner, size)
    row = vocabulary.row(rng, case_number, group(case_number, seed), frame.pixel) | (words or {})
    composition = row["Tissue_composition"]
    if composition not in anatomy.COMPOSITION:  # not available: any breast
        composition = vocabulary.draw(rng, dict.fromkeys(anatomy.COMPOSITION, 1))
    tissue = anatomy.breast(rng, frame, composition, row["Skin_thickening"] == "yes")
    visible = _visible(frame)
    mask = None
    if row["Classification"] != "normal":
        shape = _placed(rng, row, tissue, frame, scanners.scanner(scanner).lesion_scale)
        tissue = lesion.insert(rng, tissue, shape, row, frame)
        # rasterising can cut a pixel off a notch or a spicule
        mask, _ = largest_component((lesion.distance(shape, shape.drawn, frame) < 0) & visible, corners=True)
    loss = acoustics.two_way_loss(tissue.attenuation, frame)
    envelope = acoustics.compound(rng, tissue.level, loss, tissue.reflectors, frame)
    grey = acoustics.log_compress(envelope, frame, visible) * visible
    image = np.stack([grey, grey, grey, visible.astype(np.uint8) * 255], axis=-1)
    return Case(image, mask, row)


def group(case_number: int, seed: int = 0) -> str:
    """Class of a case: benign, malignant or normal.

    Every five cases in a row hold three benign and two malignant, BLU's 154 to 98, so that small sets are
    mixed too; one of each thirty, always among the first twenty, is replaced by a normal case.
    """
    block, place = divmod(case_number - 1, 30)
    rng = np.random.default_rng([seed, 1, block])
    groups = [name for _ in range(6) for name in rng.permutation(["benign"] * 3 + ["malignant"] * 2)]
    normals = [index for index in range(5, 20) if groups[index] == "malignant"]
    groups[normals[int(rng.integers(len(normals)))]] = "normal"
    return str(groups[place])


def _visible(frame: Frame) -> np.ndarray:
    """(H, W) bool: everything, or for a sector a trapezoid with slanted sides and a round bottom."""
    if not frame.sector:
        return np.ones(frame.shape, bool)
    rows = (np.arange(frame.height) + 0.5)[:, None] / frame.height
    columns = np.abs(np.arange(frame.width) + 0.5 - frame.width / 2)[None, :] / frame.width
    # In BLU's trapezoids the probe spans 0.6 of the width and the sides reach the edge at 0.74 of the height.
    sides = columns < 0.3 + 0.2 * rows / 0.74
    return sides & (rows < 1 - 0.26 * (columns / 0.5) ** 2)  # a parabola stands in for the flat arc


def _placed(rng: np.random.Generator, row: dict, tissue: anatomy.Tissue, frame: Frame, scale: float) -> lesion.Outline:
    """An outline of the case's words where it fits, mostly central and in the upper half as in BLU.

    scale: the scanner's pixels per pixel of scanner A.
    """
    natural = frame.width / frame.enlarged  # lesion lengths are in the scanner's own pixels
    length = LENGTH[row["Shape"]] * np.exp(rng.normal(0, 0.48)) * scale
    length = np.clip(length, SHORTEST * scale, min(LONGEST * scale, 0.85 * natural)) * frame.enlarged
    shape = lesion.outline(rng, row["Shape"], row["Margin"], length)
    top, bottom, left, right = lesion.box(shape)
    first = (tissue.skin_depth + 0.1) / frame.pixel  # rows; a lesion lies below the skin
    room = 0.9 * frame.height - first
    if bottom - top > room:
        shrink = room / (bottom - top)
        shape = shape._replace(reached=shape.reached * shrink, drawn=shape.drawn * shrink)
        top, bottom, left, right = lesion.box(shape)
    margin = (0.1 if frame.sector else 0.02) * frame.width
    line = np.clip(rng.normal(0.33, 0.1) * frame.height, first - top, 0.9 * frame.height - bottom + 1e-6)
    column = rng.normal(0.507, 0.07) * frame.width
    column = np.clip(column, min(margin - left, frame.width / 2), max(frame.width - margin - right, frame.width / 2))
    return shape._replace(row=float(line), column=float(column))


def _write_case(folder: Path, case: Case, digits: int) -> dict:
    """Write a case's picture and mask; return its row with the file names filled in."""
    stem = f"case{case.row['CaseID']:0{digits}d}"
    names = {"Image_filename": f"{stem}.png", "Mask_tumor_filename": None}
    _save(folder / names["Image_filename"], case.image)
    if case.mask is not None:
        names["Mask_tumor_filename"] = f"{stem}_tumor.png"
        # BLU's masks: white and opaque on black and transparent.
        _save(folder / names["Mask_tumor_filename"], np.repeat(case.mask[..., None] * np.uint8(255), 4, axis=-1))
    return case.row | names


def _save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels, "RGBA").save(path, format="PNG", optimize=False, compress_level=6)
