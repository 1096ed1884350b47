"""Progress that fits the place: a bar in a terminal or notebook, a few plain lines in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], label: str, total: int, note=lambda: "") -> Iterator[Item]:
    """Yield `items`, showing how far it is. `note()` gives a short text such as the current loss."""
    if os.environ.get("XBUS_PROGRESS", "") != "plain" and (sys.stderr.isatty() or _in_notebook()):
        yield from _bar(items, label, total, note)
    else:
        yield from _lines(items, label, total, note)


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
    start, step = time.monotonic(), max(1, total // 5)  # five lines a task keep a log readable
    for done, item in enumerate(items, 1):
        yield item
        if done % step == 0 and total > 1:
            seconds = time.monotonic() - start
            print(f"{label}: {done}/{total} {note()} ({seconds:.0f} s)".replace("  ", " "), file=sys.stderr, flush=True)
