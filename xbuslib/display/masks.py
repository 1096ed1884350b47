"""A predicted mask's errors on its image, in the colours of Figure 2."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

FALSE_POSITIVE, FALSE_NEGATIVE = (0.0, 0.45, 0.95), (0.84, 0.15, 0.0)  # Figure 2: FP blue, FN red


def error_overlay(image: np.ndarray, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(S, S, 3) in [0, 1]: the grey image with false positives blue and false negatives red."""
    picture = np.repeat(image[..., None] / 255.0, 3, axis=2)
    for where, colour in ((prediction & ~reference, FALSE_POSITIVE), (reference & ~prediction, FALSE_NEGATIVE)):
        picture[where] = 0.35 * picture[where] + 0.65 * np.array(colour)
    return picture


def error_legend(figure: Figure) -> None:
    """What the colours mean, below all panels; the reference is outlined in white."""
    figure.legend(handles=[Patch(color=FALSE_POSITIVE, label="false positive"),
                           Patch(color=FALSE_NEGATIVE, label="false negative"),
                           Line2D([], [], color="white", label="reference",
                                  path_effects=[withStroke(linewidth=3, foreground="black")])],
                  loc="outside lower center", ncols=3)
