"""Paired tests of one system of a study against all others (Section 3.1)."""

import pandas as pd

from xbuslib.evaluation.statistics import compare, holm, share_a_fold
from xbuslib.runs.study import Study

COLUMNS = ["system", "against", "against_name", "policy", "attributes", "metric", "n", "patients", "mean_difference",
           "low", "high", "statistic", "p", "p_holm", "rank_biserial"]


def compare_all(study: Study, system: str = "xbusnet", metrics: tuple[str, ...] = ("dice", "iou"),
                others: list[str] | None = None) -> pd.DataFrame:
    """`compare` of `system` with each of `others` (by default all systems of the study), default scorings.

    Columns: COLUMNS; `policy` and `attributes` are those of `against`. p_holm is Holm's adjustment over the
    comparisons of one metric. No rows where the study has not got `system` or anything to compare it with on the same
    fold.
    """
    named = study.default.drop_duplicates("system").set_index("system")[["paper_name", "policy", "attributes"]]
    names = [name for name in study.systems if name != system and (others is None or name in others)
             and share_a_fold(study.default, system, name)]
    parts = []
    for metric in metrics if names else ():
        part = pd.DataFrame([compare(study.default, system, name, metric) for name in names])
        part["p_holm"] = holm(part["p"])
        parts.append(part.join(named.rename(columns={"paper_name": "against_name"}), on="against"))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)
