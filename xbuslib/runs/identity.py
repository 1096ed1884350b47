"""The identity of a run: everything that can change its numbers, kept in run.json and compared wherever runs meet."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from xbuslib.config import NOT_OF_THE_PROTOCOL
from xbuslib.errors import StudyError

# The library's version of the science. Raise it when a change of the code changes the numbers of a run: runs before and
# after it then never enter one table. tests/test_protocol.py fails when numbers change and this does not.
PROTOCOL = 2

METADATA = "metadata_fingerprint"  # unknown of runs of earlier versions: compared where both runs have it
DATA = ("dataset", "dataset_fingerprint", METADATA, "folds_checksum")
# Settings whose effect is compared where it shows: in the data and folds, in the plan, or in the weights' checksums.
SHOWN_ELSEWHERE = {
    "phantom_cases", "folds", "folds_seed", "fold_by", "train_images", "weights", "recipe", "iterations", "batch_size",
    "learning_rate", "final_learning_rate", "weight_decay", "drop_spatial", "drop_attributes", "amp",
}
START, LIMIT = "weights at the start", "train_images"  # not of the identity, where train_cases stands for the latter
LATER = "zoom_average"  # a part of the plan that runs of earlier versions lack: read as None (record.read)
OF_EPOCHS = ("plan: iterations", "plan: schedule")  # of official recipes, which count epochs, by the size of the fold


def identity(run: dict) -> dict[str, object]:
    """Name: value of all that can change the numbers of a run (run.json, or what is known of it before training)."""
    settings = {key: value for key, value in run["config"].items() if key not in NOT_OF_THE_PROTOCOL | SHOWN_ELSEWHERE}
    if run.get("adopted"):  # nothing is known of how its predictions were made
        return {"protocol": run["protocol"], **_data(run), **settings} | {
            key: run[key] for key in ("system", "scorings", "fold", "seed")} | {"predictions": run["adopted"]["sha256"]}
    return ({"protocol": run.get("protocol"), **_data(run), **settings}
            | {"system": run["system"], "switches": run.get("switches"), "trainable": run["trainable"],
               "scorings": run["scorings"], "train_cases": run["train_cases"]}
            | {f"plan: {key}": value for key, value in run["plan"].items()}
            | {f"weights of {record['encoder']}": _weights(record) for record in run["weights"]}
            | {"frozen_checksum": run["frozen_checksum"], "precision": run["precision"],
               "fold": run["fold"], "seed": run["seed"]}
            | ({"starts from": [ancestor["sha256"] for ancestor in run["ancestors"]]} if run.get("ancestors") else {}))


def digest(run: dict) -> str:
    """First 12 hex digits of the SHA-256 of a run's identity: equal digests, equal numbers.

    As in earlier versions, where a later part of the plan is None.
    """
    parts = {key: value for key, value in identity(run).items() if (key, value) != (f"plan: {LATER}", None)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def differences(there: dict, wanted: dict) -> list[tuple[str, object, object]]:
    """(name, value there, value wanted) of each part of the identity in which two runs differ."""
    one, other = identity(there), identity(wanted)
    unknown = {METADATA} - (one.keys() & other.keys())
    return [(key, one.get(key), other.get(key)) for key in one | other
            if key not in unknown and _plain(one.get(key)) != _plain(other.get(key))]


def same_data(run: dict, data: dict[str, str]) -> bool:
    """Whether a run was made with `data` (some of DATA, by their names), as far as its run.json shows."""
    return all(run[key] == value or (key == METADATA and run[key] is None) for key, value in data.items())


def mixture(runs: list[tuple[Path, dict]]) -> list[str]:
    """What keeps runs (folder, run.json) from standing in one table, a line for each value of each differing part.

    What must be equal in all: data, settings, protocol number, weights files, a limit to the training images. In the
    runs of one system: its switches, size, policies and plan (in all runs, where the recipe is one for all), and
    whether it started from another run. Per system and seed: random encoders. Where AMP is the same: precision.
    """
    groups: dict[tuple, dict[str, list[Path]]] = {}
    for folder, run in runs:
        start = "another run" if run.get("ancestors") else "its own"
        limit = {} if run.get("adopted") else {LIMIT: run["config"].get(LIMIT)}
        for key, value in (identity(run) | {START: start} | limit).items():
            if (group := _group(key, run)) is not None:
                groups.setdefault((key, *group), {}).setdefault(_plain(value), []).append(folder)
    return [f"  {' of '.join(map(str, group))} {value}: {len(folders)} run(s), such as {folders[0]}"
            for group, values in groups.items() if len(values) > 1 for value, folders in values.items()]


def refuse_mixture(what: str, runs: Iterable[tuple[Path, dict]]) -> None:
    """Raise StudyError, naming each difference, unless the runs (folder, run.json) are of one protocol."""
    if faults := mixture(list(runs)):
        raise StudyError(f"{what} mixes runs that cannot stand together:\n" + "\n".join(faults)
                         + "\nMove the odd ones to a study of their own, or delete them.")


def _group(key: str, run: dict) -> tuple | None:
    """The runs among which a part of the identity must be equal; None: it may differ from run to run."""
    official = run["plan"].get("recipe") == "official"
    if key in ("system", "fold", "seed", "train_cases", "predictions"):
        return None
    if key in ("switches", "trainable", "scorings", START):
        return (run["system"],)
    if key == "starts from":  # which one: another fold, another ancestor, where an ancestor has seen some of the images
        return None
    if key in OF_EPOCHS and official:
        return run["system"], f"{run['train_cases']} training cases"
    if key.startswith("plan: ") and key != "plan: recipe" and official:
        return (run["system"],)
    if key == "frozen_checksum":
        return run["system"], f"seed {run['seed']}"
    if key == "precision":
        return (f"plans with amp {run['plan']['amp']}",)
    return ()


def _data(run: dict) -> dict[str, str]:
    return {key: run[key] for key in DATA if key != METADATA or run.get(METADATA)}


def _weights(record: dict) -> str:
    """ "sha256 abc…, quick_gelu": what a record of weights says of the numbers, without names of files."""
    parts = [f"sha256 {record['sha256']}" if "sha256" in record else "random numbers"]
    return ", ".join(parts + [str(record[key]) for key in ("activation", "stride") if key in record])


def _plain(value: object) -> str:
    """As it reads in run.json: tuples are lists there."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
