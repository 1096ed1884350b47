"""`xbuslib data check`: what a dataset folder holds, counted on the files themselves, and what is wrong with it."""

from pathlib import Path

from xbuslib.data import catalogue
from xbuslib.data.images import decode, mask_files
from xbuslib.errors import StudyError
from xbuslib.progress import track


def check(name: str, root: Path) -> dict:
    """Counts and problems of a dataset folder; never raises for a fault in the data, but lists it."""
    report = {"dataset": name, "images": 0, "lesions": 0, "normals": 0, "benign": 0, "malignant": 0,
              "normal_cases": [], "multi_lesion_cases": [], "size_bins": {}, "problems": []}
    try:
        table = catalogue.load(name, root)
    except StudyError as error:
        return report | {"problems": [line.strip() for line in str(error).splitlines()]}
    sides, problems = [], []
    for row in track(table.itertuples(), "checking", len(table)):
        try:
            case = decode(row.image, mask_files(row), 64)
            if row.mask is not None:
                sides.append(int(case["long_sides"]))
        except StudyError as error:
            problems.append(f"{row.case_id}: {error}")
    if "other_masks" in table:
        folder = Path(table["image"].iloc[0]).parent
        problems += [f"{row.case_id}: no file {name}" for row in table.itertuples() if row.other_masks
                     for name in row.other_masks.split("&") if not (folder / name).is_file()]
    normal = table["pathology"] == "normal"
    columns = [table[name].notna() for name in ("other_masks", "more_masks") if name in table]  # BLU's, BUSI's
    several = columns[0] if columns else normal & False
    return report | {
        "images": len(table), "lesions": int((~normal).sum()), "normals": int(normal.sum()),
        "benign": int((table["pathology"] == "benign").sum()),
        "malignant": int((table["pathology"] == "malignant").sum()),
        "normal_cases": list(table.loc[normal, "case_id"]), "multi_lesion_cases": list(table.loc[several, "case_id"]),
        "size_bins": catalogue.size_bins(sides), "problems": problems,
    }
