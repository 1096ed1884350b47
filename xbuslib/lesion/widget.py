"""The desk of notebook 16: choose or upload an image, edit the prompt, see mask and measurements change."""

import html
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from xbuslib.data import catalogue, masks
from xbuslib.data.cases import BIRADS, MARGINS, SHAPES, lesions
from xbuslib.data.catalogue import phantom_root
from xbuslib.errors import StudyError
from xbuslib.evaluation import measure, metrics
from xbuslib.inference.predict import View
from xbuslib.lesion import ensemble, figures, page, reading, structured_report
from xbuslib.lesion.ensemble import Segmentation, UserPrompt
from xbuslib.lesion.reading import Picture
from xbuslib.lesion.structured_report import Report
from xbuslib.prompts.words import QUADRANTS, SIZES
from xbuslib.runs.trained import Trained

EXAMPLES, SEED = 4, 3  # studies draw their phantoms from seeds 0, 1 and 2, so no model has seen these
NOT_GIVEN, AUTOMATIC = "not given", "automatic (first pass)"
WORDS = {"shape": SHAPES, "margin": MARGINS, "birads": BIRADS}
FIXED = {"size": SIZES, "quadrant": QUADRANTS}
LABELS = {"shape": "Shape", "margin": "Margin", "birads": "BI-RADS", "size": "Size", "quadrant": "Location"}


class Example(NamedTuple):
    """An image to choose, with what is known of it."""

    name: str
    path: Path
    pixel_mm: str  # as reading.pixel_size takes it; "" if unknown
    prompt: UserPrompt
    mask: Path | None = None  # the reference, where there is one
    frame: int | None = None  # as reading.read takes it


def examples() -> list[Example]:
    """New simulated phantom lesions with their own attributes; none of them is in a study."""
    table = lesions(catalogue.load("phantom", phantom_root(EXAMPLES, SEED)))
    return [Example(f"simulated phantom {row.case_id}", Path(row.image), f"{row.pixel_mm:g}",
                    UserPrompt(row.shape, row.margin, row.birads), Path(row.mask)) for row in table.itertuples()]


def of_file(path: Path | str, prompt: UserPrompt, pixel_mm: str = "", frame: int | None = None) -> Example:
    """An image file of the user's own. Raises StudyError if it cannot be used."""
    reading.read(path, frame, reading.pixel_size(pixel_mm))
    return Example(Path(path).name, Path(path), pixel_mm, prompt, frame=frame)


class Desk:
    """Controls, picture and measurements in `box`; the current state in `picture`, `found` and `report`.

    A fault, such as an upload that is no image, is shown in the box and leaves the last result in place.
    """

    def __init__(self, runs: list[Trained], choices: list[Example]):
        self.runs, self.choices = runs, {example.name: example for example in choices}
        self.uploads = tempfile.TemporaryDirectory(prefix="xbuslib-uploads-")
        self.picture: Picture | None = None
        self.found: Segmentation | None = None
        self.report: Report | None = None
        self.views: list[list[View]] = []  # of each run, see ensemble.views_of
        self._as_read: tuple[str, Picture] | None = None  # text of the pixel-size control, and the picture
        self._quiet = False  # while several controls are set at once

        wide = {"style": {"description_width": "5.5rem"}, "layout": {"width": "21rem"}}
        self.image = widgets.Dropdown(description="Image", options=list(self.choices), **wide)
        self.upload = widgets.FileUpload(description="Upload an image", multiple=False, layout={"width": "21rem"})
        self.pixel_mm = widgets.Text(description="Pixel, mm", placeholder="unknown", continuous_update=False, **wide)
        self.words = {name: widgets.Dropdown(description=LABELS[name], options=[(NOT_GIVEN, None), *_pairs(words)],
                                             **wide) for name, words in WORDS.items()}
        self.words |= {name: widgets.Dropdown(description=LABELS[name], options=[(AUTOMATIC, None), *_pairs(words)],
                                              **wide) for name, words in FIXED.items()}
        self.shown = widgets.Image(format="png", layout={"width": "30rem", "object_fit": "contain"})
        self.prompts, self.fault = widgets.HTML(), widgets.HTML()
        self.measured = widgets.HTML(layout={"width": "21rem"})
        for part, name in ((self.prompts, "prompts"), (self.measured, "measured"), (self.fault, "fault")):
            part.add_class(f"xbus-{name}")
        controls = [self.image, self.upload, self.pixel_mm, *self.words.values()]
        self.box = widgets.VBox([widgets.HTML(f"<b>{structured_report.PURPOSE}</b>"), self.fault,
                                 widgets.HBox([widgets.VBox([*controls, self.measured]), self.shown],
                                              layout={"flex_flow": "row wrap"}), self.prompts])
        self.image.observe(lambda change: self._quiet or self._open(), "value")
        self.upload.observe(lambda change: self._receive(), "value")
        for control in (self.pixel_mm, *self.words.values()):
            control.observe(lambda change: self._quiet or self._refresh(), "value")
        self._open()

    @property
    def prompt(self) -> UserPrompt:
        """As the controls have it."""
        return UserPrompt(**{name: control.value for name, control in self.words.items()})

    def _open(self) -> None:
        """Take the chosen image and its own attributes."""
        example = self.choices[self.image.value]
        try:
            picture = reading.read(example.path, example.frame, reading.pixel_size(example.pixel_mm))
        except StudyError as error:
            return self._complain(error)
        self.views = [ensemble.views_of(trained, picture) for trained in self.runs]
        self._quiet = True
        self.pixel_mm.value = "{:g},{:g}".format(*picture.pixel_mm) if picture.pixel_mm else ""
        for name, control in self.words.items():
            self._offer(control, getattr(example.prompt, name))
        self._quiet = False
        self._as_read = self.pixel_mm.value, picture
        self._refresh()

    @staticmethod
    def _offer(control: widgets.Dropdown, value: str | None) -> None:
        """Set a control, which first learns a margin of several words."""
        if value not in [known for _, known in control.options]:
            control.options = [*control.options, (value, value)]
        control.value = value

    def _receive(self) -> None:
        """Take an uploaded file as the image, with an empty prompt."""
        if not self.upload.value:
            return
        sent = self.upload.value[0]
        path = Path(self.uploads.name) / Path(sent["name"]).name
        try:
            path.write_bytes(bytes(sent["content"]))
        except (OSError, ValueError) as error:  # a full disk; a name that is empty, "..", too long or holds a null byte
            return self._complain(f"cannot store the upload {sent['name'][:100]!r}: "
                                  f"{getattr(error, 'strerror', None) or error}. Rename the image, or free space")
        try:
            example = of_file(path, UserPrompt())
        except StudyError as error:
            return self._complain(str(error).replace(f"{path.parent}/", ""))
        self.choices[example.name] = example
        self._quiet = True
        self.image.options = list(self.choices)
        self.image.value = example.name
        self._quiet = False
        self._open()

    def _refresh(self) -> None:
        """Segment, measure and show."""
        try:
            text, picture = self._as_read
            if self.pixel_mm.value != text:
                picture = reading.with_pixel_size(picture, reading.pixel_size(self.pixel_mm.value))
        except StudyError as error:
            return self._complain(error)
        self.found = ensemble.segment(self.runs, picture, self.prompt, self.views)
        self.picture = reading.with_lesion(picture, self.found.mask)
        self.report = structured_report.make(self.picture, self.found, self.prompt)
        figure = figures.overlay(self.picture, self.found.mask, self.report.lesion)
        self.shown.value = figures.png(figure)
        plt.close(figure)
        self.prompts.value = _list("Prompts", [f"{name}: “{text}” {folds}".strip()
                                               for name, text, folds in page.prompt_texts(self.report)])
        rows = [(what, value) for what, value, _ in page.measured(self.report)]
        rows += page.ranges(self.report.agreement, self.report.lesion)
        self.measured.value = f"<p>{html.escape(self.report.statement)}</p>" + _table(rows)
        self.fault.value = ""

    def _complain(self, error: StudyError | str) -> None:
        self.fault.value = f"<p style='color:#a3214b'><b>{html.escape(str(error))}</b></p>"


