"""The claims of the paper that notebook 10 goes through: what is printed, what was computed, and what follows.

`kind` says how far a verdict reaches: "arithmetic" follows from printed figures, definitions or files alone;
"inference" is the reading that fits best and could be overturned by the authors' predictions; "agrees" needs no more.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.analyses.audit import scales
from xbuslib.analyses.performance import printed
from xbuslib.display import tables
from xbuslib.files import write_whole
from xbuslib.models import registry

COLUMNS = ["claim", "where", "printed", "computed", "verdict", "kind"]


def claims(lesions: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row per claim, indexed by a short key, with COLUMNS.

    lesions: masks.lesions(table); table: all 256 images.
    """
    rows = _scores(lesions) | _rates(lesions) | _table_1(lesions) | _tables(lesions) | _data(lesions, table)
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
    return {
        "dice": (
            "XBusNet's mean Dice and IoU, of the lesion by Section 2.4", "abstract, Table 3",
            f"Dice {table_3['dice']:.4f}, IoU {table_3['iou']:.4f}",
            f"read as a mean of lesion and background: lesion Dice {dice:.3f} ({low:.3f} to {high:.3f} as false "
            f"positives are 30 to 70 % of the errors; {2 * table_3['dice'] - 1:.3f} with a faultless background), "
            f"lesion IoU {iou:.2f}. The authors' log: {folds['log_dice'].mean():.4f} implies "
            f"{folds['log_lesion_dice'].mean():.3f}, and its own lesion score, 1 − loss, is "
            f"{folds['log_one_minus_loss'].mean():.3f}",
            "The released code averages lesion and background, and its log bears it out in every fold within "
            f"{off:.3f}. That the printed tables do so too is inferred from that code and from the rates of Table 1; "
            f"their lesion Dice is then about {dice:.2f}.", "inference"),
        "folds": (
            "“consistently strong overlap across folds”", "Section 3.1, Table 3",
            f"Dice {folds['dice'].min():.4f} to {folds['dice'].max():.4f}",
            "lesion Dice by fold " + " / ".join(f"{value:.3f}" for value in folds["lesion_dice"]),
            f"On the lesion scale the folds spread over {np.ptp(folds['lesion_dice']):.3f} instead of "
            f"{np.ptp(folds['dice']):.3f}, since the background's part hardly varies.", "inference"),
        "small": (
            "“Small lesions show the largest gains”", "abstract, Table 2",
            f"small, medium, large: Dice {_listed(bins['dice'], 4)}",
            f"lesion Dice {_listed(bins['lesion_dice'])}, lesion IoU {_listed(bins['lesion_iou'])}; averaging "
            f"adds {_listed(bins['dice'] - bins['lesion_dice'], sign=True)}; over BUSSAM as printed "
            f"{_listed(bins['dice'] - rival, sign=True)}, on the lesion scale "
            f"{_listed(bins['lesion_dice'] - rival, sign=True)}",
            "Averaging in a background that is nearly always right lifts small lesions most. On the lesion scale the "
            "small ones are the weakest bin, and BUSSAM's row is ahead in all three.",
            "inference"),
    }


