"""CLIP-TNseg: frozen CLIP tokens, conditioned once by a text, and a fine branch (specs/baselines.md 6)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbuslib.models.encoders import CLIP, CLIP_LAYERS
from xbuslib.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalise, ResidualBlock
from xbuslib.models.layers_cpu import PatchConvTranspose2d
from xbuslib.models.system import MERGED, Prompts, System
from xbuslib.models.visual_prompt import draw_weights, mix


class Shape(NamedTuple):
    """Widths of the trained parts."""

    coarse: int  # channels of the reduced tokens and of the coarse map
    feed_forward: int
    fine: int  # channels of the fine branch's first level and of its output
    groups: int  # of its group normalisation


SHAPES = {"paper": Shape(64, 2048, 32, 32), "quick": Shape(16, 256, 8, 8)}  # 6.2, 6.4; a quarter
LEVELS = (1, 1, 2, 2, 4, 4)  # widths of the fine branch's levels, in multiples of the first, 6.4
BLOCKS = 2  # residual blocks per level of its encoder; its decoder has one more, 6.4


class CoarseBranch(nn.Module):
    """CGB, 6.2: tokens of blocks 9, 7 and 3, deepest first, through one transformer layer each."""

    def __init__(self, token_width: int, embedding: int, shape: Shape):
        super().__init__()
        width = shape.coarse
        self.reduce = nn.ModuleList(nn.Linear(token_width, width) for _ in CLIP_LAYERS)
        self.multiply, self.add = nn.Linear(embedding, width), nn.Linear(embedding, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, shape.feed_forward, dropout=0.1) for _ in CLIP_LAYERS)
        self.project = PatchConvTranspose2d(width, width, 16)  # back from 16-pixel patches

    def forward(self, tokens: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 3, N, D) tokens, shallowest first and class token included, and (B, d) to (B, C, H, W)."""
        tokens = tokens.permute(1, 2, 0, 3).contiguous()  # (3, N, B, D): tokens first, see layers.TransformerBlock
        reduced = self.reduce[2](tokens[2])  # (N, B, C)
        reduced = self.multiply(condition) * reduced + self.add(condition)  # only here
        reduced = self.blocks[2](reduced)
        for depth in (1, 0):
            reduced = self.blocks[depth](reduced + self.reduce[depth](tokens[depth]))
        maps = reduced[1:].permute(1, 2, 0).unflatten(2, grid)  # class token off: (B, C, H/16, W/16)
        return self.project(maps)


class FineBranch(nn.Module):
    """FGB, 6.4: a U-Net of residual blocks at full resolution whose every stage is a skip."""

    def __init__(self, shape: Shape):
        super().__init__()
        widths, groups = [shape.fine * level for level in LEVELS], shape.groups
        self.stem = nn.Conv2d(3, shape.fine, 3, padding=1)
        self.encoder, skips, width = nn.ModuleList(), [shape.fine], shape.fine
        for level, out in enumerate(widths):
            for _ in range(BLOCKS):
                self.encoder.append(ResidualBlock(width, out, groups))
                skips.append(width := out)
            if level < len(widths) - 1:
                self.encoder.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.Sequential(ResidualBlock(width, width, groups), ResidualBlock(width, width, groups))
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(reversed(widths)):
            for _ in range(BLOCKS + 1):
                self.decoder.append(ResidualBlock(width + skips.pop(), out, groups))
                width = out
            if level < len(widths) - 1:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H, W)."""
        skips = [self.stem(image)]
        for layer in self.encoder:
            skips.append(layer(skips[-1]))  # 18 in all
        features = self.middle(skips[-1])
        for index, block in enumerate(self.decoder):
            features = block(torch.cat([features, skips.pop()], dim=1))
            level, step = divmod(index + 1, BLOCKS + 1)
            if step == 0 and level <= len(self.up):  # the level is done, and there is a finer one
                features = self.up[level - 1](F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return features


class CLIPTNseg(System):
    """Image (B, 1, H, W), CLIP tokens and one attribute prompt to logits (B, 1, H, W)."""

    prompts = ("local_text",)
    frozen = ("clip",)
    official = {  # specification 6.7; its cosine is over 20 000 iterations whatever the run's length
        "iterations": 20_000, "batch_size": 16, "shuffle": False, "loss": "released_dice_loss",
        "augmentation": "lesion_aware_square", "mix_visual": True,
        "schedule": ("cosine", {"floor": 1e-6, "length": 20_000}),
    }
    cam_layer = MERGED

    patch = 16

    def __init__(self, size: str, weights: str, image_size: int):
        super().__init__()
        self.clip = CLIP(size, weights, image_size, IMAGENET_MEAN, IMAGENET_STD)  # not CLIP's own, 6.1
        self.weights_record = [self.clip.weights]
        shape = SHAPES[size]
        self.normalise = Normalise()
        self.coarse = CoarseBranch(self.clip.width, self.clip.embedding, shape)
        self.fine = FineBranch(shape)
        both = shape.coarse + shape.fine  # 96
        self.fuse = nn.Sequential(ResidualBlock(both, shape.coarse, shape.groups),
                                  ResidualBlock(shape.coarse, shape.coarse, shape.groups))
        self.head = nn.Conv2d(shape.coarse, 1, 1)  # 6.5
        self.freeze()

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, N, D) tokens of CLIP blocks 3, 7 and 9, class token first: N = 485 at 352 pixels."""
        return self.clip.tokens(images, class_token=True)

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.clip.texts(texts)

    def encode_visual(self, images: Tensor) -> Tensor:
        """(B, d) embeddings of visual prompts (B, 1, S, S); S is the system's image size, as in 6.3."""
        return self.clip.pooled(images)

    def mix_conditions(self, text: Tensor, visual: Tensor, has_partner: Tensor,
                       generator: torch.Generator | None = None) -> Tensor:
        """(B, d) training conditions w·text + (1-w)·visual, w ~ U(0, 1), 6.3.

        `has_partner` (B,) says whose phrase another training image shares; the others get w = 1.
        """
        weight = draw_weights(text, generator)
        return mix(text, visual, torch.where(has_partner, weight, 1.0))

    def forward(self, image: Tensor, image_features: Tensor, prompts: Prompts) -> Tensor:
        height, width = image.shape[-2:]
        grid = height // self.patch, width // self.patch
        coarse = self.coarse(image_features, prompts.local_text, grid)  # (B, 64, H, W)
        fine = self.fine(self.normalise(image))  # (B, 32, H, W)
        return self.head(self.fuse(torch.cat([coarse, fine], dim=1)))  # (B, 1, H, W)
