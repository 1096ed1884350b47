"""What a study's tables are made of, small enough to keep or publish: no weights, no maps, no files of the dataset.

`outputs/reference/` is made with this.
"""

import io
import json
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import pandas as pd
from PIL import Image

from xbuslib.data import images
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.files import REPOSITORY, outputs_root, write_folder
from xbuslib.models import registry
from xbuslib.runs import caveats, record
from xbuslib.runs.study import Study, open_study

COLOURS = 256  # of a picture: a third of the bytes, and no colour of our figures changes by more than 5 %
CASES = {"case_id", "case", "one", "other"}  # columns that name cases; others are known by their values
SAFE = {"fold", "seed", "system", "paper_name", "policy", "attributes", "default", "drawn", *PAPER, *RELEASED,
        *images.MEASURES, "x", "y", "quadrant", "inside", "outside", "marked"}  # allowed beside the name of a case
WORDS = {"local_text", "local prompt", "prompt_text", "token", "decision"}  # columns that repeat an expert's reading
HOLDS = ("cases.csv", "config.json", "per_image.csv", "runs.csv", "tables/*/*.csv", "tables/*/*.md", "figures/*/*.csv",
         "figures/*/*.png", "notebooks/*.ipynb")  # files of an export
RUN = ("system", "dataset", "fold", "seed", "commit", "dirty", "device", "precision", "peak_memory_gb", "protocol",
       "identity", "dataset_fingerprint", "folds_checksum", "trainable", "frozen")


def export(name: str, folder: Path, data: bool = True) -> Path:
    """Write the finished study `name` into `folder`, in place of an earlier export, and return it.

    Always: `tables/` and the numbers behind `figures/`, `per_image.csv` (every score, from which all tables follow),
    `cases.csv`, `runs.csv`, `config.json`. With `data` also what shows images of the dataset or repeats its metadata:
    figures, executed notebooks, and all columns of `cases.csv` (`_cases`); the dataset's licence must allow it. Raises
    StudyError if the study is incomplete or `folder` holds other things.
    """
    study = open_study(name)
    with write_folder(folder, "runs.csv", HOLDS) as partial:
        _tables(study, partial, data)
        old = left_over(study)
        numbers = {*study.folder.glob("tables/*/*.csv"), *study.folder.glob("tables/*/*.md"), *_figures(study, "csv")}
        for file in numbers - old:
            if data or _tells_nothing(study, file.with_suffix(".csv")):
                _place(partial, study, file).write_bytes(file.read_bytes())
        if data:
            for file in set(_figures(study, "png")) - old:
                _place(partial, study, file).write_bytes(fewer_colours(file.read_bytes()))
            for file in _notebooks(study):
                _notebook(file, partial / "notebooks" / file.name)
    return folder


def _tables(study: Study, folder: Path, data: bool) -> None:
    rows = study.per_image[["case_id", "policy", "attributes", *PAPER, *RELEASED, "system", "fold", "seed", "default"]]
    keys = ["system", "fold", "seed", "policy", "attributes", "case_id"]
    rows.round(6).sort_values(keys).to_csv(folder / "per_image.csv", index=False)
    _cases(study.cases, data).to_csv(folder / "cases.csv", index=False)
    pd.DataFrame([{key: run[key] for key in RUN} | {
        **caveats.training(run), "val_cases": run["val_cases"], "val_divided": run.get("val_divided", 0),
        "train_s": run["seconds"]["train"], "total_s": run["seconds"]["total"],
        "weights": registry.encoder_label(run["weights"]), "created": run["created"],
    } for run in study.records]).to_csv(folder / "runs.csv", index=False)
    (folder / "config.json").write_text(json.dumps(study.facts["config"], indent=1) + "\n")


def _cases(cases: pd.DataFrame, data: bool) -> pd.DataFrame:
    """What cases.csv holds. Without `data`: measures, fold and, where a patient has several images, `patient`.

    That is a number in the order of this table: it says which images are of one patient, so that intervals still count
    patients, and nothing of the dataset's own patient_id.
    """
    cases = cases.sort_values("case_id")
    if data:
        return cases
    kept = cases[["case_id", *images.MEASURES, "fold"]]
    if cases["patient_id"].is_unique:
        return kept
    return kept.assign(patient=1 + pd.factorize(cases["patient_id"])[0])


