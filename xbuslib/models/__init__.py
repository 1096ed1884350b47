"""The registry: every system by name, with the paper's name for it and how it is built."""

from collections.abc import Callable
from typing import NamedTuple

from xbuslib.config import Config
from xbuslib.errors import StudyError
from xbuslib.models.system import Prompts, System, count
from xbuslib.models.xbusnet import XBusNet

__all__ = ["REGISTRY", "Entry", "Prompts", "System", "build", "count", "names"]


class Entry(NamedTuple):
    """One row of the registry."""

    paper: str  # the name in the paper's tables
    build: Callable[[Config], System]


def _xbusnet(**switches: bool) -> Callable[[Config], System]:
    return lambda config: XBusNet(config.size, config.weights, config.image_size, **switches)


REGISTRY: dict[str, Entry] = {
    "xbusnet": Entry("XBusNet", _xbusnet()),
}


def names() -> list[str]:
    """The names that `build` knows, in the order of the paper's Table 1."""
    return list(REGISTRY)


def build(name: str, config: Config) -> System:
    """A new system. Seed torch first: weights that are not loaded are drawn at random.

    Raises StudyError for an unknown name or missing weights.
    """
    if name not in REGISTRY:
        raise StudyError(f"unknown system {name!r}; the systems are {', '.join(REGISTRY)}")
    return REGISTRY[name].build(config)
