"""AnatoSegNet: U-ResNet with difference-based attention and a distance bias; specs/baselines.md 4.

No anatomical label enters: the "anatomy" is the bias and the two difference terms in the attention logits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbuslib.models.layers import Normalise
from xbuslib.models.system import Prompts
from xbuslib.models.uresnet import UResNet

HEADS = 8  # its code, spec 4.3
GAMMA = 1.0  # its code: decay of the bias per token of distance


def distance_bias(tokens: int, device: torch.device | None = None, gamma: float = GAMMA) -> Tensor:
    """(N, N) bias −γ|i − j| on raster indices i and j, float32.

    The original adds a constant β (3.5 in training, 2.0 elsewhere); softmax cancels it, so it is left out.
    """
    place = torch.arange(tokens, device=device, dtype=torch.float32)
    return -gamma * (place[:, None] - place).abs()


def differences(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences of (B, C, h, w) along width and along height, zero in the last column or row."""
    across = F.pad(maps.diff(dim=3), (0, 1))  # (B, C, h, w-1) padded to (B, C, h, w)
    down = F.pad(maps.diff(dim=2), (0, 0, 0, 1))  # (B, C, h-1, w) padded to (B, C, h, w)
    return across, down


class DifferenceAttention(nn.Module):
    """softmax((q·kᵀ + q_h·k_hᵀ + q_v·k_vᵀ)/√(head dim) + bias)·v, then a linear layer; replaces the map.

    One linear layer makes q, k, v of the tokens and q, k of their differences. No residual, norm or FFN.
    `scrambled` takes the differences as the released code does, over tokens (B, N, C) read as (B, C, h, w)
    without a transpose, which mixes channels with places; by default they run along the image's axes.
    """

    def __init__(self, channels: int, heads: int = HEADS, scrambled: bool = False):
        super().__init__()
        self.heads, self.scrambled = heads, scrambled
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        channels = features.shape[1]
        tokens = features.flatten(2).transpose(1, 2)  # (B, C, h, w) to (B, N, C), N = h·w
        maps = tokens.reshape(features.shape) if self.scrambled else features  # (B, C, h, w)
        q, k, v = self._split(self.qkv(tokens), 3)  # each (B, heads, N, c), c = C/heads
        queries, keys = [q], [k]
        for difference in differences(maps):
            difference = difference.flatten(2).transpose(1, 2)  # (B, C, h, w) to (B, N, C)
            q, k = self._split(F.linear(difference, self.qkv.weight[: 2 * channels]), 2)
            queries.append(q)
            keys.append(k)
        # The sum of three products is one product of (B, heads, N, 3c): one attention call does it.
        attended = F.scaled_dot_product_attention(
            torch.cat(queries, dim=-1), torch.cat(keys, dim=-1), v,
            attn_mask=distance_bias(tokens.shape[1], tokens.device),
            scale=(channels // self.heads) ** -0.5)  # c, not 3c
        merged = attended.transpose(1, 2).flatten(2)  # (B, heads, N, c) to (B, N, C)
        return self.project(merged).transpose(1, 2).reshape(features.shape)  # back to (B, C, h, w)

    def _split(self, projected: Tensor, parts: int) -> Tensor:
        """(B, N, parts·C) to (parts, B, heads, N, c)."""
        return projected.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)


class AnatoSegNet(UResNet):
    """Grey image (B, 1, H, W) to logits (B, 1, H, W); scaled to [-1, 1] like its authors', no ImageNet mean.

    The head has two classes, background and lesion. The logit returned is their difference, so its sigmoid is
    the softmax probability, binary cross-entropy on it is two-class cross-entropy, and 0.5 is the argmax.
    """

    official = {  # specification 4.5
        "epochs": 50, "batch_size": 16, "optimiser": "adam", "weight_decay": 1e-4, "amp": False,
        "loss": "cross_entropy_loss", "native_size": 256, "augmentation": "flips_or_small_turns",
        "schedule": ("staircase", {"every_epochs": 20, "factor": 0.1}),
    }

    def __init__(self, size: str, weights: str, scrambled: bool = False):
        super().__init__(size, weights, classes=2)
        self.normalise = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        *_, c3, c4 = self.encoder.feature_info.channels()  # 1024, 2048 in ResNet-50
        self.refine4 = DifferenceAttention(c3, scrambled=scrambled)
        self.refine5 = DifferenceAttention(c4, scrambled=scrambled)

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        background, lesion = self.scores(image).chunk(2, dim=1)  # each (B, 1, H, W)
        return lesion - background
