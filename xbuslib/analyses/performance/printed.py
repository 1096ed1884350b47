"""The tables of Mallina and Shareef (2025) as printed, and on which scale each row is.

`family` says which of our two metric families a row's Dice and IoU can be compared with: "lesion" (the paper's own
equations) or "two_class" (the mean of background and lesion that the released code computes). Notebook 10 derives it
from the printed figures alone. XBusNet's printed FPR fits neither family; CLIP-TNseg's is of the released code's kind.
"""

import pandas as pd

# Table 1: registry name: Dice, SD, IoU, SD, FPR, SD, FNR, SD over five folds of BLU.
_TABLE_1 = {
    "unet": (0.604, 0.038, 0.500, 0.032, 0.019, 0.015, 0.342, 0.069),
    "uresnet": (0.721, 0.040, 0.621, 0.049, 0.010, 0.007, 0.264, 0.078),
    "ukan": (0.752, 0.028, 0.614, 0.037, 0.009, 0.001, 0.305, 0.036),
    "anatosegnet": (0.733, 0.072, 0.627, 0.084, 0.015, 0.013, 0.216, 0.034),
    "bussam": (0.833, 0.020, 0.735, 0.026, 0.014, 0.003, 0.101, 0.024),
    "cliptnseg": (0.839, 0.019, 0.765, 0.020, 0.189, 0.002, 0.134, 0.017),
    "xbusnet": (0.877, 0.014, 0.815, 0.013, 0.099, 0.020, 0.078, 0.012),
}
FAMILY = {name: "two_class" if name in ("cliptnseg", "xbusnet") else "lesion" for name in _TABLE_1}

# Table 2: Dice and IoU for lesions of length 0–110, 111–250 and over 250 pixels.
_TABLE_2 = {
    "unet": (0.3668, 0.2750, 0.6461, 0.5251, 0.6739, 0.5625),
    "uresnet": (0.6238, 0.5327, 0.7859, 0.6863, 0.7305, 0.6217),
    "ukan": (0.7256, 0.5817, 0.7584, 0.6216, 0.7312, 0.5892),
    "anatosegnet": (0.6303, 0.5215, 0.7843, 0.6822, 0.7207, 0.6131),
    "bussam": (0.7846, 0.6714, 0.8465, 0.7510, 0.8426, 0.7495),
    "cliptnseg": (0.7689, 0.7026, 0.8587, 0.7867, 0.8447, 0.7621),
    "xbusnet": (0.8507, 0.7925, 0.8947, 0.8388, 0.8553, 0.7774),
}
BINS = ("≤ 110", "111–250", "> 250")  # pixels; 250 is printed in two bins, here it belongs to the middle one

_TABLE_3 = ((0.8846, 0.8241, 0.0984, 0.0670), (0.8910, 0.8302, 0.1280, 0.0659), (0.8583, 0.7987, 0.1077, 0.0835),
            (0.8649, 0.8033, 0.0857, 0.0771), (0.8836, 0.8181, 0.0771, 0.0944))  # XBusNet by fold

# Table 4: LFE, GFE, SFA, Dice, IoU; `system` is the model of ours with the same switches.
_TABLE_4 = (
    ("xbusnet", True, True, True, 0.8765, 0.8149),
    ("xbusnet-no-lfe-no-sfa", False, True, False, 0.8572, 0.7865),
    ("xbusnet-no-gfe", True, False, True, 0.8453, 0.7772),
    ("xbusnet-no-sfa", True, True, False, 0.8600, 0.8068),
)


def table_1() -> pd.DataFrame:
    """system, dice, dice_sd, iou, iou_sd, fpr, fpr_sd, fnr, fnr_sd, family."""
    columns = [name + suffix for name in ("dice", "iou", "fpr", "fnr") for suffix in ("", "_sd")]
    table = pd.DataFrame.from_dict(_TABLE_1, orient="index", columns=columns).rename_axis("system").reset_index()
    return table.assign(family=table["system"].map(FAMILY))


def table_2() -> pd.DataFrame:
    """Long: system, bin (of BINS), dice, iou, family."""
    rows = [(system, name, *values[2 * i:2 * i + 2], FAMILY[system])
            for system, values in _TABLE_2.items() for i, name in enumerate(BINS)]
    return pd.DataFrame(rows, columns=["system", "bin", "dice", "iou", "family"])


def table_3() -> pd.DataFrame:
    """XBusNet by fold: fold, dice, iou, fpr, fnr; on the two-class scale."""
    return pd.DataFrame(_TABLE_3, columns=["dice", "iou", "fpr", "fnr"]).rename_axis("fold").reset_index()


def table_4() -> pd.DataFrame:
    """system, lfe, gfe, sfa, dice, iou; on the two-class scale."""
    return pd.DataFrame(_TABLE_4, columns=["system", "lfe", "gfe", "sfa", "dice", "iou"])