def variations(desk: Desk, attribute: str) -> pd.DataFrame:
    """The desk's image under every word of one attribute, all else as the desk has it.

    Columns: word; longest, area (mm and mm², px and px² where no pixel size is known); overlap: Dice of the mask with
    the one that the desk shows.
    """
    rows = []
    shown = desk.found.mask
    for word in (None, *WORDS[attribute]):
        prompt = replace(desk.prompt, **{attribute: word})
        mask = ensemble.segment(desk.runs, desk.picture, prompt, desk.views).mask
        lesion = measure.lesion(mask, desk.picture.pixel_mm)
        both = shown.sum() + mask.sum()
        rows.append({"word": word or NOT_GIVEN, "longest": lesion.longest_diameter if lesion else np.nan,
                     "area": lesion.area if lesion else np.nan,
                     "overlap": 2 * (shown & mask).sum() / both if both else np.nan})
    return pd.DataFrame(rows)


def effect_of_words(found: Segmentation, swept: pd.DataFrame, unit: str) -> str:
    """Which word moves the outline most, and the range of the area in unit²; swept: `variations` of one or several
    attributes (`varied`) of the image that is segmented as `found`."""
    if "local_text" not in found.reads:
        return f"{found.runs[0]['paper_name']} reads no attributes, so no word changes its mask."
    if swept["overlap"].isna().all():
        return "Nothing is segmented under any of these prompts."
    most = swept.loc[swept["overlap"].idxmin()]
    if most.overlap == 1:
        return "No word changes the mask."
    return (f"The word that moves the outline most is {most.varied} **{most.word}** (overlap {most.overlap:.2f}). Over "
            f"all of these prompts the area runs from {swept.area.min():.0f} to {swept.area.max():.0f} {unit}²; "
            f"nothing is segmented under {swept.area.isna().sum()} of {len(swept)}.")


def against_reference(desk: Desk) -> dict | None:
    """Dice of the mask shown, and longest diameter and area of the reference, in words; None where none is known."""
    path = desk.choices[desk.image.value].mask
    if path is None:
        return None
    mask = masks.read(path, frame=desk.picture.frame).pixels
    true = measure.lesion(mask, desk.picture.pixel_mm)
    return {"dice": float(metrics.per_image([desk.found.mask], [mask])["dice"].iloc[0]),
            "longest": figures.amount(true.longest_diameter, true.unit),
            "area": figures.amount(true.area, f"{true.unit}²")}


def _pairs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(word, word) for word in words]


def _list(title: str, items: list[str]) -> str:
    return f"<b>{title}</b><ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def _table(rows: list[tuple[str, str]]) -> str:
    return "<table style='line-height:1.4'>" + "".join(f"<tr><td style='padding-right:1em'>{html.escape(what)}</td>"
                               f"<td><b>{html.escape(value)}</b></td></tr>" for what, value in rows) + "</table>"
