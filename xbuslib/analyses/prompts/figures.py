"""Pictures of prompts: the tokens of a text, a first-pass map, and shapes drawn from the words alone."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke

from xbuslib.analyses.prompts import leak
from xbuslib.data import originals
from xbuslib.display import style
from xbuslib.display.strips import strips
from xbuslib.prompts.words import Finding

WRAP = 94  # characters of tokens in one line
DRAWN = {leak.NUMBERS_DRAWN: ("released prompt", style.PALETTE[1]),  # shown on images: drawing: (prompt, colour)
         leak.WORDS_DRAWN: ("paper's words", style.PALETTE[5])}
OUTLINE = {"color": "white", "linewidth": 1.3}  # of the reference mask


def token_chips(texts: dict[str, list[str]]) -> Figure:
    """Each text (name: its tokens) as a row of boxes; tokens that are a single digit are coloured."""
    lines = [(name if first else "", part) for name, tokens in texts.items()
             for first, part in zip([True] + [False] * len(tokens), _wrap(tokens), strict=False)]
    figure, axis = style.subplots(size=(10.5, 0.42 * len(lines) + 0.6))
    for y, (name, tokens) in enumerate(lines):
        axis.text(-1, y, name, ha="right", va="center", fontsize=8.5)
        x = 0.0
        for token in tokens:
            width = len(token) + 1.2
            axis.add_patch(FancyBboxPatch((x, y - 0.3), width - 0.5, 0.6, boxstyle="round,pad=0,rounding_size=0.25",
                                          facecolor=style.PALETTE[3] if token.isdigit() else "0.93",
                                          edgecolor="0.5", linewidth=0.7))
            axis.text(x + (width - 0.5) / 2, y, token, ha="center", va="center", family="DejaVu Sans Mono", fontsize=8)
            x += width
    widest = max(sum(len(token) + 1.2 for token in tokens) for _, tokens in lines)
    axis.set(xlim=(-max(map(len, texts)) - 3, max(widest, 70)), ylim=(len(lines) - 0.4, -0.6))
    axis.set_axis_off()
    figure.suptitle("Tokens of CLIP; a number becomes one token per digit (orange)", fontsize=10)
    return figure


def first_pass_panels(probabilities: np.ndarray, threshold: float, finding: Finding, quadrant: str) -> Figure:
    """Section 2.7 on one (S, S) map: the map, what passes τ, and size and location of the largest component.

    `finding` is in the pixels of a frame of the map's own size.
    """
    figure, axes = style.subplots(1, 3, size=(9.2, 3.3))
    shown = axes[0].imshow(probabilities, vmin=0, vmax=1, cmap="cividis")
    figure.colorbar(shown, ax=axes[0], shrink=0.75, label="probability")
    for axis in axes[1:]:
        axis.imshow(probabilities >= threshold, cmap="gray_r", vmin=0, vmax=3)
    (x, y), (width, height) = finding.centre, finding.box
    axes[2].plot(x, y, "+", color=style.PALETTE[1], markersize=12, markeredgewidth=2)
    axes[2].add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False,
                                edgecolor=style.PALETTE[1], linewidth=1.8))
    axes[2].axhline(finding.frame[1] / 2 - 0.5, color="0.3", linestyle="--", linewidth=1)
    axes[2].axvline(finding.frame[0] / 2 - 0.5, color="0.3", linestyle="--", linewidth=1)
    titles = ("an artificial first-pass map", f"at least τ = {threshold:.2f}", f"largest component: {quadrant}")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    return figure


def drawn_shapes(cases: pd.DataFrame, drawn: list[dict], scores: pd.DataFrame, label: str) -> Figure:
    """Reference outline and what is drawn from the prompt alone, for a few cases, with the Dice of each drawing.

    drawn: per case, name of the drawing: (H, W) bool; scores: case_id, drawn, dice.
    """
    figure, axes = style.subplots(1, len(cases), size=(3.4 * len(cases), 4.1), squeeze=False)
    for axis, case, masks in zip(axes[0], cases.itertuples(), drawn, strict=True):
        axis.imshow(originals.image(case), cmap="gray", vmin=0, vmax=255)
        axis.contour(originals.mask(case), levels=[0.5], colors=OUTLINE["color"], linewidths=OUTLINE["linewidth"])
        own = scores[scores["case_id"] == case.case_id].set_index("drawn")["dice"]
        for name, (_, colour) in DRAWN.items():
            axis.contour(masks[name], levels=[0.5], colors=colour, linewidths=1.5, linestyles="--")
        axis.set_title(f"{case.case_id}\n" + ", ".join(f"{prompt}: Dice {own[name]:.2f}"
                                                       for name, (prompt, _) in DRAWN.items()), fontsize=8.5)
        axis.set_axis_off()
    lines = [Line2D([], [], label="reference mask", path_effects=[withStroke(linewidth=3, foreground="black")],
                    **OUTLINE)]
    lines += [Line2D([], [], color=colour, linestyle="--", label=f"drawn from the {prompt}")
              for prompt, colour in DRAWN.values()]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    return style.titled(figure, "Ellipses drawn from the prompt, without the image", label)


def leak_boxes(scores: pd.DataFrame, label: str) -> Figure:
    """Lesion Dice of each drawing over all cases: a dot a case, quartiles, median and whiskers as in `strips`, and
    the mean, a diamond. scores: drawn, dice.
    """
    means = scores.groupby("drawn", sort=False)["dice"].mean()
    figure, axis = style.subplots(size=(7.6, 0.55 * len(means) + 1.3))
    strips(axis, scores["dice"], scores["drawn"], {name: name for name in means.index}, "0.5")
    axis.plot(means, range(len(means)), "D", color=style.PALETTE[1], markeredgecolor="white", markersize=7, zorder=4)
    for y, mean in enumerate(means):
        axis.text(1.02, y, f"mean {mean:.2f}", va="center", fontsize=8.5)
    axis.set(xlim=(-0.02, 1.0), xlabel="Dice (lesion) at original resolution")
    return style.titled(figure, "What a shape drawn from the prompt alone scores, without the image", label)


def _wrap(tokens: list[str]) -> list[list[str]]:
    """Lines of at most WRAP characters."""
    lines, used = [[]], 0.0
    for token in tokens:
        if used + len(token) + 1.2 > WRAP:
            lines.append([])
            used = 0.0
        lines[-1].append(token)
        used += len(token) + 1.2
    return lines
