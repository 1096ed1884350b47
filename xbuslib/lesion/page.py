"""A lesion report on disk: one printable page, and mask, maps and pictures beside it, written whole."""

import base64
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from xbuslib.data.cases import margin_words
from xbuslib.errors import StudyError
from xbuslib.evaluation import measure
from xbuslib.evaluation.measure import Lesion
from xbuslib.files import write_folder
from xbuslib.lesion import figures
from xbuslib.lesion.ensemble import Segmentation
from xbuslib.lesion.reading import Picture
from xbuslib.lesion.structured_report import Agreement, Report, in_order
from xbuslib.prompts.words import reads_size_and_location

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                        lstrip_blocks=True, undefined=StrictUndefined)
WHITE = 65535  # of a 16-bit PNG: probability 1
PATTERNS = ("mask.png", "probability.png", "overlay.png", "disagreement.png", "maps.npz", "report.json", "report.html",
            "segmentation.dcm", "probability.dcm", "report.dcm")  # what a folder of results holds


def write(folder: Path, picture: Picture, found: Segmentation, report: Report,
          more: dict[str, bytes] | None = None) -> Path:
    """Write mask.png (0 and 255), probability.png (16 bits: 65535 is 1), overlay.png, maps.npz, report.json,
    report.html, for an ensemble disagreement.png, and the files `more` by name; returns `folder`.

    The folder appears whole or not at all; earlier results of the same name are replaced in one step. Raises StudyError
    if it holds anything else, or cannot be written.
    """
    with write_folder(folder, "report.json", PATTERNS) as partial:
        Image.fromarray(found.mask.astype(np.uint8) * 255).save(partial / "mask.png")
        Image.fromarray(np.rint(found.probability * WHITE).astype(np.uint16)).save(partial / "probability.png")
        maps = {"probability": found.members.mean(axis=0), "members": found.members}
        folds = np.array(found.prompts["fold"].tolist())  # with "all" as text, not as objects
        np.savez_compressed(partial / "maps.npz", folds=folds, seeds=found.prompts["seed"], **maps)
        pictures = {"overlay": figures.png(figures.overlay(picture, found.mask, report.lesion))}
        if found.disagreement is not None:
            pictures["disagreement"] = figures.png(
                figures.disagreement(picture, found.disagreement, found.mask))
        files = {f"{name}.png": png for name, png in pictures.items()} | (more or {})
        for name, content in files.items():
            (partial / name).write_bytes(content)
        (partial / "report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (partial / "report.html").write_text(html(report, pictures), encoding="utf-8")
    return folder


def read(folder: Path) -> tuple[Report, np.ndarray, np.ndarray]:
    """The report, the (H, W) bool mask and the (H, W) probability of a folder that `write` made.

    Raises StudyError if it is not one.
    """
    try:
        report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
        with Image.open(folder / "mask.png") as mask, Image.open(folder / "probability.png") as grey:
            return report, np.asarray(mask) > 0, np.asarray(grey) / WHITE
    except (OSError, ValueError) as error:
        raise StudyError(f"{folder} holds no complete report ({error}); run xbuslib predict again") from None


def row(folder: Path, report: Report) -> dict:
    """A report in one line of a listing."""
    lesion = report.lesion
    return {"image": report.image.file, "lesion": report.statement if lesion is None else lesion.quadrant,
            "longest": lesion.longest_diameter if lesion else None, "unit": lesion.unit if lesion else None,
            "orthogonal": lesion.orthogonal_diameter if lesion else None, "area": lesion.area if lesion else None,
            "orientation": lesion.orientation if lesion else None, "folder": str(folder)}


def html(report: Report, pictures: dict[str, bytes]) -> str:
    """One page that needs no other file and prints to one sheet of A4; `pictures` are PNG files by name."""
    embedded = {name: "data:image/png;base64," + base64.b64encode(content).decode()
                for name, content in pictures.items()}
    return TEMPLATES.get_template("report.html.jinja").render(
        report=report, pictures=embedded, measured=measured(report), given=given_words(report),
        ranges=ranges(report.agreement, report.lesion), prompts=prompt_texts(report))


def measured(report: Report) -> list[tuple[str, str, str]]:
    """(what, value with unit, how it is defined) of every measurement; empty without a lesion."""
    lesion = report.lesion
    if lesion is None:
        return []
    square = {"mm": "mm²", "px": "px²"}[lesion.unit]
    length = figures.amount
    rows = [
        ("Longest diameter", length(lesion.longest_diameter, lesion.unit), "maximum Feret diameter"),
        ("Orthogonal diameter", length(lesion.orthogonal_diameter, lesion.unit), "extent across the longest"),
        ("Area", length(lesion.area, square), "of the segmented pixels"),
        ("Orientation", lesion.orientation,
         f"longest diameter {lesion.angle_degrees:.0f}° from the horizontal, taken as the skin line; parallel: below "
         f"{measure.PARALLEL:g}° and wider than tall"),
        ("Aspect", f"{lesion.aspect:.2f}, {'taller' if lesion.taller_than_wide else 'not taller'} than wide",
         f"height {length(lesion.height, lesion.unit)} over width {length(lesion.width, lesion.unit)}"),
        ("Location", f"{lesion.quadrant} quadrant", "of the frame, by the centroid"),
    ]
    if lesion.solidity is None:
        return [*rows, ("Boundary regularity", "not measured", f"fewer than {measure.OUTLINE} pixels")]
    return [*rows, ("Boundary: solidity", f"{lesion.solidity:.2f}", "area over that of the convex hull; 1: convex"),
            ("Boundary: circularity", f"{lesion.circularity:.2f}", "4π·area over perimeter squared; 1: a circle")]


def given_words(report: Report) -> list[tuple[str, str]]:
    """The given attributes in the lexicon's words."""
    given = report.attributes
    margin = None
    if given.margin:
        words = ", ".join(margin_words(given.margin))
        plain = words in ("circumscribed", "not circumscribed")
        margin = words if plain or "circumscribed" in words else f"not circumscribed: {words}"
    return [("Shape", given.shape or "not given"), ("Margin", margin or "not given"),
            ("Assessment", f"BI-RADS {given.birads}" if given.birads else "not given"),
            *((name, word or ("by the model's first pass" if read else "not read by this model"))
              for name, word, read in zip(("Size class", "Quadrant"), (given.size, given.quadrant),
                                          reads_size_and_location(report.model.reads), strict=True))]


def ranges(agreement: Agreement | None, lesion: Lesion | None) -> list[tuple[str, str]]:
    """(what, value) of the agreement of an ensemble; empty for a single run."""
    if agreement is None:
        return []
    rows = [("Runs that segment something", f"{agreement.runs_with_lesion} of {agreement.runs}")]
    unit = lesion.unit if lesion else "px"
    if lesion and agreement.longest_diameter:
        for name, (low, high), of in (("Longest diameter", agreement.longest_diameter, unit),
                                      ("Area", agreement.area, f"{unit}²")):
            rows.append((f"{name}, over runs", f"{low:.1f} to {figures.amount(high, of)}" if unit == "mm"
                         else f"{low:.0f} to {high:.0f} {of}"))
    if agreement.mean_sd is not None:
        rows.append(("Mean SD within the outline", f"{agreement.mean_sd:.2f}"))
    return rows


def size_in_words(report: Report) -> str:
    """ " Its longest diameter is 16.8 mm (over runs 15.1 to 17.5 mm)."; "" without a lesion."""
    if report.lesion is None:
        return ""
    over = dict(ranges(report.agreement, report.lesion)).get("Longest diameter, over runs")
    return (f" Its longest diameter is {figures.amount(report.lesion.longest_diameter, report.lesion.unit)}"
            + (f" (over runs {over})." if over else "."))


def prompt_texts(report: Report) -> list[tuple[str, str, str]]:
    """(which prompt, its text, the folds that had it); no folds where all had the same."""
    rows = []
    for field, name in (("global_text", "global"), ("local_text", "local")):
        texts: dict[str, list[int | str]] = {}
        for row in report.prompts:
            if text := getattr(row, field):
                texts.setdefault(text, []).append(row.fold)
        rows += [(name, text, "" if len(folds) == len(report.prompts)
                  else f"fold {', '.join(map(str, in_order(folds)))}") for text, folds in texts.items()]
    return rows
