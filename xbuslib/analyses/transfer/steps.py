"""Steps of training: studies of the same images and folds, one after the other, read from results or from exports."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.data import catalogue
from xbuslib.errors import StudyError
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.files import outputs_root
from xbuslib.models import registry
from xbuslib.runs import caveats, record
from xbuslib.runs.study import Study, named_seeds, open_study

BY_DEFAULT = ("uresnet", "xbusnet")  # of steps with more systems: the local branch's encoder alone, and the whole
SAME = ("dataset", "dataset_fingerprint", "folds_checksum", "protocol")  # in all steps that are compared
RUN = ["system", "fold", "seed", *SAME, "recipe", "iterations", "train_images", "images_before", "seen_before",
       "views", "weights", "commit", "val_cases", "val_divided"]
LATER = {"views": np.nan, "val_cases": 0, "val_divided": 0}  # columns that exports of earlier versions lack
ROW = ["system", "policy", "attributes", "fold", "seed", "case_id", "default", *PAPER, *RELEASED]


@dataclass(frozen=True)
class Step:
    """One way of training, with its scores."""

    name: str  # of the study, or of the folder of an export
    label: str  # "uniform", "strong, from BUS-BRA"
    runs: pd.DataFrame  # RUN
    rows: pd.DataFrame  # ROW, paper_name, patient_id: scores per image
    cases: pd.DataFrame  # case_id, long_side_px; where patients are known patient_id, or `patient` of an export
    config: dict
    study: Study | None  # None for an export, which has neither weights nor probability maps

    @property
    def default(self) -> pd.DataFrame:
        """The rows of each system's default scoring."""
        return self.rows[self.rows["default"]].reset_index(drop=True)

    @property
    def own(self) -> pd.DataFrame:
        """The runs of the systems that are in `rows`."""
        return self.runs[self.runs["system"].isin(self.rows["system"])]

    @property
    def recipe(self) -> str:
        """The recipe of the systems that were trained here; of several the first one's."""
        return next((recipe for recipe in self.own["recipe"] if recipe != record.ADOPTED), record.ADOPTED)

    @property
    def compared(self) -> Study | None:
        """The study with those of its runs alone that are in `rows`; None for an export."""
        if self.study is None:
            return None
        runs, rows = (part.merge(self.rows[["system", "fold"]].drop_duplicates(), on=["system", "fold"])
                      for part in (self.study.runs, self.study.per_image))
        return replace(self.study, runs=runs, per_image=rows)


def open_steps(names: list[str], systems: str = "") -> list[Step]:
    """The studies or folders of exports `names` as steps, on the folds of each system that all steps with it share.

    systems: by commas; without any BY_DEFAULT, or all where the first step has none of these. Raises StudyError if
    steps are of different images, folds or versions of the protocol, or have no system in common with the first, or if
    one is named twice.
    """
    if twice := [name for name in names if names.count(name) > 1]:
        raise StudyError(f"{twice[0]} is named twice; each step is another study or folder")
    steps = [_open(name) for name in names]
    short = [step.name for step in steps]
    steps = [replace(step, name=name) if short.count(step.name) > 1 else step
             for step, name in zip(steps, names, strict=True)]
    for step in steps[1:]:
        _require_same(steps[0], step)
    wanted = {part.strip() for part in systems.split(",") if part.strip()}
    there = set(steps[0].rows["system"])
    if unknown := wanted - set(registry.names()) - there:
        raise StudyError(f"there is no system {sorted(unknown)[0]}; {steps[0].name} has {', '.join(sorted(there))}")
    chosen = wanted or set(BY_DEFAULT) & there or there
    patients = _patients(steps)
    steps = [replace(step, rows=_shared(steps, step.rows, chosen).assign(
        patient_id=lambda rows: [patients.get(case, case) for case in rows["case_id"]])) for step in steps]
    if empty := [step.name for step in steps if step.rows.empty]:
        raise StudyError(f"{empty[0]} has no run of {' or '.join(sorted(chosen))} on a fold of the other steps")
    return _distinct([replace(step, label=_label(step.runs[step.runs["system"].isin(chosen)])) for step in steps])


def described(steps: list[Step]) -> pd.DataFrame:
    """A row per step: step, recipe, iterations, batch, views (averaged in prediction), training images per fold, seen
    before, results, commit; encoders where they differ."""
    rows, encoders = [], [_encoders([step]) for step in steps]
    for step in steps:
        own = step.own
        images = sorted(own["train_images"].dropna().astype(int).unique())
        rows.append({"step": step.label, "recipe": _several(own["recipe"]), "iterations": _several(own["iterations"]),
                     "batch": step.config.get("batch_size") or "recipe's", "views": _several(own["views"]) or "–",
                     "training images per fold": " to ".join(map(str, images[:1] + images[1:][-1:])),
                     "seen_before": _several(own["seen_before"]),
                     "results": step.name, "commit": _several(own["commit"].str[:8])})
    table = pd.DataFrame(rows)
    return table.assign(encoders=encoders) if len(set(encoders)) > 1 else table


