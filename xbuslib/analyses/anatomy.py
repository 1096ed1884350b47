"""Figure 1 and the parameter bars: XBusNet drawn from its own modules, shapes and counts."""

from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from xbuslib.display import style
from xbuslib.models.encoders import CLIP_LAYERS
from xbuslib.models.system import Prompts, System, count

FROZEN, TRAINED, PROMPT, ADJUST, FUSION = "#D5DCE4", "white", "#FFF6CC", style.PALETTE[3], "#D3EBE2"
PATH, WORDS = "0.25", style.PALETTE[1]  # colours of image and prompt arrows


def trace(system: System, image: torch.Tensor, features: torch.Tensor, prompts: Prompts) -> dict[str, tuple[int, ...]]:
    """name of every submodule that runs: shape of its (last) output, by one forward pass in eval mode."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, out) -> None:
        if isinstance(out, torch.Tensor):  # attention layers also return their weights
            shapes[name] = tuple(out.shape)

    hooks = [module.register_forward_hook(lambda module, given, out, name=name: note(name, out))
             for name, module in system.named_modules() if name and not name.startswith("clip")]
    try:
        with torch.no_grad():
            shapes[""] = tuple(system.eval()(image, features, prompts).shape)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def trace_meta(system: System, size: int) -> dict[str, tuple[int, ...]]:
    """The same for a system built on torch's meta device, which has shapes but no numbers and costs no time."""
    image = torch.rand(1, 1, size, size, device="meta")
    text = torch.rand(1, system.clip.embedding, device="meta")
    features = system.encode_images(image)
    return trace(system, image, features, Prompts(text, text)) | {"tokens": tuple(features.shape)}


def parameter_bars(parts: pd.DataFrame, label: str) -> Figure:
    """Parameters of each part, trained ones dark, frozen ones grey. parts: part, parameters, trained."""
    figure, axis = style.subplots(size=(7.2, 0.3 * len(parts) + 1.2))
    colours = [style.PALETTE[0] if trained else "0.75" for trained in parts["trained"]]
    bars = axis.barh(parts["part"], parts["parameters"] / 1e6, color=colours)
    axis.bar_label(bars, [f"{n:,}" for n in parts["parameters"]], padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="parameters (millions)", xlim=(0, 1.2 * parts["parameters"].max() / 1e6))
    handles = [FancyBboxPatch((0, 0), 1, 1, color=colour) for colour in (style.PALETTE[0], "0.75")]
    axis.legend(handles, ("trained", "frozen"), loc="lower right")
    return style.titled(figure, "Parameters of each part", label)


class Box(NamedTuple):
    """Centre of a drawn box and the middle of each side, in drawing units."""

    x: float
    y: float
    left: tuple[float, float]
    right: tuple[float, float]
    top: tuple[float, float]
    bottom: tuple[float, float]


def architecture(system: System, shapes: dict[str, tuple[int, ...]]) -> Figure:
    """Figure 1 of the paper: GFE above, LFE below as a U, SFA sites orange, fusion head at the right.

    `shapes` is from trace_meta; every number in the picture is read from it or from the modules.
    """
    figure, axis = style.subplots(size=(13, 9.8))
    axis.set(xlim=(0, 26), ylim=(-1.1, 18.4), aspect=1)
    axis.set_axis_off()
    image = _box(axis, 1.8, 11.6, 2.8, 1.3, f"image\n{_size(shapes[''], 1)}", TRAINED)
    top = _global_branch(axis, system, shapes, image)
    low = _local_branch(axis, system, shapes, image)
    _head(axis, system, shapes, top, low)
    _legend(axis, count(system.clip)[1])
    return figure


def _global_branch(axis: Axes, system: System, shapes: dict, image: Box) -> Box:
    """The upper branch from left to right; returns its last box."""
    gfe, clip, y = system.gfe, system.clip, 14.6
    _group(axis, 3.5, 13.5, 21.6, 18.2, f"Global Feature Extractor (GFE), {_millions(gfe)} M trained")
    _, layers, patches, width = shapes["tokens"]
    blocks = ", ".join(map(str, CLIP_LAYERS))
    encoder = _box(axis, 5.4, y, 3.2, 1.6, f"CLIP ViT image\nencoder, tokens of\nblocks {blocks}", FROZEN)
    reduced = _box(axis, 9.2, y, 3.0, 1.6, f"{layers} linear {width}→{gfe.reduce[0].out_features}\n"
                   f"and sum, eq. (6)\n{patches}×{gfe.reduce[0].out_features}", TRAINED)
    scaled = _box(axis, 12.5, y, 2.4, 1.6, "scale, shift\nof tokens,\neq. (7)", TRAINED)
    stride = gfe.project.stride[0]
    raised = _box(axis, 16.0, y, 3.2, 1.6, f"transposed conv\n{stride}×{stride}, eq. (8)\n"
                  f"{_size(shapes['gfe.project'])}", TRAINED)
    adjusted = _adjust(axis, 19.8, y, shapes["gfe.sfa"])
    _elbow(axis, image.top, (image.x, y), encoder.left)
    for one, other in ((encoder, reduced), (reduced, scaled), (scaled, raised), (raised, adjusted)):
        _arrow(axis, one.right, other.left)
    prompt = _box(axis, 6.6, 16.9, 5.4, 1.1, "global prompt $p_c$: size and location, e.g. “a\n"
                  "small lesion in the upper left quadrant …”", PROMPT)
    text = _box(axis, 12.5, 16.9, 3.4, 1.1, f"CLIP text encoder\n$e_c$: {clip.embedding}", FROZEN)
    _arrow(axis, prompt.right, text.left, WORDS)
    _arrow(axis, text.bottom, scaled.top, WORDS, "$W_c$, $W_{mul}$, $W_{add}$")
    _elbow(axis, text.right, (adjusted.x, text.y), adjusted.top, color=WORDS)
    return adjusted


