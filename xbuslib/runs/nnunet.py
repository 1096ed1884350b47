"""A study's images, masks and folds as nnU-Net version 2 reads them: one grey channel, labels 0 and 1, PNG.

nnU-Net takes its folds from nnUNet_preprocessed/DATASET/splits_final.json if that is there, so it trains and validates
on the study's very folds, and its validation predictions can be adopted (adopted.py).
"""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from xbuslib.config import resolve
from xbuslib.data import catalogue, originals
from xbuslib.errors import StudyError
from xbuslib.files import outputs_root, write_folder
from xbuslib.progress import track
from xbuslib.runs import record
from xbuslib.runs.source import Source, open_source

LABELS = {"background": 0, "lesion": 1}


def export(study: str, out: Path, number: int, data: str = "") -> dict:
    """Write nnUNet_raw/DatasetNNN_NAME and nnUNet_preprocessed/DatasetNNN_NAME/splits_final.json into `out`.

    Images keep their own size. Normal images are not in the folds and stay out. Returns the paths and counts. Raises
    StudyError for a study that was never started, data that are not the study's, or an `out` that holds this dataset.
    """
    source = _source(study, data)
    name = f"Dataset{number:03d}_" + "".join(re.findall(r"[A-Za-z0-9]+", study.title()))
    raw, preprocessed = out / "nnUNet_raw", out / "nnUNet_preprocessed"
    if taken := [path for folder in (raw, preprocessed) for path in folder.glob(f"Dataset{number:03d}_*")]:
        raise StudyError(f"{taken[0]} is there; give another --number or --out, or delete it")
    with write_folder(raw / name) as partial:
        _pictures(source, partial)
        (partial / "dataset.json").write_text(json.dumps(_described(source), indent=1, ensure_ascii=False))
    with write_folder(preprocessed / name) as partial:
        (partial / "splits_final.json").write_text(json.dumps(splits(source), indent=1))
    return {"dataset": str(raw / name), "cases": len(source.cases), "folds": int(source.fold_of.nunique()),
            "raw": str(raw.resolve()), "preprocessed": str(preprocessed.resolve()),
            "results": str((out / "nnUNet_results").resolve())}


def splits(source: Source) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json: training and validation cases of each fold, in the order of the folds."""
    return [{"train": list(train["case_id"]), "val": list(val["case_id"])}
            for train, val in (source.split(fold) for fold in sorted(set(source.fold_of)))]


def _source(study: str, data: str) -> Source:
    """The data of a study by its study.json or, where runs were made one by one, by one of them."""
    settings = outputs_root() / study / "study.json"
    if settings.is_file():
        asked = json.loads(settings.read_text())
        config = resolve(asked["profile"], asked["overrides"])
        return open_source(asked["dataset"], data or asked["data"], asked["fold_lists"], config, study)
    run = record.read(Path(record.scored(study)["folder"].iloc[0]))
    profile, settings = run["config"]["profile"], {key: value for key, value in run["config"].items()
                                                   if key != "profile"}
    source = open_source(run["dataset"], data, None, resolve(profile, settings), study)
    changed = [key for key, value in source.identity().items() if value != run[key]]
    if changed:
        raise StudyError(f"the {' and '.join(changed)} of study {study} cannot be made again: give its dataset's "
                         "folder with --data, or start the study with `xbuslib study`, which keeps its fold lists")
    return source


def _pictures(source: Source, folder: Path) -> None:
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir()
    for case in track(source.cases.itertuples(), "exporting", len(source.cases)):
        image, mask = originals.image(case), originals.mask(case)
        Image.fromarray(image).save(folder / "imagesTr" / f"{case.case_id}_0000.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "labelsTr" / f"{case.case_id}.png")


def _described(source: Source) -> dict:
    row = catalogue.dataset(source.dataset)
    return {"channel_names": {"0": "ultrasound"}, "labels": LABELS, "numTraining": len(source.cases),
            "file_ending": ".png", "name": row.label, "licence": row.licence, "reference": row.source,
            "overwrite_image_reader_writer": "NaturalImage2DIO"}
