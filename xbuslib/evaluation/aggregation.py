"""Scores per image to means over a fold, and to mean and SD over folds (Section 2.4, Table 1)."""

import pandas as pd

from xbuslib.evaluation.metrics import PAPER, RELEASED

KEYS = ["system", "policy", "attributes"]  # one row of a table: who, and what its prompt knew


def fold_means(rows: pd.DataFrame, by: list[str] = KEYS, metrics: list[str] = PAPER + RELEASED) -> pd.DataFrame:
    """Mean of each metric over a fold's images, seeds averaged: one row per `by` and fold.

    An image whose metric is undefined (nan) stays out of that metric's mean.
    """
    seeds = rows.groupby([*by, "fold", "seed"], sort=False, dropna=False)[metrics].mean()
    return seeds.groupby(level=[*by, "fold"], sort=False, dropna=False).mean().reset_index()


def over_folds(rows: pd.DataFrame, by: list[str] = KEYS, metrics: list[str] = PAPER + RELEASED) -> pd.DataFrame:
    """Mean and sample SD over folds (Table 1): columns <metric>, <metric>_sd and folds; SD is nan with one fold.

    Where rows are over different folds, as in a partial study, `fold_list` says which (`tables.comparable`).
    """
    each = fold_means(rows, by, metrics)
    grouped = each.groupby(by, sort=False, dropna=False)
    means, deviations = grouped[metrics].mean(), grouped[metrics].std(ddof=1)
    table = pd.concat([pd.concat([means[m], deviations[m].rename(f"{m}_sd")], axis=1) for m in metrics], axis=1)
    table.insert(0, "folds", grouped["fold"].nunique())
    lists = fold_lists(each, by)
    if lists.nunique() > 1:
        table.insert(1, "fold_list", lists)
    return table.reset_index()


def fold_lists(rows: pd.DataFrame, by: list[str]) -> pd.Series:
    """The folds of each `by` as text, such as "0, 1, 3"."""
    folds = rows.groupby(by, sort=False, dropna=False)["fold"]
    return folds.agg(lambda numbers: ", ".join(map(str, sorted(numbers.unique())))).rename("fold_list")
