"""The tables of Mallina and Shareef (2025) as printed, and on which scale each row is.

`family` says which of our two metric families a row's Dice and IoU can be compared with: "lesion" (the paper's own
equations) or "two_class" (the mean of background and lesion that the released code computes). Notebook 10 infers it
from the printed figures, the sizes of BLU's lesions and the released code. XBusNet's printed FPR fits neither family;
CLIP-TNseg's is of the released code's kind.
"""

from pathlib import Path

import pandas as pd
import yaml

PRINTED = yaml.safe_load(Path(__file__).with_name("printed.yaml").read_text(encoding="utf-8"))
FAMILY = {name: "two_class" if name in ("cliptnseg", "xbusnet") else "lesion" for name in PRINTED["table_1"]}
BINS = ("≤ 110", "111–250", "> 250")  # pixels; 250 is printed in two bins, here it belongs to the middle one


def table_1() -> pd.DataFrame:
    """system, dice, dice_sd, iou, iou_sd, fpr, fpr_sd, fnr, fnr_sd, family."""
    columns = [name + suffix for name in ("dice", "iou", "fpr", "fnr") for suffix in ("", "_sd")]
    table = pd.DataFrame.from_dict(PRINTED["table_1"], orient="index", columns=columns)
    return table.rename_axis("system").reset_index().assign(family=table.index.map(FAMILY))


def table_2() -> pd.DataFrame:
    """Long: system, bin (of BINS), dice, iou, family."""
    rows = [(system, name, *values[2 * i:2 * i + 2], FAMILY[system])
            for system, values in PRINTED["table_2"].items() for i, name in enumerate(BINS)]
    return pd.DataFrame(rows, columns=["system", "bin", "dice", "iou", "family"])


def table_3() -> pd.DataFrame:
    """XBusNet by fold: fold, dice, iou, fpr, fnr; on the two-class scale."""
    return pd.DataFrame(PRINTED["table_3"], columns=["dice", "iou", "fpr", "fnr"]).rename_axis("fold").reset_index()


def table_4() -> pd.DataFrame:
    """system, lfe, gfe, sfa, dice, iou; on the two-class scale."""
    return pd.DataFrame([(system, *row) for system, row in PRINTED["table_4"].items()],
                        columns=["system", "lfe", "gfe", "sfa", "dice", "iou"])
