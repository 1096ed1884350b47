"""XBusNet as its authors published it (specs/baselines.md 7), which is not what the paper's equations say.

The global branch is a 3×3 convolution on the image, scaled and shifted by the global prompt; no CLIP image
token enters. The local branch is the paper's.
"""

import torch
from torch import Tensor, nn

from xbuslib.models.encoders import CLIP, resnet
from xbuslib.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalise
from xbuslib.models.layers_cpu import GroupNorm
from xbuslib.models.system import MERGED, Prompts, System
from xbuslib.models.visual_prompt import draw_weights, mix
from xbuslib.models.xbusnet import WIDTHS, LocalFeatureExtractor, fusion


class ConvolutionalGlobalBranch(nn.Module):
    """The released GFE, 7.3: conv 3×3, one scale and shift from the prompt, conv–GroupNorm–SiLU."""

    def __init__(self, embedding: int, width: int = WIDTHS["paper"].branch):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.multiply, self.add = nn.Linear(embedding, width), nn.Linear(embedding, width)
        self.out = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), GroupNorm(8, width), nn.SiLU())

    def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
        """(B, 3, H, W) normalised image and (B, d) prompt to (B, 64, H, W)."""
        scale = self.multiply(prompt)[:, :, None, None]  # (B, 64, 1, 1)
        shift = self.add(prompt)[:, :, None, None]
        return self.out(scale * self.stem(image) + shift)


class XBusNetReleased(System):
    """Image (B, 1, H, W) and two prompts to logits (B, 1, H, W)."""

    prompts = ("global_text", "local_text")
    prompt_style = "released"  # box and centroid in original pixels, 7.6
    frozen = ("clip",)
    official = {  # specification 7.7 and 7.8: over 1000 of 20 000 iterations the cosine is nearly constant
        "loss": "released_dice_loss", "mix_visual": True, "schedule": ("cosine", {"floor": 1e-6, "length": 20_000}),
    }
    cam_layer = MERGED

    def __init__(self, size: str, weights: str, image_size: int):
        super().__init__()
        self.clip = CLIP(size, weights, image_size, IMAGENET_MEAN, IMAGENET_STD)  # not CLIP's own, 7.7
        encoder, record = resnet(size, weights)
        self.weights_record = [self.clip.weights, record]
        self.image_size = image_size
        self.normalise = Normalise()
        widths = WIDTHS[size]
        self.gfe = ConvolutionalGlobalBranch(self.clip.embedding, widths.branch)
        self.lfe = LocalFeatureExtractor(encoder, self.clip.embedding, widths.local)  # SFA with residual, 7.4
        self.fuse, self.head = fusion(sum(widths), widths.branch)  # GroupNorm of 8, 7.5
        self.freeze()

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.clip.texts(texts)

    def encode_visual(self, images: Tensor) -> Tensor:
        """(B, d) embeddings of visual prompts (B, 1, S, S), S being the system's image size.

        The released code resizes them to 224 instead; this CLIP has its position embedding on the grid of S.
        """
        return self.clip.pooled(images)

    def mix_conditions(self, text: Tensor, visual: Tensor, has_partner: Tensor,
                       generator: torch.Generator | None = None) -> Tensor:
        """(B, d) training conditions w·text + (1-w)·visual, w ~ U(0, 1), 7.7.

        `has_partner` (B,) says whose local prompt a training image shares. If some have none, theirs is the
        embedding of a black image; if nobody has one, zeros.
        """
        if has_partner.any():
            black = torch.zeros(1, 1, self.image_size, self.image_size, device=text.device)
            instead = torch.zeros_like(visual) if has_partner.all() else self.encode_visual(black).to(visual)
            visual = torch.where(has_partner[:, None], visual, instead)
        else:
            visual = torch.zeros_like(visual)
        return mix(text, visual, draw_weights(text, generator))

    def forward(self, image: Tensor, image_features: None, prompts: Prompts) -> Tensor:
        maps = [self.gfe(self.normalise(image), prompts.global_text),  # (B, 64, H, W)
                self.lfe(image, prompts.local_text)]  # (B, 32, H, W)
        return self.head(self.fuse(torch.cat(maps, dim=1)))  # (B, 1, H, W)
