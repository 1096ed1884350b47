"""The picture files of a folder by name, whatever the case of their suffix; what macOS and Windows add is left out."""

from pathlib import Path

from xbuslib.data.pictures import SUFFIXES
from xbuslib.errors import StudyError

SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def pictures(folder: Path) -> dict[str, Path]:
    """The folder's picture files by stem, in the order of their names.

    Raises StudyError if the folder is not there, or two of its files differ only in suffix.
    """
    if not folder.is_dir():
        raise StudyError(f"no folder {folder}")
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise StudyError(f"{folder} holds both {found[path.stem].name} and {path.name}; which one is meant? "
                                 "Keep one.")
            found[path.stem] = path
    return found


def others(folder: Path) -> list[str]:
    """Names of the folder's files that are no pictures by their suffix."""
    return [path.name for path in _files(folder) if path.suffix.lower() not in SUFFIXES]


def find(folder: Path, name: str) -> Path:
    """The file `name` of a folder, with its suffix in upper or lower case; as named if there is none of either."""
    path = folder / name
    if not path.is_file() and path.suffix:
        return next((other for suffix in (path.suffix.lower(), path.suffix.upper())
                     if (other := path.with_suffix(suffix)).is_file()), path)
    return path


def hidden(name: str) -> bool:
    """Whether a file belongs to the operating system: "._a.png" (macOS), ".DS_Store", Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not hidden(path.name))
