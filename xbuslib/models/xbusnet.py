"""XBusNet as the paper's equations describe it (Sections 2.6–2.10; specs/baselines.md 7.4–8).

The ablations are switches of this one model, not copies: see docs/protocol.md for how each is built.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xbuslib.models.encoders import CLIP, CLIP_LAYERS, resnet, stages
from xbuslib.models.layers import SFA, Normalise, ResidualBlock, TransformerBlock, UpBlock
from xbuslib.models.layers_cpu import PatchConvTranspose2d
from xbuslib.models.system import MERGED, Prompts, System


class Widths(NamedTuple):
    """Channels of the maps at full size, where most of a step's arithmetic is done."""

    branch: int  # of F_g, eq. (8), the fused map, and the reduced token width r, which the paper leaves open
    local: int  # of F_l, eq. (12)


WIDTHS = {"paper": Widths(64, 32), "quick": Widths(32, 16)}  # a half: a quarter of the arithmetic


class GlobalFeatureExtractor(nn.Module):
    """GFE, Section 2.7: frozen CLIP tokens, conditioned by the global prompt, as a map of `width` channels."""

    def __init__(self, token_width: int, embedding: int, width: int = WIDTHS["paper"].branch, sfa: bool = True):
        super().__init__()
        self.reduce = nn.ModuleList(nn.Linear(token_width, width) for _ in CLIP_LAYERS)
        self.condition = nn.Linear(embedding, embedding)  # W_c
        self.multiply = nn.Linear(embedding, width)  # W_mul
        self.add = nn.Linear(embedding, width)  # W_add
        self.project = PatchConvTranspose2d(width, width, 16)  # back from 16-pixel patches
        self.sfa = SFA(embedding, width) if sfa else None

    def forward(self, tokens: Tensor, prompt: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, L, N-1, D) tokens on a `grid` of patches and (B, d) prompt to (B, 64, H, W)."""
        reduced = sum(linear(tokens[:, j]) for j, linear in enumerate(self.reduce))  # A: (B, N-1, r), eq. (6)
        condition = self.condition(prompt)  # c: (B, d)
        reduced = self.multiply(condition)[:, None] * reduced + self.add(condition)[:, None]  # eq. (7)
        maps = reduced.transpose(1, 2).unflatten(2, grid)  # (B, r, H/16, W/16)
        features = self.project(maps)  # F_g: (B, 64, H, W), eq. (8)
        return features if self.sfa is None else self.sfa(features, prompt)  # eq. (3)


class LocalFeatureExtractor(nn.Module):
    """LFE, Section 2.8: ResNet encoder with two transformer blocks, U-Net decoder, SFA from the local prompt."""

    def __init__(self, encoder: nn.Module, embedding: int, width: int = WIDTHS["paper"].local, sfa: bool = True):
        super().__init__()
        stem, c1, c2, c3, c4 = encoder.feature_info.channels()  # 64, 256, 512, 1024, 2048 in ResNet-50
        self.normalise = Normalise()
        self.encoder = encoder
        self.block4, self.block5 = TransformerBlock(c3), TransformerBlock(c4)  # eq. (10)
        self.up4, self.up3 = UpBlock(c4, c3, c3), UpBlock(c3, c2, c2)
        self.up2, self.up1 = UpBlock(c2, c1, c1), UpBlock(c1, stem, 64)
        self.final = PatchConvTranspose2d(64, width, 2)
        widths = {"enc4": c3, "dec4": c3, "dec3": c2, "dec2": c1} if sfa else {}
        self.sfa = nn.ModuleDict({place: SFA(embedding, width) for place, width in widths.items()})  # eq. (11)

    def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
        """(B, 1, H, W) image and (B, d) prompt to (B, 32, H, W)."""
        enc1, enc2, enc3, enc4 = stages(self.encoder, self.normalise(image))  # strides 2, 4, 8, 16
        enc4 = self._adjust("enc4", self.block4(enc4), prompt)  # (B, c3, H/16, W/16), enc4* of eq. (11)
        center = self.block5(self.encoder.layer4(enc4))  # (B, c4, H/32, W/32), center' of eq. (10)
        dec4 = self._adjust("dec4", self.up4(center, enc4), prompt)  # (B, c3, H/16, W/16)
        dec3 = self._adjust("dec3", self.up3(dec4, enc3), prompt)  # (B, c2, H/8, W/8)
        dec2 = self._adjust("dec2", self.up2(dec3, enc2), prompt)  # (B, c1, H/4, W/4)
        dec1 = self.up1(dec2, enc1)  # (B, 64, H/2, W/2)
        return self.final(dec1)  # F_l: (B, 32, H, W), eq. (12)

    def _adjust(self, place: str, features: Tensor, prompt: Tensor) -> Tensor:
        return self.sfa[place](features, prompt) if place in self.sfa else features


def fusion(fused: int, width: int) -> tuple[nn.Sequential, nn.Conv2d]:
    """Two residual blocks on the `fused` channels, eq. (17), and the 1×1 convolution to one logit, eq. (5)."""
    return nn.Sequential(ResidualBlock(fused, width), ResidualBlock(width, width)), nn.Conv2d(width, 1, 1)


class XBusNet(System):
    """Image (B, 1, H, W), CLIP tokens and two prompts to logits (B, 1, H, W), eqs. (2)–(5)."""

    frozen = ("clip",)
    cam_layer = MERGED

    def __init__(self, size: str, weights: str, image_size: int, lfe: bool = True, gfe: bool = True, sfa: bool = True,
                 recompute: bool = False):
        super().__init__()
        self.clip = CLIP(size, weights, image_size)
        self.weights_record = [self.clip.weights]
        widths = WIDTHS[size]
        self.gfe = GlobalFeatureExtractor(self.clip.width, self.clip.embedding, widths.branch, sfa) if gfe else None
        self.lfe = None
        if lfe:
            encoder, record = resnet(size, weights)
            self.lfe = LocalFeatureExtractor(encoder, self.clip.embedding, widths.local, sfa)
            self.weights_record.append(record)
        self.prompts = (("global_text",) if gfe else ()) + (("local_text",) if lfe and sfa else ())
        self.patch = 16
        fused = widths.branch * gfe + widths.local * lfe  # 96 in the full model, eq. (16)
        self.fuse, self.head = fusion(fused, widths.branch)
        self.recompute = recompute  # the maps at full size are most of a step's memory
        self.freeze()

    def encode_images(self, images: Tensor) -> Tensor | None:
        """(B, 3, N-1, D) patch tokens of CLIP blocks 3, 7 and 9."""
        return self.clip.tokens(images) if self.gfe is not None else None

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.clip.texts(texts)

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        height, width = image.shape[-2:]
        maps = []
        if self.gfe is not None:
            grid = height // self.patch, width // self.patch
            maps.append(self.gfe(image_features, prompts.global_text, grid))  # (B, 64, H, W)
        if self.lfe is not None:
            maps.append(self.lfe(image, prompts.local_text))  # (B, 32, H, W)
        fused = torch.cat(maps, dim=1)  # (B, 96, H, W), eq. (16)
        kept = checkpoint(self.fuse, fused, use_reentrant=False) if self.recompute else self.fuse(fused)
        return self.head(kept)  # (B, 1, H, W), eq. (17)
