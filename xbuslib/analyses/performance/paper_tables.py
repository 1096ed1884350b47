"""The paper's Tables 1–4 from a study: both metric families beside each other, each printed figure beside its own.

A printed figure goes into the column `<metric>_printed` of the family that it can be compared with: the lesion's
(the paper's equations) or the two-class mean (`printed.FAMILY`). Rows are default scorings unless stated otherwise.
"""

import numpy as np
import pandas as pd

from xbuslib.analyses.performance import printed
from xbuslib.analyses.performance.comparisons import compare_all
from xbuslib.data.catalogue import SIZE_BINS
from xbuslib.errors import StudyError
from xbuslib.evaluation.aggregation import fold_lists, fold_means, over_folds
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.models import registry
from xbuslib.runs.study import Study

WHO = ["paper_name", "system", "policy", "attributes"]  # one row of a table
ABLATIONS = ["xbusnet", "xbusnet-no-lfe", "xbusnet-no-gfe", "xbusnet-no-sfa", "xbusnet-no-lfe-no-sfa"]
VARIANTS = [*ABLATIONS[1:], "xbusnet-released"]
USING_REFERENCE = ("paper", "reference")  # policies that may take size or location from the reference mask
RELEASED_FOLDS = "290c4d4b035e"  # folds.checksum of the authors' lists: only then is fold k the paper's fold k
OVERLAP = ["dice", "iou", "dice_two_class", "iou_two_class"]
MILLIMETRES = (10, 20)  # largest diameter of T1a–b, of T1c, and of T2 upwards (AJCC, 8th edition)
MEASURES = {"pixels": "long_side_px", "tertiles": "long_side_px", "millimetres": "long_side_mm"}  # bins of Table 2


def compared(study: Study) -> list[str]:
    """The systems of the paper's Tables 1 and 2, and those that a user brought.

    Variants of XBusNet only where the study has nothing else.
    """
    return [name for name in study.systems if name not in VARIANTS] or study.systems


def absent(study: Study, wanted: list[str]) -> list[str]:
    """The paper's names of those of `wanted` (registry names) that the study has not got."""
    return [registry.REGISTRY[name].paper for name in wanted if name not in study.systems]


def table_1(study: Study) -> pd.DataFrame:
    """A row per system, prompt policy and attributes: mean and SD over folds of both metric families; ablations only
    where the study has nothing else.

    `default` marks the scoring that the other tables use, `uses_reference` policies that may use the reference mask.
    Printed figures stand in the default rows, since the paper prints one figure per system.
    """
    rows = study.per_image[~study.per_image["system"].isin(ABLATIONS[1:])]
    table = over_folds(rows if len(rows) else study.per_image, [*WHO, "default"])
    table = _registry_order(table, study)
    table.insert(5, "uses_reference", table["policy"].isin(USING_REFERENCE))
    figures = printed.table_1().set_index("system")
    for metric in ("dice", "iou"):
        _place_printed(table, metric, table["system"].map(figures[metric]).where(table["default"]))
    if study.seen_before:  # by the weights that training started from
        _after(table, "attributes", "seen_before", table["system"].map(study.seen_before))
    return table


def printed_1(study: Study) -> pd.DataFrame:
    """The paper's Table 1 as printed beside the study's default scorings on the same family: mean and SD.

    The released code's FPR lies between 1/6 and 1/5 for any image with an error. A two-class row's printed FPR within
    that band is set beside ours of that kind; outside of it (XBusNet's) it is of neither family, and ours is left out.
    """
    table = printed.table_1()
    ours = over_folds(study.default, ["system", "paper_name"]).set_index("system")
    table = table[table["system"].isin(ours.index)].reset_index(drop=True)
    two_class = dict(zip(PAPER, RELEASED, strict=True))
    shown = pd.DataFrame({"paper_name": table["system"].map(ours["paper_name"]), "system": table["system"],
                          "family": table["family"].str.replace("_", "-")})
    for metric in PAPER:
        comparable = (table["family"] == "lesion") | (metric != "fpr") | table["fpr"].between(1 / 6, 1 / 5)
        for suffix in ("", "_sd"):
            shown[f"{metric}_printed{suffix}"] = table[metric + suffix]
            lesion, both = (table["system"].map(ours[m + suffix]) for m in (metric, two_class[metric]))
            shown[f"ours_{metric}{suffix}"] = lesion.where(table["family"] == "lesion", both).where(comparable)
    return shown


