"""Score any folder of masks against a reference folder, with both metric families."""

from pathlib import Path

import pandas as pd

from xbuslib.data.images import read_mask
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.files import write_whole
from xbuslib.progress import track


def score_folders(reference: Path, prediction: Path, out: Path) -> pd.DataFrame:
    """One row per reference PNG: case_id and both metric families; written to `out` as CSV.

    Masks are matched by file name; a pixel over 127 belongs to the lesion. Raises StudyError that lists every
    missing, unreadable or differently sized prediction; nothing is written then.
    """
    for folder in (reference, prediction):
        if not folder.is_dir():
            raise StudyError(f"no folder {folder}")
    names = sorted(path.name for path in reference.glob("*.png"))
    if not names:
        raise StudyError(f"{reference} holds no PNG masks")
    faults = [f"{name}: no such file in {prediction}" for name in names if not (prediction / name).is_file()]
    extra = {path.name for path in prediction.glob("*.png")} - set(names)
    faults += [f"{name}: no such file in {reference}" for name in sorted(extra)]
    rows = []
    for name in track([] if faults else names, "scoring", len(names)):
        try:
            r, p = read_mask(reference / name), read_mask(prediction / name)
        except StudyError as error:
            faults.append(str(error))
            continue
        if r.shape != p.shape:
            faults.append(f"{name}: prediction is {p.shape[1]}×{p.shape[0]} pixels, "
                          f"reference {r.shape[1]}×{r.shape[0]}")
            continue
        rows.append(metrics.per_image([p], [r]))
    if faults:
        raise StudyError(f"{len(faults)} mask(s) cannot be scored:\n" + "\n".join(f"  {f}" for f in faults[:20]))
    table = pd.concat(rows, ignore_index=True)
    table.insert(0, "case_id", [Path(name).stem for name in names])
    with write_whole(out) as partial:
        table.to_csv(partial, index=False)
    return table
