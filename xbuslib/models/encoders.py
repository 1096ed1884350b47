"""Pretrained encoders: ResNet from timm, CLIP from open_clip. SAM is in sam.py, the rules for weights in weights.py."""

import open_clip
import timm
import torch
from torch import Tensor, nn

from xbuslib.errors import StudyError
from xbuslib.models.layers import CLIP_MEAN, CLIP_STD, Normalise
from xbuslib.models.weights import QUICK_GELU, Rule, clip_activation, file_for, load_weights, recorded

CLIP_LAYERS = (3, 7, 9)  # eq. (6) leaves the set open; 0-based blocks named in the released configuration
STRIDE_FIRST = "conv1-to-layer3"  # a partial ResNet-50 under this name was trained with the stride on the first 1×1


def resnet(size: str, weights: Rule) -> tuple[nn.Module, dict]:
    """Feature pyramid at strides 2, 4, 8, 16, 32 and the record of its weights.

    `paper`: ResNet-50 (64, 256, 512, 1024, 2048 channels; 23.5 M, ImageNet V1, Sec. 2.5);
    `quick`: ResNet-18 (64, 64, 128, 256, 512 channels; 11.2 M). Read back from a run's records it has the run's
    structure and no file's numbers: it is trained, so the run's own weights hold it.
    """
    if size == "quick":
        return timm.create_model("resnet18", features_only=True), small_record("resnet18", weights)
    encoder = timm.create_model("resnet50", features_only=True)
    record = recorded("resnet50", weights) or load_weights(encoder, "resnet50", weights)
    if STRIDE_FIRST in record.get("file", ""):
        record["stride"] = "first 1×1 convolution of layer2 and layer3"
    if "stride" in record:
        stride_first(encoder)
    return encoder, record


def stride_first(encoder: nn.Module) -> None:
    """Move the stride of layer2 and layer3 from the 3×3 convolution, timm's place, to the 1×1 before it.

    He et al. (2016) had it there. Weights trained so see maps shifted against what they learned otherwise, and
    no tensor's shape shows it.
    """
    for layer in (encoder.layer2, encoder.layer3):
        layer[0].conv1.stride, layer[0].conv2.stride = layer[0].conv2.stride, layer[0].conv1.stride


class CLIP(nn.Module):
    """A frozen CLIP: patch tokens of chosen blocks for images, one embedding for texts."""

    def __init__(self, size: str, weights: Rule, image_size: int,
                 mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD):
        super().__init__()
        path = None if size == "quick" else file_for("clip", weights)
        before = recorded("clip", weights) or {}
        if "activation" in before:  # a run is read back as it was, whatever lies beside the file now
            activation, known_by = before["activation"], before["known_by"]
        else:
            activation, known_by = clip_activation(path) if path else (QUICK_GELU, "OpenAI's, as in the paper")
        config = open_clip.get_model_config("ViT-B-16-quickgelu" if activation == QUICK_GELU else "ViT-B-16")
        if size == "quick":  # the same twelve blocks, narrow
            config["embed_dim"] = 128
            config["vision_cfg"] |= {"width": 96, "head_width": 32}
            config["text_cfg"] |= {"width": 128, "heads": 4}
        config["vision_cfg"]["image_size"] = image_size  # positional embedding on the image's own grid
        self.model = open_clip.CLIP(**config)
        for transformer in (self.model.transformer, self.model.visual.transformer):
            transformer.batch_first = False  # tokens first: much faster on CPUs, see layers.TransformerBlock
            for block in transformer.resblocks:
                block.attn.batch_first = False
        self.normalise = Normalise(mean, std)
        self.tokenise = open_clip.get_tokenizer("ViT-B-16-quickgelu")
        self.width = config["vision_cfg"]["width"]
        self.embedding = config["embed_dim"]
        self.weights = small_record("clip", weights) if size == "quick" else (
            load_weights(self.model, "clip", weights, path) | {"activation": activation, "known_by": known_by})
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def tokens(self, images: Tensor, layers: tuple[int, ...] = CLIP_LAYERS,
               class_token: bool = False) -> Tensor:
        """(B, L, N-1, D) patch tokens after `layers` (class token removed, eq. 6) of (B, 1, H, W) in [0, 1].

        With `class_token` it stays, first: (B, L, N, D).
        """
        found = self.model.visual.forward_intermediates(
            self.normalise(images), indices=list(layers), stop_early=True, intermediates_only=True,
            output_fmt="NLC", output_extra_tokens=class_token)
        patches = torch.stack(found["image_intermediates"], dim=1)
        if not class_token:
            return patches
        return torch.cat([torch.stack(found["image_intermediates_prefix"], dim=1), patches], dim=2)

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """(B, d) un-normalised image embeddings, in the space of the texts, of (B, 1, S, S) in [0, 1]."""
        return self.model.encode_image(self.normalise(images))

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """(T, d) un-normalised text embeddings, eq. (9)."""
        device = self.model.text_projection.device
        return self.model.encode_text(self.tokenise(texts).to(device))


def small_record(name: str, weights: Rule) -> dict:
    """The record of a small encoder of size=quick. Raises StudyError unless its numbers are to be random."""
    if weights != "random" and not recorded(name, weights):
        raise StudyError(f"the small {name} of size=quick has no pretrained weights; say weights=random")
    return {"encoder": name, "weights": "random"}


def stages(encoder: nn.Module, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stem, layer1, layer2, layer3 of a timm ResNet: normalised (B, 3, H, W) to maps at strides 2, 4, 8, 16.

    Layer4 is left to the caller, which may change the last map before it goes on.
    """
    stem = encoder.act1(encoder.bn1(encoder.conv1(image)))
    first = encoder.layer1(encoder.maxpool(stem))
    second = encoder.layer2(first)
    return stem, first, second, encoder.layer3(second)
