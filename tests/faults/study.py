"""A study small enough to be broken many times: the library with fewer notebooks, and its command with a fault."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat

from tests.faults.hook import sitecustomize as hook
from tests.mutants import copy_tree

HOOK = Path(hook.__file__).parent
STUDY = "f"
STAGES = {  # a stage, and the function that is it
    "data": "xbuslib.data.phantom.phantom:write", "prepare": "xbuslib.data.images:prepare",
    "encode": "xbuslib.inference.predict:encode", "train": "xbuslib.training.loop:fit",
    "score": "xbuslib.runs.fold:score", "write": "xbuslib.runs.record:write",
    "notebook": "xbuslib.workflow.notebooks:execute", "report": "xbuslib.report.page:build",
    "export": "xbuslib.runs.export:export"}
OF_FOLD = ("data", "prepare", "encode", "train", "score", "write")
SMALL = ("--profile", "smoke", "--set", "phantom_cases=12", "--set", "folds=2", "--study", STUDY)
CLOCKS = {"runs.csv"}  # of an export: when runs were made and how long they took


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str  # stdout and stderr
    seconds: float
    orphans: int  # processes of the study that were still there 5 s after its command had ended

    def problems(self) -> list[str]:
        """What the promise of one message and exit code not 0 forbids."""
        last = self.said.rpartition("error: ")[2]
        return [*(["exit code 0"] if self.code == 0 else []),
                *(["no message"] if "error: " not in self.said else []),
                *(["a traceback"] if "Traceback" in (self.said if "these jobs failed" not in last else last) else []),
                *([f"{self.orphans} orphans"] if self.orphans else [])]


def small_tree(folder: Path, last: int = 5) -> Path:
    """The library in `folder`: 01 to 03 up to their parameters, 04 to its scores, 05 to `last` whole, no others."""
    tree = copy_tree(folder)
    for path in (tree / "notebooks").glob("*.ipynb"):
        number = int(path.name[:2])
        if number > last:
            path.unlink()
        elif number < 5:
            cut_short(path)
    return tree


def cut_short(path: Path) -> None:
    """Leave of a notebook its cells up to the parameters; of the one that trains, up to its scores."""
    notebook = nbformat.read(path, as_version=4)
    trains = path.name.startswith("04")
    last = next(i for i, cell in enumerate(notebook.cells)
                if ("run_fold(" in cell.source if trains else "parameters" in cell.metadata.get("tags", [])))
    notebook.cells = notebook.cells[:last + 1]
    nbformat.write(notebook, path)


def command(stage: str, outputs: Path) -> list[str]:
    """The command in which a stage happens: a fold by itself, the study, or its export."""
    if stage == "fold":
        return ["fold", "--system", "xbusnet", *SMALL]
    if stage == "export":
        return ["export", STUDY, "--out", str(outputs / "export")]
    return ["study", "--systems", "xbusnet", "--folds", "0", "--jobs", "2", *SMALL]


def run(tree: Path, outputs: Path, arguments: list[str], fault: dict | None = None, limit: float = 600,
        **environment: str) -> Ended:
    """Run the command with a fault (hook/sitecustomize.py); wait for what it started to end, 5 s at most."""
    variables = os.environ | {"XBUS_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                              "PYTHONPATH": f"{tree}{os.pathsep}{HOOK}"} | environment
    variables |= {"XBUS_FAULT": json.dumps(fault | {"outputs": str(outputs)})} if fault else {}
    began = time.monotonic()
    log = tree.parent / "said.log"  # a pipe would stay open as long as an orphan lives
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "xbuslib", *arguments], cwd=tree, env=variables, stdout=file,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        code = process.wait(limit)
    seconds, until = time.monotonic() - began, time.monotonic() + 5
    while (left := hook.of_study(outputs)) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in left:
        hook.kill(pid)
    return Ended(code, log.read_text(errors="replace"), seconds, len(left))


def sums(outputs: Path) -> dict[str, str]:
    """SHA-256 of every CSV that a study and its export wrote, by place."""
    found = [path for path in sorted(outputs.rglob("*.csv"))
             if not any(part.startswith(".") for part in path.relative_to(outputs).parts) and path.name not in CLOCKS]
    return {path.relative_to(outputs).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def measured(tree: Path, outputs: Path, arguments: list[str]) -> tuple[Ended, dict[str, float]]:
    """Run a command undisturbed; how long each stage took, the longest of several."""
    log = outputs.parent / f"{outputs.name}.stages"
    ended = run(tree, outputs, arguments, {"stages": list(STAGES.values()), "log": str(log)})
    times: dict[str, float] = {}
    for line in log.read_text().splitlines() if log.is_file() else []:
        place, seconds = line.split()
        stage = next(name for name, at in STAGES.items() if at == place)
        times[stage] = max(times.get(stage, 0), float(seconds))
    return ended, times


def clear(*paths: Path) -> None:
    """Remove folders with all that is in them, and files."""
    for path in paths:
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
