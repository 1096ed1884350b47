"""Per-image overlap metrics in two families, always side by side.

The paper's equations (Section 2.4) count the lesion only: these are *the* metrics. The released code averages
background and lesion and takes errors for true negatives in its FPR; that family is shown so that its printed
figures can be compared (docs/protocol.md, "Metrics").
"""

import numpy as np
import pandas as pd

EPSILON = 1e-8  # Section 2.4
LEAST_IOU = 0.1  # of a lesion that counts as found: at the right place, whatever its outline (McKinney et al., 2020)
PAPER = ["dice", "iou", "fpr", "fnr"]
RELEASED = ["dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class"]


def per_image(predictions: np.ndarray, references: np.ndarray) -> pd.DataFrame:
    """Both families for N binary masks.

    predictions, references: (N, H, W) bool, or lists of N (H, W) arrays. Returns N rows with the columns
    PAPER + RELEASED, all in [0, 1]. Dice, IoU and FNR of an image without a reference lesion are undefined: nan.
    """
    rows = [_counts(p, r) for p, r in zip(predictions, references, strict=True)]
    tp, fp, fn, tn = np.array(rows, float).reshape(-1, 4).T  # (4, N)
    lesion = tp + fn > 0
    paper = {
        "dice": np.where(lesion, 2 * tp / (2 * tp + fp + fn + EPSILON), np.nan),
        "iou": np.where(lesion, tp / (tp + fp + fn + EPSILON), np.nan),
        "fpr": fp / (fp + tn + EPSILON),
        "fnr": np.where(lesion, fn / (fn + tp + EPSILON), np.nan),
    }
    return pd.DataFrame(paper | _released(tp, fp, fn, tn))[PAPER + RELEASED]


def _counts(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int, int]:
    p, r = np.asarray(prediction, bool), np.asarray(reference, bool)
    if p.shape != r.shape:
        raise ValueError(f"prediction {p.shape} and reference {r.shape} differ in size")
    tp = int((p & r).sum())
    fp, fn = int(p.sum()) - tp, int(r.sum()) - tp
    return tp, fp, fn, p.size - tp - fp - fn


def _released(tp, fp, fn, tn) -> dict[str, np.ndarray]:
    """Means over lesion and background. TN* = ΣGT + Σpred − 2Σintersection over both classes = 2(FP + FN)."""
    tn_star = 2 * (fp + fn)
    return {
        "dice_two_class": _mean(_ratio(2 * tp, 2 * tp + fp + fn), _ratio(2 * tn, 2 * tn + fp + fn)),
        "iou_two_class": _mean(_ratio(tp, tp + fp + fn), _ratio(tn, tn + fp + fn)),
        "fpr_released": _mean(_ratio(fp, fp + tn_star), _ratio(fn, fn + tn_star)),
        "fnr_two_class": _mean(_ratio(fn, fn + tp), _ratio(fp, fp + tn)),
    }


def _mean(lesion: np.ndarray, background: np.ndarray) -> np.ndarray:
    return (lesion + background) / 2


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where both are 0, as the released code scores it."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
