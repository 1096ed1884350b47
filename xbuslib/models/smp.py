"""Any model of segmentation_models_pytorch as a system: `smp:ARCHITECTURE:ENCODER`, e.g. smp:UnetPlusPlus:resnet34.

The library (MIT) is optional. Everything of the model is trained, and its encoder's weights are found by the rule of
every encoder (weights.py): smp-ENCODER.safetensors in XBUS_WEIGHTS, else the library's own hub.
"""

from types import ModuleType

import torch
from torch import Tensor

from xbuslib.errors import StudyError, unknown
from xbuslib.models import weights as encoder_weights
from xbuslib.models.layers import Normalise
from xbuslib.models.system import CamLayer, Prompts, System


class SMP(System):
    """Grey image (B, 1, H, W) to logits (B, 1, H, W); the encoder gets it as three channels, ImageNet mean and SD.

    `size` has no effect: whoever names the encoder names its size. Raises StudyError for an unknown architecture or
    encoder, one that cannot take images of `image_size`, or missing weights.
    """

    cam_layer = CamLayer("model.decoder", ("model.segmentation_head",),
                         "output of the decoder, the one place that every architecture of the library has")

    def __init__(self, size: str, weights: encoder_weights.Rule, image_size: int, architecture: str, encoder: str):
        super().__init__()
        architecture, encoder = check(architecture, encoder)
        self.normalise = Normalise()
        self.model = _library().create_model(architecture, encoder, encoder_weights=None, in_channels=3, classes=1)
        self._require_size(architecture, encoder, image_size)
        name = encoder_weights.SMP + encoder
        if encoder.startswith("tu-") and weights in ("pretrained", "partial"):
            raise StudyError(f"weights of {encoder} cannot be loaded here: only timm knows how to read them. Say "
                             "weights=random, or take an encoder whose name does not begin with tu-")
        # read back from a run's records, the run's own weights hold the encoder's
        self.weights_record = [encoder_weights.recorded(name, weights)
                               or encoder_weights.load_weights(self.model.encoder, name, weights)]

    def forward(self, image: Tensor, image_features: Tensor | None, prompts: Prompts) -> Tensor:
        return self.model(self.normalise(image))  # (B, 1, H, W)

    def _require_size(self, architecture: str, encoder: str, side: int) -> None:
        """Try one black image: some architectures need larger images, or encoders of another family."""
        try:
            with torch.no_grad():
                self.model.eval()(torch.zeros(1, 3, side, side))
        except Exception as error:  # whatever the library raises; its text names what does not fit
            raise StudyError(f"{architecture} with {encoder} cannot take images of {side}×{side} pixels "
                             f"({type(error).__name__}: {error}); choose another image_size, architecture or encoder"
                             ) from None
        self.model.train()


def check(architecture: str, encoder: str) -> tuple[str, str]:
    """Both names as the library spells them. Raises StudyError for names that it does not know."""
    architectures = {kind.__name__.lower(): kind.__name__ for kind in _library().MODEL_ARCHITECTURES_MAPPING.values()}
    if architecture.lower() not in architectures:
        raise unknown("architecture", architecture, architectures.values())
    encoders = _library().encoders.get_encoder_names()
    if encoder not in encoders and not (encoder.startswith("tu-") and _of_timm(encoder.removeprefix("tu-"))):
        raise unknown("encoder", encoder, encoders)
    return architectures[architecture.lower()], encoder


def _library() -> ModuleType:
    try:
        import segmentation_models_pytorch
    except ImportError:
        raise StudyError("systems named smp:ARCHITECTURE:ENCODER need segmentation_models_pytorch: "
                         "pip install -c constraints.txt -e '.[smp]'") from None
    return segmentation_models_pytorch


def _of_timm(name: str) -> bool:
    import timm

    return timm.is_model(name.split(".")[0])
