"""UNet (Ronneberger et al. 2015) in its usual form, padded, with batch normalisation; specs/baselines.md 1.

MONAI and segmentation_models_pytorch have relatives (other activations, residual units, pretrained encoders,
upsampling instead of transposed convolutions), none of this layout, so it is written here.
"""

from itertools import pairwise

from torch import Tensor, nn

from xbuslib.models.layers import Normalise, UpBlock
from xbuslib.models.system import CamLayer, Prompts, System

# Channels at strides 1, 2, 4, 8, 16. `paper` is Ronneberger's; `quick` a quarter of it, for CPU runs.
WIDTHS = {"paper": (64, 128, 256, 512, 1024), "quick": (16, 32, 64, 128, 256)}


def double_conv(channels: int, out: int) -> nn.Sequential:
    """Two 3×3 conv–BN–ReLU. No conv bias: batch normalisation would subtract it."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
    )


class BiasFreeUpBlock(UpBlock):
    """The shared decoder step with convolutions of this network's kind."""

    def __init__(self, channels: int, skip: int, out: int):
        super().__init__(channels, skip, out)
        self.conv = double_conv(out + skip, out)


class UNet(System):
    """Grey image (B, 1, H, W) to logits (B, 1, H, W); ImageNet mean and SD as in the uniform protocol.

    Nothing is pretrained: `weights` is taken for the common signature and has no effect.
    """

    cam_layer = CamLayer("decoder.1", ("decoder.2", "decoder.3", "head"),
                         "decoder step at a quarter of the side; two more follow up to the head")

    def __init__(self, size: str, weights: str):
        super().__init__()
        self.weights_record: list[dict] = []
        widths = WIDTHS[size]
        self.normalise = Normalise()
        self.encoder = nn.ModuleList(double_conv(a, b) for a, b in pairwise((3, *widths)))
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(BiasFreeUpBlock(a, b, b) for a, b in pairwise(widths[::-1]))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        features = self.encoder[0](self.normalise(image))  # (B, 64, H, W)
        skips = []
        for level in self.encoder[1:]:
            skips.append(features)
            features = level(self.pool(features))  # at last (B, 1024, H/16, W/16)
        for up in self.decoder:
            features = up(features, skips.pop())  # at last (B, 64, H, W)
        return self.head(features)  # (B, 1, H, W)
