"""Lesions found and false positives: connected components of predicted masks against those of the reference, and FROC.

A component is a region of the mask at the study's threshold, however small, whose pixels touch, if only by a corner:
resizing by nearest neighbour would cut thin spicules off a lesion otherwise. Its score is its mean probability, since
after training with a Dice loss the largest is near 1 for most components and orders little.
It finds a reference component if their IoU is at least 0.1, the generous overlap usual in lesion detection (McKinney et
al., Nature 2020; PI-CAI): a lesion at the right place, whatever its outline; and unlike "centre in the lesion", it
refuses a mask over half of the frame. One component finds one lesion at most and is found by one; a second fragment on
the same lesion is a false positive, as is anything on a normal image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from xbuslib.analyses.calibration.reliability import validated
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.evaluation.metrics import LEAST_IOU
from xbuslib.runs import record
from xbuslib.runs.study import Study
from xbuslib.runs.trained import NewPredictions

WHO = ["system", "paper_name"]
TOUCHING = np.ones((3, 3))


class Detections(NamedTuple):
    """What was found where. An image may have several rows (one per fold and seed that predicted it)."""

    images: pd.DataFrame  # WHO, fold, seed, case_id, normal, lesions, found, false_positives
    components: pd.DataFrame  # WHO, fold, seed, case_id, normal, score, hit


def match(probabilities: np.ndarray, reference: np.ndarray, threshold: float) -> tuple[pd.DataFrame, int]:
    """(a row per predicted component: score, hit; number of reference components) of (H, W) probabilities and mask.

    Components are paired so that the sum of their IoUs is largest; pairs under LEAST_IOU are none.
    """
    predicted, n = ndimage.label(probabilities >= threshold, TOUCHING)
    lesions, m = ndimage.label(reference, TOUCHING)
    shared = np.bincount((predicted * (m + 1) + lesions).ravel(), minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)
    union = shared[1:].sum(axis=1)[:, None] + shared[:, 1:].sum(axis=0)[None] - shared[1:, 1:]  # (n, m) pixels
    iou = shared[1:, 1:] / union
    hit = np.zeros(n, bool)
    pairs = linear_sum_assignment(np.where(iou >= LEAST_IOU, iou, 0), maximize=True)
    hit[pairs[0]] = iou[pairs] >= LEAST_IOU
    score = ndimage.mean(probabilities, predicted, np.arange(1, n + 1)) if n else np.empty(0)
    return pd.DataFrame({"score": score, "hit": hit}), m


def detect(study: Study, normals: list[NewPredictions]) -> Detections:
    """All components of the study's validation maps, and of the normal images as each fold's system sees them."""
    threshold, images, components = study.facts["config"]["threshold"], [], []
    for key, probabilities, mask in _predicted(study, normals):
        found, lesions = match(probabilities, mask, threshold)
        images.append(key | {"lesions": lesions, "found": found["hit"].sum(), "false_positives": (~found["hit"]).sum()})
        components.append(found.assign(**key))
    return Detections(pd.DataFrame(images), pd.concat(components, ignore_index=True).astype({"hit": bool}))


def _predicted(study: Study, normals: list[NewPredictions]) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """(WHO, fold, seed, case_id and normal; (S, S) map; (S, S) mask), a run's maps in memory at a time."""
    for who, ids, maps, masks in validated(study):
        for case_id, probabilities, mask in zip(ids, maps, masks, strict=True):
            yield who | {"case_id": case_id, "normal": False}, probabilities, mask
    for predicted in normals:
        who = {key: getattr(predicted, key) for key in (*WHO, "fold", "seed")}
        for case_id, probabilities in zip(predicted.normal_ids, predicted.normals.astype(np.float32), strict=True):
            yield who | {"case_id": case_id, "normal": True}, probabilities, np.zeros(probabilities.shape, bool)


