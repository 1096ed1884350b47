"""Files written whole or not at all, and the folders of the study."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xbuslib.errors import StudyError

REPOSITORY = Path(__file__).resolve().parent.parent


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
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}. Check permissions and free space, "
                         "or set XBUS_OUTPUTS to another folder.") from None
    finally:
        partial.unlink(missing_ok=True)
