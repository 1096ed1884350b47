"""BUSSAM: SAM with adapters and a CNN branch, prompted by one point (specs/baselines.md 5).

In the authors' release the cross-branch adapters never run; here they do, in the blocks where their figure
has them. `adapters=False` is the model as released.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from xbuslib.models.bussam_parts import GlobalAdapters, bottleneck, cnn_branch, ghpa_layer
from xbuslib.models.sam import SAM, global_attention
from xbuslib.models.system import CamLayer, Prompts, System

CNN_WIDTHS = {"paper": (64, 128, 256), "quick": (16, 32, 64)}  # 5.3; a quarter of it
MIX = 0.5  # weight of the second adapter and of the CNN map, 5.3


class BUSSAM(System):
    """Image (B, 1, H, W), embedded patches and a point to logits (B, 1, H, W).

    Works on a 256-pixel frame whatever the `image_size` (5.8): SAM's token grid, position tables and point
    coordinates are tied to it. `size="quick"` is a narrow SAM of half the depth on 128 pixels.
    """

    prompts = ("point",)
    frozen = ("sam",)
    official = {  # specification 5.6
        "epochs": 100, "batch_size": 8, "rates": {"other": 5e-4}, "weight_decay": 0.1, "amp": False,
        "loss": "bussam_loss", "native_size": 256, "augmentation": "gamma_turn_scale_contrast",
        "schedule": ("warm_polynomial", {"warm_up": 250, "power": 0.9}),  # as long as the run
    }
    cam_layer = CamLayer("sam.mask_decoder.upscale_layer_norm", (), "first upsampling of SAM's mask decoder, a quarter "
                         "of its frame; all that follows is frozen")

    def __init__(self, size: str, weights: str, image_size: int, adapters: bool = True):
        super().__init__()
        self.sam = SAM(size, weights)
        self.weights_record = [self.sam.weights]
        self.frame, width = self.sam.shape.frame, self.sam.shape.width
        self.tables = nn.ParameterDict(self.sam.take_tables())  # relative positions, trained
        self.feature_adapter = bottleneck(width)
        self.position_adapter = ghpa_layer(width, width)
        self.cnn = cnn_branch(CNN_WIDTHS[size], width)
        blocks = self.sam.shape.global_blocks if adapters else ()
        self.adapters = nn.ModuleDict({str(index): GlobalAdapters(width) for index in blocks})
        self.freeze()

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, D, g, g) embedded patches, (B, 768, 32, 32) in full size: what no trained part touches."""
        return self.sam.patches(_resize(images, self.frame))

    def forward(self, image: Tensor, image_features: Tensor, prompts: Prompts) -> Tensor:
        logits = self.training_logits(image, image_features, prompts)  # (B, 1, frame/2, frame/2)
        logits = F.interpolate(logits, size=(self.frame, self.frame), mode="bilinear")
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear")

    def training_logits(self, image: Tensor, image_features: Tensor, prompts: Prompts) -> Tensor:
        """(B, 1, frame/2, frame/2) logits as SAM's mask decoder gives them: its authors' loss is on these, 5.6."""
        frame = _resize(image, self.frame).expand(-1, 3, -1, -1)  # no mean and SD, 5.2
        maps = self.cnn(frame)  # (B, D, g, g)
        tokens = image_features.permute(0, 2, 3, 1).contiguous()  # (B, g, g, D); every block keeps this order
        tokens = tokens + self.feature_adapter(tokens)
        tokens = tokens + self.position_adapter(self.sam.positions()).permute(0, 2, 3, 1)
        for index, block in enumerate(self.sam.image_encoder.blocks):
            if index in self.sam.shape.global_blocks:
                tokens, maps = self._global_block(index, block, tokens, maps)
            else:
                tokens = block(tokens)
        tokens = tokens.permute(0, 3, 1, 2) + MIX * maps  # (B, D, g, g)
        embedding = self.sam.image_encoder.neck(tokens)  # (B, C, g, g)
        return self.sam.decode(embedding, prompts.point)

    def _global_block(self, index: int, block: nn.Module, tokens: Tensor,
                      maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, g, g, D) tokens and (B, D, g, g) CNN map through one global block, shapes unchanged."""
        adapters = self.adapters[str(index)] if len(self.adapters) else None
        normed = block.norm1(tokens)
        if adapters is not None:
            normed = normed + adapters.before(normed, maps)
            maps = adapters.refine(maps)
        tables = self.tables[f"{index}_h"], self.tables[f"{index}_w"]
        tokens = tokens + global_attention(block.attn, normed, *tables)
        normed = block.norm2(tokens)
        out = tokens + block.mlp(normed)
        return (out if adapters is None else out + MIX * adapters.beside(normed, maps)), maps


def _resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, without aliasing where the images are larger."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
