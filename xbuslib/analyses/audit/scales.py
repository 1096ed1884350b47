"""What the paper's printed figures can be: closed forms and small computations on them and on the lesions' sizes.

A *two-class* score is the mean of the lesion's and the background's, as the authors' released code computes it; a
*lesion* score is the paper's own equation (Section 2.4). A fraction is the share of the 352×352 image that a lesion
fills; `lesions` is the table of masks.lesions.
"""

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import linregress

from xbuslib.analyses.audit.masks import LENGTHS
from xbuslib.analyses.performance import printed
from xbuslib.data.catalogue import SIZE_BINS
from xbuslib.models import registry

RELEASED_FPR = (1 / 6, 1 / 5)  # what the released formula can give for an image with any error
ROUNDING = 1e-4  # of a mean of printed values compared with another: half a unit of the fourth decimal on each side
TABLE_1_ROUNDING = 0.0015  # its third decimal, and fold means against image means

# XBusNet by fold as the authors' own run of the released code printed it: Dice, IoU, FPR, FNR, validation loss (lesion
# soft Dice). File slurm-70112.out at commit 864c060 of github.com/rmallina14/XBusNet (MIT License), deleted since.
_LOG = ((0.8826, 0.8289, 0.1900, 0.0956, 0.2157), (0.8958, 0.8372, 0.1850, 0.0816, 0.1936),
        (0.8524, 0.7900, 0.1861, 0.1181, 0.2731), (0.8649, 0.8014, 0.1831, 0.1432, 0.2584),
        (0.8690, 0.8047, 0.1867, 0.1221, 0.2457))
TEXT_MEANS = {"dice": 0.8766, "iou": 0.8150, "fnr": 0.0775}  # Sections 3.1, 3.2; Tables 3 and 4 and the abstract differ


def log() -> pd.DataFrame:
    """The authors' published log: fold, dice, iou, fpr, fnr (two-class, by the released code), loss (lesion only)."""
    return pd.DataFrame(_LOG, columns=["dice", "iou", "fpr", "fnr", "loss"]).rename_axis("fold").reset_index()


def lesion_dice(two_class: float, fraction: float, fp_share: float = 0.5) -> float:
    """Lesion Dice of an image whose two-class Dice is `two_class` and whose lesion fills `fraction` of it.

    fp_share: false positives' share of the wrong pixels. With half, 1 − 2(1 − fraction)(1 − two_class).
    Raises ValueError if no image with that share has such a score.
    """
    most = min(fraction / (1 - fp_share) if fp_share < 1 else 1, (1 - fraction) / fp_share if fp_share > 0 else 1)
    if not np.mean(dice_pair(most, fraction, fp_share)) <= two_class <= 1:
        raise ValueError(f"no two-class Dice of {two_class} with a lesion fraction of {fraction}")
    wrong = brentq(lambda errors: np.mean(dice_pair(errors, fraction, fp_share)) - two_class, 0, most, xtol=1e-12)
    return dice_pair(wrong, fraction, fp_share)[0]


def dice_pair(errors: float, fraction: float, fp_share: float = 0.5) -> tuple[float, float]:
    """(lesion Dice, background Dice) of an image of which the share `errors` is wrong."""
    found, clear = fraction - (1 - fp_share) * errors, 1 - fraction - fp_share * errors  # TP, TN
    return 2 * found / (2 * found + errors), 2 * clear / (2 * clear + errors)


def two_class_dice(lesion: float, fraction: float) -> float:
    """The inverse, with as many false positives as false negatives."""
    return 1 - (1 - lesion) / (2 * (1 - fraction))


def lesion_iou(two_class_iou: float, background_dice: float) -> float:
    """Lesion IoU behind a two-class IoU; the background's IoU follows from its Dice b, b / (2 − b)."""
    return 2 * two_class_iou - background_dice / (2 - background_dice)


def nothing_predicted(fractions: np.ndarray) -> pd.Series:
    """Two-class scores (and the released FPR) of an answer without a single lesion pixel, mean over images."""
    return pd.Series({"dice": np.mean((1 - fractions) / (2 - fractions)), "iou": np.mean((1 - fractions) / 2),
                      "fpr": RELEASED_FPR[0], "fnr": 0.5})


def released_fpr(fp_share: np.ndarray | float) -> np.ndarray | float:
    """The released FPR of an image with errors, by false positives' share s of them: 1 − 5 / ((2 + s)(3 − s)).

    It is ½[FP/(FP + TN*) + FN/(FN + TN*)] with TN* = 2(FP + FN); nothing else of the image enters. (2 + s)(3 − s)
    = 6 + s(1 − s) runs from 6 at s = 0 and 1 to 6¼ at s = ½, so the value from 1/6 to 1/5.
    """
    return 1 - 5 / ((2 + fp_share) * (3 - fp_share))


def faultless_share(mean_released_fpr: float) -> float:
    """Least share of images without a wrong pixel behind a mean released FPR: each such image counts 0, others 1/6."""
    return max(0.0, 1 - mean_released_fpr / RELEASED_FPR[0])


