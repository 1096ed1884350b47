"""Small diagrams of GFE, LFE and SFA: the steps of each with the shapes that a forward pass of the model gave."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from xbuslib.analyses.anatomy import ADJUST, FROZEN, PROMPT, TRAINED
from xbuslib.display import style
from xbuslib.models.system import System

Shapes = dict[str, tuple[int, ...]]  # anatomy.trace


class Step(NamedTuple):
    """One box of a diagram."""

    name: str
    shape: str = ""  # of what comes out of it
    colour: str = TRAINED
    prompt: str = ""  # what enters it from above


def branches(system: System, shapes: Shapes) -> Figure:
    """The three parts of XBusNet below each other, from input to output; shapes are channels × height × width."""
    figure, axes = style.subplots(3, 1, size=(10.6, 6.3))
    parts = {"Global Feature Extractor (GFE): equations (6)–(8)": _gfe(shapes),
             "Local Feature Extractor (LFE): equations (9)–(12)": _lfe(shapes),
             "Semantic Feature Adjustment (SFA): equations (3), (11), (13)–(15)": _sfa(system)}
    for axis, (title, steps) in zip(axes, parts.items(), strict=True):
        _draw(axis, title, steps)
    kinds = {"frozen": FROZEN, "trained": TRAINED, "adjusted by a prompt": ADJUST, "prompt": PROMPT}
    figure.legend(handles=[FancyBboxPatch((0, 0), 1, 1, facecolor=colour, edgecolor="0.4", label=text)
                           for text, colour in kinds.items()], loc="outside lower center", ncols=4)
    return figure


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:]))


def _gfe(shapes: Shapes) -> list[Step]:
    _, layers, patches, width = shapes["tokens"]
    return [Step("image", _size(shapes[""])), Step("CLIP image\nencoder", f"{layers} × {patches}×{width}", FROZEN),
            Step("reduce each\nlayer, sum (6)", f"{patches}×{shapes['gfe.reduce.0'][-1]}"),
            Step("scale and\nshift (7)", f"{patches}×{shapes['gfe.reduce.0'][-1]}", ADJUST, "global prompt"),
            Step("transposed\nconvolution (8)", _size(shapes["gfe.project"])),
            Step("SFA (3)", _size(shapes["gfe.sfa"]), ADJUST, "global prompt")]


def _lfe(shapes: Shapes) -> list[Step]:
    return [Step("image", _size(shapes[""])), Step("ResNet-50\nstages 1–3", _size(shapes["lfe.encoder.layer2"])),
            Step("stage 4 +\ntransformer (10)", _size(shapes["lfe.block4"])),
            Step("bottleneck +\ntransformer (10)", _size(shapes["lfe.block5"])),
            Step("decoder with SFA\nat enc4, dec4,\ndec3, dec2 (11)", _size(shapes["lfe.sfa.dec2"]), ADJUST,
                 "local prompt (9)"),
            Step("transposed\nconvolution (12)", _size(shapes["lfe.final"]))]


def _sfa(system: System) -> list[Step]:
    hidden, embedding = system.gfe.sfa.mlp[0].weight.shape
    channels = system.gfe.sfa.mlp[2].weight.shape[0] // 2
    return [Step("prompt\nembedding", f"{embedding}", PROMPT), Step("MLP (14)", f"{hidden}"),
            Step("its output", f"2 × {channels}"), Step("split (14):\nγ and β", f"{channels} each"),
            Step("γ · F + β (13)\n+ F (15)", "as F", ADJUST, "feature map F")]


def _draw(axis: Axes, title: str, steps: list[Step]) -> None:
    """Boxes from left to right, with arrows; shapes below them."""
    axis.set_axis_off()
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    width = 1 / 6
    for i, step in enumerate(steps):
        left = i * width + 0.01
        axis.add_patch(FancyBboxPatch((left, 0.32), width - 0.045, 0.4, boxstyle="round,pad=0,rounding_size=0.02",
                                      facecolor=step.colour, edgecolor="0.4", mutation_aspect=0.3))
        axis.text(left + (width - 0.045) / 2, 0.52, step.name, ha="center", va="center", fontsize=8.5)
        axis.text(left + (width - 0.045) / 2, 0.24, step.shape, ha="center", va="top", fontsize=8.5, color="0.3")
        if i:
            axis.annotate("", (left, 0.52), (left - 0.035, 0.52), arrowprops={"arrowstyle": "-|>", "color": "0.3"})
        if step.prompt:
            middle = left + (width - 0.045) / 2
            axis.annotate(step.prompt, (middle, 0.72), (middle, 0.98), ha="center", va="top", fontsize=8.5,
                          bbox={"facecolor": PROMPT, "edgecolor": "0.6", "pad": 2},
                          arrowprops={"arrowstyle": "-|>", "color": style.PALETTE[1]})
    axis.set(xlim=(0, 1), ylim=(0.05, 1.05))
