"""Paired statistics on images: is one system better than another on the same cases, and by how much?

The paper tests image-level Dice and IoU by Wilcoxon's signed-rank test with rank-biserial effect sizes (Section 3.1).
Here scores of two systems are joined on case_id, seeds averaged first; both must be of one definition each: one
metric, one prompt policy. Patients are the units, so that spread between patients is what the tests see. Where each
has one image, patients are images; where some have several, as in BUS-BRA, the test ranks the patients' mean
differences, and intervals draw patients with all of their images. Spread between folds and seeds, which share training
images, is described (`fold_spread`) and not tested.
"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from xbuslib.errors import StudyError
from xbuslib.evaluation.aggregation import fold_means
from xbuslib.evaluation.metrics import PAPER, RELEASED

RESAMPLES = 5000  # of the bootstrap; its seed is fixed, so that a table is the same each time it is made
DRAWS = 2**22  # of the bootstrap in memory at once: 64 MB
SFA_BY_LFE = {  # what SFA brings: (system with it, system without it)
    "SFA, with LFE": ("xbusnet", "xbusnet-no-sfa"),
    "SFA, without LFE": ("xbusnet-no-lfe", "xbusnet-no-lfe-no-sfa"),
}


def compare(rows: pd.DataFrame, system: str, against: str, metric: str) -> dict:
    """`system` minus `against` on the images that both scored.

    rows: per-image scores (Study.default): system, policy, attributes, fold, seed, case_id, metric, and patient_id,
    without which each image counts as a patient. Returns n (images), patients, mean_difference (over images) with its
    bootstrap 95 % interval low … high, statistic (the smaller rank sum), two-sided p, and rank_biserial in [-1, 1],
    positive where `system` has the higher values. A fold that only one of the two has, as in a partial study, is left
    out.
    Raises StudyError for an unknown metric, undefined (nan) scores, missing patients, more than one policy of a system,
    or folds in which the two scored different cases.
    """
    difference = _difference(rows, system, against, metric)
    patients = difference.index.get_level_values("patient_id")
    low, high = interval(difference, patients)
    return {"system": system, "against": against, "metric": metric, "n": len(difference),
            "patients": patients.nunique(), "mean_difference": float(difference.mean()), "low": low, "high": high,
            } | signed_rank(_by_patient(difference, patients))


def signed_rank(difference: np.ndarray) -> dict:
    """Wilcoxon's signed-rank test of paired differences, two-sided: statistic, p, rank_biserial.

    Zeros are treated as by Pratt (1959): they are ranked with the rest, then their ranks are dropped. Two systems that
    miss the same lesion both score 0 on it; leaving such images out beforehand (Wilcoxon's own rule) would test a
    disagreement on a few images as if the others had not been looked at. scipy gives an exact p up to 50 images without
    ties and zeros (up to 13 with them), else the normal approximation corrected for ties and zeros. If all differences
    are zero there is nothing to rank: p = 1, statistic = rank_biserial = 0.

    rank_biserial is (W+ - W-) / (W+ + W-) (Kerby 2014), with the same ranks as the test.
    """
    difference = np.asarray(difference, float)
    if not difference.any():
        return {"statistic": 0.0, "p": 1.0, "rank_biserial": 0.0}
    test = stats.wilcoxon(difference, zero_method="pratt", alternative="two-sided")
    ranks = stats.rankdata(np.abs(difference))
    more, less = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    return {"statistic": float(test.statistic), "p": float(test.pvalue),
            "rank_biserial": float((more - less) / (more + less))}


def holm(p: pd.Series) -> np.ndarray:
    """p adjusted by Holm's step-down method: the family-wise error rate over these comparisons."""
    return multipletests(np.asarray(p, float), method="holm")[1]


def interval(values: np.ndarray, patients: np.ndarray | None = None) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the mean over images of (n,) values, patients (n,) resampled.

    A patient is drawn with all of their images. None: each image is of another patient. nan for fewer than two
    patients.
    """
    values = np.asarray(values, float)
    if (len(values) if patients is None else pd.Index(patients).nunique()) < 2:
        return np.nan, np.nan
    if np.ptp(values) == 0:  # scipy warns where nothing varies
        return float(values[0]), float(values[0])
    if patients is None or pd.Index(patients).is_unique:
        samples, mean = (values,), np.mean
    else:
        whole = pd.Series(values).groupby(np.asarray(patients), sort=False)
        samples, mean = (whole.sum().to_numpy(), whole.size().to_numpy(float)), _mean_over_images
    low, high = stats.bootstrap(samples, mean, paired=len(samples) == 2, method="percentile", n_resamples=RESAMPLES,
                                batch=max(1, DRAWS // len(samples[0])), rng=np.random.default_rng(0),
                                ).confidence_interval
    return float(low), float(high)


def _mean_over_images(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def share_interval(hits: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """95 % interval of the share of (n,) bools: Wilson's where each patient has one image, else that of `interval`.

    Where all are equal, Wilson's for as many as there are patients. nan without images.
    """
    hits = np.asarray(hits, bool)
    if not len(hits):
        return np.nan, np.nan
    n = pd.Index(patients).nunique()
    if n == len(hits) or hits.all() or not hits.any():
        wilson = stats.binomtest(round(hits.mean() * n), n).proportion_ci(method="wilson")
        return float(wilson.low), float(wilson.high)
    return interval(hits, patients)


def drawn_rows(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions of the images of one bootstrap sample: as many patients as there are, with replacement."""
    codes, names = pd.factorize(np.asarray(patients))
    own = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])  # positions of each patient
    return np.concatenate([own[code] for code in rng.integers(len(names), size=len(names))])


