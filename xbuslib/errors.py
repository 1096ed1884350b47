"""Errors meant for people: what is wrong, where, and what to do about it."""

from collections.abc import Iterable
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
