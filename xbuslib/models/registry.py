"""The registry: every system by name, with the paper's name for it; a system is imported when it is built."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from xbuslib.errors import StudyError, unknown

if TYPE_CHECKING:
    from xbuslib.config import Config
    from xbuslib.models.system import System

PLAIN = ("size", "weights")  # settings of config.Config that a system is built with, by the names of its parameters
AT_SIZE = (*PLAIN, "image_size")  # of systems whose frozen encoder has positions on the image's own grid
SPARING = (*AT_SIZE, "recompute")


class Entry(NamedTuple):
    """One row of the registry."""

    paper: str  # the name in the paper's tables
    kind: str  # "module.Class" in xbuslib.models
    encoders: tuple[str, ...] = ()  # whose pretrained weights it starts from
    settings: tuple[str, ...] = PLAIN
    switches: dict[str, bool | str] = {}  # what an ablation turns off; of an smp model, its architecture and encoder


_XBUSNET = ("xbusnet.XBusNet", ("clip", "resnet50"), SPARING)
_CLIP_ALONE = ("xbusnet.XBusNet", ("clip",), SPARING)
REGISTRY: dict[str, Entry] = {  # in the order of Tables 1 and 4
    "unet": Entry("UNet", "unet.UNet"),
    "uresnet": Entry("U-ResNet", "uresnet.UResNet", ("resnet50",)),
    "ukan": Entry("U-KAN", "ukan.UKAN"),
    "anatosegnet": Entry("AnatoSegNet", "anatosegnet.AnatoSegNet", ("resnet50",)),
    "bussam": Entry("BUSSAM", "bussam.BUSSAM", ("sam",), AT_SIZE),
    "cliptnseg": Entry("CLIP-TNseg", "cliptnseg.CLIPTNseg", ("clip",), AT_SIZE),
    "xbusnet": Entry("XBusNet", *_XBUSNET),
    "xbusnet-no-lfe": Entry("XBusNet without LFE", *_CLIP_ALONE, {"lfe": False}),
    "xbusnet-no-gfe": Entry("XBusNet without GFE", *_XBUSNET, {"gfe": False}),
    "xbusnet-no-sfa": Entry("XBusNet without SFA", *_XBUSNET, {"sfa": False}),
    "xbusnet-no-lfe-no-sfa": Entry("XBusNet without LFE and SFA", *_CLIP_ALONE, {"lfe": False, "sfa": False}),
    "xbusnet-released": Entry("XBusNet as released", "xbusnet_released.XBusNetReleased", ("clip", "resnet50"), AT_SIZE),
}
SMP = "smp-"  # begins the names of models of segmentation_models_pytorch, and of their encoders (weights.SMP)
SMP_FORM = "smp:ARCHITECTURE:ENCODER"  # as they are asked for; in the names of folders ":" is "-"
_SMP_CLASS = "smp.SMP"
ENCODERS = {"clip": "CLIP", "resnet18": "ResNet-18", "resnet50": "ResNet-50", "sam": "SAM"}  # in captions


def names() -> list[str]:
    """The names that `build` knows."""
    return list(REGISTRY)


def known(name: str) -> bool:
    """Whether `name` is a system that `build` knows."""
    return name in REGISTRY or name.startswith(SMP)


def checked(name: str) -> str:
    """The name as run folders have it: smp-Unet-resnet34 of smp:unet:resnet34. Raises StudyError for an unknown one."""
    row = entry(name.strip())
    if row.kind != _SMP_CLASS:
        return name.strip()
    check = import_module("xbuslib.models.smp").check
    return SMP + "-".join(check(*row.switches.values()))


def entry(name: str) -> Entry:
    """The registry's row for `name`. Raises StudyError for an unknown one; smp models are looked up by `checked`."""
    if name in REGISTRY:
        return REGISTRY[name]
    if not re.match(r"smp[:-]", name):
        raise unknown("system", name, [*REGISTRY, SMP_FORM])
    if not (found := re.fullmatch(r"smp[:-](\w+)[:-]([\w.-]+)", name)):
        raise StudyError(f"system {name!r} is not of the form {SMP_FORM}, such as smp:UnetPlusPlus:resnet34")
    architecture, encoder = found.groups()
    return Entry(f"{architecture} ({encoder})", _SMP_CLASS, (SMP + encoder,), AT_SIZE,
                 {"architecture": architecture, "encoder": encoder})


def system_class(name: str) -> type["System"]:
    """The class of the system `name`, imported now. Raises StudyError for an unknown name."""
    module, _, kind = entry(name).kind.partition(".")
    return getattr(import_module(f"xbuslib.models.{module}"), kind)


def build(name: str, config: "Config", recorded: list[dict] | None = None) -> "System":
    """A new system. Seed torch first: weights that are not loaded are drawn at random.

    recorded: the `weights` of a run.json, to build the network of that run again, whatever the weights folder holds
    now. Raises StudyError for an unknown name or missing weights.
    """
    row = entry(name)
    settings = {setting: getattr(config, setting) for setting in row.settings}
    if recorded is not None:
        settings["weights"] = recorded
    return system_class(name)(**settings, **row.switches)


def encoder_label(records: list[dict]) -> str:
    """ "CLIP random, ResNet-50 pretrained" from the `weights_record`s of one or more systems; "" if there are none."""
    weights = {ENCODERS.get(record["encoder"], record["encoder"]): record["weights"] for record in records}
    return ", ".join(f"{name} {state}" for name, state in sorted(weights.items()))
