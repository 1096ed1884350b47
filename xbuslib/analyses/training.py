"""Pictures of one run: its learning curve, and its errors on chosen cases."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xbuslib.data.images import Prepared
from xbuslib.display import style
from xbuslib.display.masks import error_legend, error_overlay


def learning_curve(history: pd.DataFrame, title: str) -> Figure:
    """Training loss by iteration with a running mean over a twentieth of the run, and the learning rate."""
    window = max(1, len(history) // 20)
    figure, (top, bottom) = style.subplots(2, 1, size=(6.4, 4.2), sharex=True, height_ratios=(3, 1))
    top.plot(history["iteration"], history["loss"], color="0.7", linewidth=0.8, label="every iteration")
    top.plot(history["iteration"], history["loss"].rolling(window, min_periods=1).mean(), color=style.PALETTE[0],
             linewidth=1.8, label=f"mean of {window}")
    top.set(title=title, ylabel="soft Dice loss", ylim=(0, max(1.0, history["loss"].max())))
    top.legend(loc="upper right")
    bottom.plot(history["iteration"], history["learning_rate"], color=style.PALETTE[1])
    bottom.set(xlabel="iteration", ylabel="learning rate", ylim=(0, None))
    return figure


def error_panels(prepared: Prepared, chosen: pd.DataFrame, maps: dict[str, np.ndarray], threshold: float,
                 label: str) -> Figure:
    """One column per row of `chosen` (case_id, dice): the image above, errors and reference outline below."""
    figure, axes = style.subplots(2, len(chosen), size=(2.5 * len(chosen), 5.6), squeeze=False)
    for column, case in zip(axes.T, chosen.itertuples(), strict=True):
        row = prepared.rows([case.case_id])[0]
        image, mask = prepared.images[row], prepared.masks[row]
        column[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        column[0].set_title(f"{case.case_id}\nDice {case.dice:.2f}")
        column[1].imshow(error_overlay(image, maps[case.case_id] >= threshold, mask))
        column[1].contour(mask, levels=[0.5], colors="white", linewidths=0.8)
    for axis in axes.flat:
        axis.set_axis_off()
    error_legend(figure)
    figure.suptitle(label)
    return figure
