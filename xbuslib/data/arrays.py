"""An .npz file larger than memory: written case by case, its stacks of pictures read as memory maps.

It is an ordinary uncompressed .npz, which numpy.load reads as well. Members of a zip file that are stored as they are
lie in the file in one piece, so a stack of pictures can be mapped where it lies (numpy itself maps .npy files only).
"""

import shutil
import struct
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.lib import format as npy

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def write(path: Path, rows: Iterable[dict[str, np.ndarray]], n: int, **whole: np.ndarray) -> None:
    """Stack n `rows`, dicts of the same names and shapes, and write them with the arrays `whole` to `path`.

    Pictures, (H, W) or more, pass through unnamed files beside `path`; one row at a time is in memory. Numbers and
    vectors are kept until the end.
    """
    pictures, numbers = {}, {}
    with ExitStack() as stack:
        for row in rows:
            for name, value in row.items():
                if value.ndim < 2:
                    numbers.setdefault(name, []).append(value)
                    continue
                if name not in pictures:
                    pictures[name] = stack.enter_context(TemporaryFile(dir=path.parent))
                    npy.write_array_header_1_0(pictures[name], npy.header_data_from_array_1_0(value)
                                               | {"fortran_order": False, "shape": (n, *value.shape)})
                pictures[name].write(np.ascontiguousarray(value).data)
        held = stack.enter_context(zipfile.ZipFile(path, "w", zipfile.ZIP_STORED))
        for name, value in (whole | {name: np.stack(values) for name, values in numbers.items()}).items():
            with held.open(f"{name}.npy", "w") as member:
                npy.write_array(member, np.asarray(value))
        for name, spool in pictures.items():
            spool.seek(0)
            with held.open(f"{name}.npy", "w", force_zip64=True) as member:
                shutil.copyfileobj(spool, member, 2**20)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; those of (n, H, W) and more are read-only memory maps, if stored uncompressed.

    Raises OSError, ValueError or zipfile.BadZipFile if the file is cut short or no .npz.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as held:
        return {member.filename.removesuffix(".npy"): _array(path, file, held, member) for member in held.infolist()}


def _array(path: Path, file, held: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with held.open(member) as stream:
        version = npy.read_magic(stream)
        if version in HEADERS and member.compress_type == zipfile.ZIP_STORED:
            shape, fortran, kind = HEADERS[version](stream)
            if len(shape) >= 3 and 0 not in shape and not fortran and not kind.hasobject:
                if member.file_size != stream.tell() + kind.itemsize * int(np.prod(shape, dtype=np.int64)):
                    raise ValueError(f"{member.filename} is cut short")
                return np.asarray(np.memmap(path, kind, "r", _begin(file, member) + stream.tell(), shape))
    with held.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _begin(file, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, 30 bytes and two fields whose lengths stand in it."""
    place = file.tell()
    file.seek(member.header_offset + 26)
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    file.seek(place)
    return begin