def _rates(lesions: pd.DataFrame) -> dict:
    mean, rows = lesions["fraction"].mean(), scales.scales(lesions).set_index("system")
    table_3, log = printed.table_3(), scales.log()
    fpr, fnr = table_3["fpr"].mean(), table_3["fnr"].mean()
    reading = scales.precision_reading(fpr, fnr, mean)
    pooled = scales.pooled_bounds(lesions).set_index("system")
    low, high = scales.RELEASED_FPR
    needed = 2 * fnr - rows.at["bussam", "fnr"]
    return {
        "fpr_cliptnseg": (
            "CLIP-TNseg's FPR, FP/(FP + TN) by Section 2.4", "Table 1",
            f"{rows.at['cliptnseg', 'fpr']:.3f} ± {rows.at['cliptnseg', 'fpr_sd']:.3f}",
            f"the released formula takes 2(FP + FN) for TN and gives {low:.4f} to {high:.4f} for any image with an "
            f"error; the log's folds {log['fpr'].min():.3f} to {log['fpr'].max():.3f}",
            "The value lies inside the band and hardly varies, as the released formula would have it. It then says "
            "nothing about false positives.", "inference"),
        "fpr_xbusnet": (
            "XBusNet's FPR, by the same formula?", "Table 3",
            f"folds {_listed(table_3['fpr'])}, mean {fpr:.4f}",
            f"under {low:.4f} in every fold; such a mean needs {scales.faultless_share(fpr):.0%} of the images without "
            "one wrong pixel",
            "The metric code that was released is not the one behind XBusNet's row, unless that many images are "
            "faultless.", "arithmetic"),
        "fpr_fnr": (
            "XBusNet's FPR and FNR, if both are means over two classes", "Table 3",
            f"FPR {fpr:.4f}, FNR {fnr:.4f}",
            "one class's FP are the other's FN, so with a correct TN both are ½[FP/(FP + TN) + FN/(FN + TP)], the same "
            f"number; printed they differ by {(table_3['fpr'] - table_3['fnr']).abs().min():.3f} or more in every fold",
            "The pair is not a correct two-class FPR and FNR; nor are the other rows of Table 1. A two-class "
            f"1 − precision would fit XBusNet's (lesion precision {reading['precision']:.2f}, recall "
            f"{reading['recall']:.2f}), but nothing printed shows that it is one.", "arithmetic"),
        "fpr_area": (
            "“FPR is comparable to the text-guided baseline”", "Section 3.1, Table 1",
            f"XBusNet {rows.at['xbusnet', 'fpr']:.3f}, CLIP-TNseg {rows.at['cliptnseg', 'fpr']:.3f}, "
            f"BUSSAM {rows.at['bussam', 'fpr']:.3f}",
            f"by the paper's equation false positives fill {fpr * (1 - mean):.1%} of the image where the lesion fills "
            f"{mean:.1%}; all pixels pooled, with the printed FNR, Dice is then "
            f"{pooled.at['xbusnet', 'pooled_dice']:.2f}, and {pooled.at['cliptnseg', 'pooled_dice']:.2f} for "
            "CLIP-TNseg",
            "Not with a Dice of "
            f"{rows.at['xbusnet', 'dice']:.3f}, unless nearly all false positives lie in a few flooded images (such "
            f"rates then allow {scales.dice_if_flooded(fpr, fnr, lesions['fraction'].to_numpy()):.2f}). The three "
            "figures are read here as three different quantities.", "inference"),
        "fnr": (
            "“the lowest FNR (0.0775)”", "Section 3.1, Table 1",
            f"XBusNet {fnr:.4f}, BUSSAM {rows.at['bussam', 'fnr']:.3f}",
            f"read as two-class, the lesion's FNR is {2 * fnr:.3f} − FPR: {2 * fnr - 0.02:.3f} to {2 * fnr - 0.01:.3f} "
            f"for a lesion FPR of .01 to .02. It falls under BUSSAM's only if FPR exceeds {needed:.3f}; the log: "
            f"{2 * log['fnr'].mean() - 0.02:.3f} to {2 * log['fnr'].mean() - 0.01:.3f}",
            f"On one scale BUSSAM's FNR is the lowest; XBusNet's is about {2 * fnr - reading['fpr']:.2f}.",
            "inference"),
    }


