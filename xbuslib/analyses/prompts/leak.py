"""How much of a mask a prompt gives away: shapes drawn from the words of a prompt alone, no image read.

The released code writes the reference lesion's bounding box and centroid into its global prompt, at validation too
(specs/paper_vs_code.md, section 3). Beside them stand the paper's words, a size class and a quadrant, and no words.
"""

import re

import numpy as np
import pandas as pd

from xbuslib.data import originals
from xbuslib.data.images import Prepared
from xbuslib.evaluation import metrics
from xbuslib.prompts import words

DRAWN_FROM = {  # name of a drawing: the text that it is drawn from
    "released prompt: ellipse": "box and centroid in pixels",
    "released prompt: box": "box and centroid in pixels",
    "paper's words: usual location": "size word and quadrant; mean training centroid of that quadrant",
    "paper's words: middle of the quadrant": "size word and quadrant; middle of that quadrant",
    "no prompt": "nothing; mean training box at the mean training centroid",
}
NUMBERS_DRAWN, _, WORDS_DRAWN, _, NOTHING_DRAWN = DRAWN_FROM
NUMBERS = re.compile(r"(\d+)×(\d+) pixels near \((\d+), (\d+)\)")
QUADRANT_CENTRES = {word: (0.25 + 0.5 * ("right" in word), 0.25 + 0.5 * ("lower" in word))
                    for word in words.QUADRANTS}  # x, y as fractions of the frame


def read_numbers(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Box (width, height) and centre (x, y) in original pixels that a released global prompt states."""
    found = NUMBERS.search(text)
    if found is None:
        raise ValueError(f"no box and centre in the prompt {text!r}")
    width, height, x, y = map(float, found.groups())
    return (width, height), (x, y)


def draw_ellipse(box: tuple[float, float], centre: tuple[float, float], frame: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the filled ellipse whose axes are the sides of `box`; all in pixels, `frame` is (W, H)."""
    x, y = _offsets(box, centre, frame)
    return x**2 + y**2 <= 1


def draw_box(box: tuple[float, float], centre: tuple[float, float], frame: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the filled box; all in pixels, `frame` is (W, H)."""
    x, y = _offsets(box, centre, frame)
    return np.maximum(abs(x), abs(y)) <= 1


def typical_boxes(prepared: Prepared, rows: np.ndarray, edges: tuple[float, float]) -> dict:
    """Mean box (width, height) in original pixels per size word over the training rows; None: over all of them."""
    boxes = prepared.boxes[rows]
    classes = np.array([words.size_word(tuple(box), edges) for box in boxes])
    kept = {word: boxes[classes == word] for word in words.SIZES} | {None: boxes}
    return {word: tuple((some if len(some) else boxes).mean(axis=0)) for word, some in kept.items()}


def typical_places(prepared: Prepared, rows: np.ndarray) -> dict:
    """Mean centroid per quadrant over the training rows, as fractions of the frame; None: over all of them."""
    frames = prepared.original_sizes[rows]
    places = (prepared.centroids[rows] + 0.5) / frames  # (n, 2) x, y
    quadrants = np.array([words.quadrant(tuple(centre), tuple(frame))
                          for centre, frame in zip(prepared.centroids[rows], frames, strict=True)])
    kept = {word: places[quadrants == word] for word in words.QUADRANTS} | {None: places}
    return {word: tuple(some.mean(axis=0)) if len(some) else QUADRANT_CENTRES[word] for word, some in kept.items()}


def drawings(prepared: Prepared, row: int, edges: tuple[float, float], boxes: dict, places: dict) -> dict:
    """name of DRAWN_FROM: (H, W) bool at original resolution, for one validation row.

    `edges`, `boxes` and `places` come from the training fold. The reference mask enters through the prompt's text only.
    """
    finding = words.from_reference(prepared, row)
    box, centre = read_numbers(words.released_global_text(finding))
    word, where = words.size_word(finding.box, edges), words.quadrant(finding.centre, finding.frame)

    def guess(size: str | None, place: tuple[float, float]) -> np.ndarray:
        at = tuple(fraction * side - 0.5 for fraction, side in zip(place, finding.frame, strict=True))
        return draw_ellipse(boxes[size], at, finding.frame)

    return dict(zip(DRAWN_FROM, (
        draw_ellipse(box, centre, finding.frame), draw_box(box, centre, finding.frame),
        guess(word, places[where]), guess(word, QUADRANT_CENTRES[where]), guess(None, places[None]),
    ), strict=True))


def score(cases: pd.DataFrame, prepared: Prepared, fold_of: pd.Series) -> pd.DataFrame:
    """Metrics of every drawing against the reference mask at original resolution, each case in its validation fold.

    Returns one row per case and drawing: case_id, fold, drawn, and the columns of metrics.per_image.
    """
    rows = prepared.rows(cases["case_id"])
    assigned = fold_of[cases["case_id"]].to_numpy()
    parts = []
    for fold in sorted(set(assigned)):
        train = rows[assigned != fold]
        edges = words.size_edges(prepared.long_sides[train])
        known = edges, typical_boxes(prepared, train, edges), typical_places(prepared, train)
        for case, row in zip(cases[assigned == fold].itertuples(), rows[assigned == fold], strict=True):
            drawn = drawings(prepared, row, *known)
            values = metrics.per_image(list(drawn.values()), [originals.mask(case)] * len(drawn))
            parts.append(pd.DataFrame({"case_id": case.case_id, "fold": fold, "drawn": list(drawn)}).join(values))
    return pd.concat(parts, ignore_index=True)


def _offsets(box, centre, frame) -> tuple[np.ndarray, np.ndarray]:
    """(1, W) and (H, 1) distances from the centre in half sides of the box."""
    return ((np.arange(frame[0])[None] - centre[0]) / (box[0] / 2),
            (np.arange(frame[1])[:, None] - centre[1]) / (box[1] / 2))


def answer(label: str, leaks: pd.DataFrame) -> str:
    """How well the prompts alone do, as Markdown; leaks: mean scores (dice, iou, above_0_8) by drawing (index)."""
    numbers, words, nothing = (leaks.loc[name] for name in (NUMBERS_DRAWN, WORDS_DRAWN, NOTHING_DRAWN))
    return (f"**An ellipse drawn from the released prompt alone, without the image, reaches a lesion Dice of "
            f"{numbers['dice']:.2f}** ({label}; IoU {numbers['iou']:.2f}; Dice above 0.8 for "
            f"{numbers['above_0_8']:.0%} of the lesions), because the box and the centroid in that prompt are measured "
            f"on the reference mask. The paper's words, a size class and a quadrant, reach {words['dice']:.2f}; "
            f"the average lesion, drawn without any prompt, reaches {nothing['dice']:.2f}.")
