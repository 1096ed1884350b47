"""U-ResNet: a U-Net on a ResNet encoder; specs/baselines.md 2.

The paper neither cites nor describes it. This is the plain network under both AnatoSegNet and XBusNet's local
branch: ResNet-50 encoder, all of it trained, and four transposed-convolution decoder steps, no centre block.
"""

from torch import Tensor, nn

from xbuslib.models.encoders import resnet, stages
from xbuslib.models.layers import Normalise, UpBlock
from xbuslib.models.layers_cpu import PatchConvTranspose2d
from xbuslib.models.system import CamLayer, Prompts, System

LAST_WIDTH = 64  # channels of the last decoder step and at full size, as in AnatoSegNet's code


class UResNet(System):
    """Grey image (B, 1, H, W) to logits (B, 1, H, W); ImageNet mean and SD, the encoder's own."""

    cam_layer = CamLayer("up2", ("up1", "final", "head"), "decoder step at a quarter of the side; what follows up to "
                         "the head, up1, is the last non-linear stage")

    def __init__(self, size: str, weights: str, classes: int = 1):
        super().__init__()
        self.normalise = Normalise()
        self.encoder, record = resnet(size, weights)
        self.weights_record = [record]
        stem, c1, c2, c3, c4 = self.encoder.feature_info.channels()  # 64, 256, 512, 1024, 2048 in ResNet-50
        self.refine4, self.refine5 = nn.Identity(), nn.Identity()  # places for AnatoSegNet's attention
        self.up4, self.up3 = UpBlock(c4, c3, c3), UpBlock(c3, c2, c2)
        self.up2, self.up1 = UpBlock(c2, c1, c1), UpBlock(c1, stem, LAST_WIDTH)
        self.final = PatchConvTranspose2d(LAST_WIDTH, LAST_WIDTH, 2)
        self.head = nn.Conv2d(LAST_WIDTH, classes, 1)

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        return self.scores(image)

    def scores(self, image: Tensor) -> Tensor:
        """(B, classes, H, W) of (B, 1, H, W)."""
        enc1, enc2, enc3, enc4 = stages(self.encoder, self.normalise(image))  # strides 2, 4, 8, 16
        enc4 = self.refine4(enc4)  # (B, c3, H/16, W/16), input of layer4 and first skip
        center = self.refine5(self.encoder.layer4(enc4))  # (B, c4, H/32, W/32)
        dec3 = self.up3(self.up4(center, enc4), enc3)  # (B, c2, H/8, W/8)
        dec1 = self.up1(self.up2(dec3, enc2), enc1)  # (B, 64, H/2, W/2)
        return self.head(self.final(dec1))