def _table_1(lesions: pd.DataFrame) -> dict:
    rows = scales.scales(lesions)
    on_lesion, two_class = rows[rows["family"] == "lesion"], rows[rows["family"] == "two_class"]
    order = rows.sort_values("lesion_scale", ascending=False)
    best, own = order.iloc[0], rows.set_index("system").loc["xbusnet"]
    return {
        "table_1": (
            "“state-of-the-art performance on BLU … outperforming six strong baselines”", "abstract, Table 1",
            ", ".join(f"{n} {d:.3f}" for n, d in zip(rows["name"], rows["dice"], strict=True)),
            "Dice from printed FPR and FNR read as lesion rates: "
            + ", ".join(f"{n} {d:.2f}" for n, d in zip(rows["name"], rows["dice_from_rates"], strict=True))
            + f". Off by more than .1: {_names(two_class)}",
            f"{_names(on_lesion)} are lesion scores, {_names(two_class)} two-class means. On one lesion scale: "
            + " > ".join(f"{n} {d:.3f}" for n, d in zip(order["name"], order["lesion_scale"], strict=True))
            + f". The best row is then {best['name']}'s, whose own code gives it a click on the reference lesion; the "
            "paper does not say what its run was given.", "inference"),
        "wilcoxon": (
            "“significantly outperformed all baselines (two-sided p < 10⁻⁴)”", "Section 3.1",
            "median |r| ≈ 0.82 (Dice), 0.80 (IoU)",
            f"on its own scale XBusNet's {own['dice']:.3f} would meet "
            + ", ".join(f"{n} {d:.2f}" for n, d in zip(on_lesion["name"], on_lesion["two_class_scale"], strict=True)),
            "A signed-rank test needs both scores of a pair to be of one definition. If the families are as inferred, "
            f"{len(on_lesion)} of the {len(rows) - 1} pairs are not, and their p-values do not compare the systems. "
            "Only the per-image scores, which are not published, can decide it.", "inference"),
        "ukan": (
            "“We compute metrics per image and average within each fold”", "Section 2.4, Table 1",
            f"U-KAN Dice {rows.set_index('system').at['ukan', 'dice']:.3f}, "
            f"IoU {rows.set_index('system').at['ukan', 'iou']:.3f}",
            "IoU exceeds D/(2 − D) by "
            + ", ".join(f"{n} {d:.3f}" for n, d in zip(on_lesion["name"], on_lesion["over_least"], strict=True)),
            "The excess measures how much images differ. U-KAN's is so small that its scores look pooled over batches, "
            "as its own repository does.", "inference"),
    }


def _tables(lesions: pd.DataFrame) -> dict:
    sizes, (fitting, ways) = scales.size_definitions(lesions), scales.counts_that_fit(lesions)
    means, agreement = scales.means_two_ways(lesions), scales.tables_1_and_2(lesions)
    table, line = scales.ablation()
    fits, others = sizes[sizes["fits"]], sizes[~sizes["fits"]]
    apart = agreement[~agreement["agrees"]]
    named = table.set_index("system")
    return {
        "bins": (
            "scores by “tumor length intervals” 0–110, 111–250 and 250+", "Table 2",
            f"no definition of length; XBusNet's image mean {means.at['dice', 'over_images']:.5f} / "
            f"{means.at['iou', 'over_images']:.5f} (Dice / IoU, from Table 3)",
            f"{len(fits)} of {len(sizes)} definitions fits within ±{scales.ROUNDING}: "
            + "; ".join(f"{row[0]}, {' / '.join(map(str, row[1:4]))} lesions, gives {row[4]:.5f} / {row[5]:.5f}"
                        for row in fits.itertuples(index=False))
            + f". The next one misses Dice or IoU by {others[['off_dice', 'off_iou']].max(axis=1).min():.4f}. Of all "
            f"{ways:,} possible counts {len(fitting)} fit",
            "Length is the longest side of the bounding box at original resolution. A definition that was not tried "
            "would have to give nearly the same counts.", "inference"),
        "tables_1_2": (
            "Tables 1 and 2 are of the same runs", "Tables 1 and 2; expected, not said",
            "means of five folds, and means by size",
            "Table 2 weighted by bin minus Table 1 (Dice / IoU): "
            + ", ".join(f"{registry.REGISTRY[row.system].paper} {_listed([row.dice_off, row.iou_off], 4, True)}"
                        for row in agreement.itertuples()),
            f"{len(agreement) - len(apart)} rows agree within rounding and weighting. "
            f"{', '.join(registry.REGISTRY[name].paper for name in apart['system'])} do not, by up to "
            f"{apart[['dice_off', 'iou_off']].abs().max(axis=None):.3f}: other runs, another aggregation, or other "
            "bins than those found for XBusNet.", "inference"),
        "means": (
            "Dice, IoU and FNR appear with two different last digits", "abstract, Tables 3–4; Section 3.1",
            f"{means.at['dice', 'over_folds']:.4f} / {means.at['iou', 'over_folds']:.4f} / "
            f"{means.at['fnr', 'over_folds']:.4f}, and "
            + " / ".join(f"{scales.TEXT_MEANS[name]:.4f}" for name in ("dice", "iou", "fnr")),
            "mean of folds "
            + " / ".join(f"{means.at[name, 'over_folds']:.5f}" for name in ("dice", "iou", "fnr"))
            + ", mean of images "
            + " / ".join(f"{means.at[name, 'over_images']:.5f}" for name in ("dice", "iou", "fnr"))
            + "; sample SD of the folds " + " / ".join(f"{value:.3f}" for value in means["sd"]),
            "Both are right: one is the mean of the folds, the other that of the images. The SDs of XBusNet's row in "
            "Table 1 are those of Table 3.", "agrees"),
        "ablation": (
            "“removing any single component degrades performance”", "Section 3.2, Table 4",
            f"without LFE {named.at['xbusnet-no-lfe-no-sfa', 'dice']:.4f}, without GFE "
            f"{named.at['xbusnet-no-gfe', 'dice']:.4f}, without SFA {named.at['xbusnet-no-sfa', 'dice']:.4f}",
            f"components switched off: {named.at['xbusnet-no-lfe-no-sfa', 'removed']}, "
            f"{named.at['xbusnet-no-gfe', 'removed']} and {named.at['xbusnet-no-sfa', 'removed']}",
            "The row described as without LFE has SFA off as well, so it removes two. No row removes the LFE alone.",
            "arithmetic"),
        "ablation_iou": (
            "Dice and IoU of the ablations", "Table 4",
            "; ".join(f"{row.dice:.4f} / {row.iou:.4f}" for row in table.itertuples()),
            f"over XBusNet's {line['folds']:.0f} known folds IoU = {_listed([line['intercept']])} + "
            f"{line['slope']:.3f}·Dice, residual SD {line['sd']:.4f}; the rows are off by "
            + ", ".join(f"{_listed([row.iou_off], 4, True)} ({_listed([row.in_sd], 1, True)} SD)"
                        for row in table.itertuples()),
            "The full model lies on the line; the ablations lie off it, on both sides. They may be of other runs, of "
            "another aggregation, or misprinted; the line is of one model and need not hold for the others.",
            "inference"),
    }


