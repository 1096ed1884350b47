"""Runs that were published (runs/publish.py): a folder, or a repository of the Hugging Face Hub, checked before use.

`hf://USER/NAME`, or `hf://USER/NAME@REVISION` for a branch, tag or commit. Only the files of a published run are
fetched, and each must have the SHA-256 that the folder's SHA256SUMS gives it.
"""

import re
from functools import lru_cache
from pathlib import Path

from xbuslib.errors import StudyError
from xbuslib.models.weights import sha256

SUMS = "SHA256SUMS"  # as sha256sum writes and checks it
RUN_FILES = ("run.json", "weights.safetensors", "seen.csv")
PATTERNS = [SUMS, "README.md", "config.json", *RUN_FILES, *(f"fold_*/seed_*/{name}" for name in RUN_FILES)]
DEPTH = 3  # folders from the top of a published system to its files
_HUB = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?")  # a Path has one slash of the two
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def local(place: str | Path) -> Path:
    """The folder that `place` names: itself, or what was fetched from the hub; its checksums hold if it has some.

    Raises StudyError for an address that is none, a repository that cannot be had, or files that were changed.
    """
    folder = _fetched(*_address(str(place))) if str(place).startswith("hf:") else Path(place)
    verify(folder)
    return folder


def verify(folder: Path) -> None:
    """Check the published files in `folder`; of other folders nothing is asked. Raises StudyError naming what differs.
    """
    inside = folder.resolve()
    top = next((path for path in [inside, *inside.parents][:DEPTH] if (path / SUMS).is_file()), None)
    if top is None:
        return
    wanted = _sums(top / SUMS)
    faults = [f"{name} is missing" for name in wanted if not (top / name).is_file()]
    faults += [f"{name} was changed" for name, digest in wanted.items()
               if (path := top / name).is_file() and path.is_relative_to(inside) and _digest(path) != digest]
    unlisted = [path for name in RUN_FILES for path in inside.rglob(name) if str(path.relative_to(top)) not in wanted]
    faults += [f"{path.relative_to(top)} is not in {SUMS}" for path in unlisted]
    if faults:
        raise StudyError(f"{top} is not as it was published: {'; '.join(faults)}. Fetch or publish it again.")


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a published folder to the hub as USER/NAME, which is made if need be; returns its hf:// address.

    Raises StudyError if the name is none, nobody is logged in, the hub refuses, or `private` is asked for and a public
    repository of that name exists.
    """
    from huggingface_hub import HfApi

    require_name(name)
    verify(folder)
    try:
        api = HfApi()
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        if private and not api.repo_info(name).private:  # of a repository that exists, create_repo ignores it
            raise StudyError(f"{name} exists on the hub and is public, so nothing was uploaded. Make it private in its "
                             "settings there, or give --push another name.")
        done = api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=PATTERNS,
                                 delete_patterns=PATTERNS,  # what an earlier publication had and this one has not
                                 commit_message="Publish with xbuslib")
    except StudyError:
        raise
    except Exception as error:  # the client's own errors, and those of the network
        raise StudyError(f"{name} could not be pushed ({_line(error)}). Log in with `hf auth login`, or set HF_TOKEN "
                         f"to a token that may write there. The folder {folder} is complete: push it again.") from None
    return f"hf://{name}@{done.oid}"


def require_name(name: str) -> None:
    """Raise StudyError if `name` is no name of a repository of the hub."""
    if not _NAME.fullmatch(name):
        raise StudyError(f"--push takes USER/NAME of the Hugging Face Hub; {name!r} is not that")


def _address(text: str) -> tuple[str, str | None]:
    found = _HUB.fullmatch(text)
    if not found:
        raise StudyError(f"{text!r} is no address of the hub; give hf://USER/NAME, or hf://USER/NAME@REVISION")
    return found[1], found[2]


@lru_cache(maxsize=8)
def _fetched(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    place = f"hf://{name}" + (f"@{revision}" if revision else "")
    try:
        hf_hub_download(name, SUMS, revision=revision)  # first: other repositories may be large
        return Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except LocalEntryNotFoundError as error:
        raise StudyError(f"{place} could not be fetched and is not in the local cache ({_line(error)}). Check the "
                         "network, or give a folder.") from None
    except EntryNotFoundError:
        raise StudyError(f"{place} holds no {SUMS}: it was not made by xbuslib publish") from None
    except Exception as error:
        raise StudyError(f"{place} could not be fetched ({_line(error)}). Check name, revision and network; a private "
                         "repository needs `hf auth login` or HF_TOKEN.") from None


def _sums(file: Path) -> dict[str, str]:
    """Name: SHA-256 of each line."""
    rows = [line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(row) != 2 or len(row[0]) != 64 for row in rows):
        raise StudyError(f"{file} is damaged; fetch or publish the folder again")
    return {name.lstrip("*"): digest for digest, name in rows}


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _digest_of(path: Path, changed: int, size: int) -> str:
    """Read once as long as the file stays as it is."""
    return sha256(path)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:200]