def dice_from_rates(fpr: float, fnr: float, fractions: np.ndarray) -> float:
    """Test A: mean per-image lesion Dice if every image had these lesion-only rates (Section 2.4)."""
    found = (1 - fnr) * fractions
    return float(np.mean(2 * found / (2 * found + fpr * (1 - fractions) + fnr * fractions)))


def dice_if_flooded(fpr: float, fnr: float, fractions: np.ndarray) -> float:
    """The same means with all false positives in the few images with the largest lesions, marked from edge to edge.

    It shows how far test A is from a proof: uneven errors can have the same mean rates and a higher Dice.
    """
    flooded = round(fpr * len(fractions))
    large = np.sort(fractions)[len(fractions) - flooded:]
    rest = fnr * len(fractions) / (len(fractions) - flooded)
    return float((np.sum(2 * large / (1 + large)) + (len(fractions) - flooded) * 2 * (1 - rest) / (2 - rest))
                 / len(fractions))


def precision_reading(two_class_miss: float, two_class_fnr: float, fraction: float) -> pd.Series:
    """Lesion precision, recall and FPR if `two_class_miss` were a two-class 1 − precision; solved by iteration."""
    precision, recall = 0.9, 0.9
    for _ in range(200):
        fpr = recall * fraction * (1 - precision) / precision / (1 - fraction)
        missed = (1 - recall) * fraction
        precision = 1 - 2 * two_class_miss + missed / (missed + (1 - fraction) * (1 - fpr))
        recall = 1 - 2 * two_class_fnr + fpr
    return pd.Series({"precision": precision, "recall": recall, "fpr": fpr,
                      "harmonic_mean": 2 * precision * recall / (precision + recall)})


def by_fold(lesions: pd.DataFrame) -> pd.DataFrame:
    """Table 3 and the log beside the lesion Dice they imply, and the log's own lesion score, 1 − loss."""
    fractions = lesions.groupby("released_fold")["fraction"].mean()
    table, logged = printed.table_3()[["fold", "dice"]], log()
    implied = [[lesion_dice(dice, f) for dice, f in zip(column, fractions, strict=True)]
               for column in (table["dice"], logged["dice"])]
    return table.assign(images=lesions.groupby("released_fold").size(), fraction=fractions, lesion_dice=implied[0],
                        log_dice=logged["dice"], log_lesion_dice=implied[1], log_one_minus_loss=1 - logged["loss"])


def by_bin(lesions: pd.DataFrame) -> pd.DataFrame:
    """XBusNet's row of Table 2 beside the lesion and background scores it implies."""
    groups = lesions.groupby(_bins(LENGTHS["longest box side"](lesions)))["fraction"]
    table = printed.table_2().query("system == 'xbusnet'").drop(columns=["system", "family"]).reset_index(drop=True)
    table.insert(1, "lesions", groups.size())
    table.insert(2, "fraction", groups.mean())
    table["lesion_dice"] = [lesion_dice(row.dice, row.fraction) for row in table.itertuples()]
    table["background_dice"] = 2 * table["dice"] - table["lesion_dice"]
    return table.assign(lesion_iou=lesion_iou(table["iou"], table["background_dice"]))


