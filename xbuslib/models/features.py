"""What the frozen encoders of a system make of a batch of images, in the precision of the run."""

import torch
from torch import Tensor

from xbuslib.models import memory, precision
from xbuslib.models.system import System


@torch.no_grad()
def frozen_features(system: System, images: Tensor, amp: bool) -> Tensor | None:
    """(B, …) what the frozen encoders make of images (B, 1, S, S) in [0, 1]; None if there are none."""
    memory.keep_freed()
    with precision.autocast(amp, images.device):
        features = system.encode_images(images)
    return None if features is None else features.to(getattr(torch, precision.name(amp, images.device)))
