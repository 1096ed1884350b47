"""Calibration of every system of a study: scores before and after one temperature per run, and Dice by threshold."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from xbuslib.evaluation import calibration, metrics
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.progress import remark
from xbuslib.runs import record
from xbuslib.runs.study import Study, system_names

if TYPE_CHECKING:  # torch takes seconds, and the figures of a study need none
    from xbuslib.runs.trained import NewPredictions

WHO = ["system", "paper_name"]
REGIONS = ("lesion region", "whole image")
STATES = ("before", "after")  # temperature scaling
SCORES = ["ece", "brier", "nll"]
THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2))


class Reliability(NamedTuple):
    """Scores of every run, and the bins they come from."""

    rows: pd.DataFrame  # WHO, fold, seed, region, state, temperature, SCORES
    bins: pd.DataFrame  # WHO, fold, seed, region, state, and calibration.reliability


def fit(study: Study, run: "NewPredictions") -> dict:
    """WHO, fold, seed and temperature of one run, fitted on every pixel of its training images and on nothing else."""
    masks = study.prepared.masks[study.prepared.rows(run.training_ids)]
    return {"system": run.system, "paper_name": run.paper_name, "fold": run.fold, "seed": run.seed,
            "temperature": calibration.fit_temperature(calibration.counts(run.training, masks))}


def score(study: Study, temperatures: pd.DataFrame) -> Reliability:
    """Scores of each run on its validation images, before and after its temperature (a row of `fit` per run)."""
    fitted = temperatures.set_index(["system", "fold", "seed"])["temperature"]
    rows, bins = [], []
    for who, _, maps, masks in _probabilistic(study):
        regions = {"whole image": None, "lesion region": np.stack([calibration.lesion_region(mask) for mask in masks])}
        temperature = fitted.get((who["system"], who["fold"], who["seed"]), np.nan)  # nan: adopted, nothing to fit on
        for region in REGIONS:
            counted = calibration.counts(maps, masks, regions[region])
            for state, used in zip(STATES, (1.0, temperature), strict=True):
                if np.isnan(used):
                    continue
                key = who | {"region": region, "state": state}
                rows.append(key | {"temperature": temperature} | calibration.scores(counted, used))
                bins.append(calibration.reliability(counted, calibration.scaled(used)).assign(**key))
    return Reliability(pd.DataFrame(rows), pd.concat(bins, ignore_index=True))


def summary(found: Reliability, region: str) -> pd.DataFrame:
    """A row per system: temperature, and each score in `region` before and after; mean and SD over folds."""
    rows = found.rows[found.rows["region"] == region]
    table = over_folds(rows[rows["state"] == STATES[0]], WHO, ["temperature"])
    for score in SCORES:
        for state in STATES:
            part = over_folds(rows[rows["state"] == state], WHO, [score]).set_index("system")
            for suffix in ("", "_sd"):
                table[f"{score} {state}{suffix}"] = table["system"].map(part[score + suffix])
    return table


def pooled(bins: pd.DataFrame) -> pd.DataFrame:
    """The bins of all folds and seeds together: WHO, region, state, low, pixels, probability, lesion."""
    sums = bins.assign(probability=bins["probability"] * bins["pixels"], lesion=bins["lesion"] * bins["pixels"])
    table = sums.groupby([*WHO, "region", "state", "low"], sort=False)[["pixels", "probability", "lesion"]].sum()
    table[["probability", "lesion"]] = table[["probability", "lesion"]].div(table["pixels"].where(table["pixels"] > 0),
                                                                           axis=0)
    return table.reset_index()


def sweep(study: Study) -> pd.DataFrame:
    """Mean lesion Dice of each run by threshold: WHO, fold, seed, threshold, dice. None of them is chosen by it.

    The thresholds are THRESHOLDS and the study's own.
    """
    rows, thresholds = [], sorted({*map(float, THRESHOLDS), study.facts["config"]["threshold"]})
    for who, _, maps, masks in _probabilistic(study):
        for threshold in thresholds:
            rows.append(who | {"threshold": threshold,
                               "dice": metrics.per_image(maps >= threshold, masks)["dice"].mean()})
    return pd.DataFrame(rows)


def sweep_summary(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """A row per system: folds, Dice at the study's threshold (mean and SD over folds), where the swept curve is
    highest, how much higher it is there, and the lowest and highest threshold between which Dice stays within 0.01 of
    that."""
    curves = over_folds(rows, [*WHO, "threshold"], ["dice"])
    table = []
    for (system, name), curve in curves.groupby(WHO, sort=False):
        best, here = curve.loc[curve["dice"].idxmax()], curve.set_index("threshold").loc[threshold]
        close = curve["dice"] >= best["dice"] - 0.01
        stretch = close.ne(close.shift()).cumsum()  # the number of each run of equal values
        near = curve.loc[stretch == stretch[best.name], "threshold"]
        table.append({"system": system, "paper_name": name, **here.filter(like="fold"), "dice": here["dice"],
                      "dice_sd": here["dice_sd"], "highest_at": best["threshold"],
                      "gain_there": best["dice"] - here["dice"], "flat_from": near.min(), "flat_to": near.max()})
    return pd.DataFrame(table)


def _probabilistic(study: Study) -> Iterator[tuple[dict, list[str], np.ndarray, np.ndarray]]:
    """`validated` without the systems that were adopted as masks, which have no probabilities; they are named."""
    hard = [name for name, adopted in study.adopted.items() if adopted["kind"] == "masks"]
    if hard:
        remark(f"{', '.join(hard)}: adopted as masks, left out of calibration and thresholds")
    return (run for run in validated(study) if run[0]["system"] not in hard)


def validated(study: Study) -> Iterator[tuple[dict, list[str], np.ndarray, np.ndarray]]:
    """(WHO, fold and seed; case ids; (n, S, S) float32 maps; (n, S, S) bool masks) of each run's validation images."""
    names = system_names(study.per_image)
    for run in study.ordered_runs.itertuples():
        maps = record.probabilities(Path(run.folder))
        masks = study.prepared.masks[study.prepared.rows(maps)]
        yield ({"system": run.system, "paper_name": names[run.system], "fold": run.fold, "seed": run.seed},
               list(maps), np.stack(list(maps.values())), masks)
