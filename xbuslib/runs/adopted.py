"""Adopted runs: other people's predictions of a study's validation images, scored and kept as a run folder.

Such a run has run.json, per_image.csv, cases.csv and probabilities.npz, and neither weights nor a history: what needs
no more than maps takes it in, and what predicts anew leaves it out. run.json says so under `adopted`.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.data import predictions
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.files import write_folder
from xbuslib.models import registry
from xbuslib.runs import environment, identity, record
from xbuslib.runs.study import Study, open_study

EACH = "each"  # every fold of the study, from one folder
SCORING = ("none", "none")  # as of a system that reads no prompt
REFERENCE = "every prediction equals the reference mask in each pixel: are these the reference masks themselves?"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
# What an adopted run shares with the runs of the study on its fold.
SHARED = (*identity.DATA, "study", "fold", "config", "train_cases", "val_cases", "size_edges_px")


def adopt(name: str, study: str, fold: str | int, folder: Path, label: str = "", as_drawn: bool = False,
          ) -> tuple[list[Path], list[str]]:
    """Make run folders of `study` from the predictions in `folder` for one fold, or for EACH; returns them and notes.

    name: of the system in the study's folders; label: in tables, by default the name. Nothing is written unless the
    predictions of every fold asked for are whole and right (predictions.read). Returns at once what is there already.
    Raises StudyError for a name that belongs to the library or is there with other predictions, for a label that
    another system has, or for an unknown study or fold.
    """
    if not re.fullmatch(NAME, name):
        raise StudyError(f"--name {name!r} is no name for a folder: letters, digits, '-', '_' and '.' are allowed")
    if registry.known(name) or name == record.ALL:
        raise StudyError(f"--name {name} is a system of this library; give these predictions a name of their own")
    trained = _trained(study)
    _refuse_label(label or name, name, study)
    made, notes = [], {}
    for number in _folds(trained, fold):
        first = trained.runs[trained.runs["fold"] == number].sort_values(["seed", "system"]).iloc[0]
        seed = int(first["seed"])
        pattern = trained.run_folder(first["system"], number, seed)
        run, files = _adopted(trained, pattern, name, folder, label, as_drawn,
                              trained.cases["case_id"] if fold == EACH else ())
        path = record.folder(study, name, number, seed)
        made.append((path, run, files))
        notes |= dict.fromkeys(run["adopted"]["notes"])
        _refuse_other(path, run)
    for path, run, files in made:
        if not (path / "run.json").is_file():
            _write(path, run, files)
    return [path for path, _, _ in made], list(notes)


def files(folder: Path) -> list[str]:
    """run.json of each adopted run in outputs/<study>, relative to it: what the analyses depend on beside their own."""
    found = [path for path in sorted(folder.glob("runs/*/fold_*/seed_*/run.json")) if record.read(path.parent).get(
        "adopted")]
    return [path.relative_to(folder).as_posix() for path in found]


def _trained(study: str) -> Study:
    """The trained runs of a study; systems may have different folds."""
    listed = record.scored(study)
    trained = listed[listed["weights"] != record.ADOPTED]
    if trained.empty:
        raise StudyError(f"study {study!r} has no trained run, whose validation images the predictions would be scored "
                         "on")
    return open_study(study, sorted(set(trained["system"])), partial=True)


def _folds(trained: Study, fold: str | int) -> list[int]:
    there = sorted(set(trained.runs["fold"]))
    if fold == EACH:
        return there
    if not str(fold).isdecimal() or int(fold) not in there:
        raise StudyError(f"study {trained.name} has no trained run on fold {fold}; give one of "
                         f"{', '.join(map(str, there))}, or {EACH}")
    return [int(fold)]


def _adopted(trained: Study, pattern: Path, name: str, folder: Path, label: str, as_drawn: bool,
             elsewhere: Iterable[str]) -> tuple[dict, dict[str, pd.DataFrame | np.ndarray]]:
    """run.json of an adopted run, and its tables and maps; `pattern`: a trained run on the same fold."""
    beside, cases = record.read(pattern), pd.read_csv(pattern / "cases.csv", keep_default_na=False, dtype=str)
    ids, config = list(cases["case_id"]), beside["config"]
    rows = trained.prepared.rows(ids)
    frames = {case: tuple(int(side) for side in trained.prepared.original_sizes[row])
              for case, row in zip(ids, rows, strict=True)}
    found = predictions.read(folder, frames, config["image_size"], as_drawn, elsewhere)
    maps, masks = record.halved(found.maps, config["threshold"]), trained.prepared.masks[rows]
    drawn = found.maps >= config["threshold"]
    scores = metrics.per_image(drawn, masks)
    notes = found.notes + [REFERENCE] * bool((drawn == masks).all())
    for place, (column, values) in enumerate({"case_id": ids, "policy": SCORING[0], "attributes": SCORING[1]}.items()):
        scores.insert(place, column, values)
    run = {key: beside[key] for key in SHARED} | {"val_divided": beside.get("val_divided", 0)} | {
        "system": name, "paper_name": f"{label or name} (adopted)", "seed": beside["seed"],
        "protocol": identity.PROTOCOL, "plan": {}, "switches": {}, "scorings": [list(SCORING)], "trainable": None,
        "frozen": None, "weights": [], "frozen_checksum": None, "precision": None, "peak_memory_gb": 0.0,
        "seconds": {"encode": 0.0, "train": 0.0, "total": 0.0},
        "adopted": {"label": label or name, "from": str(folder), "kind": found.kind, "sha256": found.sha256,
                    "notes": notes},
    } | environment.software() | environment.facts()
    run["identity"] = identity.digest(run)
    return run, {"per_image": scores, "cases": cases, "probabilities": maps}


def _refuse_label(label: str, name: str, study: str) -> None:
    """Raise StudyError if another system is called `label` in tables, whatever the case of its letters."""
    listed = record.listing(study)
    others = {row.system: record.read(Path(row.folder)) for row in listed[listed["system"] != name].itertuples()}
    taken = {entry.paper: system for system, entry in registry.REGISTRY.items()} | {
        run.get("adopted", {}).get("label", run["paper_name"]): system for system, run in others.items()}
    if found := [system for shown, system in taken.items() if shown.casefold() == label.casefold()]:
        raise StudyError(f"--label {label!r} is what tables call {found[0]}; give these predictions another --label")


def _refuse_other(path: Path, run: dict) -> None:
    """Raise StudyError if `path` holds other predictions of this name."""
    if not (path / "run.json").is_file():
        return
    there = record.read(path)
    if changed := identity.differences(there, run):
        raise StudyError(f"{path} holds other predictions of that name (from {there['adopted']['from']}): "
                         f"{', '.join(key for key, _, _ in changed)} differ. Give these another --name, or delete that "
                         "folder.")


def _write(path: Path, run: dict, contents: dict) -> None:
    with write_folder(path) as partial:
        contents["per_image"].to_csv(partial / "per_image.csv", index=False)
        contents["cases"].to_csv(partial / "cases.csv", index=False)
        np.savez_compressed(partial / "probabilities.npz", case_ids=contents["cases"]["case_id"].to_numpy(str),
                            probabilities=contents["probabilities"])
        (partial / "run.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
