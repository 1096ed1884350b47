"""Start from a finished run: which one, its trained weights, and the guard against images that it has seen.

A run keeps the hashes of all pictures that its weights have been trained on, its ancestors' too, in seen.csv. A fold
refuses an ancestor that has seen one of its validation images, by equal pixels or by looks, also in a mirror
(data/repeats.py).
"""

import hashlib
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from xbuslib.data import repeats
from xbuslib.errors import StudyError
from xbuslib.models.system import System
from xbuslib.runs import identity, published, record

SEEN = "seen.csv"  # COLUMNS of every training picture, the ancestors' among them
COLUMNS = [*repeats.COLUMNS, "dataset"]


def find(start: Path, system: str, seed: int) -> Path:
    """The run folder to start `system` from: `start` itself, or in a study's folder the run on all lesions.

    There it is runs/<system>/fold_all of the same seed, or of the only one. `start` may be published (published.py),
    in a folder or at hf://USER/NAME. Raises StudyError if there is none.
    """
    start = published.local(start)
    if (start / "run.json").is_file():
        record.refuse_adopted(start, record.read(start))  # which has not been trained on anything here
        return start
    found = sorted(path for folder in ("", f"runs/{system}/")
                   for path in start.glob(f"{folder}fold_{record.ALL}/seed_*/run.json"))
    same = [path.parent for path in found if path.parent.name == f"seed_{seed}"] or [path.parent for path in found]
    if len(same) != 1:
        raise StudyError(f"{start} holds {'no' if not same else 'more than one'} run of {system} to start from; give a "
                         f"run folder, or the folder of a study that was trained with --folds {record.ALL}")
    return same[0]


def load(folder: Path, system: System, wanted: dict) -> list[dict]:
    """Put the trained weights of the run in `folder` into `system`; returns the ancestors of a run made so.

    wanted: what is known of the new run (run.json before training). Raises StudyError that lists what does not fit.
    """
    run, file = record.read(folder), folder / "weights.safetensors"
    faults = [f"{key}: {there} there, {asked} here" for key, there, asked in identity.differences(run, wanted)
              if key in ("system", "protocol", "switches", "frozen_checksum") or key.startswith("weights of ")]
    sizes = run["config"]["image_size"], wanted["config"]["image_size"]
    if run["frozen_checksum"] != wanted["frozen_checksum"] and sizes[0] != sizes[1]:
        faults.append(f"image_size: {sizes[0]} there, {sizes[1]} here; the position embeddings of the frozen encoder "
                      "are resized to it. Train both at one size")
    elif run["frozen_checksum"] != wanted["frozen_checksum"] and run["seed"] != wanted["seed"]:
        faults.append(f"frozen encoders with random weights are drawn from the seed: {run['seed']} there, "
                      f"{wanted['seed']} here. Train both with the same --seeds")
    try:
        state = load_file(file)
    except Exception as error:
        raise StudyError(f"cannot read {file}: {error}") from None
    own = system.trainable_state()
    faults += [f"{key}: not in that run" for key in own if key not in state]
    faults += [f"{key}: not in {wanted['system']}" for key in state if key not in own]
    faults += [f"{key}: {tuple(state[key].shape)} there, {tuple(own[key].shape)} here"
               for key in own if key in state and state[key].shape != own[key].shape]
    if faults:
        raise StudyError(f"{wanted['system']} cannot start from {folder}:\n"
                         + "\n".join(f"  {fault}" for fault in faults[:20])
                         + (f"\n  … and {len(faults) - 20} more" if len(faults) > 20 else ""))
    system.load_state_dict(state, strict=False)
    return lineage(folder)


def lineage(folder: Path) -> list[dict]:
    """The ancestors of a run that starts from the one in `folder`: system, study, dataset, images, fold, seed,
    identity, and the SHA-256 of its weights, the oldest first."""
    run = record.read(folder)
    if not run["plan"]["iterations"]:  # it is its own ancestor unchanged
        return run["ancestors"]
    return [*run.get("ancestors", []), {
        "system": run["system"], "study": run["study"], "dataset": run["dataset"], "images": run["train_cases"],
        "fold": run["fold"], "seed": run["seed"], "identity": run["identity"],
        "sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()[:16]}]


def seen(folder: Path) -> pd.DataFrame:
    """The pictures that the weights of a run have been trained on. Raises StudyError if the run did not keep them."""
    try:
        return pd.read_csv(folder / SEEN, dtype=str)
    except (OSError, ValueError):
        raise StudyError(f"{folder} does not say which images it was trained on ({SEEN}); it was made by an earlier "
                         "version of the library: run it again to start from it") from None


def guard(ancestor: Path, validation: pd.DataFrame) -> None:
    """Raise StudyError if the run in `ancestor` has seen one of the pictures in `validation` (repeats.pictures)."""
    pairs = repeats.with_mirrored(seen(ancestor), validation)
    if pairs.empty:
        return
    equal = int((pairs["bits"] < 0).sum())
    shown = "\n".join(f"  {row.other} here, {row.one} there: "
                      + ("equal pixels" if row.bits < 0 else f"{row.bits} of 256 bits of their hashes differ")
                      + (", one of them mirrored" if row.mirrored else "") for row in pairs.head(5).itertuples())
    raise StudyError(f"{ancestor} has been trained on images that this fold is scored on: {pairs['other'].nunique()} "
                     f"image(s), {equal} pair(s) of equal pixels and {len(pairs) - equal} of like looks.\n{shown}\n"
                     "A score on what was seen in training says nothing; start from a run on other images.")

