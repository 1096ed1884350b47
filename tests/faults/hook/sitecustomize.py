"""Put on PYTHONPATH by tests/faults: a fault at one function of the library, in whichever process calls it first.

XBUS_FAULT is JSON: `at` ("module:function"), `do`, `delay` (seconds after the call began), `flag` (a file that the
fault makes, so that it happens once), `outputs` and `first` (process id, set by the first process). Without `at`, `log`
gets a line "module:function seconds" of every call of a function in `stages`.
"""

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

FAULT = json.loads(os.environ.get("XBUS_FAULT", "{}"))
if FAULT and "first" not in FAULT:
    FAULT["first"] = os.getpid()
    os.environ["XBUS_FAULT"] = json.dumps(FAULT)


def of_study(outputs):
    """Process ids of all that belong to a study: they have its outputs folder in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if f"XBUS_OUTPUTS={outputs}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def fill():
    """Take all that is left of the outputs' disk."""
    with open(Path(FAULT["outputs"]) / "filler", "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def happen():
    do = FAULT["do"]
    if do == "kill first":
        kill(FAULT["first"])
    elif do == "kill all":
        for pid in of_study(FAULT["outputs"]):
            kill(pid)
        kill(os.getpid())
    elif do == "die":
        kill(os.getpid())
    elif do == "hang":
        time.sleep(600)
    elif do == "memory":
        raise MemoryError
    elif do == "fill":
        fill()
    elif do == "vanish":
        shutil.rmtree(FAULT["outputs"], ignore_errors=True)
    elif do == "file size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    elif do == "address space":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 20), -1))
    elif do == "read only":
        os.system(f"mount -o remount,ro {FAULT['mount']}")  # a folder of the harness itself


def once():
    try:
        os.close(os.open(FAULT["flag"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def with_fault(function):
    def call(*given, **named):
        if once():
            if FAULT.get("delay"):
                def later():
                    time.sleep(FAULT["delay"])
                    happen()
                threading.Thread(target=later, daemon=True).start()
            else:
                happen()
        return function(*given, **named)
    return call


def timed(name, function):
    def call(*given, **named):
        began = time.monotonic()
        try:
            return function(*given, **named)
        finally:
            with open(FAULT["log"], "a") as file:
                file.write(f"{name} {time.monotonic() - began:.3f}\n")
    return call


class Loader(importlib.abc.Loader):
    """Loads a module as it is, then wraps the functions that are to be watched."""

    def __init__(self, loader, names):
        self.loader, self.names = loader, names

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        for name in self.names:
            function = getattr(module, name)
            setattr(module, name, with_fault(function) if FAULT.get("at") else
                    timed(f"{module.__name__}:{name}", function))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are to be watched."""

    def find_spec(self, name, path, target=None):
        names = [place.partition(":")[2] for place in PLACES if place.partition(":")[0] == name]
        if not names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec:
            spec.loader = Loader(spec.loader, names)
        return spec


PLACES = [FAULT["at"]] if FAULT.get("at") else FAULT.get("stages", [])
if PLACES:
    sys.meta_path.insert(0, Finder())
