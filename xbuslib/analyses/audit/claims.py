"""The claims of the paper that notebook 10 goes through: the texts are in claims.yaml, the numbers come from here."""

from pathlib import Path

import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined

from xbuslib.analyses.audit import scales
from xbuslib.analyses.performance import printed
from xbuslib.display import tables
from xbuslib.files import write_whole
from xbuslib.models import registry

TEXTS = Path(__file__).with_name("claims.yaml")
COLUMNS = ["claim", "where", "printed", "computed", "verdict", "kind"]


def claims(lesions: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim, indexed by a short key, with COLUMNS.

    lesions: masks.lesions(table); table: all 256 images.
    """
    numbers = {"scores": _scores(lesions), "rates": _rates(lesions), "table_1": _table_1(lesions),
               "tables": _tables(lesions), "data": _data(lesions, table)}
    engine = Environment(undefined=StrictUndefined, autoescape=False)  # plain text, not HTML  # nosec B701
    engine.filters["f"] = format
    engine.globals |= {"listed": _listed, "names": _names, "each": _each, "paper": registry.REGISTRY}
    rows = {key: [engine.from_string(claim[column]).render(numbers[section]) for column in COLUMNS]
            for section, claims in yaml.safe_load(TEXTS.read_text("utf-8")).items() for key, claim in claims.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS).rename_axis("key")


def section(claim: pd.Series) -> str:
    """One claim as Markdown: printed, computed, verdict."""
    return (f"**Printed** ({claim['where']}): {claim['printed']}  \n**Computed:** {claim['computed']}  \n"
            f"**Verdict** ({claim['kind']}): {claim['verdict']}")


def save_markdown(table: pd.DataFrame, path: Path) -> Path:
    """Write all claims as one Markdown table below its caption; returns its path."""
    with write_whole(path) as partial:
        partial.write_text(tables.markdown(table, "Claims of the paper, and what follows from its numbers."), "utf-8")
    return path


def _scores(lesions: pd.DataFrame) -> dict:
    mean, folds, bins = lesions["fraction"].mean(), scales.by_fold(lesions), scales.by_bin(lesions)
    table_3, table_2 = printed.table_3().mean(), printed.table_2()
    dice, low, high = (scales.lesion_dice(table_3["dice"], mean, share) for share in (0.5, 0.3, 0.7))
    iou = scales.lesion_iou(table_3["iou"], 2 * table_3["dice"] - dice)
    off = (folds["log_lesion_dice"] - folds["log_one_minus_loss"]).abs().max()
    rival = table_2.query("system == 'bussam'")["dice"].to_numpy()
    return {"table_3": table_3, "dice": dice, "low": low, "high": high, "iou": iou, "folds": folds, "off": off,
            "bins": bins, "rival": rival}


def _rates(lesions: pd.DataFrame) -> dict:
    mean, rows = lesions["fraction"].mean(), scales.scales(lesions).set_index("system")
    table_3, log = printed.table_3(), scales.log()
    fpr, fnr = table_3["fpr"].mean(), table_3["fnr"].mean()
    reading = scales.precision_reading(fpr, fnr, mean)
    pooled = scales.pooled_bounds(lesions).set_index("system")
    low, high = scales.RELEASED_FPR
    needed = 2 * fnr - rows.at["bussam", "fnr"]
    return {"rows": rows, "low": low, "high": high, "log": log, "table_3": table_3, "fpr": fpr, "fnr": fnr,
            "mean": mean, "faultless": scales.faultless_share(fpr), "reading": reading, "pooled": pooled,
            "needed": needed, "flooded": scales.dice_if_flooded(fpr, fnr, lesions["fraction"].to_numpy())}


def _table_1(lesions: pd.DataFrame) -> dict:
    rows = scales.scales(lesions)
    on_lesion, two_class = rows[rows["family"] == "lesion"], rows[rows["family"] == "two_class"]
    order = rows.sort_values("lesion_scale", ascending=False)
    best, own = order.iloc[0], rows.set_index("system").loc["xbusnet"]
    return {"rows": rows, "on_lesion": on_lesion, "two_class": two_class, "order": order, "best": best, "own": own}


def _tables(lesions: pd.DataFrame) -> dict:
    sizes, (fitting, ways) = scales.size_definitions(lesions), scales.counts_that_fit(lesions)
    means, agreement = scales.means_two_ways(lesions), scales.tables_1_and_2(lesions)
    table, line = scales.ablation()
    fits, others = sizes[sizes["fits"]], sizes[~sizes["fits"]]
    apart = agreement[~agreement["agrees"]]
    named = table.set_index("system")
    return {"means": means, "fits": fits, "sizes": sizes, "others": others, "ways": ways, "fitting": fitting,
            "agreement": agreement, "apart": apart, "named": named, "table": table, "line": line,
            "text": scales.TEXT_MEANS, "rounding": scales.ROUNDING}


def _data(lesions: pd.DataFrame, table: pd.DataFrame) -> dict:
    normal, several = table[table["pathology"] == "normal"], table[table["other_regions"] > 0]
    counts = lesions["pathology"].value_counts()
    dice, ellipse = printed.table_3()["dice"].mean(), lesions["ellipse_dice_two_class"].mean()
    return {"normal": normal, "several": several, "counts": counts, "lesions": lesions, "dice": dice,
            "ellipse": ellipse}


def _listed(values, digits: int = 3, sign: bool = False) -> str:
    return " / ".join(f"{value:{'+' if sign else ''}.{digits}f}" for value in values).replace("-", "−")


def _names(rows: pd.DataFrame) -> str:
    *first, last = rows["name"]
    return f"{', '.join(first)} and {last}" if first else last


def _each(rows: pd.DataFrame, column: str, digits: str, between: str = ", ") -> str:
    return between.join(f"{name} {value:{digits}}" for name, value in zip(rows["name"], rows[column], strict=True))
