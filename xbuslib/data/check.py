"""`xbuslib data check`: what a dataset folder holds, counted on the files themselves, and what is wrong with it."""

from contextlib import suppress
from pathlib import Path

import pandas as pd

from xbuslib.config import PROFILES
from xbuslib.data import catalogue, repeats
from xbuslib.data.cases import USUAL_MM
from xbuslib.data.images import Readings, decode, mask_files
from xbuslib.data.listing import find
from xbuslib.errors import StudyError
from xbuslib.progress import track

SIDES = sorted({profile.image_size for profile in PROFILES.values()})  # at which studies decode


def check(name: str, root: Path) -> dict:
    """Counts and problems of a dataset folder; never raises for a fault in the data, but lists it."""
    report = {"dataset": name, "images": 0, "lesions": 0, "normals": 0, "benign": 0, "malignant": 0,
              "normal_cases": [], "multi_lesion_cases": [], "size_bins": {},
              "several_regions": {}, "notes": [], "repeats": [], "problems": []}
    try:
        table = catalogue.load(name, root)
    except StudyError as error:
        return report | {"problems": [line.strip() for line in str(error).splitlines()]}
    sides, problems, readings, readable = [], [], Readings(), []
    kept = {}  # case_id: smallest of SIDES that keeps its lesion
    for row in track(table.itertuples(), "checking", len(table)):
        try:
            case, kept[row.case_id] = _decoded(row, readings)
            readable.append(row.Index)
            if row.mask is not None:
                sides.append(int(case["long_sides"]))
                if row.pathology == "normal" and sides[-1]:
                    problems.append(f"{row.case_id}: its class is normal, but its mask holds a lesion")
        except StudyError as error:
            problems.append(f"{row.case_id}: {error}")
    pairs = repeats.described(table, repeats.within(repeats.pictures(table.loc[readable])))
    if "other_masks" in table:
        problems += [f"{row.case_id}: no file {name}" for row in table.itertuples()
                     if isinstance(row.other_masks, str)  # missing where another dataset has no such column
                     for name in map(str.strip, row.other_masks.split("&"))
                     if not find(Path(row.image).parent, name).is_file()]
    normal = table["pathology"] == "normal"
    several = table.reindex(columns=["other_masks", "more_masks"]).notna().any(axis=1)  # BLU's, BUSI's
    return report | {
        "images": len(table), "lesions": int((~normal).sum()), "normals": int(normal.sum()),
        "benign": int((table["pathology"] == "benign").sum()),
        "malignant": int((table["pathology"] == "malignant").sum()),
        "normal_cases": list(table.loc[normal, "case_id"]), "multi_lesion_cases": list(table.loc[several, "case_id"]),
        "size_bins": catalogue.size_bins(sides),
        "several_regions": {row.case_id: readings.regions[row.image] for row in table.itertuples()
                            if row.image in readings.regions},
        "notes": readings.sentences() + table.attrs.get("left_out", []) + _repeated(pairs)
        + _pixels(table) + _too_small(kept),
        "repeats": pairs.drop(columns=["one_image", "other_image"]).to_dict("records"), "problems": problems,
    }


def _decoded(row, readings: Readings) -> tuple[dict, int]:
    """The case at the smallest of SIDES that keeps its lesion, and that size."""
    for side in SIDES[:-1]:
        with suppress(StudyError):  # another fault is raised at the largest size too
            return decode(row.image, mask_files(row), side, readings), side
    return decode(row.image, mask_files(row), SIDES[-1], readings), SIDES[-1]


def _too_small(kept: dict[str, int]) -> list[str]:
    """The profiles whose images are too small for some lesions; kept: what `_decoded` gives for each case_id."""
    notes = []
    for side in SIDES:
        if cases := [case for case, smallest in kept.items() if smallest > side]:
            profiles = [name for name, profile in PROFILES.items() if profile.image_size == side]
            notes.append(f"{len(cases)} lesion(s) vanish at {side}×{side} pixels, the image_size of profile "
                         f"{' and '.join(profiles)} (first: {cases[0]}); set a larger image_size there")
    return notes


def _pixels(table: pd.DataFrame) -> list[str]:
    """A doubt about the unit of the pixel sizes: of all of them, or of single ones."""
    (low, high), sizes = USUAL_MM, table["pixel_mm"].dropna()
    if sizes.empty:
        return []
    if not low <= sizes.median() <= high:
        return [f"the pixel sizes have a median of {sizes.median():g} mm, and breast probes about {low} to {high}: is "
                "the unit right? BLU's column Pixel_size is in cm"]
    unusual = [f"{table['case_id'][row]} ({size:g} mm)" for row, size in sizes.items() if not low <= size <= high]
    shown = ", ".join(unusual[:20]) + " …" * (len(unusual) > 20)
    return [f"the pixel size of {len(unusual)} image(s) is outside of what breast probes have, about {low} to {high} "
            f"mm: {shown}; is the unit right?"] if unusual else []


def _repeated(pairs: pd.DataFrame) -> list[str]:
    """What the pairs of repeated pictures (repeats.described) come to."""
    notes = []
    looks = f"look alike ({repeats.ALIKE} of {repeats.SIDE**2} bits of a difference hash differ at most)"
    for what, text in (("equal pixels", "show the same pixels"), ("alike", looks),
                       ("mirrored", "look alike if one of them is mirrored")):
        some = pairs[pairs["what"] == what]
        if len(some):
            apart = some[some["one_class"] != some["other_class"]]
            images = len(set(some["one"]) | set(some["other"]))
            notes.append(f"{len(some)} pair(s) of images, {images} images in all, {text}"
                         + (f"; {len(apart)} of them are in two classes" if len(apart) else "")
                         + f" (first: {some['one'].iloc[0]} and {some['other'].iloc[0]})")
    return notes


def in_words(report: dict) -> str:
    """What `check` found, line by line for a terminal."""
    lines = []
    for key, value in (report | {"repeats": list(map(_pair, report["repeats"]))}).items():
        listed = key in ("problems", "notes", "repeats") and value
        lines.append(f"{key}: " + ("\n  ".join(["", *value]) if listed else str(value or 0)))
    return "\n".join(lines)


def _pair(pair: dict) -> str:
    """One pair of repeated images in a line."""
    return ("{one} ({one_class}) and {other} ({other_class}): {what}".format(**pair)
            + (f", {pair['bits']} bits differ" if pair["what"] != "equal pixels" else ""))