def _tells_nothing(study: Study, file: Path) -> bool:
    """Whether a CSV has no metadata of single cases: no column of WORDS, and beside names of cases only SAFE ones."""
    if not file.is_file():
        return False
    table = pd.read_csv(file, dtype=str)
    known = set(study.cases["case_id"].astype(str)) | set(study.cases["patient_id"].astype(str))
    named = any(column in CASES or _names(table[column], known) for column in table)
    return not WORDS & set(table) and (not named or set(table) <= SAFE | CASES)


def _names(column: pd.Series, known: set[str]) -> bool:
    """Whether a cell is in `known`, or one of its parts by commas. A number is a count, though a case may be named so.
    """
    words = column.dropna()[pd.to_numeric(column, errors="coerce").isna()]
    return any(part.strip() in known for cell in words for part in [cell, *cell.split(",")])


def _place(folder: Path, study: Study, file: Path) -> Path:
    place = folder / file.relative_to(study.folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _shown(study: Study) -> Path | None:
    """Of the notebooks that ran once per fold, xbusnet's first or, without xbusnet, the first."""
    folds = sorted((study.folder / "notebooks" / "04_train_fold").glob("*.ipynb"))
    return next((file for file in folds if file.name.startswith("xbusnet_fold_")), next(iter(folds), None))


def _notebooks(study: Study) -> list[Path]:
    shown = _shown(study)
    return sorted((study.folder / "notebooks").glob("[0-9][0-9]_*.ipynb")) + ([shown] if shown else [])


def executed(notebook: nbformat.NotebookNode) -> float | None:
    """When papermill began to execute it, in seconds since 1970."""
    moment = notebook.metadata.get("papermill", {}).get("start_time")
    return record.seconds(moment) if moment else None


def left_over(study: Study) -> set[Path]:
    """Tables and figures that are older than every notebook of their number here, and so no longer written by any."""
    begun: dict[str, float] = {}
    for file in (study.folder / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        moment, number = executed(nbformat.read(file, as_version=4)) or 0.0, file.name[:2]
        begun[number] = min(moment, begun.get(number, moment))
    return {path for number, moment in begun.items() for kind in ("tables", "figures")
            for path in (study.folder / kind / number).glob("*") if path.stat().st_mtime < moment}


def _figures(study: Study, kind: str) -> list[Path]:
    """All but those of the folds that are not shown."""
    shown = _shown(study)
    return [file for file in study.folder.glob(f"figures/*/*.{kind}")
            if file.parent.name != "04" or (shown and file.name.startswith(shown.stem))]


def _notebook(file: Path, place: Path) -> None:
    """A copy without the paths of one machine and the lines of progress, its pictures in fewer colours.

    A folder that was given as a parameter, such as the dataset's, becomes the parameter's name in capitals.
    """
    text = file.read_text(encoding="utf-8")
    given = nbformat.reads(text, as_version=4).metadata.get("papermill", {}).get("parameters", {})
    paths = {str(outputs_root()): "outputs", str(REPOSITORY): "."} | {
        value: name.upper() for name, value in given.items()
        if isinstance(value, str) and Path(value).is_absolute() and Path(value).name}
    for path in sorted(paths, key=len, reverse=True):  # the longest first: one may lie in another
        text = text.replace(json.dumps(path)[1:-1], paths[path])  # as JSON writes it
    book = nbformat.reads(text, as_version=4)
    book.metadata.pop("papermill", None)
    without_progress(book)
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        for data in (output["data"] for output in cell.get("outputs", []) if "data" in output):
            if "image/png" in data:
                data["image/png"] = b64encode(fewer_colours(b64decode(data["image/png"]))).decode()
    place.parent.mkdir(exist_ok=True)
    nbformat.write(book, place.with_name("04_train_fold_" + place.name) if place.name[0].isalpha() else place)


def without_progress(book: nbformat.NotebookNode) -> None:
    """Drop what long work printed on its way from an executed notebook's cells."""
    for cell in book.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]


def fewer_colours(png: bytes) -> bytes:
    """A PNG in COLOURS colours, on white; as it is where that is no small."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    file = io.BytesIO()
    flat.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return min(png, file.getvalue(), key=len)