def table_3(study: Study, system: str = "xbusnet") -> pd.DataFrame:
    """`system` by fold, both families, and its mean and SD over folds in the last row; no row without the system.

    Printed figures, which are XBusNet's on the two-class scale, stand beside the authors' own folds only.
    """
    rows = study.default[study.default["system"] == system]
    if rows.empty:
        return pd.DataFrame(columns=["fold", "n", *PAPER, *RELEASED])
    table = fold_means(rows, [])
    table.insert(1, "n", table["fold"].map(rows.groupby("fold")["case_id"].nunique()))
    if system == "xbusnet" and study.facts["folds_checksum"] == RELEASED_FOLDS:
        figures = printed.table_3().set_index("fold")
        for metric in ("dice", "iou", "fnr"):
            _after(table, f"{metric}_two_class", f"{metric}_two_class_printed", table["fold"].map(figures[metric]))
    numbers = [column for column in table if column not in ("fold", "n")]
    last = {"fold": "all", "n": table["n"].sum(), **table[numbers].mean()}
    last |= {f"{metric}_sd": table[metric].std(ddof=1) for metric in numbers}
    return pd.concat([table.assign(fold=table["fold"].astype(str)), pd.DataFrame([last])], ignore_index=True)


def per_fold(study: Study, metric: str = "dice") -> pd.DataFrame:
    """Every system by fold: columns "<metric> fold k", and <metric> with its SD over folds; which these are, if systems
    differ in them."""
    means = fold_means(study.default, WHO, [metric])
    table = means.pivot(index=WHO, columns="fold", values=metric).add_prefix(f"{metric} fold ").reset_index()
    overall = over_folds(study.default, WHO, [metric])
    overall = overall if "fold_list" in overall else overall.drop(columns="folds")
    table = table.rename_axis(columns=None).merge(overall, on=WHO)
    return _registry_order(table, study)


def table_2(study: Study, by: str = "pixels") -> pd.DataFrame:
    """A row per size bin and system: n images, mean and SD over the images of the bin, missed lesions.

    by: "pixels" (the paper's bins), "tertiles" of the study's own lesions, or "millimetres", in which lesions of
    unknown pixel size are left out. `missed` counts lesions without any overlap (Dice 0), averaged over seeds. The
    paper does not say whether its figures are means over images or of fold means; weighted by the sizes of the bins
    they give its overall mean over images, so that is what stands here. An empty bin has n = 0 and no mean.
    """
    rows = sized(study, by)
    images = rows.groupby([*WHO, "bin", "fold", "case_id"], observed=True)
    scores = images[OVERLAP].mean().assign(missed=images["dice"].agg(lambda dice: (dice == 0).mean())).reset_index()
    grouped = scores.astype({"bin": str}).groupby([*WHO, "bin"])
    bins = pd.concat([grouped.size().rename("n"), grouped["missed"].sum(), grouped[OVERLAP].mean(),
                      grouped[OVERLAP].std(ddof=1).add_suffix("_sd")], axis=1)
    bins = bins[["n", "missed", *(metric + suffix for metric in OVERLAP for suffix in ("", "_sd"))]].reset_index()
    who = _registry_order(study.default[WHO].drop_duplicates(), study)
    table = pd.DataFrame({"bin": rows["bin"].cat.categories.astype(str)}).merge(who, how="cross")  # empty bins too
    table = table.merge(bins, on=[*WHO, "bin"], how="left")
    table["n"], table["missed"] = table["n"].fillna(0).astype(int), table["missed"].fillna(0)
    lists = fold_lists(study.default, ["system"])
    if lists.nunique() > 1:
        _after(table, "attributes", "fold_list", table["system"].map(lists))
    if by == "pixels":
        figures = printed.table_2().set_index(["system", "bin"])
        keys = pd.MultiIndex.from_frame(table[["system", "bin"]])
        for metric in ("dice", "iou"):
            _place_printed(table, metric, pd.Series(figures[metric].reindex(keys).to_numpy()))
    return table


