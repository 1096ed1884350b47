"""Run folders: written whole or not at all, and everything needed to know where a number came from."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xbuslib.errors import SPACE, StudyError, machine_faults
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.files import outputs_root
from xbuslib.runs import identity

if TYPE_CHECKING:
    from xbuslib.models.system import System

ALL = "all"  # the fold of a run that is trained on every lesion and scored on none
ADOPTED = "adopted"  # in place of the weights' rule: predictions that were made elsewhere (adopted.py)
NEEDED = ("study", "system", "fold", "seed", "dataset", "identity", "config", "commit", "seconds")  # in each run.json
FILES = ("run.json", "history.csv", "per_image.csv", "cases.csv", "probabilities.npz", "weights.safetensors")


def folder(study: str, system: str, fold: int | str, seed: int) -> Path:
    """outputs/<study>/runs/<system>/fold_<k>/seed_<s>; k is a number, or ALL."""
    return outputs_root() / study / "runs" / system / f"fold_{fold}" / f"seed_{seed}"


def read(path: Path) -> dict:
    """run.json of a run folder. Raises StudyError if there is none or it is damaged."""
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if lacking := [key for key in NEEDED if key not in run]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError(f"{path} is no folder of a finished run, which ends in fold_K/seed_S; xbuslib runs lists "
                         "them") from None
    except (OSError, ValueError, TypeError) as error:  # TypeError: of a number, which has no keys
        raise StudyError(f"{path / 'run.json'} is damaged ({error}); delete its folder and run the fold again"
                         ) from None
    run.setdefault(identity.METADATA, None)
    if run.get("plan"):
        run["plan"].setdefault(identity.LATER, None)
    return run


def seconds(moment: str) -> float:
    """Seconds since 1970 of an ISO date, such as `created` of run.json; UTC where it names no zone."""
    found = datetime.fromisoformat(moment)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def finished(path: Path, wanted: dict) -> bool:
    """Whether `path` already holds the run that `wanted` describes (what run.json says before training).

    Raises StudyError if it holds a run of another identity (runs/identity.py), rather than overwrite it.
    """
    if not (path / "run.json").is_file():
        return False
    refuse_changes(path, read(path), wanted)
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise StudyError(f"{path} lacks {', '.join(missing)}; delete the folder and run the fold again")
    return True


def refuse_changes(path: Path, there: dict, wanted: dict) -> None:
    """Raise StudyError, naming each difference, if the run in `path` is not the one that is wanted."""
    if changed := identity.differences(there, wanted):
        raise StudyError(f"{path} holds a run with other settings:\n"
                         + "\n".join(f"  {key}: {here} there, {asked} asked for" for key, here, asked in changed)
                         + "\nGive this one another name with --study, or delete that folder.")


def partial_folder(path: Path, wanted: dict) -> Path:
    """Where an unfinished run of this identity keeps its checkpoint."""
    partial = path.with_name(f".{path.name}.{identity.digest(wanted)}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if not os.access(partial, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise StudyError(f"cannot write to {partial.parent}: {error.strerror}. "
                         "Check permissions, or set XBUS_OUTPUTS to another folder.") from None
    return partial


def write(path: Path, partial: Path, run: dict, history: pd.DataFrame, per_image: pd.DataFrame,
          cases: pd.DataFrame, probabilities: np.ndarray, seen: pd.DataFrame, system: "System") -> None:
    """Write a finished run into `partial`, then give it its final name in one step.

    `cases` (images.case_table) are the validated ones, a row for each of the (n, S, S) `probabilities`; `seen` are the
    pictures that it was trained on (runs/ancestors.py).
    """
    from safetensors.torch import save_file  # here, so that reading runs does not wait for torch

    kept = "; the training checkpoint is kept" if (partial / "checkpoint.pt").is_file() else ""
    with machine_faults(f"cannot write the results to {path}", f"{SPACE}{kept}."):
        history.to_csv(partial / "history.csv", index=False)
        per_image.to_csv(partial / "per_image.csv", index=False)
        cases.to_csv(partial / "cases.csv", index=False)
        seen.to_csv(partial / "seen.csv", index=False)
        np.savez_compressed(partial / "probabilities.npz", case_ids=cases["case_id"].to_numpy(str),
                            probabilities=halved(probabilities, run["config"]["threshold"]))
        save_file({key: value.contiguous().cpu() for key, value in system.trainable_state().items()},
                  partial / "weights.safetensors")
        (partial / "run.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not (path / "run.json").exists():
            shutil.rmtree(path)  # what is left of a run whose run.json was deleted, so that it is made again
        os.replace(partial, path)
    (path / "checkpoint.pt").unlink(missing_ok=True)  # not before: it is all that is left where the above fails


def refuse_adopted(path: Path, run: dict) -> None:
    """Raise StudyError if `run`, the run.json in `path`, is an adopted one: it has maps and no weights."""
    if run.get("adopted"):
        raise StudyError(f"{path} holds adopted predictions of {run['adopted']['label']}: they were made elsewhere, so "
                         "there are no weights to predict with. Give a run that was trained here.")


def halved(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities in half precision (off by 0.0003 at most), each on its own side of `threshold` (`marked`)."""
    half = probabilities.astype(np.float16)
    below, edge = probabilities < threshold, np.float16(threshold)
    if float(edge) < threshold:  # 0.4 is 0.39990 in half precision: a map that holds it would lie below the threshold
        edge = np.nextafter(edge, np.float16(1))
    half[below & (half >= edge)] = np.nextafter(edge, np.float16(0))
    half[~below & (half < edge)] = edge
    return half


