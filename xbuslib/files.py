"""Files written whole or not at all, and the folders of the study."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from xbuslib.errors import SPACE, StudyError, machine_faults

REPOSITORY = Path(__file__).resolve().parent.parent
ELSEWHERE = f"{SPACE}, or set XBUS_OUTPUTS to another folder."


def outputs_root() -> Path:
    """Where results go: XBUS_OUTPUTS, or outputs/ of the repository."""
    return Path(os.environ.get("XBUS_OUTPUTS") or REPOSITORY / "outputs").resolve()


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write to; it takes the name `path` only when all went well.

    Raises StudyError naming file and cause when the folder is not writable or the disk is full.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with machine_faults(f"cannot write {path}", ELSEWHERE):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # of a folder that went away or cannot be written
            partial.unlink(missing_ok=True)


@contextmanager
def write_folder(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """Yield an empty sibling of `folder` to write to; it takes the place of `folder` only when all went well.

    `mark` is the file that shows an earlier result of the same kind, which may be replaced. Raises StudyError if
    `folder` is there without it (or, without a mark, is not empty), or, naming the cause, when it cannot be written.
    """
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("partial", "old"))
    there = folder.exists() and not (folder.is_dir() and (mark is None and not any(folder.iterdir())))
    if there and not (mark and (folder / mark).is_file()):
        raise StudyError(f"{folder} is there and holds no earlier {mark}; nothing was overwritten. "
                         "Give another --out, or move it away." if mark else
                         f"{folder} is not an empty folder; give a new or empty one")
    try:
        with machine_faults(f"cannot write {folder}", f"{SPACE}."):
            partial.mkdir(parents=True)
            yield partial
            if folder.exists():
                os.replace(folder, old)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`: two processes started at once must not write the same file or folder.

    Raises StudyError when its folder cannot be written.
    """
    with machine_faults(f"cannot write to {path.parent}", ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = FileLock(path.with_name(f".{path.name}.lock"))
        beside.acquire()
    try:
        yield
    finally:
        beside.release()