def facts(steps: list[Step]) -> str:
    """What a caption says of all steps together."""
    first, runs = steps[0], pd.concat([step.own for step in steps])
    folds = max(step.rows["fold"].nunique() for step in steps)
    divided = [f", on both sides of a fold, by patient or picture: {images}"
               for images in caveats.divided(runs.sort_values(["val_cases", "val_divided"]).to_dict("records"))]
    profiles = ", ".join(dict.fromkeys(step.config["profile"] for step in steps))
    each = {step.label: _encoders([step]) for step in steps}
    alike = len(set(each.values())) == 1
    encoders = _encoders(steps) if alike else "; ".join(f"{label}: {names}" for label, names in each.items())
    return (f"{catalogue.label(first.runs['dataset'].iloc[0])}, profile {profiles}, "
            f"{first.config['image_size']} px, {encoders}, {folds} fold{'s' * (folds > 1)}, "
            f"{named_seeds(runs['seed'])}" + "".join(divided))


def units(steps: list[Step]) -> str:
    """What tests and intervals count: "patients" if a step knows of one with several images, else "images"."""
    several = any(step.rows["patient_id"].nunique() < step.rows["case_id"].nunique() for step in steps)
    return "patients" if several else "images"


def _encoders(steps: list[Step]) -> str:
    """The encoders of the system with most of them: in a step all systems have their weights by one rule."""
    labels = pd.concat([step.own["weights"] for step in steps])
    return max(labels.dropna(), key=len, default="") or "no pretrained encoder"


def _open(name: str) -> Step:
    if Path(name).is_dir() and not (outputs_root() / name / "runs").is_dir():
        return _exported(Path(name))
    study = open_study(name, partial=True)
    runs = pd.DataFrame([{key: run.get(key) for key in ("system", "fold", "seed", *SAME, "commit", "val_cases")}
                         | {"val_divided": run.get("val_divided", 0)} | caveats.training(run)
                         | {"weights": registry.encoder_label(run["weights"])} for run in study.records])
    return Step(study.name, "", runs[RUN], study.per_image[[*ROW, "paper_name"]], study.cases, study.facts["config"],
                study)


def _exported(folder: Path) -> Step:
    """What `xbuslib export` wrote, such as the reference runs."""
    try:
        texts = dict.fromkeys(["case_id", "patient_id", "patient", "commit", "dataset_fingerprint", "folds_checksum",
                               "weights", "seen_before"], str)  # a checksum may be of digits alone
        runs, rows, cases = (pd.read_csv(folder / f"{name}.csv", dtype=texts, keep_default_na=False, na_values=[""])
                             for name in ("runs", "per_image", "cases"))
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"{folder} is neither a study under {outputs_root()} nor a folder of `xbuslib export` "
                         f"({error})") from None
    runs = runs.assign(**{column: value for column, value in LATER.items() if column not in runs})
    if lacking := [column for column in RUN if column not in runs]:
        raise StudyError(f"{folder}/runs.csv lacks {', '.join(lacking)}: it was written by an earlier version of the "
                         "library. Export the study again.")
    named = {system: registry.REGISTRY[system].paper if system in registry.REGISTRY else system
             for system in runs["system"].unique()}
    return Step(folder.name, "", runs[RUN], rows[ROW].assign(paper_name=rows["system"].map(named)), cases, config, None)


def _require_same(first: Step, other: Step) -> None:
    for key in SAME:
        here, there = first.runs[key].iloc[0], other.runs[key].iloc[0]
        if here != there:
            raise StudyError(f"{first.name} and {other.name} cannot be compared image by image: "
                             f"{key.replace('_', ' ')} {here} and {there}. Steps need the same images at the same "
                             "size, and the same folds.")
    if first.config["threshold"] != other.config["threshold"]:
        raise StudyError(f"{first.name} and {other.name} cut their maps at different thresholds: "
                         f"{first.config['threshold']} and {other.config['threshold']}")


def _shared(steps: list[Step], rows: pd.DataFrame, chosen: set[str]) -> pd.DataFrame:
    """The rows of `chosen` systems on the folds that every step with that system has."""
    parts = []
    for system in [name for name in registry.names() if name in chosen] + sorted(chosen - set(registry.names())):
        each = [set(step.rows.loc[step.rows["system"] == system, "fold"]) for step in steps]
        shared = set.intersection(*filter(None, each)) if any(each) else set()
        parts.append(rows[(rows["system"] == system) & rows["fold"].isin(shared)])
    return pd.concat(parts, ignore_index=True)


def _patients(steps: list[Step]) -> dict[str, str]:
    """{case_id: patient} of the step that knows most of them; none where no step says which images are of one."""
    known = [dict(zip(step.cases["case_id"], step.cases[column], strict=True)) for step in steps
             for column in ("patient_id", "patient") if column in step.cases]
    return max(known, key=len, default={})


def _label(runs: pd.DataFrame) -> str:
    """ "uniform"; "strong, from BUS-BRA"; "BUS-BRA alone" without a training image of the dataset itself."""
    before = ", ".join(dict.fromkeys(text.rpartition(", ")[0].removeprefix("simulated phantom of ")
                                     for text in runs["seen_before"].dropna() if text != "none"))
    if before and not runs["iterations"].max():
        return f"{before} alone"
    return _several(runs["recipe"]) + (f", from {before}" if before else "")


def _distinct(steps: list[Step]) -> list[Step]:
    """Steps whose labels are equal get what tells them apart: the name of their results."""
    labels = [step.label for step in steps]
    return [replace(step, label=f"{step.label} ({step.name})") if labels.count(step.label) > 1 else step
            for step in steps]


def _several(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value)
                                   for value in values.dropna()))
