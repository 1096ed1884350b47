"""Mixed precision where the hardware has it (Section 2.3): bfloat16 needs no loss scaling.

A processor without bfloat16 instructions emulates them, a hundred times slower than float32 on a two-core AVX2
machine; there the same steps run in float32, and run.json says so.
"""

from functools import cache

import torch

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86 with matrix tiles, Arm: any of these is enough


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether `device_type` ("cuda" or "cpu") multiplies bfloat16 matrices in hardware."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older releases of torch
    return any(capabilities.get(name, False) for name in BFLOAT16)


def name(amp: bool, device: torch.device) -> str:
    """ "bfloat16" or "float32": what a plan with or without `amp` comes to on `device`."""
    return "bfloat16" if amp and has_bfloat16(device.type) else "float32"


def autocast(amp: bool, device: torch.device) -> torch.autocast:
    """The context in which a forward pass of such a plan runs.

    Where attention has no kernel of its own (dropout or a learnt bias, on CPUs), torch would widen bfloat16 queries,
    keys and values to float32; it is set to multiply them as they are, which takes a fifth from a step of BUSSAM.
    """
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # despite its name, of every device
    return torch.autocast(device.type, torch.bfloat16, enabled=name(amp, device) == "bfloat16")
