"""Building blocks that several systems share, in dependency order. Shapes as in the paper: B, C, H, W; N tokens."""

import torch
from torch import Tensor, nn

from xbuslib.models.layers_cpu import Conv3x3, Dropout, GroupNorm, PatchConvTranspose2d

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Normalise(nn.Module):
    """Grey (B, 1, H, W) in [0, 1] to three channels (B, 3, H, W) with an encoder's own mean and SD."""

    def __init__(self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std  # (B, 1, H, W) broadcasts to (B, 3, H, W)


class SFA(nn.Module):
    """Semantic Feature Adjustment, eqs. (13)–(15): channel-wise scale and shift predicted from a prompt.

    MLP d → h → 2C with h = max(256, C) (specs/baselines.md 7.4; the paper gives no hidden width). With
    `residual`, F_out = γ⊙F + β + F, the form of eq. (15).
    """

    def __init__(self, embedding: int, channels: int, residual: bool = True):
        super().__init__()
        hidden = max(256, channels)
        self.mlp = nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, 2 * channels))
        self.residual = residual

    def forward(self, features: Tensor, prompt: Tensor) -> Tensor:
        """(B, C, h, w) features and (B, d) prompt to (B, C, h, w)."""
        gamma, beta = self.mlp(prompt)[:, :, None, None].chunk(2, dim=1)  # each (B, C, 1, 1), eq. (14)
        factor = 1 + gamma if self.residual else gamma  # eq. (15), γ⊙F + β + F, in one pass over the map; eq. (13)
        return torch.addcmul(beta, factor, features)


class TransformerBlock(nn.Module):
    """One standard post-norm encoder layer on a feature map, eq. (10): FFN 4C, ReLU, dropout 0.1, no positions."""

    def __init__(self, channels: int, heads: int = 8):
        super().__init__()
        # tokens first: with batch_first torch transposes inside and then copies the weights once per token on CPUs
        self.layer = nn.TransformerEncoderLayer(channels, heads, 4 * channels, dropout=0.1)
        self.layer.dropout, self.layer.dropout1, self.layer.dropout2 = Dropout(0.1), Dropout(0.1), Dropout(0.1)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).permute(2, 0, 1).contiguous()  # (B, C, h, w) to (N, B, C), N = h·w
        maps = self.layer(tokens).permute(1, 2, 0).reshape(features.shape)  # back to (B, C, h, w)
        return maps.contiguous(memory_format=torch.channels_last)  # as convolutions take it


class UpBlock(nn.Module):
    """U-Net decoder step: 2×2 transposed convolution, concatenation with the skip, two 3×3 conv–BN–ReLU."""

    def __init__(self, channels: int, skip: int, out: int):
        super().__init__()
        self.up = PatchConvTranspose2d(channels, out, 2)
        self.conv = nn.Sequential(
            Conv3x3(out + skip, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            Conv3x3(out, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, h, w) and (B, skip, 2h, 2w) to (B, out, 2h, 2w)."""
        return self.conv(torch.cat([self.up(features), skip], dim=1))


class ResidualBlock(nn.Module):
    """GroupNorm–SiLU–3×3 conv, twice, plus identity or a 1×1 skip: RB of Figure 1 (specs/baselines.md 6.4)."""

    def __init__(self, channels: int, out: int, groups: int = 8):
        super().__init__()
        self.body = nn.Sequential(
            GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1),
            GroupNorm(groups, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1),
        )
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.skip(features) + self.body(features)
