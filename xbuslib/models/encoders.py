"""Pretrained encoders (ResNet from timm, CLIP from open_clip) and the rules for their weights. SAM: sam.py.

Weights are looked for in the folder named by XBUS_WEIGHTS, then at their hub. `pretrained` refuses to go on
without them; `partial` loads what the folder has and records what it covered; `random` loads nothing.
"""

import hashlib
import logging
import os
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xbuslib.errors import StudyError
from xbuslib.models.layers import CLIP_MEAN, CLIP_STD, Normalise

CLIP_LAYERS = (3, 7, 9)  # eq. (6) leaves the set open; 0-based blocks named in the released configuration
STRIDE_FIRST = "conv1-to-layer3"  # a partial ResNet-50 under this name was trained with the stride on the first 1×1
# What a weights folder may hold for each encoder, and the hub name that is tried after it.
FILES = {
    "resnet50": (("resnet50-0676ba61.pth", "resnet50*.safetensors", "resnet50*.pth"), "resnet50.tv_in1k"),
    "clip": (("open_clip_model.safetensors", "*ViT-B-16*.safetensors", "*clip*b*16*.safetensors"), "openai"),
    "sam": (("sam_vit_b_01ec64.pth", "sam_vit_b*.pth", "sam*vit*b*.safetensors"), "facebook/sam-vit-base"),
}


def resnet(size: str, weights: str) -> tuple[nn.Module, dict]:
    """Feature pyramid at strides 2, 4, 8, 16, 32 and the record of its weights.

    `paper`: ResNet-50 (64, 256, 512, 1024, 2048 channels; 23.5 M, ImageNet V1, Sec. 2.5);
    `quick`: ResNet-18 (64, 64, 128, 256, 512 channels; 11.2 M).
    """
    if size == "quick":
        return timm.create_model("resnet18", features_only=True), _random_only("resnet18", weights)
    encoder = timm.create_model("resnet50", features_only=True)
    record = load_weights(encoder, "resnet50", weights)
    if STRIDE_FIRST in record.get("file", ""):
        stride_first(encoder)
        record["stride"] = "first 1×1 convolution of layer2 and layer3"
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

    def __init__(self, size: str, weights: str, image_size: int,
                 mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD):
        super().__init__()
        config = open_clip.get_model_config("ViT-B-16-quickgelu")  # OpenAI weights need QuickGELU
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
        self.weights = _random_only("clip", weights) if size == "quick" else load_weights(self.model, "clip", weights)
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


def load_weights(encoder: nn.Module, name: str, weights: str) -> dict:
    """Load an encoder's weights by the rule `weights` and return what was loaded, for run.json.

    Raises StudyError when `pretrained` finds nothing or a file does not fit.
    """
    if weights == "random":
        return {"encoder": name, "weights": "random"}
    path = find_weights(name) if weights == "partial" else locate(name)
    if path is None:
        return {"encoder": name, "weights": "random", "reason": "no file in the weights folder"}
    state = _fit(_read(path), encoder)
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if weights == "pretrained" and missing:
        raise StudyError(f"{path} lacks {len(missing)} tensors of {name} (first: {missing[0]}); "
                         f"give the whole file, or say weights=partial to load what it has")
    loaded = len(state) - len(unexpected)
    if loaded == 0:
        raise StudyError(f"{path} holds no tensor of {name}; is it the right file?")
    return {"encoder": name, "weights": "partial" if missing else "pretrained", "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "tensors_loaded": loaded,
            "tensors_missing": len(missing)}


def locate(name: str) -> Path:
    """The weights file of encoder `name`, fetched from its hub if need be. Raises StudyError if it cannot be had."""
    return find_weights(name) or _from_hub(name)


def find_weights(name: str) -> Path | None:
    """The file for encoder `name` in the folder XBUS_WEIGHTS, or None."""
    folder = os.environ.get("XBUS_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise StudyError(f"XBUS_WEIGHTS={folder} is not a folder")
    patterns, _ = FILES[name]
    return next((path for pattern in patterns for path in sorted(Path(folder).glob(pattern))), None)


def checksum(module: nn.Module) -> str:
    """SHA-256 over a module's tensors in key order: equal checksums, equal frozen encoders."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StudyError(f"cannot read weights {path}: {error}. Fetch the file again.") from None
    return state.get("state_dict", state)


def _fit(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Drop a classifier head; rename what the encoder calls otherwise; resize CLIP's positional embedding."""
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if hasattr(encoder, "rename"):  # SAM: two published files, two ways to name its tensors
        state = encoder.rename(state)
    if "visual.positional_embedding" in state:
        open_clip.model.resize_pos_embed(state, encoder)
    own = encoder.state_dict()
    wrong = [key for key in state if key in own and own[key].shape != state[key].shape]
    if wrong:
        raise StudyError(f"tensor {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, "
                         f"the encoder needs {tuple(own[wrong[0]].shape)}: wrong weights file")
    return state


def _from_hub(name: str) -> Path:
    """Download through huggingface_hub, as timm and open_clip do; a clear message when there is no network."""
    from huggingface_hub import hf_hub_download

    patterns, hub = FILES[name]
    repository, file = {"resnet50": (f"timm/{hub}", "model.safetensors"),
                        "clip": ("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"),
                        "sam": (hub, "model.safetensors")}[name]
    try:
        logging.getLogger(__name__).info("fetching %s from %s", file, repository)
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        folder = os.environ.get("XBUS_WEIGHTS") or "(XBUS_WEIGHTS is not set)"
        raise StudyError(
            f"no weights for {name}: the folder {folder} has no file like {patterns[0]}, and {repository} could not "
            f"be fetched ({type(error).__name__}). Put the file there, or say weights=partial or weights=random."
        ) from None


def _random_only(name: str, weights: str) -> dict:
    if weights != "random":
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
