"""Pictures of one segmented image: outline and diameters over it, and where the folds of an ensemble disagree."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from xbuslib.display import style
from xbuslib.evaluation.measure import Lesion
from xbuslib.lesion.reading import Picture

LONGEST_SIDE = 5.0  # inches of the picture itself
OUTLINED = [withStroke(linewidth=2.6, foreground="black")]
OUTLINE, LONGEST, ORTHOGONAL = style.PALETTE[3], style.PALETTE[5], style.PALETTE[4]
MOST = 0.5  # of the colour scale: the SD of runs of which half say 0 and half say 1


def overlay(picture: Picture, mask: np.ndarray, lesion: Lesion | None) -> Figure:
    """The image with the outline of the (H, W) mask and both diameters of the measured region."""
    figure, axis = _frame(picture)
    axis.imshow(picture.grey, cmap="gray", vmin=0, vmax=255, aspect=_aspect(picture))
    _outline(axis, mask)
    if lesion:
        for line, colour, dashes, name, length in (
                (lesion.longest_line, LONGEST, "-", "longest diameter", lesion.longest_diameter),
                (lesion.orthogonal_line, ORTHOGONAL, (0, (3, 1.5)), "orthogonal diameter", lesion.orthogonal_diameter)):
            axis.plot(*np.transpose(line), color=colour, linestyle=dashes, linewidth=1.6, path_effects=OUTLINED,
                      label=f"{name} {amount(length, lesion.unit)}")
        axis.plot([], [], color=OUTLINE, path_effects=OUTLINED, label="outline")
        figure.legend(loc="outside lower center", ncols=2)
    _scale_bar(axis, picture)
    return figure


def disagreement(picture: Picture, spread: np.ndarray, mask: np.ndarray) -> Figure:
    """The SD of the runs' probabilities, (H, W), on a fixed scale, with the ensemble's outline."""
    figure, axis = _frame(picture)
    shown = axis.imshow(spread, cmap="magma", vmin=0, vmax=MOST, aspect=_aspect(picture))
    _outline(axis, mask)
    figure.colorbar(shown, ax=axis, location="bottom", shrink=0.8, aspect=35, pad=0.02, extend="max",
                    label="SD of the probability over runs")
    return figure


def amount(value: float, unit: str) -> str:
    """ "12.3 mm", "151 px" """
    return f"{value:.1f} {unit}" if unit.startswith("mm") else f"{value:.0f} {unit}"


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=style.RESOLUTION, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()


def _frame(picture: Picture) -> tuple[Figure, Axes]:
    width, height = picture.frame[0], picture.frame[1] * _aspect(picture)
    scale = LONGEST_SIDE / max(width, height)
    figure, axis = style.subplots(size=(max(2.6, width * scale), max(1.5, height * scale) + 0.7))
    axis.set_axis_off()
    axis.set(xlim=(-0.5, picture.frame[0] - 0.5), ylim=(picture.frame[1] - 0.5, -0.5))
    return figure, axis


def _aspect(picture: Picture) -> float:
    """Height of a pixel over its width, so that a round lesion looks round."""
    return picture.pixel_mm[1] / picture.pixel_mm[0] if picture.pixel_mm else 1.0


def _outline(axis: Axes, mask: np.ndarray) -> None:
    if mask.any():
        padded = np.pad(mask, 1).astype(float)  # an outline at the edge of the image is closed there
        rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
        drawn = axis.contour(columns, rows, padded, levels=[0.5], colors=[OUTLINE], linewidths=1.3)
        drawn.set_path_effects(OUTLINED)


def _scale_bar(axis: Axes, picture: Picture) -> None:
    """10 mm, or 5 where the image is narrow; nothing where the pixel size is unknown."""
    if not picture.pixel_mm:
        return
    width, height = picture.frame
    length = 10 if width * picture.pixel_mm[0] > 25 else 5  # mm
    left, at = 0.04 * width, 0.96 * height
    axis.plot([left, left + length / picture.pixel_mm[0]], [at, at], color="white", linewidth=2.5,
              solid_capstyle="butt", path_effects=[withStroke(linewidth=4.5, foreground="black")])
    axis.annotate(f"{length} mm", (left, at), (0, 5), textcoords="offset points", color="white", va="bottom",
                  path_effects=OUTLINED)
