"""The registry: every system by name, with the paper's name for it and how it is built."""

from collections.abc import Callable
from typing import NamedTuple

from xbuslib.config import Config
from xbuslib.errors import StudyError
from xbuslib.models.anatosegnet import AnatoSegNet
from xbuslib.models.bussam import BUSSAM
from xbuslib.models.cliptnseg import CLIPTNseg
from xbuslib.models.system import Prompts, System, count
from xbuslib.models.ukan import UKAN
from xbuslib.models.unet import UNet
from xbuslib.models.uresnet import UResNet
from xbuslib.models.xbusnet import XBusNet
from xbuslib.models.xbusnet_released import XBusNetReleased

__all__ = ["REGISTRY", "Entry", "Prompts", "System", "build", "count", "entry", "names"]


class Entry(NamedTuple):
    """One row of the registry."""

    paper: str  # the name in the paper's tables
    encoders: tuple[str, ...]  # whose pretrained weights it starts from
    build: Callable[[Config], System]


def _plain(kind: type[System]) -> Callable[[Config], System]:
    return lambda config: kind(config.size, config.weights)


def _at_size(kind: type[System]) -> Callable[[Config], System]:
    """For systems whose frozen encoder has positions on the image's own grid."""
    return lambda config: kind(config.size, config.weights, config.image_size)


def _xbusnet(**switches: bool) -> Callable[[Config], System]:
    """XBusNet or an ablation of it."""
    return lambda config: XBusNet(config.size, config.weights, config.image_size, recompute=config.recompute,
                                  **switches)


REGISTRY: dict[str, Entry] = {  # in the order of Tables 1 and 4
    "unet": Entry("UNet", (), _plain(UNet)),
    "uresnet": Entry("U-ResNet", ("resnet50",), _plain(UResNet)),
    "ukan": Entry("U-KAN", (), _plain(UKAN)),
    "anatosegnet": Entry("AnatoSegNet", ("resnet50",), _plain(AnatoSegNet)),
    "bussam": Entry("BUSSAM", ("sam",), _at_size(BUSSAM)),
    "cliptnseg": Entry("CLIP-TNseg", ("clip",), _at_size(CLIPTNseg)),
    "xbusnet": Entry("XBusNet", ("clip", "resnet50"), _xbusnet()),
    "xbusnet-no-lfe": Entry("XBusNet without LFE", ("clip",), _xbusnet(lfe=False)),
    "xbusnet-no-gfe": Entry("XBusNet without GFE", ("clip", "resnet50"), _xbusnet(gfe=False)),
    "xbusnet-no-sfa": Entry("XBusNet without SFA", ("clip", "resnet50"), _xbusnet(sfa=False)),
    "xbusnet-no-lfe-no-sfa": Entry("XBusNet without LFE and SFA", ("clip",), _xbusnet(lfe=False, sfa=False)),
    "xbusnet-released": Entry("XBusNet as released", ("clip", "resnet50"), _at_size(XBusNetReleased)),
}


def names() -> list[str]:
    """The names that `build` knows."""
    return list(REGISTRY)


def entry(name: str) -> Entry:
    """The registry's row for `name`. Raises StudyError for an unknown one."""
    if name not in REGISTRY:
        raise StudyError(f"unknown system {name!r}; the systems are {', '.join(REGISTRY)}")
    return REGISTRY[name]


def build(name: str, config: Config) -> System:
    """A new system. Seed torch first: weights that are not loaded are drawn at random.

    Raises StudyError for an unknown name or missing weights.
    """
    return entry(name).build(config)
