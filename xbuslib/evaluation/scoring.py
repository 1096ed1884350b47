"""Score any folder of masks against a reference folder, with both metric families."""

from pathlib import Path

import pandas as pd

from xbuslib.data import listing, masks
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.files import write_whole
from xbuslib.progress import track


def score_folders(reference: Path, prediction: Path, out: Path, as_drawn: bool = False) -> pd.DataFrame:
    """One row per reference mask: case_id and both metric families; written to `out` as CSV.

    Masks are matched by file name without suffix and read by masks.read; `as_drawn` goes there. What was assumed about
    them stands in the table's attrs["notes"]. Raises StudyError that lists every missing, unreadable or differently
    sized mask; nothing is written then.
    """
    references, predictions = listing.pictures(reference), listing.pictures(prediction)
    if not references:
        raise StudyError(f"{reference} holds no masks ({', '.join(listing.SUFFIXES)})")
    faults = [f"{path.name}: no such file in {prediction}" for name, path in references.items()
              if name not in predictions]
    faults += [f"{path.name}: no such file in {reference}" for name, path in predictions.items()
               if name not in references]
    rows, read = [], {reference: [], prediction: []}
    several = []
    for name in track([] if faults else references, "scoring", len(references)):
        try:
            r = masks.read(references[name], as_drawn)
            p = masks.read(predictions[name], as_drawn, r.pixels.shape[::-1], masks.OF_REFERENCE)
            if r.turn != p.turn:
                raise StudyError(f"mask {predictions[name].name} has Exif orientation {p.turn}, its reference "
                                 f"{r.turn}: a viewer would turn one against the other. Save both as they are shown.")
        except StudyError as error:
            faults.append(str(error))
            continue
        read[reference].append((references[name].name, r.assumed))
        read[prediction].append((predictions[name].name, p.assumed))
        several += [f"{name} ({count})"] if (count := masks.regions(r.pixels)) > 1 else []
        rows.append(metrics.per_image([p.pixels], [r.pixels]))
    if faults:
        raise StudyError(f"{len(faults)} mask(s) cannot be scored:\n" + "\n".join(f"  {f}" for f in faults[:20])
                         + (f"\n  … and {len(faults) - 20} more" if len(faults) > 20 else ""))
    table = pd.concat(rows, ignore_index=True)
    table.insert(0, "case_id", list(references))
    with write_whole(out) as partial:
        table.to_csv(partial, index=False)
    table.attrs["notes"] = _notes(read, several, table)
    return table


def _notes(read: dict[Path, list], several: list[str], table: pd.DataFrame) -> list[str]:
    """What was assumed about each folder's masks, what was left out, and how many lesions the masks hold."""
    notes = []
    for folder, assumed in read.items():
        notes += [f"{folder}: {sentence}" for sentence in masks.sentences(assumed)]
        if left := listing.others(folder):
            notes.append(f"{folder}: {len(left)} file(s) are no pictures and were left out (first: {left[0]})")
    if several:
        notes.append(f"{len(several)} of {len(table)} reference masks hold several lesions, scored together: "
                     + ", ".join(several[:5]) + (", …" if len(several) > 5 else ""))
    if undefined := int(table["dice"].isna().sum()):
        notes.append(f"{undefined} reference(s) hold no lesion: Dice, IoU and FNR are undefined there, and their "
                     f"means are over {len(table) - undefined} of the {len(table)} images. Two-class Dice and IoU, "
                     "means over all images, are at most 0.5 there, as the released code computes them.")
    return notes
