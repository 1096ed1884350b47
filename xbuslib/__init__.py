"""A reproducible study of XBusNet, and its trained systems on your own images.

>>> import xbuslib
>>> found = xbuslib.segment("image.png", run="outputs/phantom-quick/runs/xbusnet", shape="oval")  # doctest: +SKIP

`segment` is for one image, `load` for many (xbuslib/lesion/segmenter.py). They load torch when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xbuslib.lesion.segmenter import Segmented, Segmenter, load, segment

__all__ = ["Segmented", "Segmenter", "load", "segment"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("xbuslib.lesion.segmenter"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
