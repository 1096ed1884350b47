"""Trained systems from Python: `xbuslib.segment` for one image, `xbuslib.load` for many.

The same as `xbuslib predict` gives, as arrays instead of files. Research use only, not a medical device.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from xbuslib.errors import StudyError
from xbuslib.evaluation.measure import Lesion
from xbuslib.lesion import ensemble, page, reading, structured_report
from xbuslib.lesion.ensemble import Segmentation
from xbuslib.lesion.reading import Picture
from xbuslib.lesion.structured_report import Report
from xbuslib.runs.trained import Trained

ImageLike = str | Path | np.ndarray | Image.Image
PixelSize = float | tuple[float, float] | None


@dataclass(frozen=True)
class Segmented:
    """What was found in one image."""

    mask: np.ndarray  # (H, W) bool, at the image's own size
    probability: np.ndarray  # (H, W) float32, from 0 to 1; the mean, where several runs were used
    measurements: Lesion | None  # of the largest region (evaluation/measure.py); None if nothing was found
    notes: list[str]  # what must be kept in mind: caveats of the model, what was decided about the image
    report: Report = field(repr=False)  # all of it, as `xbuslib predict` writes it to report.json
    found: Segmentation = field(repr=False)  # each run's own map and prompt
    picture: Picture = field(repr=False)  # the image as it was read

    def save(self, folder: str | Path) -> Path:
        """Write what `xbuslib predict` writes into `folder`, in place of an earlier result; returns it."""
        return page.write(Path(folder), self.picture, self.found, self.report)


class Segmenter:
    """One run, or all runs of one system as an ensemble, loaded once and kept in memory."""

    def __init__(self, folders: list[Path]):
        self.runs = [Trained.load(folder) for folder in folders]

    def segment(self, image: ImageLike, *, shape: str = "", margin: str = "", birads: str = "", size: str = "",
                quadrant: str = "", pixel_mm: PixelSize = None, frame: int | None = None, crop: str = "") -> Segmented:
        """One image; the arguments are those of `xbuslib.segment`."""
        prompt = ensemble.user_prompt(shape, margin, birads, size, quadrant)
        picture = _read(image, _sides(pixel_mm), frame, crop)
        found = ensemble.segment(self.runs, picture, prompt)
        picture = reading.with_lesion(picture, found.mask)
        report = structured_report.make(picture, found, prompt)
        return Segmented(found.mask, found.probability, report.lesion, [*report.model.caveats, *report.image.notes],
                         report, found, picture)

    __call__ = segment


def load(run: str | Path) -> Segmenter:
    """The run or runs of a folder (a run's, or a system's for the ensemble over its folds), ready for many images.

    Raises StudyError if there is none, or if the runs are of several systems.
    """
    return Segmenter(ensemble.find_runs(Path(run)))


def segment(image: ImageLike, *, run: str | Path, shape: str = "", margin: str = "", birads: str = "", size: str = "",
            quadrant: str = "", pixel_mm: PixelSize = None, frame: int | None = None, crop: str = "") -> Segmented:
    """Segment and measure the lesion in one image.

    image: path of a PNG, JPEG, BMP, TIFF, GIF or DICOM file; a Pillow image; or an array, (H, W) grey or (H, W, 3) RGB.
    run: a run's folder; or a system's, such as outputs/STUDY/runs/xbusnet, for the ensemble over its folds; or
    hf://USER/NAME[@REVISION], what `xbuslib publish` has pushed.
    shape, margin, birads: what you see of the lesion, in the words of `xbuslib predict`; none: not given.
    size, quadrant: fixed by you; none: by the model's own first pass. pixel_mm: side of a pixel in mm, or (width,
    height). frame: which of several in a file, from 1. crop: "LEFT,TOP,RIGHT,BOTTOM" in pixels.

    >>> import xbuslib
    >>> found = xbuslib.segment("lesion.png", run="outputs/phantom-quick/runs/xbusnet", shape="oval", pixel_mm=0.08)
    >>> found.mask.shape == found.probability.shape
    True
    >>> found.measurements.unit if found.measurements else "nothing found"
    'mm'
    >>> found.notes[0]
    'The model was trained on a simulated phantom, not on patients: ...'

    The runs stay loaded until other ones are asked for, so a second image costs no second start-up. Raises StudyError
    for an image, a word or a run that cannot be used.
    """
    folders = tuple(path.resolve() for path in ensemble.find_runs(Path(run)))
    made = tuple((path / "run.json").stat().st_mtime_ns for path in folders)
    return _kept(folders, made).segment(image, shape=shape, margin=margin, birads=birads, size=size,
                                        quadrant=quadrant, pixel_mm=pixel_mm, frame=frame, crop=crop)


@lru_cache(maxsize=1)
def _kept(folders: tuple[Path, ...], made: tuple[int, ...]) -> Segmenter:
    """`made`: when each run was, so that one that was trained again is loaded again."""
    return Segmenter(list(folders))


def _sides(pixel_mm: PixelSize) -> tuple[float, float] | None:
    if pixel_mm is None:
        return None
    return reading.pixel_size(",".join(str(side) for side in np.atleast_1d(pixel_mm).tolist()))


def _read(image: ImageLike, pixel_mm: tuple[float, float] | None, frame: int | None, crop: str) -> Picture:
    if isinstance(image, str | Path):
        return reading.read(image, frame, pixel_mm, crop)
    if frame is not None:
        raise StudyError("frame chooses one of several images in a file; give a path with it")
    if isinstance(image, Image.Image):
        return reading.of_image(image, pixel_mm, crop)
    if isinstance(image, np.ndarray):
        return reading.of_array(image, pixel_mm, crop)
    raise StudyError(f"an image is a path, a Pillow image or a numpy array; this is a {type(image).__name__}")
