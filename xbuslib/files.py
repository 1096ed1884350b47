"""Files written whole or not at all, and the folders of the study."""

import hashlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
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
def write_folder(folder: Path, mark: str | None = None, holds: Iterable[str] = ("**/*",)) -> Iterator[Path]:
    """Yield an empty sibling of `folder` to write to; it takes the place of `folder` only when all went well.

    `mark` is the file that shows an earlier result of the same kind, which may be replaced, and `holds` has patterns of
    the files that such a result may hold. A link stays; the folder that it names is replaced. What killed writes of
    `folder` left is removed (`_remove_left`). Raises StudyError if `folder` is there and may not be replaced
    (`_require_replaceable`), or, naming the cause, when it cannot be written.
    """
    place = folder.resolve()
    if place.exists():
        _require_replaceable(place, mark, holds)
    name = f".{place.name}.{_machine()}.{os.getpid()}"
    partial, old = place.with_name(f"{name}.partial"), place.with_name(f"{name}.old")
    try:
        with machine_faults(f"cannot write {folder}", f"{SPACE}."):
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(partial)
            partial.mkdir()
            yield partial
            if place.exists():
                os.replace(place, old)
            os.replace(partial, place)
            _remove_left(old)  # not before: where `place` is missing, it is the earlier result
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:  # the new folder could not take the place of the earlier one
            with suppress(OSError):
                os.replace(old, place)


def _require_replaceable(folder: Path, mark: str | None, holds: Iterable[str]) -> None:
    """Raise StudyError if `folder` cannot be renamed, is no earlier result (without `mark`: not empty), or holds more.
    """
    if Path.cwd().is_relative_to(folder) or folder.is_mount():
        raise StudyError(f"{folder} is the current folder, holds it, or is a mount point, so it cannot be replaced; "
                         "give a folder inside it")
    if mark is None:
        if not folder.is_dir() or any(folder.iterdir()):
            raise StudyError(f"{folder} is not an empty folder; give a new or empty one")
        return
    if not (folder / mark).is_file():
        raise StudyError(f"{folder} is there and holds no earlier {mark}; nothing was overwritten. "
                         "Give another --out, or move it away.")
    known = {path for pattern in holds for path in folder.glob(pattern)}
    other = sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                   if path not in known and not path.is_dir())
    if other:
        raise StudyError(f"{folder} also holds files that no earlier result wrote: {', '.join(other[:3])}"
                         f"{' …' * (len(other) > 3)}; nothing was overwritten. Give another --out, or move them away.")


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
