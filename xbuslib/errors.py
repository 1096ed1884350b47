"""Errors meant for people: what is wrong, where, and what to do about it."""


class StudyError(Exception):
    """A fault in the input, the set-up or a request. The message names place and remedy.

    Commands print it without a traceback and exit with code 1.
    """