def _local_branch(axis: Axes, system: System, shapes: dict, image: Box) -> Box:
    """The lower branch, a U: encoder down at the left, decoder up at the right; returns its last box."""
    lfe = system.lfe
    _group(axis, 0.2, -0.9, 21.6, 12.9, f"Local Feature Extractor (LFE), {_millions(lfe)} M trained", corner="right")
    levels = {1: 9.4, 2: 7.6, 3: 5.8, 4: 4.0, 5: 2.2}
    kernel = lfe.encoder.conv1.kernel_size[0]
    names = {1: (f"enc1: conv {kernel}×{kernel}", "act1"), 2: ("enc2: pool, layer1", "layer1"),
             3: ("enc3: layer2", "layer2"), 4: ("enc4: layer3", "layer3")}
    down = {k: _box(axis, 1.8, levels[k], 2.8, 1.15, f"{title}\n{_size(shapes['lfe.encoder.' + name])}", TRAINED)
            for k, (title, name) in names.items()}
    up = {k: _box(axis, 16.2, levels[k], 2.8, 1.15, f"dec{k}: up block\n{_size(shapes[f'lfe.up{k}'])}", TRAINED)
          for k in (4, 3, 2, 1)}
    _arrow(axis, image.bottom, down[1].top)
    for k in (1, 2, 3):
        _arrow(axis, down[k].bottom, down[k + 1].top)
        _arrow(axis, down[k].right, up[k].left, label="skip")
    block4 = _box(axis, 5.05, levels[4], 2.7, 1.15, f"transformer block\n{_heads(lfe.block4)} heads, eq. (10)", TRAINED)
    sfa4 = _adjust(axis, 7.7, levels[4], shapes["lfe.sfa.enc4"])
    layer4 = _box(axis, 10.6, levels[5], 2.8, 1.15, f"enc5: layer4\n{_size(shapes['lfe.encoder.layer4'])}", TRAINED)
    block5 = _box(axis, 14.0, levels[5], 2.7, 1.15, f"transformer block\n{_heads(lfe.block5)} heads, eq. (10)", TRAINED)
    for one, other in ((down[4], block4), (block4, sfa4), (layer4, block5)):
        _arrow(axis, one.right, other.left)
    _arrow(axis, sfa4.right, up[4].left, label="skip")
    _arrow(axis, (layer4.x, levels[4]), layer4.top)
    _arrow(axis, (15.05, block5.top[1]), (15.05, up[4].bottom[1]))
    sites = {k: _adjust(axis, 19.0, levels[k], shapes[f"lfe.sfa.dec{k}"]) for k in (4, 3, 2)}
    for k, site in sites.items():
        _arrow(axis, up[k].right, site.left)
        between = (levels[k] + levels[k - 1]) / 2
        _elbow(axis, site.top, (site.x, between), (up[k - 1].x, between), up[k - 1].bottom)
    final = _box(axis, 16.2, 11.2, 2.8, 1.15, f"transposed conv\n{_size(shapes['lfe.final'])}", TRAINED)
    _arrow(axis, up[1].top, final.bottom)
    _local_prompt(axis, system, sites, sfa4)
    return final


def _local_prompt(axis: Axes, system: System, sites: dict[int, Box], sfa4: Box) -> None:
    """The prompt, its text encoder and the lines from e_l to the four SFA sites."""
    prompt = _box(axis, 12.3, 0.6, 6.0, 1.1, "local prompt $p_\\ell$: shape, margin, BI-RADS,\n"
                  "e.g. “oval shape, circumscribed margin, …”", PROMPT)
    text = _box(axis, 18.4, 0.6, 3.4, 1.1, f"CLIP text encoder\n$e_\\ell$: {system.clip.embedding}", FROZEN)
    _arrow(axis, prompt.right, text.left, WORDS)
    bus, low = 21.0, -0.5
    _elbow(axis, text.right, (bus, text.y), (bus, sites[2].y), sites[2].right, color=WORDS)
    for k in (4, 3):
        _arrow(axis, (bus, sites[k].y), sites[k].right, WORDS)
    _elbow(axis, text.bottom, (text.x, low), (sfa4.x, low), sfa4.bottom, color=WORDS)


