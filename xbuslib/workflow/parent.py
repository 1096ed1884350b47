"""The jobs of a study end with the command that started it, however that ends: nothing goes on writing unseen."""

import os
import signal
import threading
import time
from pathlib import Path

VARIABLE = "XBUS_PARENT"  # "process id, its start time": the study that this process is a job of
EVERY = 0.3  # seconds between checks


def mark() -> dict[str, str]:
    """The variable that ties jobs to this process; nothing where the system does not say when a process began."""
    began = _began(os.getpid())
    return {VARIABLE: f"{os.getpid()} {began}"} if began else {}


def follow() -> None:
    """End this process soon after the study that it is a job of has ended; does nothing outside of a study.

    A killed process cannot tell its jobs, so each of them checks.
    """
    pid, _, began = os.environ.get(VARIABLE, "").partition(" ")
    if pid.isdecimal() and int(pid) != os.getpid():
        threading.Thread(target=_watch, args=(int(pid), began), daemon=True).start()


def _watch(pid: int, began: str) -> None:
    while _began(pid) == began:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGKILL)  # results are written whole or not at all, so no moment is a wrong one


def _began(pid: int) -> str:
    """When a living process began, in the kernel's ticks; "" if there is none, or nothing to ask (/proc of Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