def fold_spread(rows: pd.DataFrame, metric: str = "dice") -> pd.Series:
    """What the fold means of several systems differ by, as sample SDs of a table of systems × folds.

    between_systems: of the systems' means. between_folds: of the folds' means, how much easier some folds are for
    everyone. rest: what a system does on a fold beyond both, on (systems - 1)(folds - 1) degrees of freedom.
    Systems that lack a fold are left out; nan where there are fewer than two systems or folds.
    """
    table = fold_means(rows, ["system"], [metric]).pivot(index="system", columns="fold", values=metric).dropna()
    systems, folds = table.mean(axis=1), table.mean(axis=0)
    rest = table.sub(systems, axis=0).sub(folds, axis=1) + table.to_numpy().mean()
    freedom = (len(systems) - 1) * (len(folds) - 1)
    return pd.Series({"between_systems": systems.std(ddof=1), "between_folds": folds.std(ddof=1),
                      "rest": np.sqrt((rest**2).to_numpy().sum() / freedom) if freedom else np.nan})


def interaction(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """What SFA brings with the local branch and without it, and the difference of the two, per image.

    Columns effect, n, mean, low, high (bootstrap 95 %, over patients). Without LFE the only SFA left is the global
    branch's, so the last row, "interaction", is above zero where SFA brings more in the company of LFE. An effect whose
    systems are not in `rows`, or share no fold there, is not in the table.
    """
    effects = {}
    for name, (with_sfa, without) in SFA_BY_LFE.items():
        if share_a_fold(rows, with_sfa, without):
            effects[name] = _difference(rows, with_sfa, without, metric)
    if len(effects) == 2:
        with_lfe, without_lfe = effects.values()
        effects["interaction"] = (with_lfe - without_lfe).dropna()  # in a partial study one may lack a fold
    return pd.DataFrame([(name, len(values), values.mean(),
                          *interval(values, values.index.get_level_values("patient_id")))
                         for name, values in effects.items() if len(values)],
                        columns=["effect", "n", "mean", "low", "high"])


def share_a_fold(rows: pd.DataFrame, system: str, against: str) -> bool:
    """Whether there are scores of both on one fold at least; of a partial study there may be none to pair."""
    first, second = (set(rows.loc[rows["system"] == name, "fold"]) for name in (system, against))
    return not first.isdisjoint(second)


def _scores(rows: pd.DataFrame, system: str, metric: str) -> pd.Series:
    """Scores of one system by (fold, patient_id, case_id), averaged over seeds."""
    if metric not in PAPER + RELEASED:
        raise StudyError(f"there is no metric {metric!r}; the metrics are {', '.join(PAPER + RELEASED)}")
    own = rows[rows["system"] == system]
    if own.empty:
        raise StudyError(f"there are no scores of {system}; there are {', '.join(rows['system'].unique())}")
    scorings = own[["policy", "attributes"]].drop_duplicates()
    if len(scorings) > 1:
        listed = "; ".join(f"{row.policy}, {row.attributes}" for row in scorings.itertuples())
        raise StudyError(f"the scores of {system} are of several prompt policies ({listed}) and cannot be pooled; "
                         "choose one, such as the rows of study.default")
    twice = own[own.duplicated(["fold", "seed", "case_id"])]
    if len(twice):
        raise StudyError(f"{system} has more than one score of case {twice['case_id'].iloc[0]} in one run")
    undefined = own.loc[own[metric].isna(), "case_id"].unique()
    if len(undefined):
        raise StudyError(f"{metric} of {system} is undefined (nan) for {len(undefined)} image(s), such as "
                         f"{undefined[0]}; leave out images without a lesion")
    if "patient_id" not in own:
        own = own.assign(patient_id=own["case_id"])
    unknown = own.loc[own["patient_id"].isna(), "case_id"].unique()
    if len(unknown):
        raise StudyError(f"patient_id is missing for {len(unknown)} image(s) of {system}, such as {unknown[0]}; give "
                         "every image one in cases.csv")
    return own.groupby(["fold", "patient_id", "case_id"])[metric].mean()


def _by_patient(difference: pd.Series, patients: pd.Index) -> np.ndarray:
    """(P,) mean of each patient; the values as they are where each has one."""
    return difference.to_numpy() if patients.is_unique else difference.groupby(patients).mean().to_numpy()


def _difference(rows: pd.DataFrame, system: str, against: str, metric: str) -> pd.Series:
    """`system` minus `against` by (fold, patient_id, case_id), on the folds that both have."""
    first, second, who = _scores(rows, system, metric), _scores(rows, against, metric), f"{system} and {against}"
    folds = first.index.unique("fold").intersection(second.index.unique("fold"))
    first, second = (scores[scores.index.get_level_values("fold").isin(folds)] for scores in (first, second))
    unpaired = first.index.symmetric_difference(second.index)
    if len(unpaired):
        fold, _, case = unpaired[0]
        raise StudyError(f"{who} scored different images: {len(unpaired)} are without a partner, such as {case} in "
                         f"fold {fold}; run the study again")
    if first.empty:
        raise StudyError(f"{who} have no fold in common, so there is nothing to pair; run the study again")
    return first - second  # pandas aligns the two on their keys
