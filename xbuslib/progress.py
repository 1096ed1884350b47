"""Progress that fits the place: a bar in a terminal or notebook, a few plain lines in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
EVERY = 20  # seconds between lines of a log, besides the last one


def track(items: Iterable[Item], label: str, total: int, note=lambda: "") -> Iterator[Item]:
    """Yield `items`, showing how far it is. `note()` gives a short text such as the current loss."""
    if os.environ.get("XBUS_PROGRESS", "") != "plain" and (sys.stderr.isatty() or _in_notebook()):
        yield from _bar(items, label, total, note)
    else:
        yield from _lines(items, label, total, note)


def remark(sentence: str) -> None:
    """One line beside the results: what was assumed or left out."""
    print(f"note: {sentence}", file=sys.stdout if _in_notebook() else sys.stderr, flush=True)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _bar(items, label, total, note):
    from tqdm.auto import tqdm

    with tqdm(items, desc=label, total=total, leave=False) as bar:
        for item in bar:
            yield item
            bar.set_postfix_str(note(), refresh=False)


def _lines(items, label, total, note):
    start = printed = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == total or now - printed > EVERY:
            printed = now
            line = f"{label}: {done}/{total} {note()} ({now - start:.0f} s)".replace("  ", " ")
            print(line, file=sys.stdout if _in_notebook() else sys.stderr, flush=True)
