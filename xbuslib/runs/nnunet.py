"""A study's images, masks and folds as nnU-Net version 2 reads them: one grey channel, labels 0 and 1, PNG.

nnU-Net takes its folds from nnUNet_preprocessed/DATASET/splits_final.json if that is there, so it trains and validates
on the study's very folds, and its validation predictions can be adopted (adopted.py).
"""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from xbuslib.config import Config, resolve
from xbuslib.data import catalogue, images, originals
from xbuslib.errors import StudyError
from xbuslib.files import outputs_root, write_folder
from xbuslib.progress import track
from xbuslib.runs import identity, record
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
    """The data of a study: as study.json has it and, where there are runs, the very images and folds of these."""
    settings, listed = outputs_root() / study / "study.json", record.listing(study)
    asked = json.loads(settings.read_text()) if settings.is_file() else {"data": "", "fold_lists": ""}
    if listed.empty:
        if not settings.is_file():
            raise record.no_runs(study)
        config = resolve(asked["profile"], asked["overrides"])
        return open_source(asked["dataset"], data or asked["data"], asked["fold_lists"], config, study)
    run = record.read(Path(listed["folder"].iloc[0]))
    config = Config(**run["config"])
    root = catalogue.data_root(run["dataset"], data or asked["data"], config.phantom_cases)
    table = catalogue.load(run["dataset"], root)
    if not identity.same_data(run, images.fingerprints(table, config.image_size)):
        raise StudyError(f"{root} holds other images, masks or metadata than study {study} was made with; give the "
                         "folder that it was made with (--data)")
    source = open_source(run["dataset"], root, asked["fold_lists"], config, study)
    if source.identity()["folds_checksum"] != run["folds_checksum"]:
        raise StudyError(f"the folds of study {study} were read from lists that its study.json does not name; start it "
                         "with `xbuslib study --folds DIR`, which keeps them")
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
