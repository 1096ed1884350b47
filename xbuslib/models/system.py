"""What every system has in common: the interface that training, inference and the notebooks rely on."""

from typing import NamedTuple

from torch import Tensor, nn


class Prompts(NamedTuple):
    """The prompts of a batch. A system reads the fields that its `prompts` names."""

    global_text: Tensor | None = None  # (B, d) frozen embedding of the text on size and location
    local_text: Tensor | None = None  # (B, d) frozen embedding of the text on shape, margin and BI-RADS
    point: Tensor | None = None  # (B, 2) x and y as fractions of the frame's width and height


class CamLayer(NamedTuple):
    """The layer that Grad-CAM draws a system's map from (Figure 3)."""

    path: str  # of the module
    after: tuple[str, ...]  # the trained modules between it and the logits
    reason: str


# Under a head of one 1×1 convolution Grad-CAM is the logit map itself (tests/test_explain.py), so a map is taken
# before the last non-linear stage.
MERGED = CamLayer("fuse.0", ("fuse.1", "head"), "first of two fusion blocks, at full size")


class System(nn.Module):
    """A segmentation system: image and prompts in, logits out.

    Frozen encoders are named in `frozen`; they get no gradient, stay in eval mode when `.train()` is called,
    and are left out of saved weights (their own checksum is recorded instead).
    """

    prompts: tuple[str, ...] = ()  # the fields of Prompts that the system reads
    frozen: tuple[str, ...] = ()  # attribute names of the frozen encoders
    official: dict | None = None  # training as its authors' repository does it, if there is one: see training/recipes
    cam_layer: CamLayer | None = None  # none: the system is left out of Figure 3

    def freeze(self) -> None:
        """Called at the end of __init__ by systems that have frozen encoders."""
        for name in self.frozen:
            getattr(self, name).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "System":
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def encode_images(self, images: Tensor) -> Tensor | None:
        """What frozen encoders make of grey images (B, 1, H, W) in [0, 1]; None where there are none."""
        return None

    def encode_texts(self, texts: list[str]) -> Tensor:
        """(T, d) frozen embeddings of T texts; only for systems with text prompts."""
        raise NotImplementedError(f"{type(self).__name__} reads no text")

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        """(B, 1, H, W) logits for grey images (B, 1, H, W) in [0, 1] at the same height and width."""
        raise NotImplementedError

    def training_logits(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        """(B, 1, h, w) logits for a loss at the system's own resolution; the same as forward for most."""
        return self(image, image_features, prompts)

    def trainable_state(self) -> dict[str, Tensor]:
        """Parameters and buffers outside the frozen encoders: what a checkpoint of this system must hold."""
        prefixes = tuple(f"{name}." for name in self.frozen)
        return {key: value for key, value in self.state_dict().items() if not key.startswith(prefixes)}


def count(system: nn.Module) -> tuple[int, int]:
    """(trainable, frozen) numbers of parameters."""
    trainable = sum(p.numel() for p in system.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in system.parameters()) - trainable
