"""Visual prompts: a lesion shown to CLIP as a picture, mixed into the text condition during training.

CLIP-TNseg and the released XBusNet train with these (specs/baselines.md 6.3, 7.7); the paper names none. At
validation the condition is the text alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

CONTEXT = 0.1  # share of the lesion box's longer side that is kept around it, 6.3
BLUR = 3.0  # SD of the blur of the background, pixels, 6.3
DARKEN = 0.1  # brightness left to the background, 6.3


def visual_prompt(image: Tensor, mask: Tensor, size: int) -> Tensor:
    """(1, S, S) picture of the lesion in a grey image (H, W) in [0, 1] with lesion mask (H, W).

    The lesion keeps its brightness; all else is blurred and darkened. The crop is the lesion's box and a
    little more, padded with black to a square, so that the lesion keeps its proportions.
    """
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        raise ValueError("a visual prompt needs a lesion, and the mask is empty")
    kernel = 2 * int(4 * BLUR + 0.5) + 1  # out to four SD
    background = DARKEN * gaussian_blur(image[None].float(), [kernel, kernel], [BLUR, BLUR])[0]
    shown = torch.where(mask.bool(), image.float(), background)  # (H, W)

    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    margin = round(CONTEXT * max(bottom - top, right - left).item())
    crop = shown[max(top - margin, 0):bottom + margin, max(left - margin, 0):right + margin]  # (h, w)

    height, width = crop.shape
    down, across = max(width - height, 0), max(height - width, 0)  # what is missing to a square
    square = F.pad(crop, (across // 2, across - across // 2, down // 2, down - down // 2))
    return F.interpolate(square[None, None], size=(size, size), mode="bilinear", antialias=True)[0]


def mix(text: Tensor, visual: Tensor, weight: Tensor) -> Tensor:
    """(B, d) w·text + (1-w)·visual for embeddings (B, d) and weights (B,)."""
    return weight[:, None] * text + (1 - weight[:, None]) * visual


def draw_weights(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B,) weights w ~ U(0, 1), one per sample, drawn where the generator lives."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(len(like), generator=generator, device=device).to(like)