def _data(lesions: pd.DataFrame, table: pd.DataFrame) -> dict:
    normal, several = table[table["pathology"] == "normal"], table[table["other_regions"] > 0]
    counts = lesions["pathology"].value_counts()
    dice, ellipse = printed.table_3()["dice"].mean(), lesions["ellipse_dice_two_class"].mean()
    return {
        "exclusions": (
            "“Four images with multiple annotated lesions … were excluded”", "Section 2.1",
            "256 − 4 = 252 images, 154 benign and 98 malignant",
            f"{len(normal)} images have no lesion mask ({', '.join(normal['case_id'])}); {len(several)} have a second "
            f"annotated region ({', '.join(several['case_id'])}), and {several['released_fold'].notna().sum()} of them "
            f"are in the released lists; the archive holds {counts['benign']} benign and {counts['malignant']} "
            "malignant",
            f"Left out were the {len(normal)} normal images: without any one image of a lesion, 154 and 98 could not "
            "be reached.", "arithmetic"),
        "prompt": (
            "“location is estimated without masks” at validation", "Section 2.2",
            "size class and quadrant in the paper; the released lists hold box and centroid in pixels",
            "a filled ellipse of that size at that place, no image read: lesion Dice "
            f"{lesions['ellipse_dice'].mean():.3f} (median {lesions['ellipse_dice'].median():.3f}), IoU "
            f"{lesions['ellipse_iou'].mean():.3f}, two-class Dice {ellipse:.3f}; a filled box, lesion Dice "
            f"{lesions['box_dice'].mean():.3f}, IoU {lesions['box_iou'].mean():.3f}",
            f"XBusNet's printed {dice:.4f} is below the ellipse's {ellipse:.3f} if it is a two-class mean, and level "
            "with its lesion Dice if it were one. A frozen text encoder lets less through than a ruler, how much is "
            "not known here; nor is which prompt the printed tables were made with.", "arithmetic"),
    }


def _listed(values, digits: int = 3, sign: bool = False) -> str:
    return " / ".join(f"{value:{'+' if sign else ''}.{digits}f}" for value in values).replace("-", "−")


def _names(rows: pd.DataFrame) -> str:
    *first, last = rows["name"]
    return f"{', '.join(first)} and {last}" if first else last
