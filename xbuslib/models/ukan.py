"""U-KAN (Li et al. 2025): a U-Net whose deep stages mix channels by KAN layers; specs/baselines.md 3."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from xbuslib.models.kan import KANLinear
from xbuslib.models.layers import Normalise
from xbuslib.models.system import CamLayer, Prompts, System

# Channels of the third encoder stage, stage 4 and the bottleneck. `paper` is what U-KAN's training script
# uses (not its class default 256, 320, 512). `quick` narrows the KAN stages, for CPU runs, and keeps the
# convolutional ones: with fewer than 16 channels under the head it learns to sharpen borders very slowly.
WIDTHS = {"paper": (128, 160, 256), "quick": (128, 96, 128)}


class MapNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)  # (B, C, h, w) as (B, h, w, C) and back


class KANBlock(nn.Module):
    """x + three times [KAN per token, depthwise 3×3 conv, BN, ReLU] of LayerNorm(x); no attention, no MLP."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = MapNorm(channels)
        self.linears = nn.ModuleList(KANLinear(channels, channels) for _ in range(3))
        self.convs = nn.ModuleList(
            nn.Sequential(conv(channels, channels, groups=channels), nn.BatchNorm2d(channels), nn.ReLU())
            for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        maps = self.norm(features)
        for linear, mix in zip(self.linears, self.convs, strict=True):
            maps = mix(linear(maps.movedim(1, -1)).movedim(-1, 1))  # KAN on (B, h, w, C)
        return features + maps


def conv(channels: int, out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3×3 convolution of the KAN stages: N(0, √(2/fan_out)), bias 0."""
    layer = nn.Conv2d(channels, out, 3, stride, padding=1, groups=groups)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * out // groups)))
    nn.init.zeros_(layer.bias)
    return layer


def double_conv(channels: int, middle: int, out: int) -> nn.Sequential:
    """Two 3×3 conv–BN–ReLU. U-KAN's further ReLU after pooling or upsampling does nothing: maps are ≥ 0."""
    return nn.Sequential(
        nn.Conv2d(channels, middle, 3, padding=1), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
        nn.Conv2d(middle, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
    )


def encode(channels: int, out: int) -> nn.Sequential:
    """Encoder stage: (B, channels, h, w) to (B, out, h/2, w/2)."""
    return nn.Sequential(double_conv(channels, out, out), nn.MaxPool2d(2))


def embed(channels: int, out: int) -> nn.Sequential:
    """KAN stage after an overlapping patch embedding: (B, channels, h, w) to (B, out, h/2, w/2)."""
    return nn.Sequential(conv(channels, out, stride=2), MapNorm(out), KANBlock(out), MapNorm(out))


class UKAN(System):
    """Grey image (B, 1, H, W) to logits (B, 1, H, W); ImageNet mean and SD (its code divides by 255 twice).

    Nothing is pretrained: `weights` is taken for the common signature and has no effect.
    """

    official = {  # specification 3.5
        "epochs": 400, "batch_size": 8, "last_batch": "dropped", "optimiser": "adam", "weight_decay": 1e-4,
        "amp": False, "rates": {"kan": 1e-2, "other": 1e-4}, "loss": "ukan_loss", "native_size": 256,
        "augmentation": "quarter_turns_and_flips",
        "schedule": ("cosine", {"floor": 1e-5, "length": 400, "every_epochs": 1}),  # one floor for both groups
    }
    cam_layer = CamLayer("dec4", ("dec5", "head"), "decoder step at a quarter of the side; what follows up to the "
                         "head, dec5, is the last non-linear stage")

    def __init__(self, size: str, weights: str):
        super().__init__()
        self.weights_record: list[dict] = []
        e0, e1, e2 = WIDTHS[size]
        w1, w2 = e0 // 8, e0 // 4  # 16 and 32
        self.normalise = Normalise()
        self.enc1, self.enc2, self.enc3 = encode(3, w1), encode(w1, w2), encode(w2, e0)
        self.stage4, self.bottleneck = embed(e0, e1), embed(e1, e2)
        self.dec1, self.dec2 = double_conv(e2, e2, e1), double_conv(e1, e1, e0)
        self.dec3, self.dec4 = double_conv(e0, e0, w2), double_conv(w2, w2, w1)
        self.dec5 = double_conv(w1, w1, w1)
        self.kan1 = nn.Sequential(KANBlock(e1), MapNorm(e1))
        self.kan2 = nn.Sequential(KANBlock(e0), MapNorm(e0))
        self.head = nn.Conv2d(w1, 1, 1)

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        t1 = self.enc1(self.normalise(image))  # (B, 16, H/2, W/2)
        t2 = self.enc2(t1)  # (B, 32, H/4, W/4)
        t3 = self.enc3(t2)  # (B, 128, H/8, W/8)
        t4 = self.stage4(t3)  # (B, 160, H/16, W/16)
        features = self.bottleneck(t4)  # (B, 256, H/32, W/32)
        features = self.kan1(_double(self.dec1(features)) + t4)  # skips are added, not concatenated
        features = self.kan2(_double(self.dec2(features)) + t3)  # (B, 128, H/8, W/8)
        features = _double(self.dec3(features)) + t2  # (B, 32, H/4, W/4)
        features = _double(self.dec4(features)) + t1  # (B, 16, H/2, W/2)
        return self.head(_double(self.dec5(features)))  # (B, 1, H, W)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once: those of KAN layers, which U-KAN trains at 1e-2, and the others, at 1e-4."""
        kan = [p for module in self.modules() if isinstance(module, KANLinear) for p in module.parameters()]
        inside = {id(p) for p in kan}
        return {"kan": kan, "other": [p for p in self.parameters() if id(p) not in inside]}


def _double(maps: Tensor) -> Tensor:
    """(B, C, h, w) to (B, C, 2h, 2w), bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
