"""Small diagrams of GFE, LFE and SFA: the steps of each with the shapes that a forward pass of the model gave."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from xbuslib.analyses.anatomy import ADJUST, FROZEN, PATH, PROMPT, TRAINED, WORDS
from xbuslib.display import style
from xbuslib.models.encoders import CLIP_LAYERS
from xbuslib.models.system import System

Shapes = dict[str, tuple[int, ...]]  # of anatomy.trace
DATA = "0.93"  # a box that is no layer: an image, a map
KINDS = {DATA: "input", TRAINED: "trained", FROZEN: "frozen", ADJUST: "adjusted by a prompt", PROMPT: "prompt"}
WIDTH = 10.8  # of a diagram, in inches
LEVEL, HALF = 0.55, 0.26  # of the boxes: height of the centres, half of their own height


class Step(NamedTuple):
    """One box of a diagram."""

    name: str
    shape: str  # of what comes out of it
    colour: str = TRAINED
    given: str = ""  # what enters it from above, beside the output of the step before


def gfe(system: System, shapes: Shapes) -> Figure:
    """The Global Feature Extractor, equations (6)–(8) and (3); tokens × channels, then channels × height × width."""
    _, layers, patches, width = shapes["tokens"]
    reduced = f"{patches}×{shapes['gfe.reduce.0'][-1]}"
    prompt = f"global prompt $e_c$: {system.clip.embedding}"
    return _diagram("Global Feature Extractor (GFE)", [
        Step("image", _size(shapes[""]), DATA),
        Step(f"CLIP image\nencoder, blocks\n{', '.join(map(str, CLIP_LAYERS))}", f"{layers} × {patches}×{width}",
             FROZEN),
        Step("reduce, sum\n(6): A", reduced), Step("scale, shift\n(7): Ã", reduced, ADJUST, prompt),
        Step("transposed\nconvolution\n(8): $F_g$", _size(shapes["gfe.project"])),
        Step("SFA (3): $\\hat{F}_g$", _size(shapes["gfe.sfa"]), ADJUST, prompt)])


def lfe(system: System, shapes: Shapes) -> Figure:
    """The Local Feature Extractor, equations (9)–(12), with the skips of its U-Net; channels × height × width."""
    prompt = f"local prompt\n$e_\\ell$ (9): {system.clip.embedding}"
    encoder = [Step(f"enc{k}", _size(shapes[f"lfe.encoder.{name}"])) for k, name in
               ((1, "act1"), (2, "layer1"), (3, "layer2"))]
    decoder = [Step(f"up block,\nSFA (11):\ndec{k}*", _size(shapes[f"lfe.sfa.dec{k}"]), ADJUST, prompt)
               for k in (4, 3, 2)]
    steps = [Step("image", _size(shapes[""]), DATA), *encoder,
             Step("enc4, then\nTrEnc (10),\nSFA (11):\nenc4*", _size(shapes["lfe.sfa.enc4"]), ADJUST, prompt),
             Step("enc5, then\nTrEnc (10):\ncenter′", _size(shapes["lfe.block5"])), *decoder,
             Step("up block:\ndec1", _size(shapes["lfe.up1"])),
             Step("final\n(12): $F_\\ell$", _size(shapes["lfe.final"]))]
    skips = ((1, 9), (2, 8), (3, 7), (4, 6))  # positions of steps: each encoder map enters its up block
    return _diagram("Local Feature Extractor (LFE)", steps, skips)


def sfa(system: System, shapes: Shapes) -> Figure:
    """Semantic Feature Adjustment, equations (13)–(15), with the widths that it has in the global branch."""
    hidden, embedding = system.gfe.sfa.mlp[0].weight.shape
    twice = system.gfe.sfa.mlp[2].weight.shape[0]
    maps = _size(shapes["gfe.project"])
    return _diagram("Semantic Feature Adjustment (SFA), here in the global branch", [
        Step("prompt\nembedding e", f"{embedding}", PROMPT), Step("MLP (14)", f"{hidden}, then {twice}"),
        Step("split (14):\nγ and β", f"{twice // 2} each"),
        Step("γ ⊙ F + β\n(13): $\\hat{F}$", maps, ADJUST, f"feature map F: {maps}"),
        Step("$\\hat{F}$ + F\n(15): $F_{out}$", maps, ADJUST, f"feature map F: {maps}")])


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:]))


def _diagram(title: str, steps: list[Step], skips: tuple[tuple[int, int], ...] = ()) -> Figure:
    """Boxes from left to right with arrows and the shapes below them; `skips` join two boxes from below."""
    figure, axis = style.subplots(size=(WIDTH, 2.9 if skips else 2.0))
    axis.set_axis_off()
    axis.set(xlim=(0, len(steps)), ylim=(-0.42 if skips else 0.05, 1.3))
    for i, step in enumerate(steps):
        _box(axis, i, step)
        if i:
            _arrow(axis, (i - 0.07, LEVEL), (i + 0.06, LEVEL))
    for start, end in skips:
        axis.add_patch(FancyArrowPatch((start + 0.5, 0.12), (end + 0.5, 0.12), arrowstyle="-|>", mutation_scale=9,
                                       color="0.6", connectionstyle="bar,fraction=0.05", shrinkA=0, shrinkB=0))
    drawn = {step.colour for step in steps} | {_given_colour(step) for step in steps if step.given}
    used = [colour for colour in KINDS if colour in drawn]
    figure.legend(handles=[FancyBboxPatch((0, 0), 1, 1, facecolor=colour, edgecolor="0.4", label=KINDS[colour])
                           for colour in used], loc="outside lower center", ncols=len(used))
    figure.suptitle(title, fontsize=10)
    return figure


def _box(axis: Axes, i: int, step: Step) -> None:
    middle = i + 0.495
    axis.add_patch(FancyBboxPatch((i + 0.07, LEVEL - HALF), 0.85, 2 * HALF, boxstyle="round,pad=0,rounding_size=0.05",
                                  facecolor=step.colour, edgecolor="0.4", mutation_aspect=0.5))
    axis.text(middle, LEVEL, step.name, ha="center", va="center", fontsize=8)
    axis.text(middle, LEVEL - HALF - 0.04, step.shape, ha="center", va="top", fontsize=7.5, color="0.3")
    if step.given:
        _arrow(axis, (middle, 1.05), (middle, LEVEL + HALF), WORDS if _given_colour(step) == PROMPT else PATH)
        axis.text(middle, 1.26, step.given, ha="center", va="top", fontsize=7.5,
                  bbox={"facecolor": _given_colour(step), "edgecolor": "0.6", "pad": 2})


def _given_colour(step: Step) -> str:
    return PROMPT if "prompt" in step.given else DATA


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = PATH) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})
