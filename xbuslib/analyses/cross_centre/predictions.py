"""A study's trained runs at another hospital: each fold's model on every lesion of another dataset.

In its own dataset an image is scored by the one model that was not trained on it. In another dataset no model was, so
each image has one score per fold; their mean is what to expect of one such model, and the mean of their probability
maps is the *fold ensemble*. Prompts are built as in training from what the other dataset has: no reference mask is read
for them, and attributes that it does not give are left out.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.analyses.cross_centre.targets import Target
from xbuslib.data import repeats
from xbuslib.data.images import Prepared
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.inference.predict import chunks, images_of
from xbuslib.models import registry
from xbuslib.progress import remark, track
from xbuslib.prompts import words
from xbuslib.runs import ancestors, record
from xbuslib.runs.study import Study
from xbuslib.runs.trained import Trained

POLICIES = ("first_pass", "none")  # those that need no reference mask
DESCRIBED = ["case_id", "patient_id", "pathology", "birads", "device"]  # what scores are grouped by, where it is known
BY_DEFAULT = ("unet", "uresnet", "xbusnet")  # of a study of more systems than these


def choose_systems(study: Study, names: str) -> list[str]:
    """Those of `names`, by commas, that the study has, in the registry's order; "all" for every one.

    Without names BY_DEFAULT; all, if the study has no more than three systems or none of these. Raises StudyError for
    names of no system, or if the study has none of them.
    """
    few = len(study.systems) <= len(BY_DEFAULT) or not set(BY_DEFAULT) & set(study.systems)
    wanted = {part.strip() for part in names.split(",") if part.strip()} or ({"all"} if few else set(BY_DEFAULT))
    unknown = sorted(wanted - set(registry.names()) - set(study.systems) - {"all"})
    found = [name for name in study.systems if wanted & {name, "all"} and name not in study.adopted]
    if study.adopted:
        remark(f"{', '.join(study.adopted)}: adopted predictions, left out, as there are no weights")
    if unknown or not found:
        raise StudyError(f"{'unknown system ' + ', '.join(unknown) if unknown else 'no run of ' + names}; "
                         f"study {study.name} has {', '.join(study.systems)}")
    return found


def predict_target(study: Study, target: Target, systems: list[str],
                   default_alone: bool = False) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Every run of `systems` on every case of `target`, as `predict_run` does.

    Returns rows of system, policy, attributes, paper_name, default, fold, seed, case_id and both metric families; and
    {system: (n, S, S)} fold ensembles, the mean probability of all its runs in the default scoring. Raises StudyError
    if a run started from weights that had been trained on images of the target.
    """
    parts, ensembles = [], {}
    _refuse_seen(study, target, systems)
    for system in systems:
        own = study.runs[study.runs["system"] == system]
        total = 0.0
        for row in track(own.itertuples(), f"{system} on {target.label}", len(own)):
            scores, maps = predict_run(Path(row.folder), target.cases, target.rescaled, default_alone)
            parts.append(scores.assign(system=system, paper_name=registry.entry(system).paper, fold=row.fold,
                                       seed=row.seed))
            total = total + maps
        ensembles[system] = record.halved(total / len(own), study.facts["config"]["threshold"])  # half the memory
    return pd.concat(parts, ignore_index=True), ensembles


def _refuse_seen(study: Study, target: Target, systems: list[str]) -> None:
    """What the study itself was trained on is refused where targets are opened; this is about its ancestors."""
    runs = study.runs[study.runs["system"].isin(systems)]
    folders = [folder for folder in map(Path, runs["folder"]) if record.read(folder).get("ancestors")]
    pictures = repeats.pictures(target.cases) if folders else None
    for folder in folders:
        ancestors.guard(folder, pictures)


def predict_run(folder: Path, cases: pd.DataFrame, prepared: Prepared,
                default_alone: bool = False) -> tuple[pd.DataFrame, np.ndarray]:
    """The model of a run folder on `cases`, under every scoring that needs no reference mask, or the default one.

    Returns rows of policy, attributes, default, case_id and both metric families, and the (n, S, S) float32 probability
    maps of the default scoring.
    """
    predictor = Trained.load(folder).predictor
    scorings = [scoring for scoring in words.scorings(predictor.system.prompts) if scoring[0] in POLICIES]
    scorings = scorings[:1] if default_alone else scorings
    parts, default_maps = [], []
    for some in chunks(cases):
        masks = prepared.masks[prepared.rows(some["case_id"])]
        views = predictor.views(images_of(some, prepared))
        for policy, attributes in scorings:
            maps, _ = predictor.predict(views, some, prepared, policy, attributes)
            default = (policy, attributes) == scorings[0]
            default_maps += [maps] if default else []
            parts.append(_score(maps, masks, some, predictor.plan.config.threshold).assign(
                policy=policy, attributes=attributes, default=default))
    return pd.concat(parts, ignore_index=True), np.concatenate(default_maps)


def score_ensembles(study: Study, target: Target, ensembles: dict[str, np.ndarray]) -> pd.DataFrame:
    """system, paper_name, case_id and both metric families of the fold ensembles."""
    masks = target.prepared.masks[target.prepared.rows(target.cases["case_id"])]
    threshold = study.facts["config"]["threshold"]
    return pd.concat([_score(maps, masks, target.cases, threshold).assign(
        system=system, paper_name=registry.entry(system).paper) for system, maps in ensembles.items()],
        ignore_index=True)


def in_domain(study: Study, systems: list[str]) -> pd.DataFrame:
    """The study's own validation scores under the policies that `predict_target` uses, same columns, with DESCRIBED."""
    rows = study.per_image[study.per_image["system"].isin(systems) & study.per_image["policy"].isin(POLICIES)]
    return rows.drop(columns="patient_id").merge(_described(study.cases), on="case_id", validate="many_to_one")


def at_target(target: Target, scores: pd.DataFrame) -> pd.DataFrame:
    """`scores` of `predict_target` with the target's label in the column `target`, and DESCRIBED."""
    described = _described(target.cases)
    return scores.merge(described, on="case_id", validate="many_to_one").assign(target=target.label)


def _described(cases: pd.DataFrame) -> pd.DataFrame:
    return cases[[column for column in DESCRIBED if column in cases]]


def _score(maps: np.ndarray, masks: np.ndarray, cases: pd.DataFrame, threshold: float) -> pd.DataFrame:
    values = metrics.per_image(record.marked(maps, threshold), masks)
    values.insert(0, "case_id", cases["case_id"].to_numpy())
    return values
