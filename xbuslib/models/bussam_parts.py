"""What BUSSAM adds to SAM: adapters, Hadamard-product attention and a CNN branch (specs/baselines.md 5.3)."""

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

PLANE = 8  # side of GHPA's learnable planes, 5.3


def bottleneck(width: int) -> nn.Sequential:
    """Linear D → D/4 → D with GELU, on the last axis: 768 → 192 → 768."""
    return nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))


def _separable(conv: type[nn.Conv1d] | type[nn.Conv2d], channels: int, out: int) -> nn.Sequential:
    """Depthwise convolution of size 3, GELU, convolution of size 1."""
    return nn.Sequential(
        conv(channels, channels, 3, padding=1, groups=channels), nn.GELU(), conv(channels, out, 1))


class GHPA(nn.Module):
    """Grouped multi-axis Hadamard product attention.

    Four groups of channels: three are multiplied by learnable planes over height × width, channel × height
    and channel × width, the fourth is convolved; then all are mixed.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.group = group = channels // 4  # c
        self.norm_in, self.norm_out = LayerNorm2d(channels), LayerNorm2d(channels)
        self.plane_hw = nn.Parameter(torch.ones(1, group, PLANE, PLANE))
        self.plane_ch = nn.Parameter(torch.ones(1, 1, group, PLANE))
        self.plane_cw = nn.Parameter(torch.ones(1, 1, group, PLANE))
        self.conv_hw = _separable(nn.Conv2d, group, group)
        self.conv_ch, self.conv_cw = _separable(nn.Conv1d, group, group), _separable(nn.Conv1d, group, group)
        self.local = nn.Sequential(
            nn.Conv2d(group, group, 1), nn.GELU(), nn.Conv2d(group, group, 3, padding=1, groups=group))
        self.mix = _separable(nn.Conv2d, channels, out)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H, W)."""
        height, width = features.shape[-2:]
        first, second, third, fourth = self.norm_in(features).chunk(4, dim=1)  # each (B, c, H, W)
        first = first * self.conv_hw(_resize(self.plane_hw, height, width))  # (1, c, H, W)
        along_h = self.conv_ch(_resize(self.plane_ch, self.group, height)[0])  # (1, c, H)
        along_w = self.conv_cw(_resize(self.plane_cw, self.group, width)[0])  # (1, c, W)
        groups = [first, second * along_h[..., None], third * along_w[:, :, None], self.local(fourth)]
        return self.mix(self.norm_out(torch.cat(groups, dim=1)))


def _resize(plane: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(plane, size=(height, width), mode="bilinear", align_corners=True)


def ghpa_layer(channels: int, out: int) -> nn.Sequential:
    """Max-pool, GHPA, normalisation in four groups, GELU: (B, channels, 2h, 2w) to (B, out, h, w)."""
    return nn.Sequential(nn.MaxPool2d(2), GHPA(channels, out), nn.GroupNorm(4, out), nn.GELU())


def cnn_branch(widths: tuple[int, int, int], out: int) -> nn.Sequential:
    """(B, 3, frame, frame) to (B, out, frame/8, frame/8), the tokens' grid."""
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1, bias=False), LayerNorm2d(first), nn.GELU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1, bias=False), LayerNorm2d(second), nn.GELU(),
        ghpa_layer(second, third), ghpa_layer(third, out),
    )


class CrossBranchAdapter(nn.Module):
    """Tokens and CNN map, added, weighted by where they are strong, through a bottleneck.

    As in the released code, the sum is not added back before the bottleneck, which its figure shows. Its code
    also reads B, H, W, C memory as B, C, H, W; here the axes are permuted.
    """

    def __init__(self, width: int):
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.mlp = bottleneck(width)

    def forward(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """(B, h, w, D) tokens and (B, D, h, w) CNN map to (B, h, w, D)."""
        both = tokens + maps.permute(0, 2, 3, 1)
        pooled = torch.stack([both.amax(dim=-1), both.mean(dim=-1)], dim=1)  # (B, 2, h, w)
        attention = self.spatial(pooled).sigmoid().permute(0, 2, 3, 1)  # (B, h, w, 1)
        return self.mlp(both * attention)


class GlobalAdapters(nn.Module):
    """What one global block gets: adapters before its attention and beside its MLP, a step of the CNN map."""

    def __init__(self, width: int):
        super().__init__()
        self.before = CrossBranchAdapter(width)
        self.refine = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width), nn.GELU())
        self.beside = CrossBranchAdapter(width)