def _head(axis: Axes, system: System, shapes: dict, top: Box, low: Box) -> None:
    """Concatenation, residual blocks, 1×1 convolution."""
    first = system.fuse[0].body[2]
    fused, head = _size(shapes["fuse.1"]), system.head.kernel_size[0]
    joined = _box(axis, 23.8, 11.2, 3.2, 1.3, f"concatenate\neq. (16): {first.in_channels} ch.", FUSION)
    blocks = _box(axis, 23.8, 8.6, 3.2, 1.6, f"2 residual blocks\n{first.in_channels}→{first.out_channels}, eq. (17)\n"
                  f"{fused}", FUSION)
    out = _box(axis, 23.8, 6.0, 3.2, 1.3, f"conv {head}×{head}, eq. (5)\nlogits {_size(shapes[''])}", FUSION)
    _elbow(axis, top.right, (joined.x, top.y), joined.top)
    _arrow(axis, low.right, joined.left)
    _arrow(axis, joined.bottom, blocks.top)
    _arrow(axis, blocks.bottom, out.top)
    parameters = count(system.fuse)[0] + count(system.head)[0]
    axis.text(23.8, 5.1, f"Fusion head,\n{parameters / 1e6:.2f} M trained", ha="center", va="top", fontsize=9.5,
              fontweight="bold")


def _legend(axis: Axes, frozen: int) -> None:
    rows = ((TRAINED, "trained"), (FROZEN, f"frozen CLIP ({frozen / 1e6:.2f} M)"), (PROMPT, "prompt text"),
            (ADJUST, "SFA, trained"), (FUSION, "fusion head, trained"))
    for i, (colour, name) in enumerate(rows):
        y = 2.9 - 0.62 * i
        axis.add_patch(FancyBboxPatch((22.2, y), 0.6, 0.36, boxstyle="round,pad=0,rounding_size=0.1", facecolor=colour,
                                      edgecolor="0.3", linewidth=0.8))
        axis.text(23.0, y + 0.18, name, va="center", fontsize=8.5)
    axis.text(22.2, -0.35, "channels × height × width", va="center", fontsize=8.5)


def _box(axis: Axes, x: float, y: float, w: float, h: float, text: str, colour: str) -> Box:
    axis.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.15",
                                  facecolor=colour, edgecolor="0.25", linewidth=1, zorder=2))
    axis.text(x, y, text, ha="center", va="center", fontsize=8, zorder=3, linespacing=1.25)
    return Box(x, y, (x - w / 2, y), (x + w / 2, y), (x, y + h / 2), (x, y - h / 2))


def _adjust(axis: Axes, x: float, y: float, shape: tuple[int, ...]) -> Box:
    return _box(axis, x, y, 1.7, 1.0, f"SFA\n{shape[1]} ch.", ADJUST)


def _arrow(axis: Axes, start: tuple, end: tuple, color: str = PATH, label: str = "") -> None:
    axis.annotate("", end, start, zorder=1, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2,
                                                        "shrinkA": 0, "shrinkB": 0})
    if label:
        vertical = start[0] == end[0]
        axis.text((start[0] + end[0]) / 2 + 0.15 * vertical, (start[1] + end[1]) / 2 + 0.12 * (not vertical), label,
                  ha="left" if vertical else "center", va="center" if vertical else "bottom", fontsize=8, color=color)


def _elbow(axis: Axes, *points: tuple[float, float], color: str = PATH) -> None:
    """A line through `points` that ends in an arrow head."""
    axis.plot(*zip(*points[:-1], strict=True), color=color, linewidth=1.2, zorder=1)
    _arrow(axis, points[-2], points[-1], color)


def _group(axis: Axes, x0: float, y0: float, x1: float, y1: float, title: str, corner: str = "left") -> None:
    axis.add_patch(FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, boxstyle="round,pad=0,rounding_size=0.3",
                                  facecolor="0.975", edgecolor="0.6", linewidth=1, zorder=0))
    right = corner == "right"
    axis.text(x1 - 0.3 if right else x0 + 0.3, y1 - 0.2, title, ha=corner, va="top", fontsize=9.5, fontweight="bold")


def _size(shape: tuple[int, ...], channels: int | None = None) -> str:
    """"64×352×352" from (B, 64, 352, 352)."""
    return "×".join(map(str, (channels or shape[1], *shape[2:])))


def _heads(block: torch.nn.Module) -> int:
    return block.layer.self_attn.num_heads


def _millions(module: torch.nn.Module) -> str:
    return f"{count(module)[0] / 1e6:.2f}"