def by_bin(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2 in the paper's layout: a row per system, a column per metric and bin, n images in all bins.

    table: `table_2`'s.
    """
    who = [name for name in ("paper_name", "system", "fold_list") if name in table]
    wide = table.groupby(who, sort=False)["n"].sum().reset_index()
    for metric in ("dice", "iou", "missed"):
        for name in table["bin"].unique():
            part = table[table["bin"] == name].set_index("system")
            for suffix in ("", "_sd") if metric != "missed" else ("",):
                wide[f"{metric} {name}{suffix}"] = wide["system"].map(part[metric + suffix])
    return wide


def measures(study: Study) -> list[str]:
    """Those of MEASURES that are known of at least one case."""
    return [by for by, column in MEASURES.items() if study.cases[column].notna().any()]


def sized(study: Study, by: str) -> pd.DataFrame:
    """Default per-image rows with size (MEASURES[by]) and bin (ordered category), joined on case_id.

    Raises StudyError for an unknown binning.
    """
    if by not in MEASURES:
        raise StudyError(f"Table 2 cannot be binned by {by!r}; choose from {', '.join(MEASURES)}")
    size = study.cases.set_index("case_id")[MEASURES[by]].astype(float).dropna()
    edges, labels = size_bins(size, by)
    rows = study.default[study.default["case_id"].isin(size.index)]
    size = rows["case_id"].map(size)
    codes = np.searchsorted(edges, size, side="left")  # an edge belongs to the bin on its left
    return rows.assign(size=size, bin=pd.Categorical.from_codes(codes, labels, ordered=True))


def size_bins(size: pd.Series, by: str) -> tuple[tuple[int, int], tuple[str, str, str]]:
    """Inner edges and labels of the three bins; the tertiles are those of `size`, whole pixels."""
    if by == "millimetres":
        low, high = MILLIMETRES
        return MILLIMETRES, (f"≤ {low} mm", f"{low}–{high} mm", f"> {high} mm")
    if by == "pixels":
        return SIZE_BINS, printed.BINS
    low, high = (int(edge) for edge in np.quantile(size, (1 / 3, 2 / 3)))
    middle = f"{low + 1}–{high} px" if low < high else "none"  # between equal tertiles there is no lesion
    return (low, high), (f"≤ {low} px", middle, f"> {high} px")


def table_4(study: Study) -> pd.DataFrame:
    """The ablations that the study has: switches, mean and SD over folds, drop against the full model, tests on images.

    <metric>_drop is the full model's fold mean minus the row's, averaged over the folds that both have. p_holm (Dice)
    is adjusted over the ablations.
    """
    rows = study.default[study.default["system"].isin(ABLATIONS)]
    means = _registry_order(over_folds(rows, WHO, OVERLAP), study)
    for position, part in enumerate(("lfe", "gfe", "sfa"), start=4):
        means.insert(position, part, [f"no-{part}" not in name for name in means["system"]])
    figures = printed.table_4().set_index("system")
    for metric in ("dice", "iou"):
        _after(means, f"{metric}_two_class_sd", f"{metric}_two_class_printed", means["system"].map(figures[metric]))
    tests = compare_all(study, metrics=("dice",), others=ABLATIONS).set_index("against")
    for metric in ("dice", "iou"):
        by_fold = fold_means(rows, ["system"], [metric]).pivot(index="system", columns="fold", values=metric)
        drop = (by_fold.reindex(["xbusnet"]).iloc[0] - by_fold).mean(axis=1).drop("xbusnet", errors="ignore")
        means[f"{metric}_drop"] = means["system"].map(drop).astype(float)
    for column in ("p_holm", "rank_biserial"):
        means[column] = means["system"].map(tests[column].astype(float))
    return means


def _registry_order(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows in the order of study.systems; those of one system stay as they are."""
    return table.sort_values("system", key=lambda s: s.map(study.systems.index), kind="stable", ignore_index=True)


def _place_printed(table: pd.DataFrame, metric: str, values: pd.Series) -> None:
    """`values` into <metric>_printed or <metric>_two_class_printed, by the family of each row's system."""
    family = table["system"].map(printed.FAMILY)
    for column, name in ((metric, "lesion"), (f"{metric}_two_class", "two_class")):
        _after(table, f"{column}_sd", f"{column}_printed", values.where(family == name))


def _after(table: pd.DataFrame, column: str, name: str, values: pd.Series) -> None:
    """Insert `values` as a column called `name`, to the right of `column`."""
    table.insert(table.columns.get_loc(column) + 1, name, values)
