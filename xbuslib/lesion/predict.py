"""Image files in, one folder of results each out: what `xbuslib predict` does."""

import sys
from collections import defaultdict
from pathlib import Path

from xbuslib.errors import StudyError
from xbuslib.lesion import dicom_out, ensemble, page, reading, structured_report
from xbuslib.lesion.ensemble import UserPrompt
from xbuslib.lesion.reading import Picture
from xbuslib.lesion.structured_report import Report


def segment_files(images: list[Path], folder: Path, out: Path, prompt: UserPrompt,
                  pixel_mm: tuple[float, float] | None = None,
                  frame: int | None = None, crop: str = "",
                  dicom: bool = False) -> tuple[dict[Path, Report], list[str]]:
    """Segment every image with the run or runs of `folder` (ensemble.find_runs); results go to out/<name of image>/.

    `dicom`: with DICOM files of mask, probability and measurements among them (dicom_out.py).

    Returns the report of each folder written, and one sentence for each image that could not be used: the others are
    done all the same. Raises StudyError, before anything is written, if two images have one name or no run fits.
    """
    _refuse_one_name(images)
    if dicom:
        dicom_out.require()
    folders = ensemble.find_runs(folder)
    pictures, faults = _read(images, frame, pixel_mm, crop, dicom)
    if not pictures:
        return {}, faults
    done = {}
    for picture, found in zip(pictures, ensemble.segment_all(folders, pictures, prompt), strict=True):
        picture = reading.with_lesion(picture, found.mask)
        report = structured_report.make(picture, found, prompt)
        try:
            more = dicom_out.files(picture, found, report) if dicom else {}
            done[page.write(out / picture.name, picture, found, report, more)] = report
        except StudyError as error:
            faults.append(str(error))
    return done, faults


def _refuse_one_name(images: list[Path]) -> None:
    alike = defaultdict(list)
    for path in images:
        alike[reading.name_of(path).casefold()].append(path)
    for paths in alike.values():
        if len(paths) > 1:
            raise StudyError(f"the results of {', '.join(map(str, paths))} would all go to a folder "
                             f"{reading.name_of(paths[0])}; rename the images, or give each call its own --out")


def _read(images: list[Path], frame: int | None, pixel_mm: tuple[float, float] | None,
          crop: str, dicom: bool) -> tuple[list[Picture], list[str]]:
    pictures, faults = [], []
    for path in images:
        try:
            picture = reading.read(path, frame, pixel_mm, crop)
            if dicom:
                dicom_out.source(picture)
            pictures.append(picture)
        except StudyError as error:
            faults.append(str(error))
    return pictures, faults


def listed(done: dict[Path, Report], with_notes: bool) -> list[dict]:
    """A row for each report; what is to be known of the model, and what was decided about the files, stands in the rows
    (`with_notes`) or goes to stderr as lines."""
    rows = [page.row(folder, report) for folder, report in done.items()]
    if with_notes:
        return [row | {"notes": [*report.model.caveats, *report.image.notes]}
                for row, report in zip(rows, done.values(), strict=True)]
    lines = [note for report in done.values() for note in report.model.caveats]
    lines += [f"{report.image.file}: {note}" for report in done.values() for note in report.image.notes]
    print(*dict.fromkeys(lines), sep="\n", end="\n" * bool(lines), file=sys.stderr)
    return rows
