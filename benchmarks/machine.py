"""What this machine can do at best: matrix products and copies per second, measured, and its name."""

import statistics
import time
from collections.abc import Callable

import torch

from xbuslib.runs import environment

SIDE = {"cuda": 8192, "cpu": 1536}  # of the square matrices: large enough for the best rate, small enough to be quick


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(action: Callable[[], object], times: int, on: torch.device) -> list[float]:
    """Wall time of each of `times` calls, the device waited for."""
    found = []
    for _ in range(times):
        wait(on)
        began = time.perf_counter()
        action()
        wait(on)
        found.append(time.perf_counter() - began)
    return found


def wait(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(kind: torch.dtype, on: torch.device) -> float:
    """Floating-point operations per second of the best of ten matrix products."""
    side = SIDE[on.type]
    a, b = (torch.randn(side, side, device=on, dtype=kind) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds(lambda: a @ b, 10, on))


def copy_rate(on: torch.device) -> float:
    """Bytes read and written per second when a large tensor is copied: the median of ten."""
    source = torch.empty(2**30 if on.type == "cuda" else 2**27, dtype=torch.uint8, device=on)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / statistics.median(seconds(lambda: target.copy_(source), 10, on))


def facts() -> dict:
    """Hardware, versions and commit, as in run.json."""
    found = environment.software() | environment.facts()
    return {"device": found["device"], "cpu": torch.cpu.get_capabilities().get("cpu_name", "unknown"),
            "torch": found["versions"]["torch"], "python": found["python"], "commit": (found["commit"] or "")[:8],
            "dirty": found["dirty"], "date": found["created"][:10]}