def froc(found: Detections, system: str) -> pd.DataFrame:
    """Sensitivity over lesions and false positives per image by minimum component score: a row per score, none to all.

    Every image counts once, normal ones too: where several folds or seeds predicted it, each has its share.
    """
    images, parts = (table[table["system"] == system] for table in found)
    times = images.groupby("case_id").size()
    share = 1 / parts["case_id"].map(times)
    lesions = (images["lesions"] / images["case_id"].map(times)).sum()
    curve = pd.DataFrame({"score": parts["score"], "sensitivity": share * parts["hit"] / lesions,
                          "false_positives": share * ~parts["hit"] / len(times)})
    curve = curve.groupby("score").sum().sort_index(ascending=False).cumsum().reset_index()
    start = pd.DataFrame({"score": [np.inf], "sensitivity": [0.0], "false_positives": [0.0]})
    return pd.concat([start, curve], ignore_index=True)


def curves(found: Detections) -> pd.DataFrame:
    """`froc` of every system that predicted all normal images, with WHO: an adopted one has not seen them."""
    normals = found.images["case_id"].where(found.images["normal"])
    seen = normals.groupby(found.images["system"]).transform("nunique")
    names = found.images[seen == normals.nunique()].drop_duplicates("system")
    return pd.concat([froc(found, row.system).assign(system=row.system, paper_name=row.paper_name)
                      for row in names.itertuples()], ignore_index=True)


def summary(found: Detections) -> pd.DataFrame:
    """A row per system at the study's threshold.

    lesions, found (numbers), sensitivity, false positives per image with a lesion and per normal image (mean and SD
    over folds), and per image of both kinds, each counted once, as at the right end of `froc`.
    """
    with_lesion, normal = (found.images[found.images["normal"] == kind] for kind in (False, True))
    by_run = with_lesion.groupby([*WHO, "fold", "seed"], sort=False)[["lesions", "found"]].sum()
    rates = by_run.assign(sensitivity=by_run["found"] / by_run["lesions"]).reset_index()
    table = over_folds(rates, WHO, ["sensitivity"])
    counted = with_lesion.drop_duplicates(["system", "case_id"]).groupby("system")["lesions"].sum()
    found_each = with_lesion.groupby(["system", "case_id"])["found"].mean().groupby("system").sum()  # mean over seeds
    table.insert(3, "lesions", table["system"].map(counted))
    table.insert(4, "found", table["system"].map(found_each))
    for kind, rows in (("with lesion", with_lesion), ("normal", normal)):
        part = over_folds(rows, WHO, ["false_positives"]).set_index("system")
        for suffix in ("", "_sd"):
            table[f"false_positives {kind}{suffix}"] = table["system"].map(part["false_positives" + suffix])
    last = curves(found).groupby("system")["false_positives"].last()
    return table.assign(**{"false_positives all": table["system"].map(last)})


def false_area(study: Study, normals: list[NewPredictions], table: pd.DataFrame) -> pd.DataFrame:
    """A row per run and normal image: WHO, fold, seed, case_id, false_percent of the frame, false_mm2.

    false_mm2 is nan where the pixel size is unknown. table: `Study.case_table`.
    """
    pixel, threshold = table.set_index("case_id")["pixel_mm"].astype(float), study.facts["config"]["threshold"]
    rows = []
    for predicted in normals:
        for case_id, probabilities in zip(predicted.normal_ids, predicted.normals, strict=True):
            share = float(record.marked(probabilities, threshold).mean())  # of the stretched frame as of the original
            frame = study.prepared.original_sizes[study.prepared.rows([case_id])[0]].prod() * pixel[case_id]**2
            rows.append({key: getattr(predicted, key) for key in (*WHO, "fold", "seed")}
                        | {"case_id": case_id, "false_percent": 100 * share, "false_mm2": share * frame})
    return pd.DataFrame(rows, columns=[*WHO, "fold", "seed", "case_id", "false_percent", "false_mm2"])


def false_area_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per system: normal images, share of them with any prediction, percent of the frame and mm², over folds."""
    counted = rows.groupby("system")["case_id"].nunique()
    table = over_folds(rows.assign(any_prediction=(rows["false_percent"] > 0).astype(float)), WHO,
                       ["any_prediction", "false_percent", "false_mm2"])
    table.insert(3, "normals", table["system"].map(counted))
    return table
