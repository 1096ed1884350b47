"""Fetch BLU's two public files: with a progress bar, resumable, and checked before use."""

import functools
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pooch
import requests
from tqdm.auto import tqdm

from xbuslib.data import blu
from xbuslib.errors import SPACE, StudyError, machine_faults

STALLED = 60  # seconds without a byte after which a server is given up
LARGEST = 1 << 30  # bytes: several times the published archive; a server may send without end


def download_blu(root: Path, address: str = blu.ADDRESS) -> Path:
    """Fetch archive and clinical table into `root` and unpack; what is there already is kept.

    Raises StudyError when a file cannot be fetched or is not what it should be; the same call then goes on. A file
    that is there under a published name and is another is refused, and left as it is.
    """
    with machine_faults(f"cannot write to {root}", f"{SPACE}, or give another --root."):
        root.mkdir(parents=True, exist_ok=True)
    _fetch(address, blu.TABLE, root, _is_table)
    if not (root / blu.IMAGES).is_dir():
        blu.unpack(_fetch(address, blu.ARCHIVE, root, _is_archive), root / blu.IMAGES)
    return root


def _fetch(address: str, name: str, root: Path, good) -> Path:
    path = root / name
    if path.is_file() and good(path):
        return path
    if path.exists():
        raise StudyError(f"{path} is not the published file; it was left as it is. Move it to another folder, or "
                         "delete it, then run this again.")
    try:
        resume = functools.partial(_resume, root / f".{name}.partial")
        pooch.retrieve(address + name, known_hash=None, fname=name, path=root, downloader=resume)
    except (requests.RequestException, OSError, ValueError) as error:
        raise StudyError(f"cannot fetch {address + name}: {error}. Run this again to go on, "
                         f"or fetch the file with a browser into {root}.") from None
    if not good(path):
        path.unlink()
        raise StudyError(f"{address + name} is not the published file; try again later, "
                         f"or fetch it with a browser into {root}")
    return path


def _resume(partial: Path, url: str, output: str, _: pooch.Pooch | None) -> None:
    """A pooch downloader that goes on at the end of `partial`, if the server lets it."""
    have = partial.stat().st_size if partial.is_file() else 0
    with requests.get(url, stream=True, timeout=STALLED, headers={"Range": f"bytes={have}-"} if have else {}) as answer:
        if answer.status_code == 416:  # asked beyond the end: what is there is no beginning of this file
            partial.unlink()
        answer.raise_for_status()
        resumed = answer.status_code == 206
        total = int(answer.headers.get("Content-Length", 0)) + have * resumed
        with partial.open("ab" if resumed else "wb") as file, \
                tqdm(total=total or None, initial=have * resumed, unit="B", unit_scale=True, desc=partial.stem) as bar:
            for chunk in answer.iter_content(1 << 16):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > LARGEST:
                    partial.unlink()
                    raise ValueError(f"the server sends more than {LARGEST >> 20} MB, which is not the published file")
    if total and partial.stat().st_size != total:
        raise OSError(f"the connection ended after {partial.stat().st_size} of {total} bytes")
    shutil.move(partial, output)


def _is_archive(path: Path) -> bool:
    """256 images, 252 lesion masks and 14 other masks, each whole by the archive's own checksums."""
    try:
        with zipfile.ZipFile(path) as packed:
            return sum(name.endswith(".png") for name in packed.namelist()) == 522 and packed.testzip() is None
    except Exception:  # damage makes zipfile and its decompressors raise nearly anything
        return False


def _is_table(path: Path) -> bool:
    try:
        table = pd.read_excel(path)
    except Exception:
        return False
    return len(table) == 256 and set(blu.COLUMNS) <= set(table.columns)
