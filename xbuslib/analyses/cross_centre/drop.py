"""How much a score falls at another hospital: differences of two samples of images, with bootstrap intervals.

The images of two hospitals are not pairs, so both samples are drawn anew. The unit is the patient, since images of one
patient are alike (BUS-BRA has several of each; BLU and BUSI count one). The first interval is for the models as they
are. The second draws the folds anew as well, the same ones on both sides, and speaks of models trained like these;
folds share training images, so it is still somewhat too narrow.
"""

import numpy as np
import pandas as pd

from xbuslib.evaluation.aggregation import KEYS
from xbuslib.evaluation.statistics import DRAWS, RESAMPLES

FEWEST = 5  # patients or, for the second interval, folds: fewer cannot show how far such means spread
GROUPS = {"pathology": "class", "birads": "BI-RADS", "device": "device"}  # column of a case table: its name in tables


def difference(source: pd.DataFrame, target: pd.DataFrame, metric: str = "dice") -> dict:
    """Mean of `metric` over the images of `target` minus that over the images of `source`, models averaged per image.

    Both: one row per image and model: fold, case_id, patient_id, metric; several seeds of a fold count as one model,
    their mean. Returns in_domain, at_target, difference with its 95 % interval low … high over patients, and low_folds
    … high_folds over patients and folds; nan where there are fewer than FEWEST of them on a side.
    """
    before, after = _Sample(source, metric), _Sample(target, metric)
    found = {"in_domain": before.mean, "at_target": after.mean, "difference": after.mean - before.mean}
    enough = min(before.patients, after.patients) >= FEWEST
    found["low"], found["high"] = _interval(before, after, None) if enough else (np.nan, np.nan)
    folds = sorted(set(before.folds) & set(after.folds))
    several = enough and len(folds) >= FEWEST
    found["low_folds"], found["high_folds"] = _interval(before, after, folds) if several else (np.nan, np.nan)
    return found


