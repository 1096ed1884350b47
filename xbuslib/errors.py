"""Errors meant for people: what is wrong, where, and what to do about it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class StudyError(Exception):
    """A fault in the input, the set-up or a request. The message names place and remedy.

    Commands print it without a traceback and exit with code 1.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> StudyError:
    """The refusal of a name that is none of `known`, with the nearest one."""
    near = get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return StudyError(f"unknown {what} {name!r}{hint} the {what}s are {', '.join(known)}")


SPACE = "Check permissions, free space and memory"  # what to do about most faults of a machine


@contextmanager
def machine_faults(what: str, remedy: str = f"{SPACE}, and give the same command again.") -> Iterator[None]:
    """Faults of the machine inside the block (disk, permissions, memory) become a StudyError: what, cause, remedy."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StudyError) or (cause := machine_fault(error)) is None:
            raise
        raise StudyError(f"{what}: {cause}. {remedy}") from None


def machine_fault(error: BaseException) -> str | None:
    """The cause in words if `error` is a fault of the machine: disk, permissions, memory. None for any other.

    torch and safetensors report a full disk as errors of their own, so these are known by their text.
    """
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        asked = re.search(r"(?:tried to allocate|Unable to allocate) ([\d.]+ ?\w+)", text)
        return "there is not enough memory" + (f" ({asked[1]} were asked for)" if asked else "") \
            + "; a smaller batch_size or prediction_batch needs less"
    if isinstance(error, OSError):
        return (error.strerror or text) + (f" ({error.filename})" if error.filename else "")
    if found := re.search(r"I/O error: (.*?) \(os error|failed with strerror: (.*)", text):
        return found[1] or found[2]
    if "inline_container" in text or "PytorchStreamWriter" in text:
        return "the file could not be written to its end (a full disk, or a limit on the size of files)"
    if re.search(r"Parent directory .* does not exist", text):
        return "its folder is no longer there"
    return None