def scales(lesions: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with tests A and B and each row's Dice on both scales.

    A, `dice_from_rates`: the lesion Dice that the printed FPR and FNR give when read as lesion rates. B: read as a
    two-class pair, Dice and IoU imply `implied_iou` of the lesion, which cannot be under `least_iou` = d / (2 − d)
    (that function is convex, so a mean of IoUs is at least its value at the mean Dice). family: two_class where A is
    off by more than a tenth and B allows it, else lesion. low, high: the lesion Dice of a two-class row with a
    faultless background, and at the mean lesion's size with any share of false positives; the row itself otherwise.
    """
    fractions, mean = lesions["fraction"].to_numpy(), lesions["fraction"].mean()
    rows = []
    for row in printed.table_1().drop(columns="family").itertuples(index=False):
        implied = lesion_dice(row.dice, mean)
        iou = lesion_iou(row.iou, 2 * row.dice - implied)
        expected = dice_from_rates(row.fpr, row.fnr, fractions)
        two_class = abs(expected - row.dice) > 0.1 and iou >= implied / (2 - implied)
        shares = [lesion_dice(row.dice, mean, share) for share in (0, 0.5, 1)] if two_class else [row.dice]
        rows.append(row._asdict() | {
            "name": registry.REGISTRY[row.system].paper, "dice_from_rates": expected,
            "implied_dice": implied, "implied_iou": iou, "least_iou": implied / (2 - implied),
            "over_least": row.iou - row.dice / (2 - row.dice), "fpr_in_band": _in_band(row.fpr),
            "family": "two_class" if two_class else "lesion", "lesion_scale": implied if two_class else row.dice,
            "two_class_scale": row.dice if two_class else two_class_dice(row.dice, mean),
            "low": 2 * row.dice - 1 if two_class else row.dice, "high": max(shares)})
    return pd.DataFrame(rows)


def pooled_bounds(lesions: pd.DataFrame) -> pd.DataFrame:
    """If a row's FPR is the paper's equation: false positives as a share of the image, and the Dice of all pixels
    pooled with the printed FNR. The mean lesion's share is the fraction to compare with."""
    mean, table = lesions["fraction"].mean(), printed.table_1()
    pooled = [dice_from_rates(row.fpr, row.fnr, np.array([mean])) for row in table.itertuples()]
    return table[["system", "dice", "fpr", "fnr"]].assign(false_area=table["fpr"] * (1 - mean), mean_lesion=mean,
                                                          pooled_dice=pooled)


def size_definitions(lesions: pd.DataFrame) -> pd.DataFrame:
    """Every meaning of "length": counts of the three bins, and XBusNet's row of Table 2 weighted by them.

    off_dice, off_iou: distance from the image-weighted means of Table 3; fits: both within ROUNDING.
    """
    target, rows = image_means(lesions), []
    for name, length in LENGTHS.items():
        counts = np.bincount(_bins(length(lesions)), minlength=3)
        dice, iou = (np.average(printed_bins, weights=counts) for printed_bins in _xbusnet_bins())
        rows.append((name, *counts, dice, iou, abs(dice - target["dice"]), abs(iou - target["iou"])))
    table = pd.DataFrame(rows, columns=["definition", *printed.BINS, "dice", "iou", "off_dice", "off_iou"])
    return table.assign(fits=table[["off_dice", "off_iou"]].max(axis=1) <= ROUNDING)


def counts_that_fit(lesions: pd.DataFrame) -> tuple[np.ndarray, int]:
    """((k, 3) counts of the bins that give both means, number of ways to deal all lesions into three bins)."""
    n, target = len(lesions), image_means(lesions)
    first, second = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    counts = np.stack([first, second, n - first - second], axis=-1).reshape(-1, 3)
    counts = counts[counts[:, 2] >= 0]
    dice, iou = (counts @ values / n for values in _xbusnet_bins())
    return counts[(abs(dice - target["dice"]) <= ROUNDING) & (abs(iou - target["iou"]) <= ROUNDING)], len(counts)


def image_means(lesions: pd.DataFrame) -> pd.Series:
    """Table 3 weighted by the number of images of each fold: dice, iou, fpr, fnr."""
    sizes = lesions.groupby("released_fold").size().to_numpy()
    return printed.table_3().set_index("fold").apply(lambda column: np.average(column, weights=sizes))


def means_two_ways(lesions: pd.DataFrame) -> pd.DataFrame:
    """Table 3 summarised: plain mean and sample SD over folds, and the mean over images."""
    folds = printed.table_3().set_index("fold")
    return pd.DataFrame({"over_folds": folds.mean(), "over_images": image_means(lesions), "sd": folds.std(ddof=1)})


def tables_1_and_2(lesions: pd.DataFrame) -> pd.DataFrame:
    """Table 2 weighted by bin minus Table 1, for each system; agrees: both within TABLE_1_ROUNDING."""
    counts = by_bin(lesions)["lesions"].to_numpy()
    table = printed.table_1()[["system", "dice", "iou"]].set_index("system")
    for metric in ("dice", "iou"):
        bins = printed.table_2().pivot(index="system", columns="bin", values=metric)[list(printed.BINS)]
        table[f"{metric}_from_table_2"] = bins @ counts / counts.sum()
        table[f"{metric}_off"] = table[f"{metric}_from_table_2"] - table[metric]
    return table.assign(agrees=table[["dice_off", "iou_off"]].abs().max(axis=1) <= TABLE_1_ROUNDING).reset_index()


def ablation() -> tuple[pd.DataFrame, pd.Series]:
    """(Table 4 with the IoU that each row's Dice predicts, the line it is predicted with).

    The line is fitted to XBusNet's ten known folds, Table 3 and the log; sd is its residual SD (eight degrees of
    freedom), and `in_sd` a row's distance from it in those.
    """
    folds = pd.concat([printed.table_3(), log()])
    fit = linregress(folds["dice"], folds["iou"])
    sd = float(np.sqrt(np.sum((folds["iou"] - fit.intercept - fit.slope * folds["dice"])**2) / (len(folds) - 2)))
    table = printed.table_4()
    table = table.assign(removed=3 - table[["lfe", "gfe", "sfa"]].sum(axis=1),
                         drop=table["dice"].iloc[0] - table["dice"],
                         predicted_iou=fit.intercept + fit.slope * table["dice"])
    off = table["iou"] - table["predicted_iou"]
    return (table.assign(iou_off=off, in_sd=off / sd),
            pd.Series({"slope": fit.slope, "intercept": fit.intercept, "sd": sd, "folds": len(folds)}))


def _xbusnet_bins() -> tuple[np.ndarray, np.ndarray]:
    own = printed.table_2().query("system == 'xbusnet'")
    return own["dice"].to_numpy(), own["iou"].to_numpy()


def _bins(lengths: pd.Series) -> np.ndarray:
    """Bin 0, 1 or 2 of each length in pixels; both edges belong to the lower bin."""
    return np.searchsorted(SIZE_BINS, lengths.to_numpy(), side="left")


def _in_band(value: float) -> bool:
    return RELEASED_FPR[0] <= value <= RELEASED_FPR[1]