def marked(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Where maps reach `threshold`, of their shape; of those in half precision numpy would round the threshold too."""
    return maps.astype(np.float32) >= threshold


def compared(one: Path, other: Path) -> list[dict]:
    """In what two finished runs A and B differ, of all that can change their numbers: rows of what, A and B."""
    return [{"what": key, "A": here, "B": there}
            for key, here, there in identity.differences(read(one), read(other))]


def listing(study: str | None = None) -> pd.DataFrame:
    """One row per finished run: study, system, fold, seed, profile, dataset, weights, commit, minutes, folder.

    Raises StudyError if `study` is a path, or if a run.json is damaged.
    """
    if study and Path(study).name != study:
        raise StudyError(f"{study!r} is not the name of a study; give the study's name, such as phantom-quick")
    rows = []
    for file in files_of_runs(study or None):
        run = read(file.parent)
        rows.append({key: run[key] for key in ("study", "system", "fold", "seed", "dataset", "identity")}
                    | {"profile": run["config"]["profile"],
                       "weights": ADOPTED if run.get("adopted") else run["config"]["weights"],
                       "commit": (run["commit"] or "")[:8], "minutes": round(run["seconds"]["total"] / 60, 2),
                       "folder": str(file.parent)})
    return pd.DataFrame(rows)


def files_of_runs(study: str | None = None) -> list[Path]:
    """run.json of each finished run, of one study or of all."""
    runs = "runs/*/fold_*/seed_*/run.json"
    return sorted(outputs_root().glob(f"*/{runs}") if study is None else (outputs_root() / study).glob(runs))


def scored(study: str) -> pd.DataFrame:
    """`listing` of the runs that were scored: those trained on every lesion are left out. Raises StudyError if none."""
    listed = listing(study)
    if listed.empty:
        raise no_runs(study)
    listed = listed[listed["fold"] != ALL].reset_index(drop=True)
    if listed.empty:
        raise StudyError(f"the runs of study {study!r} were trained on every lesion (--folds {ALL}), so nothing is "
                         "left to score them on; give them to `xbuslib predict`, or to --start-from on another "
                         "dataset, with --set iterations=0 to score them there as they are")
    return listed


def no_runs(study: str) -> StudyError:
    """The refusal of a study without a finished run, with the names of those that have some."""
    there = sorted({path.parents[4].name for path in files_of_runs()})
    return StudyError(f"study {study!r} has no finished run under {outputs_root()}; "
                      + (f"the studies there are {', '.join(there)}" if there else "start with ./run_all.sh"))


def collect(study: str) -> pd.DataFrame:
    """Every row of per_image.csv of a study with its run keys: one tidy table, joined on keys, never on position."""
    parts = []
    for row in scored(study).itertuples():
        part = pd.read_csv(Path(row.folder) / "per_image.csv", keep_default_na=False, na_values=[""])
        part.insert(0, "system", row.system)
        part.insert(1, "fold", row.fold)
        part.insert(2, "seed", row.seed)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def summary(path: Path) -> pd.DataFrame:
    """Mean of both metric families over the validation images of one run, a row per policy."""
    per_image = pd.read_csv(path / "per_image.csv", keep_default_na=False, na_values=[""])
    return per_image.groupby(["policy", "attributes"], sort=False)[PAPER + RELEASED].mean().reset_index()


def study_summary(study: str) -> pd.DataFrame:
    """Mean over folds of the paper's metrics for every system and policy of a study, with the SD of Dice."""
    by = ["system", "policy", "attributes"]
    table = over_folds(collect(study), by, PAPER)
    return table[[*by, "folds", "dice", "dice_sd", *PAPER[1:]]]


def probabilities(path: Path) -> dict[str, np.ndarray]:
    """case_id: (S, S) lesion probabilities of the default policy, from a run folder."""
    with np.load(path / "probabilities.npz") as stored:
        return dict(zip(stored["case_ids"].tolist(), stored["probabilities"].astype(np.float32), strict=True))
