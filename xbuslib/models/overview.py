"""What `xbuslib systems` lists: parameter counts, prompts, weights and the cost of one image, by measurement."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts, System, count


def catalogue(profile: str) -> list[dict]:
    """One row per system, built with random weights: counts and FLOPs do not depend on them."""
    config = resolve(profile, {"weights": "random"})
    rows = []
    for name, entry in registry.REGISTRY.items():
        with torch.device("meta"):  # shapes without numbers
            system = registry.build(name, config)
        trainable, frozen = count(system)
        rows.append({"name": name, "paper": entry.paper, "trainable": trainable, "frozen": frozen,
                     "prompts": list(system.prompts),
                     "weights": list(entry.encoders),
                     "flops_per_image": forward_flops(system, config.image_size)})
    return rows


def forward_flops(system: System, size: int) -> int:
    """Floating-point operations of one image through frozen encoders and system, counted by torch on meta tensors."""
    system = system.to("meta").eval()
    image = torch.rand(1, 1, size, size, device="meta")
    width = 512 if not system.frozen or not hasattr(system, "clip") else system.clip.embedding
    text = torch.rand(1, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = system.encode_images(image)
        system(image, features, Prompts(text, text, torch.rand(1, 2, device="meta")))
    return counter.get_total_flops()
