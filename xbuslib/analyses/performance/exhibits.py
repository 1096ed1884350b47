"""Tables 1–4 in the paper's own form: its rows, order and columns; what else is known stands in `paper_tables`.

Below the paper's systems, Tables 1 and 2 have those that a user brought: adopted predictions, models of others.

Dice, IoU, FPR and FNR are the paper's equations, lesion only, in default scorings.
"""

import pandas as pd

from xbuslib.analyses.performance import paper_tables, printed
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.evaluation.metrics import PAPER
from xbuslib.runs.study import Study

WHO = ["paper_name", "system"]
ABLATION_ROWS = ("xbusnet", "xbusnet-no-lfe-no-sfa", "xbusnet-no-gfe", "xbusnet-no-sfa")  # as Table 4 has them


def table_1(study: Study) -> pd.DataFrame:
    """The systems: mean and SD over folds of four metrics, and the printed Dice beside ours of its family.

    A printed Dice that is a two-class mean is followed by ours of that kind (`printed.FAMILY`). Where runs started from
    others, a last column says what had been seen before. Here and in Tables 2 and 4 a column says which folds (n: how
    many images) each row has, if they differ, as in a partial study.
    """
    table = over_folds(_rows(study, [*printed.FAMILY, *_brought(study)]), WHO)
    figures = printed.table_1().set_index("system")["dice"]
    table = _ordered(table, [*figures.index, *_brought(study)])
    dice = ["–" if row.system not in figures else
            f"{figures[row.system]:.3f}" if printed.FAMILY[row.system] == "lesion" else
            f"{figures[row.system]:.3f}, two-class (ours {row.dice_two_class:.3f})" for row in table.itertuples()]
    table = table[[*WHO, *_unequal(table, "folds", "fold_list"), *_with_sd([], PAPER)]].assign(printed=dice)
    return table.assign(seen_before=table["system"].map(study.seen_before)) if study.seen_before else table


def table_2(study: Study) -> pd.DataFrame:
    """The systems by longest side of the lesion's box: mean Dice and IoU over the images of each size bin."""
    bins = paper_tables.table_2(study, "pixels")
    order = [*printed.FAMILY, *_brought(study)]
    bins = bins[bins["system"].isin(order)]
    wide = bins.groupby([name for name in (*WHO, "fold_list") if name in bins], sort=False)["n"].sum().reset_index()
    wide = wide[[*WHO, *_unequal(wide, "fold_list", "n")]]
    for name in bins["bin"].unique():
        part = bins[bins["bin"] == name].set_index("system")
        for metric in ("dice", "iou"):
            wide[f"{metric} {name} px"] = wide["system"].map(part[metric])
    return _ordered(wide, order)


def table_3(study: Study) -> pd.DataFrame:
    """XBusNet by fold, and its mean ± SD, where there is more than one; no row without XBusNet."""
    table = paper_tables.table_3(study)
    table = table.head(1) if len(table) == 2 else table
    columns = ["fold", *(name for metric in PAPER for name in (metric, f"{metric}_sd") if name in table)]
    return table[columns].replace({"fold": {"all": "Mean"}})


def table_4(study: Study) -> pd.DataFrame:
    """The paper's four rows: which modules there are, Dice and IoU, mean and SD over folds."""
    table = over_folds(_rows(study, ABLATION_ROWS), WHO)
    table = _ordered(table, ABLATION_ROWS)
    parts = {part.upper(): ["No" if f"no-{part}" in name else "Yes" for name in table["system"]]
             for part in ("lfe", "gfe", "sfa")}
    return pd.DataFrame(parts).join(table[[*_unequal(table, "folds", "fold_list"), *_with_sd([], ["dice", "iou"])]])


def _brought(study: Study) -> list[str]:
    """The systems beside the paper's."""
    return [name for name in paper_tables.compared(study) if name not in printed.FAMILY]


def _rows(study: Study, systems) -> pd.DataFrame:
    return study.default[study.default["system"].isin(list(systems))]


def _ordered(table: pd.DataFrame, systems) -> pd.DataFrame:
    """Rows in the order of the paper's table."""
    return table.sort_values("system", key=lambda names: names.map(list(systems).index), ignore_index=True)


def _unequal(table: pd.DataFrame, *columns: str) -> list[str]:
    """Those columns that differ: rows over other folds or fewer images are then not compared (tables.markdown)."""
    return [column for column in columns if column in table and table[column].nunique() > 1]


def _with_sd(first: list[str], metrics: list[str]) -> list[str]:
    return [*first, *(name for metric in metrics for name in (metric, f"{metric}_sd"))]
