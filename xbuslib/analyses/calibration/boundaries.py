"""How far predicted contours are from the references', in millimetres at original resolution (evaluation/boundary.py).

Where nothing is predicted there is no contour: HD95 and ASSD are undefined. Left out, a missed lesion would improve the
mean; so it counts as the diagonal of the image, the largest distance the frame allows, and NSD is 0. Means without such
cases stand beside it with their number.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.data import originals
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.evaluation.boundary import distances
from xbuslib.progress import track
from xbuslib.runs import record
from xbuslib.runs.study import Study

DISTANCES = ["hd95", "assd", "nsd"]
WHO = ["system", "paper_name"]


def per_image(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """A row per run and validated image, in mm: hd95, assd (the diagonal where empty), hd95_found, assd_found (nan).

    Further columns WHO, fold, seed, case_id, pixel_mm, diagonal_mm, empty, nsd (a share). A case of unknown pixel size
    has nan in all distances. table: `Study.case_table`; predictions are resized to the original frame, then cut at the
    study's threshold.
    """
    threshold, rows = study.facts["config"]["threshold"], []
    names = study.per_image.drop_duplicates("system").set_index("system")["paper_name"]
    cases = {case.case_id: case for case in table.itertuples()}
    for fold, of_fold in track(study.ordered_runs.groupby("fold"), "contours", study.runs["fold"].nunique()):
        masks = {}  # of one fold at a time
        for run in of_fold.itertuples():
            who = {"system": run.system, "paper_name": names[run.system], "fold": fold, "seed": run.seed}
            for case_id, small in record.probabilities(Path(run.folder)).items():
                case = cases[case_id]
                if case_id not in masks:
                    masks[case_id] = originals.mask(case)
                rows.append(who | _row(case, small, masks[case_id], threshold))
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per system, over cases of known pixel size: n, empty, medians over images, mean and SD over folds.

    n counts images, `empty` those without any prediction; both and the medians are of means over seeds.
    """
    known = rows.dropna(subset="pixel_mm")
    if known.empty:
        return pd.DataFrame(columns=[*WHO, "n", "empty", *DISTANCES])
    images = known.groupby([*WHO, "case_id"], sort=False)[["empty", "hd95", "assd"]].mean().groupby(WHO, sort=False)
    table, emptied = images.size().rename("n").reset_index(), images["empty"].sum()
    medians = images[["hd95", "assd"]].median().add_suffix("_median")
    means = over_folds(known, WHO, [*DISTANCES, "hd95_found", "assd_found"]).drop(columns="paper_name")
    return table.merge(emptied.reset_index(), on=WHO).merge(means, on="system").merge(medians.reset_index(), on=WHO)


def _row(case, small: np.ndarray, reference: np.ndarray, threshold: float) -> dict:
    height, width = reference.shape
    prediction = originals.at_size(small, width, height) >= threshold
    spacing = (case.pixel_mm, case.pixel_mm)  # published pixels are square
    known = bool(np.isfinite(case.pixel_mm))
    found = distances(prediction, reference, spacing) if known else dict.fromkeys(DISTANCES, np.nan)
    diagonal = float(np.hypot(height * spacing[0], width * spacing[1]))
    empty = not prediction.any()
    return {"case_id": case.case_id, "pixel_mm": case.pixel_mm, "diagonal_mm": diagonal, "empty": empty,
            "hd95": diagonal if empty else found["hd95"], "assd": diagonal if empty else found["assd"],
            "nsd": found["nsd"], "hd95_found": found["hd95"], "assd_found": found["assd"]}