def mean_interval(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean of `column` over images, models averaged per image, and its bootstrap 95 % interval over patients.

    rows: fold, case_id, patient_id, column. The interval is nan with fewer than FEWEST patients.
    """
    sample = _Sample(rows, column)
    if sample.patients < FEWEST:
        return sample.mean, np.nan, np.nan
    drawn = sample.resampled(np.random.default_rng(0), np.ones((1, len(sample.folds))))
    return sample.mean, *(float(end) for end in np.quantile(drawn, (0.025, 0.975)))


def drops(source: pd.DataFrame, target: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """`difference` for every system and scoring that both have, and the shares of lesions missed (Dice 0).

    source: cross_centre.in_domain. target: cross_centre.at_target of one or several targets. Columns target, KEYS,
    paper_name, default, n_in_domain, n_target, those of `difference`, missed_in_domain, missed_target.
    """
    rows = []
    for (name, *key), there in target.groupby(["target", *KEYS], sort=False):
        own = source[(source[KEYS] == key).all(axis=1)]
        if len(own):
            rows.append({"target": name} | dict(zip(KEYS, key, strict=True))
                        | {"paper_name": there["paper_name"].iloc[0], "default": bool(there["default"].iloc[0]),
                           "n_in_domain": own["case_id"].nunique(), "n_target": there["case_id"].nunique()}
                        | difference(own, there, metric)
                        | {"missed_in_domain": float((own["dice"] == 0).mean()),
                           "missed_target": float((there["dice"] == 0).mean())})
    return pd.DataFrame(rows)


def by_group(source: pd.DataFrame, target: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """The drop by class, BI-RADS category and device, where the target knows them: default scorings.

    A group is compared with its like in the study (benign with benign, 4 with 4a to 4c), so that another mix of cases
    is no explanation. A device, and what the study does not know, is compared with all of it; `compared_with` says so.
    Columns target, system, paper_name, by, group, compared_with, patients, n_target, n_in_domain, `difference`.
    """
    rows = []
    for (name, system), there in target[target["default"]].groupby(["target", "system"], sort=False):
        own = source[source["default"] & (source["system"] == system)]
        for column, grouping in GROUPS.items():
            if column not in there or there[column].isna().all():
                continue
            known = column != "device" and column in own and own[column].notna().any()
            for group, part in there.groupby(_coarse(there[column], column)):
                like = own[_coarse(own[column], column) == group] if known else own
                if like.empty:
                    continue
                rows.append({"target": name, "system": system, "paper_name": part["paper_name"].iloc[0],
                             "by": grouping, "group": group,
                             "compared_with": "its like" if known else "all of the study",
                             "patients": part["patient_id"].nunique(), "n_target": part["case_id"].nunique(),
                             "n_in_domain": like["case_id"].nunique()} | difference(like, part, metric))
    return pd.DataFrame(rows)


def scanner_alone(target: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Phantom scanner B minus scanner A, case by case, default scorings; no rows unless both are among the targets.

    Cases of one number have the same words on both; the drawn lesions differ with the frame. target:
    cross_centre.at_target of several targets. Columns system, paper_name, n, scanner_a, scanner_b, difference, low,
    high (95 % over cases).
    """
    rows, labels = [], [name for name in target["target"].unique() if name.endswith((", scanner A", ", scanner B"))]
    for system, own in target[target["default"]].groupby("system", sort=False) if len(labels) == 2 else ():
        table = own.groupby(["case_id", "target"])[metric].mean().unstack("target")[sorted(labels)].dropna()
        first, second = table.to_numpy().T
        paired = pd.DataFrame({"case_id": table.index, "patient_id": table.index, "fold": 0, "change": second - first})
        change, low, high = mean_interval(paired, "change")
        rows.append({"system": system, "paper_name": own["paper_name"].iloc[0], "n": len(table),
                     "scanner_a": first.mean(), "scanner_b": second.mean(), "difference": change, "low": low,
                     "high": high})
    return pd.DataFrame(rows)


def quartile_cases(target: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Three cases of one target by rule: those at the quartiles of the score's mean over systems and folds.

    target: default rows of cross_centre.at_target. Columns rule, case_id.
    """
    means = target[target["default"]].groupby(["case_id", "system"])[metric].mean().groupby("case_id").mean()
    ordered = means.sort_values(kind="stable").index
    rules = {"lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75}
    return pd.DataFrame([(rule, ordered[round(share * (len(ordered) - 1))]) for rule, share in rules.items()],
                        columns=["rule", "case_id"]).drop_duplicates("case_id")


def ensemble_gain(target: pd.DataFrame, ensembles: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Fold ensemble minus the mean of its folds, per image: target, system, paper_name, n, folds_mean, ensemble,
    gain, low, high (95 %, over patients), missed_ensemble.

    target: cross_centre.at_target; ensembles: the same of cross_centre.score_ensembles.
    """
    rows = []
    for (name, system), both in ensembles.groupby(["target", "system"], sort=False):
        own = target[target["default"] & (target["target"] == name) & (target["system"] == system)]
        mean = own.groupby("case_id")[metric].mean()
        paired = both.assign(fold=0, gain=both[metric] - both["case_id"].map(mean))
        gain, low, high = mean_interval(paired, "gain")
        rows.append({"target": name, "system": system, "paper_name": both["paper_name"].iloc[0], "n": len(both),
                     "folds_mean": float(mean.mean()), "ensemble": float(both[metric].mean()), "gain": gain, "low": low,
                     "high": high, "missed_ensemble": float((both["dice"] == 0).mean())})
    return pd.DataFrame(rows)


class _Sample:
    """Scores as sums and counts by patient and fold, so that a resample is two matrix products."""

    def __init__(self, rows: pd.DataFrame, column: str):
        scores = rows.groupby(["patient_id", "fold", "case_id"])[column].mean()  # seeds averaged
        table = scores.groupby(level=["patient_id", "fold"]).agg(["sum", "count"]).unstack("fold", fill_value=0)
        self.sums, self.counts = (table[part].to_numpy(float) for part in ("sum", "count"))  # (P, K)
        self.folds = list(table["sum"].columns)
        self.patients = len(table)
        self.mean = float(self.sums.sum() / self.counts.sum())

    def resampled(self, rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
        """(RESAMPLES,) means over patients drawn with replacement, folds weighted by `weights` (RESAMPLES or 1, K)."""
        alike, parts = np.full(self.patients, 1 / self.patients), []
        for start in range(0, RESAMPLES, at_once := max(1, DRAWS // self.patients)):  # bounds memory
            drawn = rng.multinomial(self.patients, alike, size=min(at_once, RESAMPLES - start)).astype(float)  # (r, P)
            some = weights if len(weights) == 1 else weights[start:start + at_once]
            parts.append((drawn @ self.sums * some).sum(axis=1) / (drawn @ self.counts * some).sum(axis=1))
        return np.concatenate(parts)


def _interval(before: _Sample, after: _Sample, folds: list | None) -> tuple[float, float]:
    """95 % of resampled differences; with `folds`, these are drawn as well, the same on both sides."""
    rng = np.random.default_rng(0)
    if folds is None:
        weights = {id(sample): np.ones((1, len(sample.folds))) for sample in (before, after)}
    else:
        times = rng.multinomial(len(folds), np.full(len(folds), 1 / len(folds)), size=RESAMPLES)  # (R, K)
        by_fold = dict(zip(folds, times.T, strict=True))
        nothing = np.zeros(RESAMPLES)
        weights = {id(sample): np.stack([by_fold.get(fold, nothing) for fold in sample.folds], axis=1)
                   for sample in (before, after)}
    with np.errstate(invalid="ignore"):  # a draw may hold no image of the folds drawn: nan, left out below
        drawn = [sample.resampled(rng, weights[id(sample)]) for sample in (before, after)]
    low, high = np.nanquantile(drawn[1] - drawn[0], (0.025, 0.975))
    return float(low), float(high)


def _coarse(values: pd.Series, column: str) -> pd.Series:
    """BI-RADS without its sub-categories, which not every hospital gives; other columns as they are."""
    return values.where(values.isna(), values.astype(str).str[0]) if column == "birads" else values
