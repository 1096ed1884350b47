"""Files written whole or not at all, and the folders of the study."""

import hashlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from xbuslib.errors import SPACE, StudyError, machine_faults

REPOSITORY = Path(__file__).resolve().parent.parent
ELSEWHERE = f"{SPACE}, or set XBUS_OUTPUTS to another folder."


def outputs_root() -> Path:
    """Where results go: XBUS_OUTPUTS, or outputs/ of the repository."""
    return Path(os.environ.get("XBUS_OUTPUTS") or REPOSITORY / "outputs").resolve()


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write to; it takes the name `path` only when all went well.

    What killed writes of `path` left is removed first (`_remove_left`). Raises StudyError naming file and cause when
    the folder is not writable or the disk is full.
    """
    partial = path.with_name(f".{path.stem}.{_machine()}.{os.getpid()}.partial{path.suffix}")
    try:
        with machine_faults(f"cannot write {path}", ELSEWHERE):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(partial)
            yield partial
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # of a folder that went away or cannot be written
            partial.unlink(missing_ok=True)


@contextmanager
def write_folder(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """Yield an empty sibling of `folder` to write to; it takes the place of `folder` only when all went well.

    `mark` is the file that shows an earlier result of the same kind, which may be replaced. What killed writes of
    `folder` left is removed (`_remove_left`). Raises StudyError if `folder` is there without the mark (or, without
    one, is not empty), or, naming the cause, when it cannot be written.
    """
    name = f".{folder.name}.{_machine()}.{os.getpid()}"
    partial, old = folder.with_name(f"{name}.partial"), folder.with_name(f"{name}.old")
    there = folder.exists() and not (folder.is_dir() and (mark is None and not any(folder.iterdir())))
    if there and not (mark and (folder / mark).is_file()):
        raise StudyError(f"{folder} is there and holds no earlier {mark}; nothing was overwritten. "
                         "Give another --out, or move it away." if mark else
                         f"{folder} is not an empty folder; give a new or empty one")
    try:
        with machine_faults(f"cannot write {folder}", f"{SPACE}."):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(partial)
            partial.mkdir()
            yield partial
            if folder.exists():
                os.replace(folder, old)
            os.replace(partial, folder)
            _remove_left(old)  # not before: where `folder` is missing, it is the earlier result
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@cache
def _machine() -> str:
    """8 hex digits of the host name and the process table (a container has its own) in which process ids are unique."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        processes = ""
    return hashlib.sha256(f"{socket.gethostname()} {processes}".encode()).hexdigest()[:8]


def _remove_left(own: Path) -> None:
    """Remove the siblings of the temporary file or folder `own` that processes of this machine left which have ended.

    They have its name but for the process id; with this id too it is of an earlier process. Those of other machines
    stay, since their processes are not known here.
    """
    before, _, after = own.name.rpartition(f".{os.getpid()}.")
    name = re.compile(re.escape(before) + r"\.(\d+)\." + re.escape(after))
    with suppress(OSError):  # they are in nobody's way
        for path in own.parent.iterdir():
            if (found := name.fullmatch(path.name)) and (path == own or not _runs(int(found[1]))):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


@contextmanager
def lock(path: Path, note: str = "") -> Iterator[None]:
    """Hold a lock beside `path`: two processes started at once must not write the same file or folder.

    `note` is printed if another process holds it. Raises StudyError when its folder cannot be written.
    """
    with machine_faults(f"cannot write to {path.parent}", ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            beside.acquire(timeout=0)
        except Timeout:
            if note:
                print(note, file=sys.stderr, flush=True)
            beside.acquire()
    try:
        yield
    finally:
        beside.release()
